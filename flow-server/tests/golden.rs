//! The JSON of a flow of each kind, as Hubble's mapping has it: names of the `.proto` file, enumerations by name, zeros
//! left out, a known `is_reply` of false written.

use serde_json::{Value, json};
use specola_flow::{
    Direction, EventType, Flow, FlowDetail, FlowView, InstanceId, MessageContext, NodeInfo, PolicyOrigin,
    Verdict, flags, flow_message, protocol,
};
use specola_proto::flow::{self as pb, L7FlowType, layer7::Record};

/// From 10.0.0.1 to 10.0.0.2, half a second after 1970-01-01T00:00:01.
fn record(event_type: EventType, verdict: Verdict, protocol: u8) -> Flow {
    let address = |last: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
    Flow {
        time_ns: 1_500_000_000,
        source_addr: address(1),
        destination_addr: address(2),
        source_identity: 300,
        destination_identity: 301,
        source_endpoint: 7,
        source_port: 40_000,
        destination_port: 80,
        ip_version: 4,
        protocol,
        event_type: event_type.0,
        verdict: verdict.0,
        direction: Direction::EGRESS.0,
        ..Flow::default()
    }
}

fn origins() -> Vec<PolicyOrigin> {
    let kind = "CiliumNetworkPolicy".to_owned();
    vec![PolicyOrigin {
        kind,
        namespace: "shop".into(),
        name: "web".into(),
        revision: 5,
        ..PolicyOrigin::default()
    }]
}

/// The JSON without what is the same for all: it is checked here.
#[track_caller]
fn shown(flow: &Flow, detail: Option<&FlowDetail>) -> Value {
    let metas = specola_flow::MetaInterner::new().table().load();
    let node = NodeInfo { name: "n1".into(), ..NodeInfo::default() };
    let mut view = FlowView::new(flow, 3, InstanceId::new(1), &metas, &node);
    view.detail = detail;
    let origins = origins();
    let context = MessageContext {
        version: "1.2.3",
        node_name: "n1",
        origins: &origins,
        interface: Some("eth0"),
        extension: false,
    };
    let mut json = serde_json::to_value(flow_message(&view, &context)).unwrap();
    let fields = json.as_object_mut().unwrap();
    let mut taken = |name: &str| fields.remove(name).unwrap_or_default();
    assert_eq!(taken("time"), "1970-01-01T00:00:01.500Z");
    assert_eq!(taken("emitter"), json!({"name": "Hubble", "version": "1.2.3"}));
    assert_eq!(taken("node_name"), "n1");
    assert_eq!(taken("source"), json!({"ID": 7, "identity": 300}));
    assert_eq!(taken("destination"), json!({"identity": 301}));
    assert_eq!(taken("traffic_direction"), "EGRESS");
    let uuid = taken("uuid");
    assert_eq!(uuid.as_str().map(str::len), Some(36), "{uuid}");
    if flow.ip_version == 4 && detail.is_none() {
        let ip = json!({"source": "10.0.0.1", "destination": "10.0.0.2", "ipVersion": "IPv4"});
        assert_eq!(taken("IP"), ip);
    }
    json
}

#[test]
fn packets() {
    let trace = {
        let trace = record(EventType::TRACE, Verdict::FORWARDED, protocol::TCP);
        let mut flow = Flow { trace_reason: 1, tcp_flags: 0x02, ifindex: 2, ..trace };
        flow.set_reply(Some(false));
        flow
    };
    let expected = json!({
        "verdict": "FORWARDED",
        "l4": {"TCP": {"source_port": 40000, "destination_port": 80, "flags": {"SYN": true}}},
        "Type": "L3_L4",
        "event_type": {"type": 4},
        "trace_observation_point": "TO_ENDPOINT",
        "trace_reason": "NEW",
        "is_reply": false,
        "interface": {"index": 2, "name": "eth0"},
        "Summary": "TCP Flags: SYN",
    });
    assert_eq!(shown(&trace, None), expected);

    let mut reply =
        Flow { trace_reason: 3, sub_type: 11, ..record(EventType::TRACE, Verdict::FORWARDED, protocol::UDP) };
    reply.set_reply(Some(true));
    let expected = json!({
        "verdict": "FORWARDED",
        "l4": {"UDP": {"source_port": 40000, "destination_port": 80}},
        "Type": "L3_L4",
        "reply": true,
        "event_type": {"type": 4, "sub_type": 11},
        "trace_observation_point": "TO_NETWORK",
        "trace_reason": "REPLY",
        "is_reply": true,
        "Summary": "UDP",
    });
    assert_eq!(shown(&reply, None), expected);
}

