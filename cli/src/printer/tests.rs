use insta::assert_snapshot;
use specola_proto::flow::{
    AuthType, CiliumEventType, DropReason, Endpoint, Ethernet, FlowType, Http, Ip, IpTraceId, L7FlowType,
    Layer4, Layer7, LostEventSource, Policy, Service, SocketTranslationPoint, Tcp, TrafficDirection, Udp,
    Verdict, layer4, layer7,
};
use specola_proto::google::{Any, Timestamp};
use specola_proto::specola::v1::FlowExtension;

use super::*;

const XWING: (&str, u32) = ("xwing", 12345);
const DEATHSTAR: (&str, u32) = ("deathstar-abc", 23456);
const WORLD: (&str, u32) = ("", 2);

fn at(second: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_767_322_800 + second, nanos: 123_456_789 })
}

fn pod((name, identity): (&str, u32)) -> Option<Endpoint> {
    let namespace = if name.is_empty() { "" } else { "default" };
    Some(Endpoint {
        identity,
        namespace: namespace.to_owned(),
        pod_name: name.to_owned(),
        ..Endpoint::default()
    })
}

fn tcp(source_port: u32, destination_port: u32) -> Option<Layer4> {
    Some(Layer4 { protocol: Some(layer4::Protocol::Tcp(Tcp { source_port, destination_port, flags: None })) })
}

