use specola_labels::{Label, NumericIdentity};

use super::*;
use crate::{
    DropReason, EndpointMeta, EventType, Flow, FlowUuid, InstanceId, NodeInfo, Verdict, Workload, protocol,
};

/// shop/web-1 (identity 300, 10.0.0.1:40000) to shop/db-0 (identity 301, 10.0.0.2:5432), TCP SYN, on node east/n1.
struct Sample {
    flow: Flow,
    source: Option<EndpointMeta>,
    destination: Option<EndpointMeta>,
    node: NodeInfo,
}

fn pod(name: &str, identity: u32, labels: &[&str]) -> EndpointMeta {
    EndpointMeta {
        identity: NumericIdentity(identity),
        namespace: "shop".into(),
        pod_name: name.into(),
        labels: labels.iter().map(|text| text.parse::<Label>().unwrap()).collect(),
        workloads: vec![Workload {
            name: name.trim_end_matches(char::is_numeric).into(),
            kind: "Deployment".into(),
        }],
        cluster_name: "east".into(),
        ..EndpointMeta::default()
    }
}

fn sample() -> Sample {
    let mut flow = Flow {
        source_addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1],
        destination_addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 2],
        source_identity: 300,
        destination_identity: 301,
        source_port: 40_000,
        destination_port: 5432,
        ip_version: 4,
        protocol: protocol::TCP,
        tcp_flags: 0x02,
        verdict: Verdict::FORWARDED.0,
        event_type: EventType::TRACE.0,
        sub_type: 3,
        direction: 2,
        ..Flow::default()
    };
    flow.set_reply(Some(false));
    Sample {
        flow,
        source: Some(pod("web-1", 300, &["k8s:app=web", "k8s:tier=front"])),
        destination: Some(pod("db-0", 301, &["k8s:app=db"])),
        node: NodeInfo { name: "n1".into(), cluster_name: "east".into(), labels: vec!["zone=a".into()] },
    }
}

fn uuid() -> FlowUuid {
    FlowUuid { instance: InstanceId::new(5), seq: 9 }
}