#[test]
fn decisions_of_policy() {
    let policies =
        json!([{"name": "web", "namespace": "shop", "revision": "5", "kind": "CiliumNetworkPolicy"}]);
    let attributed = |event_type, verdict| Flow {
        flags: flags::ATTRIBUTED,
        ..record(event_type, verdict, protocol::SCTP)
    };
    let l4 = json!({"SCTP": {"source_port": 40000, "destination_port": 80}});

    let dropped = attributed(EventType::DROP, Verdict::DROPPED);
    let expected = json!({
        "verdict": "DROPPED",
        "drop_reason": 133,
        "l4": l4,
        "Type": "L3_L4",
        "event_type": {"type": 1, "sub_type": 133},
        "drop_reason_desc": "POLICY_DENIED",
        "Summary": "SCTP",
        "egress_denied_by": policies,
    });
    assert_eq!(shown(&Flow { drop_reason: 133, sub_type: 133, ..dropped }, None), expected);

    let mut allowed = Flow { match_type: 2, ..attributed(EventType::POLICY_VERDICT, Verdict::FORWARDED) };
    allowed.set_reply(Some(false));
    let expected = json!({
        "verdict": "FORWARDED",
        "l4": l4,
        "Type": "L3_L4",
        "event_type": {"type": 5},
        "policy_match_type": 2,
        "is_reply": false,
        "Summary": "SCTP",
        "egress_allowed_by": policies,
    });
    assert_eq!(shown(&allowed, None), expected);

    let mut audited = attributed(EventType::POLICY_VERDICT, Verdict::AUDIT);
    audited.set_reply(Some(false));
    let expected = json!({
        "verdict": "AUDIT",
        "l4": l4,
        "Type": "L3_L4",
        "event_type": {"type": 5},
        "is_reply": false,
        "Summary": "SCTP",
        "egress_denied_by": policies,
    });
    assert_eq!(shown(&audited, None), expected);
}

#[test]
fn icmp() {
    let v4 = Flow { icmp_type: 8, ..record(EventType::TRACE, Verdict::FORWARDED, protocol::ICMP) };
    let json = shown(&v4, None);
    assert_eq!(json["l4"], json!({"ICMPv4": {"type": 8}}));
    assert_eq!(json["Summary"], "ICMPv4 EchoRequest");
    assert_eq!(json["is_reply"], Value::Null, "not known");

    let mut octets = [0; 16];
    (octets[0], octets[15]) = (0xfd, 1);
    let v6 = Flow {
        ip_version: 6,
        source_addr: octets,
        destination_addr: octets,
        icmp_type: 129,
        ..record(EventType::TRACE, Verdict::FORWARDED, protocol::ICMPV6)
    };
    let json = shown(&v6, None);
    assert_eq!(json["IP"], json!({"source": "fd00::1", "destination": "fd00::1", "ipVersion": "IPv6"}));
    assert_eq!(json["l4"], json!({"ICMPv6": {"type": 129}}));
    assert_eq!(json["Summary"], "ICMPv6 EchoReply");
}

