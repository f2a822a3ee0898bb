use clap::Parser;

use super::*;
use crate::error::UsageError;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ObserveArgs,
}

const NOW: i64 = 1_767_322_800;

fn plan(line: &str) -> Result<Plan, String> {
    let words = std::iter::once("observe").chain(line.split_whitespace());
    let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    let now = jiff::Timestamp::from_second(NOW).unwrap();
    Plan::new(&line.args, now, false, Personality::Specola).map_err(|error: UsageError| error.to_string())
}

/// The white and the black list of the request, as JSON lines.
fn lists(line: &str) -> (Vec<String>, Vec<String>) {
    let request = plan(line).unwrap_or_else(|error| panic!("{line}: {error}")).request;
    let json = |filters: &[specola_proto::flow::FlowFilter]| {
        filters.iter().map(|filter| serde_json::to_string(filter).unwrap()).collect()
    };
    (json(&request.whitelist), json(&request.blacklist))
}

#[test]
fn filters_are_sent_as_hubbles_client_sends_them() {
    for (line, allow) in [
        ("", vec![]),
        ("--pod p", vec![r#"{"source_pod":["p"]}"#, r#"{"destination_pod":["p"]}"#]),
        ("-n a", vec![r#"{"source_pod":["a/"]}"#, r#"{"destination_pod":["a/"]}"#]),
        ("-n a --pod p", vec![r#"{"source_pod":["a/p"]}"#, r#"{"destination_pod":["a/p"]}"#]),
        ("--pod p -n a", vec![r#"{"source_pod":["a/p"]}"#, r#"{"destination_pod":["a/p"]}"#]),
        ("-A", vec![r#"{"source_pod":["/"]}"#, r#"{"destination_pod":["/"]}"#]),
        ("--from-namespace a --from-pod p", vec![r#"{"source_pod":["a/p"]}"#]),
        ("--from-pod a/p --to-pod b/q", vec![r#"{"source_pod":["a/p"],"destination_pod":["b/q"]}"#]),
        ("--to-namespace a --to-namespace b", vec![r#"{"destination_pod":["a/","b/"]}"#]),
        ("-n a --service s", vec![r#"{"source_service":["a/s"]}"#, r#"{"destination_service":["a/s"]}"#]),
        (
            "--port 80 --protocol tcp",
            vec![
                r#"{"protocol":["tcp"],"source_port":["80"]}"#,
                r#"{"destination_port":["80"],"protocol":["tcp"]}"#,
            ],
        ),
        ("--from-port 80 --from-port 81", vec![r#"{"source_port":["80","81"]}"#]),
        ("--type trace:to-endpoint", vec![r#"{"event_type":[{"type":4,"match_sub_type":true}]}"#]),
        ("-t drop -t l7", vec![r#"{"event_type":[{"type":1},{"type":129}]}"#]),
        ("-t 4:11", vec![r#"{"event_type":[{"type":4,"match_sub_type":true,"sub_type":11}]}"#]),
        (
            "-t agent:policy-updated",
            vec![r#"{"event_type":[{"type":130,"match_sub_type":true,"sub_type":5}]}"#],
        ),
        ("--ip-version none", vec![r#"{"ip_version":["IP_NOT_USED"]}"#]),
        ("-4", vec![r#"{"ip_version":["IPv4"]}"#]),
        ("-6 -4", vec![r#"{"ip_version":["IPv6","IPv4"]}"#]),
        ("--verdict DROPPED --verdict audit", vec![r#"{"verdict":["DROPPED","AUDIT"]}"#]),
        ("--drop-reason-desc POLICY_DENIED", vec![r#"{"drop_reason_desc":["POLICY_DENIED"]}"#]),
        ("--drop-reason-desc policy-deny", vec![r#"{"drop_reason_desc":["POLICY_DENY"]}"#]),
        ("--ip 10.0.0.0/8", vec![r#"{"source_ip":["10.0.0.0/8"]}"#, r#"{"destination_ip":["10.0.0.0/8"]}"#]),
        ("--to-ip 0:0::1", vec![r#"{"destination_ip":["::1"]}"#]),
        ("--snat-ip 1.2.3.4", vec![r#"{"source_ip_xlated":["1.2.3.4"]}"#]),
        ("-l app=x", vec![r#"{"source_label":["app=x"]}"#, r#"{"destination_label":["app=x"]}"#]),
        ("--from-identity world", vec![r#"{"source_identity":[2]}"#]),
        ("--to-identity 256", vec![r#"{"destination_identity":[256]}"#]),
        ("--traffic-direction ingress", vec![r#"{"traffic_direction":["INGRESS"]}"#]),
        ("--tcp-flags SYN,ack", vec![r#"{"tcp_flags":[{"SYN":true,"ACK":true}]}"#]),
        ("--node-name c/n", vec![r#"{"node_name":["c/n"]}"#]),
        ("--uuid u", vec![r#"{"uuid":["u"]}"#]),
        ("--from-workload Deployment/w", vec![r#"{"source_workload":[{"name":"w","kind":"Deployment"}]}"#]),
        ("--to-workload w", vec![r#"{"destination_workload":[{"name":"w"}]}"#]),
        ("--to-fqdn *.a", vec![r#"{"destination_fqdn":["*.a"]}"#]),
        ("--from-cluster c", vec![r#"{"source_cluster_name":["c"]}"#]),
        ("--node-label a=b", vec![r#"{"node_labels":["a=b"]}"#]),
        ("--interface eth0", vec![r#"{"interface":[{"name":"eth0"}]}"#]),
        ("--encrypted", vec![r#"{"encrypted":[true]}"#]),
        ("--http-status 5+ --http-method get", vec![r#"{"http_status_code":["5+"],"http_method":["get"]}"#]),
        ("--http-path /a --http-url b", vec![r#"{"http_path":["/a"],"http_url":["b"]}"#]),
        ("--http-header k:v", vec![r#"{"http_header":[{"key":"k","value":"v"}]}"#]),
        ("--trace-id t --ip-trace-id 7", vec![r#"{"trace_id":["t"],"ip_trace_id":["7"]}"#]),
        ("--cel-expression true", vec![r#"{"experimental":{"cel_expression":["true"]}}"#]),
        (r#"--allowlist {"uuid":["x"]}{"uuid":["y"]}"#, vec![r#"{"uuid":["x"]}"#, r#"{"uuid":["y"]}"#]),
    ] {
        let (got, deny) = lists(line);
        // The order of fields is that of the .proto file, which is not this test's matter.
        let parse = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
        let got: Vec<_> = got.iter().map(|json| parse(json)).collect();
        let allow: Vec<_> = allow.into_iter().map(parse).collect();
        assert_eq!(got, allow, "{line}");
        assert!(deny.is_empty(), "{line}: {deny:?}");
    }
}

#[test]
fn not_negates_the_next_filter_only() {
    for (line, allow, deny) in [
        ("--not --verdict DROPPED --uuid u", vec![r#"{"uuid":["u"]}"#], vec![r#"{"verdict":["DROPPED"]}"#]),
        ("--uuid u --not --verdict DROPPED", vec![r#"{"uuid":["u"]}"#], vec![r#"{"verdict":["DROPPED"]}"#]),
        ("--not -o json --uuid u", vec![], vec![r#"{"uuid":["u"]}"#]),
        (
            "--not --http-method put --not --to-namespace foo",
            vec![],
            vec![r#"{"destination_pod":["foo/"],"http_method":["put"]}"#],
        ),
        (
            "--pod p --not --pod q",
            vec![r#"{"source_pod":["p"]}"#, r#"{"destination_pod":["p"]}"#],
            vec![r#"{"source_pod":["q"]}"#, r#"{"destination_pod":["q"]}"#],
        ),
        (
            "--not -A --not --port=53",
            vec![],
            vec![
                r#"{"source_pod":["/"],"source_port":["53"]}"#,
                r#"{"destination_pod":["/"],"destination_port":["53"]}"#,
            ],
        ),
        (r#"--denylist {"uuid":["x"]}"#, vec![], vec![r#"{"uuid":["x"]}"#]),
    ] {
        assert_eq!(lists(line), (owned(allow), owned(deny)), "{line}");
    }
}

fn owned(texts: Vec<&str>) -> Vec<String> {
    texts.into_iter().map(str::to_owned).collect()
}

#[test]
fn wrong_filters_are_refused() {
    for (line, says) in [
        ("--not", "trailing --not found in the arguments"),
        ("--uuid u --not", "trailing --not found in the arguments"),
        ("--not --not --uuid u", "consecutive --not statements"),
        ("--namespace a --to-pod p", "filters --to-pod and --namespace cannot be combined"),
        ("--ip 1.2.3.4 --pod p", "filters --pod and --ip cannot be combined"),
        ("--label a --from-label b", "filters --from-label and --label cannot be combined"),
        ("--port 1 --to-port 2", "filters --to-port and --port cannot be combined"),
        ("--encrypted --unencrypted", "filters --unencrypted and --encrypted cannot be combined"),
        ("-n a --pod b/p", "names a namespace already"),
        ("--verdict dropped-it", "--verdict \"dropped-it\" is no verdict"),
        ("--ip 1.2.3", "--ip \"1.2.3\" is no IP address"),
        ("--ip 1.2.3.4/33", "is no IP address"),
        ("--port 65536", "--port \"65536\" is no port"),
        ("--protocol tpc", "is no protocol; use one of tcp, udp"),
        ("--tcp-flags SYN,FOO", "names an unknown flag"),
        ("--type tarce", "is no event type"),
        ("--type trace:nowhere", "has an unknown sub type; use one of to-endpoint"),
        ("--type drop:x", "has an unknown sub type; use a number"),
        ("--identity wolrd", "is no identity"),
        ("--drop-reason-desc NOPE", "is no drop reason"),
        ("--traffic-direction up", "is no direction"),
        ("--ip-version 5", "is no IP version"),
        ("--namespace a/b", "is no namespace"),
        ("--workload /", "names no workload"),
        ("--http-header x", "is no header"),
        ("--ip-trace-id 0", "is no trace id"),
        ("--allowlist {", "--allowlist: "),
        (r#"--denylist {"verdict":["NOPE"]}"#, "--denylist: "),
    ] {
        let error = plan(line).err().unwrap_or_else(|| panic!("{line} is accepted"));
        assert!(error.contains(says), "{line}: {error}");
    }
    // Conflicts count within one list only.
    assert!(plan("--ip 1.2.3.4 --not --pod p").is_ok());
}

#[test]
fn the_selection_is_sent_as_hubbles_client_sends_it() {
    let since = |seconds: i64| Some(specola_proto::google::Timestamp { seconds: NOW - seconds, nanos: 0 });
    for (line, number, first, follow, from, until, limit) in [
        ("", 20, false, false, None, None, Limit::Last(20)),
        ("--last 5", 5, false, false, None, None, Limit::Last(5)),
        ("--first 5", 5, true, false, None, None, Limit::First(5)),
        ("--all", u64::MAX, false, false, None, None, Limit::None),
        ("-f", 0, false, true, None, None, Limit::None),
        ("-f --last 5", 5, false, true, None, None, Limit::None),
        ("--since 1m", 0, false, false, since(60), None, Limit::None),
        ("--until 1m", 0, false, false, None, since(60), Limit::None),
        ("--since 1m --last 5", 0, false, false, since(60), None, Limit::Last(5)),
        ("--since 1m --first 5", 5, true, false, since(60), None, Limit::First(5)),
        ("-f --since 1m --until 30s", 0, false, true, since(60), None, Limit::None),
        ("flows --last 5", 5, false, false, None, None, Limit::Last(5)),
    ] {
        let plan = plan(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let request = &plan.request;
        assert_eq!((request.number, request.first, request.follow), (number, first, follow), "{line}");
        assert_eq!((request.since, request.until, plan.limit), (from, until, limit), "{line}");
    }
}

#[test]
fn contradicting_selections_are_refused() {
    for (line, says) in [
        ("--first 1 --last 1", "cannot set both --first and --last"),
        ("--first 1 --all", "cannot set both --first and --all"),
        ("--first 1 -f", "cannot set both --first and --follow"),
        ("--last 1 --all", "cannot set both --last and --all"),
        ("--since yesterday", "--since: \"yesterday\" is no time"),
        ("--last 0", "invalid value '0'"),
        ("-o table -f", "table output format is not compatible with follow mode"),
        ("--field-mask time", "compact output format is not compatible with custom field mask"),
        ("-o dict --field-mask time", "dict output format is not compatible with custom field mask"),
    ] {
        let error = plan(line).err().unwrap_or_else(|| panic!("{line} is accepted"));
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn fields_are_masked_for_text_only() {
    let mask = |line: &str| plan(line).unwrap().request.field_mask.map(|mask| mask.paths);
    assert_eq!(mask("-o json"), None);
    assert_eq!(
        mask("-o json --field-mask time,source.pod_name"),
        Some(owned(vec!["time", "source.pod_name"]))
    );
    assert_eq!(mask("--use-default-field-masks=false"), None);
    let shown = mask("").unwrap();
    // What Hubble's client asks for is asked for.
    for path in [
        "time",
        "verdict",
        "ethernet",
        "IP",
        "l4",
        "source.identity",
        "source.namespace",
        "source.pod_name",
        "destination.identity",
        "destination.namespace",
        "destination.pod_name",
        "Type",
        "node_name",
        "l7",
        "event_type",
        "source_service",
        "destination_service",
        "is_reply",
        "Summary",
        "ip_trace_id",
    ] {
        assert!(shown.iter().any(|shown| shown == path), "{path}");
    }
    assert_eq!(shown.len(), SHOWN_FIELDS.len());
}

#[test]
fn extensions_are_asked_for() {
    let asked = plan("").unwrap().request.extensions.unwrap();
    assert_eq!(asked.unpack::<FlowRequestOptions>().unwrap(), Some(FlowRequestOptions { extension: true }));
}