impl Sample {
    fn passes(&self, filters: &FilterSet) -> bool {
        filters.passes(&FlowView {
            flow: &self.flow,
            uuid: uuid(),
            source: self.source.as_ref(),
            destination: self.destination.as_ref(),
            source_labels: &[],
            destination_labels: &[],
            node: &self.node,
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// Builds a filter with some fields set.
macro_rules! filter {
    ($($field:ident: $value:expr),* $(,)?) => {
        pb::FlowFilter { $($field: $value,)* ..pb::FlowFilter::default() }
    };
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn matches(sample: &Sample, filter: pb::FlowFilter) -> bool {
    sample.passes(&FilterSet::compile(&[filter], &[]).unwrap())
}

#[test]
fn every_field_matches_and_does_not() {
    let flags = |syn, ack| pb::TcpFlags { syn, ack, ..pb::TcpFlags::default() };
    let kind = |r#type, sub_type: Option<i32>| pb::EventTypeFilter {
        r#type,
        match_sub_type: sub_type.is_some(),
        sub_type: sub_type.unwrap_or_default(),
    };
    let workload = |name: &str, kind: &str| pb::Workload { name: name.into(), kind: kind.into() };
    let own_uuid = uuid().to_string();
    for (filter, expected) in [
        (filter!(), true),
        (filter!(uuid: texts(&["x", &own_uuid])), true),
        (filter!(uuid: texts(&["x", "00000000-0000-8000-8000-000000000000"])), false),
        (filter!(source_ip: texts(&["10.0.0.1"])), true),
        (filter!(source_ip: texts(&["10.0.0.2", "10.0.0.0/31"])), true),
        (filter!(source_ip: texts(&["10.0.0.2", "fd00::/8"])), false),
        (filter!(destination_ip: texts(&["10.0.0.2"])), true),
        (filter!(destination_ip: texts(&["10.0.0.1"])), false),
        (filter!(source_pod: texts(&["shop/web"])), true),
        (filter!(source_pod: texts(&["web"])), false),
        (filter!(destination_pod: texts(&["other/", "/db"])), true),
        (filter!(destination_pod: texts(&["shop/web"])), false),
        (filter!(source_workload: vec![workload("web-", "")]), true),
        (filter!(source_workload: vec![workload("", "Deployment")]), true),
        (filter!(source_workload: vec![workload("web-", "DaemonSet")]), false),
        (filter!(destination_workload: vec![workload("db-", "Deployment")]), true),
        (filter!(source_label: texts(&["app=db", "app=web,tier=front"])), true),
        (filter!(source_label: texts(&["app=web,tier=back"])), false),
        (filter!(destination_label: texts(&["k8s:app in (db)"])), true),
        (filter!(destination_label: texts(&["!app"])), false),
        (filter!(source_identity: vec![1, 300]), true),
        (filter!(source_identity: vec![301]), false),
        (filter!(destination_identity: vec![301]), true),
        (filter!(source_port: texts(&["40000"])), true),
        (filter!(source_port: texts(&["5432"])), false),
        (filter!(destination_port: texts(&["80", "5432"])), true),
        (filter!(source_cluster_name: texts(&["east"])), true),
        (filter!(source_cluster_name: texts(&["eas*"])), false),
        (filter!(destination_cluster_name: texts(&["west", "east"])), true),
        (filter!(protocol: texts(&["TCP"])), true),
        (filter!(protocol: texts(&["udp", "icmp", "icmpv4", "icmpv6", "sctp", "vrrp", "igmp"])), false),
        (filter!(protocol: texts(&["http", "dns", "kafka"])), false),
        (filter!(verdict: vec![2, 1]), true),
        (filter!(verdict: vec![2, 5]), false),
        (filter!(event_type: vec![kind(4, None)]), true),
        (filter!(event_type: vec![kind(0, None)]), true),
        (filter!(event_type: vec![kind(4, Some(3))]), true),
        (filter!(event_type: vec![kind(4, Some(0)), kind(5, None)]), false),
        (filter!(event_type: vec![kind(0, Some(3))]), true),
        (filter!(tcp_flags: vec![flags(true, false)]), true),
        (filter!(tcp_flags: vec![flags(false, false)]), true),
        (filter!(tcp_flags: vec![flags(true, true)]), false),
        (filter!(tcp_flags: vec![flags(true, true), flags(true, false)]), true),
        (filter!(tcp_flags: vec![pb::TcpFlags { ns: true, ..pb::TcpFlags::default() }]), false),
        (filter!(reply: vec![false]), true),
        (filter!(reply: vec![true]), false),
        (filter!(traffic_direction: vec![2]), true),
        (filter!(traffic_direction: vec![1, 0]), false),
        (filter!(node_name: texts(&["n1"])), true),
        (filter!(node_name: texts(&["east/n*"])), true),
        (filter!(node_name: texts(&["west/n1", "n2"])), false),
        (filter!(node_labels: texts(&["zone=a"])), true),
        (filter!(node_labels: texts(&["zone=b"])), false),
        (filter!(drop_reason_desc: vec![133]), false),
        (filter!(ip_version: vec![1]), true),
        (filter!(ip_version: vec![0, 2]), false),
        (filter!(encrypted: vec![false]), true),
        (filter!(encrypted: vec![true]), false),
        (filter!(source_service: texts(&["shop/web"])), false),
        (filter!(destination_service: texts(&["/"])), false),
        // All fields of a filter must match.
        (filter!(source_pod: texts(&["/"]), destination_port: texts(&["5432"])), true),
        (filter!(source_pod: texts(&["/"]), destination_port: texts(&["80"])), false),
    ] {
        assert_eq!(matches(&sample(), filter.clone()), expected, "{filter:?}");
    }
}

#[test]
fn drops_match_by_reason_and_count_as_no_reply() {
    let dropped = sample().with(|sample| {
        sample.flow.verdict = Verdict::DROPPED.0;
        sample.flow.drop_reason = DropReason::POLICY_DENIED.0;
        sample.flow.set_reply(None);
    });
    assert!(matches(&dropped, filter!(drop_reason_desc: vec![181, 133])));
    assert!(!matches(&dropped, filter!(drop_reason_desc: vec![181])));
    assert!(matches(&dropped, filter!(reply: vec![false])));
    assert!(!matches(&dropped, filter!(reply: vec![true])));
    let unknown = sample().with(|sample| sample.flow.set_reply(None));
    assert!(!matches(&unknown, filter!(reply: vec![true, false])));
    // A reason without the verdict is none.
    let audited = sample().with(|sample| sample.flow.drop_reason = 133);
    assert!(!matches(&audited, filter!(drop_reason_desc: vec![133])));
}

#[test]
fn flows_without_ip_or_names() {
    let bare = sample().with(|sample| {
        sample.flow.ip_version = 0;
        sample.source = None;
        sample.destination = None;
    });
    for filter in [
        filter!(source_ip: texts(&["0.0.0.0/0", "::/0"])),
        filter!(source_pod: texts(&["/"])),
        filter!(source_port: texts(&["40000"])),
        filter!(protocol: texts(&["tcp"])),
        filter!(tcp_flags: vec![pb::TcpFlags::default()]),
        filter!(source_label: texts(&["app"])),
        filter!(source_workload: vec![pb::Workload::default()]),
        filter!(source_cluster_name: texts(&["east"])),
    ] {
        assert!(!matches(&bare, filter.clone()), "{filter:?}");
    }
    assert!(matches(&bare, filter!(ip_version: vec![0])));
    assert!(matches(&bare, filter!(source_label: texts(&["!app"]))));
}

#[test]
fn lists_combine() {
    let to_db = || filter!(destination_pod: texts(&["shop/db"]));
    let to_web = || filter!(destination_pod: texts(&["shop/web"]));
    let all = || filter!();
    for (white, black, expected) in [
        (vec![], vec![], true),
        (vec![to_web()], vec![], false),
        (vec![to_web(), to_db()], vec![], true),
        (vec![], vec![to_db()], false),
        (vec![], vec![to_web()], true),
        (vec![to_db()], vec![to_db()], false),
        (vec![all()], vec![], true),
        (vec![], vec![all()], false),
    ] {
        let filters = FilterSet::compile(&white, &black).unwrap();
        assert_eq!(sample().passes(&filters), expected, "{white:?} {black:?}");
        assert_eq!(filters.is_empty(), white.is_empty() && black.is_empty());
    }
}

#[test]
fn errors_name_list_index_and_field() {
    let cel = pb::flow_filter::Experimental { cel_expression: texts(&["true"]) };
    for (filter, expected) in [
        (
            filter!(source_ip: texts(&["nope"])),
            "source_ip: invalid IP address \"nope\" in filter: invalid IP address syntax",
        ),
        (
            filter!(destination_ip: texts(&["1.2.3.4/33"])),
            "destination_ip: invalid IP prefix \"1.2.3.4/33\" in filter",
        ),
        (filter!(source_pod: texts(&[""])), "source_pod: invalid filter, name must not be empty"),
        (
            filter!(destination_service: texts(&[""])),
            "destination_service: invalid filter, name must not be empty",
        ),
        (
            filter!(source_port: texts(&["-1"])),
            "source_port: invalid port \"-1\": invalid digit found in string",
        ),
        (
            filter!(destination_label: texts(&["a in (b"])),
            "destination_label: invalid selector: unclosed parenthesis",
        ),
        (filter!(node_labels: texts(&["a b"])), "node_labels: invalid selector: \"a b\" is no requirement"),
        (filter!(node_name: texts(&["a/b/c"])), "node_name: too many slashes in pattern \"a/b/c\""),
        (filter!(protocol: texts(&["quic"])), "protocol: unknown protocol: \"quic\""),
        (filter!(source_cluster_name: texts(&[""])), "source_cluster_name: a cluster name must not be empty"),
        (filter!(verdict: vec![-1]), "verdict: -1 is no value of this enum"),
        (filter!(drop_reason_desc: vec![256]), "drop_reason_desc: 256 is no value of this enum"),
        (filter!(source_fqdn: texts(&["a"])), "source_fqdn: this server does not support"),
        (filter!(dns_query: texts(&["a"])), "dns_query: this server does not support"),
        (filter!(trace_id: texts(&["a"])), "trace_id: this server does not support"),
        (filter!(ip_trace_id: vec![1]), "ip_trace_id: this server does not support"),
        (
            filter!(interface: vec![pb::NetworkInterface::default()]),
            "interface: this server does not support",
        ),
        (filter!(http_header: vec![pb::HttpHeader::default()]), "http_header: this server does not support"),
        (filter!(experimental: Some(cel)), "experimental.cel_expression: this server does not support"),
    ] {
        let error = FilterSet::compile(&[], &[filter!(), filter]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("blacklist[1].{expected}")), "{error}");
    }
}

#[test]
fn ids_bound_the_search() {
    let id = |instance, seq| FlowUuid { instance: InstanceId::new(instance), seq }.to_string();
    let asks = |ids: &[String]| filter!(uuid: ids.to_vec());
    for (whitelist, expected) in [
        (vec![], None),
        (vec![filter!()], None),
        (vec![asks(&[id(5, 7)])], Some(7..8)),
        (vec![asks(&[id(5, 9), id(5, 7)]), asks(&[id(5, 20)])], Some(7..21)),
        (vec![asks(&[id(5, 9), id(6, 1)])], Some(9..10)),
        (vec![asks(&[id(6, 1), "x".to_owned()])], Some(0..0)),
        (vec![asks(&[id(5, u64::MAX)])], Some(u64::MAX..u64::MAX)),
        (vec![asks(&[id(5, 9)]), filter!(verdict: vec![1])], None),
    ] {
        let filters = FilterSet::compile(&whitelist, &[filter!(uuid: vec![id(5, 1)])]).unwrap();
        assert_eq!(filters.sequence_range(InstanceId::new(5)), expected, "{whitelist:?}");
    }
}