/// A flow of the application layer: its `l7`, its summary, and whether it is an answer.
#[track_caller]
fn check_application(protocol: u8, kind: L7FlowType, record_of: Record, l7: &Value, summary: &str) {
    let is_reply = kind == L7FlowType::Response;
    let mut flow = record(EventType::L7, Verdict::FORWARDED, protocol);
    flow.set_reply(Some(is_reply));
    let latency_ns = if is_reply { 5_900_000 } else { 0 };
    let record_of = pb::Layer7 { r#type: kind.into(), latency_ns, record: Some(record_of) };
    let json = shown(&flow, Some(&FlowDetail { l7: Some(record_of), ..FlowDetail::default() }));
    let ports = json!({"source_port": 40000, "destination_port": 80});
    let name = if protocol == protocol::UDP { "UDP" } else { "TCP" };
    let mut expected = json!({
        "verdict": "FORWARDED",
        "IP": {"source": "10.0.0.1", "destination": "10.0.0.2", "ipVersion": "IPv4"},
        "l4": {name: ports},
        "Type": "L7",
        "l7": l7,
        "event_type": {"type": 129},
        "is_reply": is_reply,
        "Summary": summary,
    });
    if is_reply {
        expected["reply"] = json!(true);
    }
    assert_eq!(json, expected);
}

#[test]
fn applications() {
    use L7FlowType::{Request, Response};

    let headers = vec![pb::HttpHeader { key: "Host".into(), value: "web".into() }];
    let http = |code| {
        let (method, url, protocol) = ("GET".into(), "http://web/x".into(), "HTTP/1.1".into());
        Record::Http(pb::Http { code, method, url, protocol, headers: headers.clone() })
    };
    let shown = json!({"method": "GET", "url": "http://web/x", "protocol": "HTTP/1.1", "headers": [{"key": "Host", "value": "web"}]});
    let l7 = json!({"type": "REQUEST", "http": shown});
    check_application(protocol::TCP, Request, http(0), &l7, "HTTP/1.1 GET http://web/x");
    let mut shown = shown;
    shown["code"] = json!(200);
    let l7 = json!({"type": "RESPONSE", "latency_ns": "5900000", "http": shown});
    check_application(protocol::TCP, Response, http(200), &l7, "HTTP/1.1 200 5ms (GET http://web/x)");

    let question = pb::Dns {
        query: "db.shop.svc.".into(),
        observation_source: "proxy".into(),
        qtypes: vec!["A".into()],
        ..pb::Dns::default()
    };
    let shown = json!({"query": "db.shop.svc.", "observation_source": "proxy", "qtypes": ["A"]});
    let l7 = json!({"type": "REQUEST", "dns": shown});
    check_application(protocol::UDP, Request, Record::Dns(question.clone()), &l7, "DNS Query db.shop.svc. A");
    let answer =
        pb::Dns { ips: vec!["10.0.0.9".into()], ttl: 30, rrtypes: vec!["A".into()], ..question.clone() };
    let shown = json!({
        "query": "db.shop.svc.",
        "ips": ["10.0.0.9"],
        "ttl": 30,
        "observation_source": "proxy",
        "qtypes": ["A"],
        "rrtypes": ["A"],
    });
    let l7 = json!({"type": "RESPONSE", "latency_ns": "5900000", "dns": shown});
    let summary = "DNS Answer \"10.0.0.9\" TTL: 30 (Proxy db.shop.svc. A)";
    check_application(protocol::UDP, Response, Record::Dns(answer), &l7, summary);
    let nothing = pb::Dns { rcode: 3, ttl: u32::MAX, ..question };
    let shown = json!({
        "query": "db.shop.svc.",
        "ttl": u32::MAX,
        "observation_source": "proxy",
        "rcode": 3,
        "qtypes": ["A"],
    });
    let l7 = json!({"type": "RESPONSE", "latency_ns": "5900000", "dns": shown});
    let summary = "DNS Answer RCode: Non-Existent Domain TTL: 4294967295 (Proxy db.shop.svc. A)";
    check_application(protocol::UDP, Response, Record::Dns(nothing), &l7, summary);

    let kafka = pb::Kafka {
        error_code: 3,
        api_version: 1,
        api_key: "produce".into(),
        correlation_id: 9,
        topic: "orders".into(),
    };
    let shown = json!({"error_code": 3, "api_version": 1, "api_key": "produce", "correlation_id": 9, "topic": "orders"});
    let l7 = json!({"type": "REQUEST", "kafka": shown});
    let summary = "Kafka request produce correlation id 9 topic 'orders'";
    check_application(protocol::TCP, Request, Record::Kafka(kafka.clone()), &l7, summary);
    let failed = pb::Kafka { error_code: -1, ..kafka };
    let shown = json!({"error_code": -1, "api_version": 1, "api_key": "produce", "correlation_id": 9, "topic": "orders"});
    let l7 = json!({"type": "RESPONSE", "latency_ns": "5900000", "kafka": shown});
    let summary = "Kafka response produce correlation id 9 topic 'orders' return code -1";
    check_application(protocol::TCP, Response, Record::Kafka(failed), &l7, summary);
}
