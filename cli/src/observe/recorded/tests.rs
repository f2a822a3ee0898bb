use clap::Parser;

use super::*;
use crate::observe::FilterFlags;
use crate::observe::filter::compile;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    filters: FilterFlags,
}

/// A flow with something in every field that a filter looks at.
const FLOW: &str = r#"{"time":"2026-01-02T03:00:00Z","uuid":"5e3f1c2a-0000-4000-8000-000000000001","verdict":"DROPPED",
"IP":{"source":"10.0.0.1","destination":"10.0.0.2","ipVersion":"IPv4","encrypted":true,"source_xlated":"192.0.2.9"},
"l4":{"TCP":{"source_port":5000,"destination_port":80,"flags":{"SYN":true}}},
"source":{"identity":256,"namespace":"shop","pod_name":"web-1","labels":["k8s:app=web"],
"workloads":[{"name":"web","kind":"Deployment"}],"cluster_name":"east"},
"destination":{"identity":2,"labels":["reserved:world"]},"Type":"L7","node_name":"east/n1",
"node_labels":["zone=a"],"destination_names":["api.example.com"],
"l7":{"type":"REQUEST","http":{"method":"GET","url":"http://api/v1","protocol":"HTTP/1.1"}},
"event_type":{"type":129},"traffic_direction":"EGRESS","drop_reason_desc":"POLICY_DENIED",
"trace_context":{"parent":{"trace_id":"abc"}},"ip_trace_id":{"trace_id":"77"},
"destination_service":{"name":"api","namespace":"shop"},"egress_denied_by":[{"name":"p","namespace":"shop"}]}"#;

fn passes(flow: &pb::Flow, line: &str) -> bool {
    let words = std::iter::once("x").chain(line.split_whitespace());
    let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    let filters = compile(&line.filters.given).unwrap();
    LocalFilters::compile(&filters).unwrap_or_else(|error| panic!("{error}")).passes(flow)
}

#[test]
fn every_filter_looks_at_recorded_flows() {
    let flow: pb::Flow = serde_json::from_str(FLOW).unwrap();
    for (good, bad) in [
        ("", "--not --verdict DROPPED"),
        ("--uuid 5e3f1c2a-0000-4000-8000-000000000001", "--uuid 5e3f1c2a-0000-4000-8000-000000000002"),
        ("--verdict DROPPED", "--verdict FORWARDED"),
        ("--drop-reason-desc POLICY_DENIED", "--drop-reason-desc POLICY_DENY"),
        ("--type l7", "--type drop"),
        ("--from-pod shop/web", "--to-pod shop/web"),
        ("-n shop", "-n tools"),
        ("--from-ip 10.0.0.0/24", "--to-ip 10.0.0.1"),
        ("--snat-ip 192.0.2.9", "--snat-ip 192.0.2.1"),
        ("-4", "-6"),
        ("--to-port 80", "--to-port 81"),
        ("--protocol tcp", "--protocol udp"),
        ("--protocol http", "--protocol dns"),
        ("--tcp-flags SYN", "--tcp-flags SYN,ACK"),
        ("--from-label app=web", "--from-label app=db"),
        ("--to-identity world", "--to-identity host"),
        ("--from-workload Deployment/web", "--from-workload Job/web"),
        ("--to-service shop/api", "--to-service shop/web"),
        ("--to-fqdn *.example.com", "--to-fqdn *.example.org"),
        ("--from-cluster east", "--from-cluster west"),
        ("--traffic-direction egress", "--traffic-direction ingress"),
        ("--node-name east/n1", "--node-name west/n1"),
        ("--node-label zone=a", "--node-label zone=b"),
        ("--encrypted", "--unencrypted"),
        ("--type l7 --http-method GET", "--type l7 --http-method PUT"),
        ("--type l7 --http-url /v1", "--type l7 --http-url /v2"),
        ("--trace-id abc", "--trace-id abd"),
        ("--ip-trace-id 77", "--ip-trace-id 78"),
        (
            "--cel-expression _flow.verdict==Verdict.DROPPED",
            "--cel-expression _flow.verdict==Verdict.FORWARDED",
        ),
    ] {
        assert!(passes(&flow, good), "{good}");
        assert!(!passes(&flow, bad), "{bad}");
    }
}

#[test]
fn numbers_out_of_range_are_no_reason_to_panic() {
    let flow = pb::Flow {
        verdict: i32::MIN,
        drop_reason_desc: i32::MAX,
        event_type: Some(pb::CiliumEventType { r#type: -1, sub_type: 1 << 20 }),
        time: Some(specola_proto::google::Timestamp { seconds: i64::MIN, nanos: i32::MIN }),
        ip: Some(pb::Ip { source: "x".to_owned(), ..pb::Ip::default() }),
        source: Some(pb::Endpoint { id: u32::MAX, labels: vec![String::new()], ..pb::Endpoint::default() }),
        ..pb::Flow::default()
    };
    assert!(!passes(&flow, "--from-label app=web --ip 10.0.0.1"));
}