/// A trace of a TCP packet from xwing to deathstar.
fn trace(second: i64) -> Flow {
    Flow {
        time: at(second),
        verdict: Verdict::Forwarded.into(),
        ip: Some(Ip { source: "10.0.0.1".to_owned(), destination: "10.0.0.2".to_owned(), ..Ip::default() }),
        l4: tcp(5000, 80),
        source: pod(XWING),
        destination: pod(DEATHSTAR),
        r#type: FlowType::L3L4.into(),
        node_name: "k8s1".to_owned(),
        event_type: Some(CiliumEventType { r#type: 4, sub_type: 0 }),
        is_reply: Some(false),
        summary: "TCP Flags: SYN".to_owned(),
        ..Flow::default()
    }
}

fn policy_verdict(second: i64, verdict: Verdict, direction: TrafficDirection, match_type: u32) -> Flow {
    Flow {
        verdict: verdict.into(),
        event_type: Some(CiliumEventType { r#type: 5, sub_type: 0 }),
        traffic_direction: direction.into(),
        policy_match_type: match_type,
        ..trace(second)
    }
}

fn policy(name: &str, kind: &str) -> Policy {
    Policy { name: name.to_owned(), kind: kind.to_owned(), ..Policy::default() }
}

fn response(flow: Flow) -> GetFlowsResponse {
    GetFlowsResponse {
        time: flow.time,
        node_name: flow.node_name.clone(),
        response_types: Some(ResponseTypes::Flow(flow)),
    }
}

const COMPACT: Style = Style {
    form: Form::Compact,
    node_name: false,
    policy_names: false,
    names: true,
    time: Layout::StampMilli,
    color: false,
    silent: false,
    extras: true,
    debug: false,
    legacy_json: false,
};

const WITH_POLICIES: Style = Style { policy_names: true, ..COMPACT };

/// What a printer writes to its output and its error output.
fn printed(style: Style, responses: &[GetFlowsResponse]) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut printer = Printer::new(style, &mut out, &mut err);
    for response in responses {
        printer.print(response).unwrap();
    }
    printer.finish().unwrap();
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn line(style: Style, flow: Flow) -> String {
    let (out, err) = printed(style, &[response(flow)]);
    assert_eq!(err, "");
    out.trim_end_matches('\n').to_owned()
}

#[test]
fn compact_traces_are_hubbles() {
    assert_eq!(
        line(COMPACT, trace(0)),
        "Jan  2 03:00:00.123: default/xwing:5000 (ID:12345) -> default/deathstar-abc:80 (ID:23456) to-endpoint FORWARDED (TCP Flags: SYN)"
    );
    let reply = Flow {
        source: pod(DEATHSTAR),
        destination: pod(XWING),
        l4: tcp(80, 5000),
        is_reply: Some(true),
        summary: "TCP Flags: SYN, ACK".to_owned(),
        ..trace(1)
    };
    assert_eq!(
        line(COMPACT, reply),
        "Jan  2 03:00:01.123: default/xwing:5000 (ID:12345) <- default/deathstar-abc:80 (ID:23456) to-endpoint FORWARDED (TCP Flags: SYN, ACK)"
    );
    let to_proxy = Flow {
        verdict: Verdict::Redirected.into(),
        event_type: Some(CiliumEventType { r#type: 4, sub_type: 1 }),
        ip_trace_id: Some(IpTraceId { trace_id: 77, ip_option_type: 0 }),
        summary: "TCP Flags: ACK".to_owned(),
        l4: tcp(5002, 80),
        ..trace(9)
    };
    assert_eq!(
        line(COMPACT, to_proxy),
        "Jan  2 03:00:09.123: default/xwing:5002 (ID:12345) -> default/deathstar-abc:80 (ID:23456) to-proxy REDIRECTED (IP Trace ID: 77; TCP Flags: ACK)"
    );
}

#[test]
fn compact_drops_name_the_reason() {
    let dropped = Flow {
        verdict: Verdict::Dropped.into(),
        event_type: Some(CiliumEventType { r#type: 1, sub_type: 133 }),
        drop_reason_desc: DropReason::PolicyDenied.into(),
        is_reply: None,
        l4: tcp(5001, 80),
        ..trace(2)
    };
    assert_eq!(
        line(COMPACT, dropped.clone()),
        "Jan  2 03:00:02.123: default/xwing:5001 (ID:12345) <> default/deathstar-abc:80 (ID:23456) Policy denied DROPPED (TCP Flags: SYN)"
    );
    let unknown = Flow { event_type: Some(CiliumEventType { r#type: 1, sub_type: 255 }), ..dropped };
    assert!(line(COMPACT, unknown).contains(" 255, 0 DROPPED "));
}

#[test]
fn compact_policy_verdicts_name_the_policies() {
    let denied = Flow {
        ingress_denied_by: vec![policy("deny-all", "CiliumNetworkPolicy")],
        l4: tcp(5001, 80),
        ..policy_verdict(3, Verdict::Dropped, TrafficDirection::Ingress, 2)
    };
    assert_eq!(
        line(Style { node_name: true, ..WITH_POLICIES }, denied.clone()),
        "Jan  2 03:00:03.123 [k8s1]: default/xwing:5001 (ID:12345) -> default/deathstar-abc:80 (ID:23456) policy-verdict:L3-L4 INGRESS DENIED BY deny-all (CiliumNetworkPolicy) (TCP Flags: SYN)"
    );
    assert!(line(COMPACT, denied).ends_with(" policy-verdict:L3-L4 INGRESS DENIED (TCP Flags: SYN)"));
    let allowed = Flow {
        destination: pod(WORLD),
        destination_names: vec!["a.example".to_owned(), "b.example".to_owned()],
        l4: tcp(5002, 443),
        auth_type: AuthType::Spire.into(),
        egress_allowed_by: vec![policy("p1", "CiliumNetworkPolicy"), policy("p2", "NetworkPolicy")],
        ..policy_verdict(4, Verdict::Forwarded, TrafficDirection::Egress, 4)
    };
    assert_eq!(
        line(Style { node_name: true, ..WITH_POLICIES }, allowed.clone()),
        "Jan  2 03:00:04.123 [k8s1]: default/xwing:5002 (ID:12345) -> a.example,b.example:443 (world) policy-verdict:all EGRESS ALLOWED BY p1 (CiliumNetworkPolicy), p2 (NetworkPolicy) (TCP Flags: SYN; Auth: SPIRE)"
    );
    let audited = Flow {
        verdict: Verdict::Audit.into(),
        policy_match_type: 0,
        destination_names: Vec::new(),
        auth_type: AuthType::Disabled.into(),
        time: at(5),
        ..allowed
    };
    assert_eq!(
        line(COMPACT, audited),
        "Jan  2 03:00:05.123: default/xwing:5002 (ID:12345) -> 10.0.0.2:443 (world) policy-verdict:none EGRESS AUDITED (TCP Flags: SYN)"
    );
}

#[test]
fn default_deny_is_told_from_an_explicit_one() {
    let by = vec![
        policy("a", "CiliumNetworkPolicy"),
        policy("b", "NetworkPolicy"),
        policy("a", "CiliumNetworkPolicy"),
    ];
    let verdict = policy_verdict(0, Verdict::Dropped, TrafficDirection::Ingress, 0);
    let default = Flow {
        ingress_denied_by: by.clone(),
        drop_reason_desc: DropReason::PolicyDenied.into(),
        ..verdict.clone()
    };
    assert!(line(WITH_POLICIES, default).ends_with(
        "INGRESS DENIED BY default deny of a (CiliumNetworkPolicy), b (NetworkPolicy) (TCP Flags: SYN)"
    ));
    let extension = FlowExtension { default_deny: true, ..FlowExtension::default() };
    let told =
        Flow { ingress_denied_by: by.clone(), extensions: Some(Any::pack(&extension)), ..verdict.clone() };
    assert!(line(WITH_POLICIES, told).contains("DENIED BY default deny of a "));
    let explicit =
        Flow { ingress_denied_by: by.clone(), drop_reason_desc: DropReason::PolicyDeny.into(), ..verdict };
    assert!(
        line(WITH_POLICIES, explicit.clone())
            .contains("DENIED BY a (CiliumNetworkPolicy), b (NetworkPolicy) (")
    );
    let drop = Flow { event_type: Some(CiliumEventType { r#type: 1, sub_type: 181 }), ..explicit };
    assert!(
        line(WITH_POLICIES, drop).contains(" Policy denied by denylist DROPPED BY a (CiliumNetworkPolicy), ")
    );
}

#[test]
fn connection_totals_follow_the_summary() {
    let extension = FlowExtension {
        has_counters: true,
        packets_forward: 12,
        bytes_forward: 3_500,
        packets_reverse: 1,
        bytes_reverse: 999,
        ..FlowExtension::default()
    };
    let flow = Flow { extensions: Some(Any::pack(&extension)), ..trace(0) };
    assert!(line(COMPACT, flow).ends_with(" (TCP Flags: SYN; 12 packets, 3.4 KiB / 1 packet, 999 B)"));
    let uncounted = FlowExtension { packet_length: 60, ..FlowExtension::default() };
    let flow = Flow { extensions: Some(Any::pack(&uncounted)), ..trace(0) };
    assert!(line(COMPACT, flow).ends_with(" (TCP Flags: SYN)"));
    let folded = FlowExtension { folded: 12_344, bytes_forward: 2_048, ..FlowExtension::default() };
    let flow = Flow { extensions: Some(Any::pack(&folded)), ..trace(0) };
    assert!(line(COMPACT, flow).ends_with(" (TCP Flags: SYN; stands for 12,345 packets, 2.0 KiB)"));
    let without_bytes = FlowExtension { folded: 1, ..FlowExtension::default() };
    let flow = Flow { extensions: Some(Any::pack(&without_bytes)), ..trace(0) };
    assert!(line(COMPACT, flow).ends_with("; stands for 2 packets)"));
    let garbage = Any { value: vec![0xff; 3], ..Any::pack(&folded) };
    let flow = Flow { extensions: Some(garbage), ..trace(0) };
    assert!(line(COMPACT, flow).ends_with(" (TCP Flags: SYN)"));
}

#[test]
fn sizes_are_binary() {
    for (bytes, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_126, "1.0 KiB"),
        (1_127, "1.1 KiB"),
        (1_048_575, "1023.9 KiB"),
        (1_048_576, "1.0 MiB"),
        (u64::MAX, "15.9 EiB"),
    ] {
        assert_eq!(binary_size(bytes), text);
    }
}

#[test]
fn compact_application_and_socket_flows_are_hubbles() {
    let dns = specola_proto::flow::Dns { observation_source: "proxy".to_owned(), ..Default::default() };
    let l7 =
        |kind: L7FlowType, record| Some(Layer7 { r#type: kind.into(), latency_ns: 0, record: Some(record) });
    let udp = layer4::Protocol::Udp(Udp { source_port: 5353, destination_port: 53 });
    let query = Flow {
        r#type: FlowType::L7.into(),
        l7: l7(L7FlowType::Request, layer7::Record::Dns(dns)),
        l4: Some(Layer4 { protocol: Some(udp) }),
        summary: "DNS Query x.local. A".to_owned(),
        ..trace(6)
    };
    assert_eq!(
        line(COMPACT, query),
        "Jan  2 03:00:06.123: default/xwing:5353 (ID:12345) -> default/deathstar-abc:53 (ID:23456) dns-request proxy FORWARDED (DNS Query x.local. A)"
    );
    let answer = Flow {
        r#type: FlowType::L7.into(),
        l7: l7(L7FlowType::Response, layer7::Record::Http(Http::default())),
        source: pod(DEATHSTAR),
        destination: pod(XWING),
        l4: tcp(80, 5000),
        is_reply: Some(true),
        summary: "HTTP/1.1 200 5ms (GET http://ds/v1)".to_owned(),
        ..trace(7)
    };
    assert_eq!(
        line(COMPACT, answer),
        "Jan  2 03:00:07.123: default/xwing:5000 (ID:12345) <- default/deathstar-abc:80 (ID:23456) http-response FORWARDED (HTTP/1.1 200 5ms (GET http://ds/v1))"
    );
    let socket = Flow {
        r#type: FlowType::Sock.into(),
        verdict: Verdict::Translated.into(),
        event_type: Some(CiliumEventType { r#type: 7, sub_type: 2 }),
        sock_xlate_point: SocketTranslationPoint::SockXlatePointPostDirectionFwd.into(),
        l4: tcp(0, 80),
        is_reply: None,
        summary: "TCP".to_owned(),
        ..trace(8)
    };
    assert_eq!(
        line(COMPACT, socket),
        "Jan  2 03:00:08.123: default/xwing (ID:12345) <> default/deathstar-abc:80 (ID:23456) post-xlate-fwd TRANSLATED (TCP)"
    );
}

#[test]
fn compact_frames_without_ip_show_macs() {
    let arp = Flow {
        time: Some(Timestamp { seconds: 1_767_322_810, nanos: 0 }),
        ip: None,
        l4: None,
        ethernet: Some(Ethernet {
            source: "aa:bb:cc:dd:ee:01".to_owned(),
            destination: "ff:ff:ff:ff:ff:ff".to_owned(),
        }),
        source: None,
        destination: None,
        is_reply: None,
        event_type: Some(CiliumEventType { r#type: 4, sub_type: 5 }),
        summary: "ARP".to_owned(),
        ..trace(0)
    };
    assert_eq!(
        line(COMPACT, arp),
        "Jan  2 03:00:10.000: aa:bb:cc:dd:ee:01 (unknown) <> ff:ff:ff:ff:ff:ff (unknown) from-endpoint FORWARDED (ARP)"
    );
}

#[test]
fn hosts_are_named_by_pod_service_dns_then_address() {
    let service = Service { name: "ds".to_owned(), namespace: "empire".to_owned() };
    let flow = Flow {
        destination: pod(WORLD),
        destination_service: Some(service),
        ip: Some(Ip { source: "fd00::1".to_owned(), destination: "fd00::2".to_owned(), ..Ip::default() }),
        ..trace(0)
    };
    assert!(line(COMPACT, flow.clone()).contains("default/xwing:5000 (ID:12345) -> empire/ds:80 (world)"));
    let numeric = Style { names: false, ..COMPACT };
    assert!(line(numeric, flow).contains("[fd00::1]:5000 (ID:12345) -> [fd00::2]:80 (world)"));
    for (identity, text) in
        [(0, "(unknown)"), (1, "(host)"), (10, "(world-ipv6)"), (11, "(ID:11)"), (256, "(ID:256)")]
    {
        let flow = Flow { source: pod(("a", identity)), ..trace(0) };
        assert!(line(COMPACT, flow).contains(text), "{text}");
    }
}

#[test]
fn absent_parts_are_no_reason_to_panic() {
    assert_eq!(line(COMPACT, Flow::default()), "N/A:  (unknown) <>  (unknown) UNKNOWN VERDICT_UNKNOWN ()");
    let odd = Flow {
        verdict: 99,
        r#type: FlowType::L7.into(),
        event_type: Some(CiliumEventType { r#type: -1, sub_type: i32::MIN }),
        ..Flow::default()
    };
    assert!(line(COMPACT, odd).contains(" UNKNOWN 99 "));
    for kind in [1, 2, 3, 4, 5, 7, 129, i32::MAX] {
        let flow =
            Flow { event_type: Some(CiliumEventType { r#type: kind, sub_type: i32::MIN }), ..trace(0) };
        assert!(line(COMPACT, flow).starts_with("Jan  2"));
    }
}

#[test]
fn text_from_the_network_cannot_steer_the_terminal() {
    let flow = Flow {
        source: pod(("x\u{1b}]0;owned\u{7}", 300)),
        summary: "a\rb\nc\u{9b}31m".to_owned(),
        node_name: "n\u{1b}[2J".to_owned(),
        ingress_denied_by: vec![policy("p\u{1b}[1m", "K")],
        ..policy_verdict(0, Verdict::Dropped, TrafficDirection::Ingress, 2)
    };
    for form in [Form::Compact, Form::Dict, Form::Table] {
        let style = Style { form, node_name: true, ..WITH_POLICIES };
        let (out, _) = printed(style, &[response(flow.clone())]);
        assert!(!out.chars().any(|c| c.is_control() && c != '\n'), "{out:?}");
        for text in ["x^[]0;owned\\u{7}", "a\\rb\\nc\\u{9b}31m", "n^[[2J", "p^[[1m (K)"] {
            assert!(out.contains(text), "{form:?} lacks {text}: {out}");
        }
    }
}

#[test]
fn colours_are_hubbles() {
    let coloured = Style { color: true, ..COMPACT };
    let host = "\u{1b}[36mdefault/xwing:\u{1b}[33m5000\u{1b}[0m\u{1b}[0m \u{1b}[35m(ID:12345)\u{1b}[0m -> ";
    assert!(line(coloured, trace(0)).starts_with(&format!("Jan  2 03:00:00.123: {host}")));
    for (verdict, code) in [
        (Verdict::Forwarded, 32),
        (Verdict::Redirected, 32),
        (Verdict::Dropped, 31),
        (Verdict::Error, 31),
        (Verdict::Audit, 33),
        (Verdict::Traced, 33),
    ] {
        let flow = Flow { verdict: verdict.into(), ..trace(0) };
        let text = format!("\u{1b}[{code}m{}\u{1b}[0m", verdict.as_str_name());
        assert!(line(coloured, flow).contains(&text), "{verdict:?}");
    }
    assert!(!line(Style { form: Form::Table, ..coloured }, trace(0)).contains('\u{1b}'));
    assert!(!line(Style { form: Form::Json, ..coloured }, trace(0)).contains('\u{1b}'));
}

fn lost(cpu: Option<i32>) -> GetFlowsResponse {
    let event = LostEvent {
        source: LostEventSource::HubbleRingBuffer.into(),
        num_events_lost: 42,
        cpu,
        first: Some(Timestamp { seconds: 1_767_322_800, nanos: 0 }),
        last: Some(Timestamp { seconds: 1_767_322_801, nanos: 0 }),
    };
    GetFlowsResponse {
        response_types: Some(ResponseTypes::LostEvents(event)),
        node_name: "k8s1".to_owned(),
        time: Some(Timestamp { seconds: 1_767_322_811, nanos: 0 }),
    }
}

#[test]
fn lost_events_are_said() {
    assert_eq!(
        printed(COMPACT, &[lost(Some(1))]).0,
        "Jan  2 03:00:11.000 EVENTS LOST: HUBBLE_RING_BUFFER CPU(1) 42 (first: Jan  2 03:00:00.000, last: Jan  2 03:00:01.000)\n"
    );
    assert_eq!(
        printed(COMPACT, &[lost(None)]).0,
        "Jan  2 03:00:11.000 EVENTS LOST: HUBBLE_RING_BUFFER 42 (first: Jan  2 03:00:00.000, last: Jan  2 03:00:01.000)\n"
    );
    assert_eq!(
        printed(Style { form: Form::Json, ..COMPACT }, &[lost(Some(1))]).0,
        "{\"lost_events\":{\"source\":\"HUBBLE_RING_BUFFER\",\"num_events_lost\":\"42\",\"cpu\":1,\"first\":\"2026-01-02T03:00:00Z\",\"last\":\"2026-01-02T03:00:01Z\"},\"node_name\":\"k8s1\",\"time\":\"2026-01-02T03:00:11Z\"}\n"
    );
}

#[test]
fn dict_shows_one_field_per_line() {
    let style = Style { form: Form::Dict, node_name: true, ..COMPACT };
    let (out, _) = printed(style, &[response(trace(0)), lost(Some(1))]);
    assert_snapshot!(out, @r"
      TIMESTAMP: Jan  2 03:00:00.123
           NODE: k8s1
         SOURCE: default/xwing:5000
    DESTINATION: default/deathstar-abc:80
           TYPE: to-endpoint
        VERDICT: FORWARDED
        SUMMARY: TCP Flags: SYN
    ------------
      TIMESTAMP: Jan  2 03:00:11.000
           NODE: k8s1
         SOURCE: HUBBLE_RING_BUFFER
           TYPE: EVENTS LOST
        VERDICT: -
        SUMMARY: CPU(1) - 42 (first: Jan  2 03:00:00.000, last: Jan  2 03:00:01.000)
    ");
}

#[test]
fn table_is_aligned() {
    let long = Flow { source: pod(("a-much-longer-name", 7)), ..trace(1) };
    let style = Style { form: Form::Table, ..COMPACT };
    let (out, _) = printed(style, &[response(trace(0)), response(long), lost(Some(1))]);
    assert_snapshot!(out, @r"
    TIMESTAMP             SOURCE                            DESTINATION                TYPE          VERDICT     SUMMARY
    Jan  2 03:00:00.123   default/xwing:5000                default/deathstar-abc:80   to-endpoint   FORWARDED   TCP Flags: SYN
    Jan  2 03:00:01.123   default/a-much-longer-name:5000   default/deathstar-abc:80   to-endpoint   FORWARDED   TCP Flags: SYN
    Jan  2 03:00:11.000   HUBBLE_RING_BUFFER                -                          EVENTS LOST   -           CPU(1) - 42 (first: Jan  2 03:00:00.000, last: Jan  2 03:00:01.000)
    ");
}

#[test]
fn json_is_the_whole_answer() {
    let style = Style { form: Form::Json, ..COMPACT };
    assert_snapshot!(line(style, trace(0)), @r#"{"flow":{"time":"2026-01-02T03:00:00.123456789Z","verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"TCP":{"source_port":5000,"destination_port":80}},"source":{"identity":12345,"namespace":"default","pod_name":"xwing"},"destination":{"identity":23456,"namespace":"default","pod_name":"deathstar-abc"},"Type":"L3_L4","node_name":"k8s1","event_type":{"type":4},"is_reply":false,"Summary":"TCP Flags: SYN"},"node_name":"k8s1","time":"2026-01-02T03:00:00.123456789Z"}"#);
    let impossible = Flow { time: Some(Timestamp { seconds: i64::MAX, nanos: 0 }), ..trace(0) };
    let (out, err) = printed(style, &[response(impossible)]);
    assert_eq!(out, "");
    assert!(err.starts_with("cannot print an answer as JSON: timestamp out of range"), "{err}");
}

fn status(state: NodeState, names: &[&str], message: &str) -> GetFlowsResponse {
    let event = NodeStatusEvent {
        state_change: state.into(),
        node_names: names.iter().map(|name| (*name).to_owned()).collect(),
        message: message.to_owned(),
    };
    GetFlowsResponse {
        response_types: Some(ResponseTypes::NodeStatus(event)),
        node_name: "relay".to_owned(),
        time: Some(Timestamp { seconds: 1_767_322_800, nanos: 0 }),
    }
}

#[test]
fn states_of_nodes_go_to_the_error_output() {
    let names: Vec<_> = (0..9).map(|at| format!("k8s{at}-some-long-node-name-that-is-very-long-x")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let states = [
        status(NodeState::NodeConnected, &["k8s1"], ""),
        status(NodeState::NodeUnavailable, &names, ""),
        status(NodeState::NodeError, &["k8s2"], "boom \"x\""),
    ];
    let (out, err) = printed(COMPACT, &states);
    assert_eq!(out, "");
    assert_snapshot!(err, @r#"
    Jan  2 03:00:00.000 [relay]: 9 nodes are unavailable: k8s0-some-long-node-name-that-is-very-long-x (and 8 more)
    Jan  2 03:00:00.000 [relay]: Error "boom \"x\"" on 1 nodes: k8s2
    "#);
    assert_eq!(printed(Style { silent: true, ..COMPACT }, &states), (String::new(), String::new()));
    let (out, err) = printed(Style { form: Form::Json, ..COMPACT }, &states[..1]);
    assert_eq!(out, "");
    assert_eq!(
        err,
        "{\"node_status\":{\"state_change\":\"NODE_CONNECTED\",\"node_names\":[\"k8s1\"]},\"node_name\":\"relay\",\"time\":\"2026-01-02T03:00:00Z\"}\n"
    );
}
