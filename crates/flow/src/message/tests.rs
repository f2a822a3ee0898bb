use specola_labels::NumericIdentity;

use super::*;
use crate::{Direction, FlowUuid, InstanceId, NodeInfo, Workload};

fn flow(protocol: u8) -> Flow {
    Flow {
        time_ns: 1_500_000_000,
        source_addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1],
        destination_addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 2],
        ip_version: 4,
        source_port: 1000,
        destination_port: 80,
        protocol,
        verdict: Verdict::FORWARDED.0,
        event_type: EventType::POLICY_VERDICT.0,
        flags: flags::ATTRIBUTED,
        ..Flow::default()
    }
}

fn message(flow: &Flow, origins: &[PolicyOrigin]) -> pb::Flow {
    let node = NodeInfo { name: "n1".into(), ..NodeInfo::default() };
    let source = EndpointMeta {
        identity: NumericIdentity(300),
        namespace: "shop".into(),
        pod_name: "web".into(),
        workloads: vec![Workload { name: "web".into(), kind: "Deployment".into() }],
        cluster_name: "default".into(),
        ..EndpointMeta::default()
    };
    let uuid = FlowUuid { instance: InstanceId::new(0), seq: 3 };
    let view = FlowView {
        flow,
        uuid,
        source: Some(&source),
        source_labels: &["k8s:app=web".to_owned()],
        destination: None,
        destination_labels: &[],
        node: &node,
        names: None,
        detail: None,
    };
    let context = MessageContext {
        version: "1.2.3",
        node_name: "n1",
        origins,
        interface: Some("eth0"),
        extension: false,
    };
    flow_message(&view, &context)
}

fn origin(name: &str, revision: u64, log: &str) -> PolicyOrigin {
    PolicyOrigin {
        kind: "NetworkPolicy".into(),
        namespace: "shop".into(),
        name: name.into(),
        revision,
        log: log.into(),
        ..PolicyOrigin::default()
    }
}

#[test]
fn layers() {
    let ports = (1000, 80);
    let text = |flow: &Flow| {
        let layer = message(flow, &[]).l4?.protocol?;
        Some(match layer {
            Protocol::Tcp(tcp) if (tcp.source_port, tcp.destination_port) == ports => "tcp",
            Protocol::Udp(udp) if (udp.source_port, udp.destination_port) == ports => "udp",
            Protocol::Sctp(sctp) if (sctp.source_port, sctp.destination_port) == ports => "sctp",
            Protocol::IcmPv4(icmp) if (icmp.r#type, icmp.code) == (3, 1) => "icmpv4",
            Protocol::IcmPv6(icmp) if (icmp.r#type, icmp.code) == (3, 1) => "icmpv6",
            _ => "wrong",
        })
    };
    for (protocol, expected) in [
        (protocol::TCP, Some("tcp")),
        (protocol::UDP, Some("udp")),
        (protocol::SCTP, Some("sctp")),
        (protocol::ICMP, Some("icmpv4")),
        (protocol::ICMPV6, Some("icmpv6")),
        (47, None),
    ] {
        let flow = Flow { icmp_type: 3, icmp_code: 1, ..flow(protocol) };
        assert_eq!(text(&flow), expected, "{protocol}");
        assert_eq!(text(&Flow { ip_version: 0, ..flow }), None);
    }
}

#[test]
fn ip_texts_are_canonical() {
    let v6 = Flow {
        ip_version: 6,
        source_addr: [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ..flow(protocol::TCP)
    };
    for (flow, source, version) in
        [(flow(protocol::TCP), "10.0.0.1", pb::IpVersion::IPv4), (v6, "2001:db8::1", pb::IpVersion::IPv6)]
    {
        let ip = message(&flow, &[]).ip.unwrap();
        assert_eq!((ip.source.as_str(), ip.ip_version()), (source, version));
    }
    let none = message(&Flow { ip_version: 0, ..flow(0) }, &[]);
    assert_eq!((none.ip, none.summary.as_str()), (None, "Ethernet"));
}

#[test]
fn policies_go_to_the_list_of_direction_and_verdict() {
    for (direction, verdict, expected) in [
        (Direction::EGRESS, Verdict::FORWARDED, [1, 0, 0, 0]),
        (Direction::INGRESS, Verdict::REDIRECTED, [0, 1, 0, 0]),
        (Direction::EGRESS, Verdict::DROPPED, [0, 0, 1, 0]),
        (Direction::INGRESS, Verdict::AUDIT, [0, 0, 0, 1]),
        (Direction::UNKNOWN, Verdict::DROPPED, [0, 0, 0, 0]),
    ] {
        let flow = Flow { direction: direction.0, verdict: verdict.0, ..flow(protocol::TCP) };
        let message = message(&flow, &[origin("p", 1, "")]);
        let lists = [
            message.egress_allowed_by.len(),
            message.ingress_allowed_by.len(),
            message.egress_denied_by.len(),
            message.ingress_denied_by.len(),
        ];
        assert_eq!(lists, expected, "{direction} {verdict}");
    }
}

#[test]
fn rules_of_one_policy_are_one_entry() {
    let no_policy = PolicyOrigin { name: "allow-any-ingress".into(), ..PolicyOrigin::default() };
    let origins = [origin("a", 3, "log"), origin("b", 1, "log"), origin("a", 5, "more"), no_policy];
    let flow = Flow { direction: Direction::INGRESS.0, ..flow(protocol::TCP) };
    let answer = message(&flow, &origins);
    let policies: Vec<_> =
        answer.ingress_allowed_by.iter().map(|policy| (policy.name.as_str(), policy.revision)).collect();
    assert_eq!(policies, [("a", 5), ("b", 1)]);
    assert_eq!(answer.policy_log, ["log", "more"]);
    // An event that no policy decided names none, whatever its cookie says.
    let trace = Flow { flags: 0, ..flow };
    assert!(message(&trace, &origins).ingress_allowed_by.is_empty());
}

#[test]
fn endpoints_of_known_and_unknown_sides() {
    let flow =
        Flow { source_identity: 300, source_endpoint: 7, destination_identity: 2, ..flow(protocol::TCP) };
    let message = message(&flow, &[]);
    let source = message.source.unwrap();
    assert_eq!((source.id, source.identity, source.cluster_name.as_str()), (7, 300, "default"));
    assert_eq!(source.workloads, [pb::Workload { name: "web".into(), kind: "Deployment".into() }]);
    assert_eq!(source.labels, ["k8s:app=web"]);
    assert_eq!(message.destination, Some(pb::Endpoint { identity: 2, ..pb::Endpoint::default() }));
}

#[test]
fn fields_of_each_kind_of_event() {
    let base = Flow {
        ifindex: 3,
        proxy_port: 9,
        match_type: 2,
        trace_reason: 3,
        drop_reason: 181,
        sub_type: 1,
        ..flow(protocol::UDP)
    };
    let of = |kind: EventType, verdict: Verdict| {
        let message = message(&Flow { event_type: kind.0, verdict: verdict.0, ..base }, &[]);
        (
            message.policy_match_type,
            message.trace_reason,
            message.trace_observation_point,
            message.drop_reason,
            message.interface.map(|interface| interface.name),
            message.proxy_port,
        )
    };
    assert_eq!(of(EventType::TRACE, Verdict::FORWARDED), (0, 3, 1, 0, Some("eth0".to_owned()), 9));
    assert_eq!(of(EventType::POLICY_VERDICT, Verdict::DROPPED), (2, 0, 0, 181, None, 0));
    assert_eq!(of(EventType::DROP, Verdict::DROPPED), (0, 0, 0, 181, None, 0));
}

#[test]
fn mac_texts() {
    for (mac, text) in [
        ([0; 6], "00:00:00:00:00:00"),
        ([0x01, 0x23, 0x45, 0x67, 0x89, 0xab], "01:23:45:67:89:ab"),
        ([0xff; 6], "ff:ff:ff:ff:ff:ff"),
    ] {
        assert_eq!(mac_text(mac), text);
    }
}
