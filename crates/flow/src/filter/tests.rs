use std::sync::OnceLock;

use specola_labels::{Label, NumericIdentity};
use specola_proto::flow::layer7::Record;

use super::*;
use crate::{
    DropReason, EndpointMeta, EventType, Flow, FlowDetail, FlowNames, FlowUuid, InstanceId, NodeInfo,
    PolicyOrigin, Verdict, Workload, protocol,
};

/// shop/web-1 (identity 300, 10.0.0.1:40000) to shop/db-0 (identity 301, 10.0.0.2:5432), TCP SYN, on node east/n1.
pub(super) struct Sample {
    pub(super) flow: Flow,
    source: Option<EndpointMeta>,
    destination: Option<EndpointMeta>,
    source_labels: Vec<String>,
    node: NodeInfo,
    detail: Option<FlowDetail>,
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

pub(super) fn sample() -> Sample {
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
        source_labels: texts(&["k8s:app=web", "k8s:tier=front"]),
        node: NodeInfo { name: "n1".into(), cluster_name: "east".into(), labels: vec!["zone=a".into()] },
        detail: None,
    }
}

fn uuid() -> FlowUuid {
    FlowUuid { instance: InstanceId::new(5), seq: 9 }
}

#[derive(Debug)]
struct Names;

impl FlowNames for Names {
    fn interface_name(&self, ifindex: u32) -> Option<&str> {
        (ifindex == 7).then_some("eth0")
    }

    fn policy_origins(&self, cookie: u32) -> &[PolicyOrigin] {
        static ORIGINS: OnceLock<Vec<PolicyOrigin>> = OnceLock::new();
        let origin = |name: &str, log: &str| PolicyOrigin {
            kind: "NetworkPolicy".into(),
            namespace: "shop".into(),
            name: name.into(),
            revision: 3,
            log: log.into(),
            ..PolicyOrigin::default()
        };
        let origins = ORIGINS.get_or_init(|| {
            vec![origin("allow-web", "seen"), origin("allow-web", "seen"), origin("other", "")]
        });
        if cookie == 9 { origins } else { &[] }
    }
}

impl Sample {
    fn passes(&self, filters: &FilterSet) -> bool {
        filters.passes(&self.view())
    }

    pub(super) fn view(&self) -> FlowView<'_> {
        FlowView {
            flow: &self.flow,
            uuid: uuid(),
            source: self.source.as_ref(),
            destination: self.destination.as_ref(),
            source_labels: &self.source_labels,
            destination_labels: &[],
            node: &self.node,
            names: Some(&Names),
            detail: self.detail.as_ref(),
        }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
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
    let cel = pb::flow_filter::Experimental { cel_expression: texts(&["1"]) };
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
        (filter!(source_fqdn: texts(&[" "])), "source_fqdn: empty pattern"),
        (filter!(destination_fqdn: texts(&["a b"])), "destination_fqdn: 'a b': invalid rune in pattern"),
        (filter!(source_ip_xlated: texts(&["x"])), "source_ip_xlated: invalid IP address \"x\" in filter"),
        (
            filter!(dns_query: texts(&["("])),
            "dns_query: invalid DNS query filter: failed to compile regexp: regex parse error",
        ),
        (
            filter!(http_status_code: texts(&["600"])),
            "http_status_code: invalid http status code filter: invalid status code prefix: \"600\"",
        ),
        (filter!(http_path: texts(&["["])), "http_path: failed to compile regexp"),
        (filter!(http_url: texts(&["["])), "http_url: failed to compile regexp"),
        (
            filter!(http_method: texts(&["GET"]), event_type: vec![pb::EventTypeFilter { r#type: 4, ..Default::default() }]),
            "http_method: filtering by http method requires the event type filter to only match 'l7' events",
        ),
        (
            filter!(experimental: Some(cel)),
            "experimental.cel_expression: error compiling CEL expression: got \"int\", wanted \"bool\" result type",
        ),
    ] {
        let error = FilterSet::compile(&[], &[filter!(), filter]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("blacklist[1].{expected}")), "{error}");
    }
}

#[test]
fn lists_have_bounds() {
    let error = FilterSet::compile(&vec![filter!(); 257], &[]).unwrap_err().to_string();
    assert_eq!(error, "whitelist[256].*: a list may have 256 filters at most");
    let error = FilterSet::compile(&[filter!(dns_query: texts(&["a"; 33]))], &[]).unwrap_err().to_string();
    assert_eq!(error, "whitelist[0].dns_query: at most 32 patterns are allowed");
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

/// The same flow with everything that the record has no place for: a request, or the answer to a query.
pub(super) fn detailed(record: Record) -> Sample {
    let service = |name: &str| Some(pb::Service { name: name.into(), namespace: "shop".into() });
    sample().with(|sample| {
        sample.flow.event_type = EventType::L7.0;
        sample.flow.sub_type = 0;
        sample.detail = Some(FlowDetail {
            l7: Some(pb::Layer7 { r#type: 2, latency_ns: 5, record: Some(record) }),
            source_names: texts(&["web.shop.svc"]),
            destination_names: texts(&["db.shop.svc", "db.example.org"]),
            source_service: service("web"),
            destination_service: service("db"),
            source_ip_xlated: "192.0.2.1".into(),
            encrypted: true,
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            ip_trace_id: Some(pb::IpTraceId { trace_id: 77, ip_option_type: 136 }),
        });
    })
}

pub(super) fn http_response() -> Record {
    Record::Http(pb::Http {
        code: 404,
        method: "GET".into(),
        url: "http://user@db.shop/items/1?all=yes".into(),
        protocol: "HTTP/1.1".into(),
        headers: vec![pb::HttpHeader { key: "X-Id".into(), value: "7".into() }],
    })
}

#[test]
fn details_match_and_do_not() {
    let http = detailed(http_response());
    let dns = detailed(Record::Dns(pb::Dns { query: "db.shop.svc.".into(), ..pb::Dns::default() }));
    let header = |key: &str, value: &str| pb::HttpHeader { key: key.into(), value: value.into() };
    let kind = |r#type| vec![pb::EventTypeFilter { r#type, ..pb::EventTypeFilter::default() }];
    for (filter, on_http, on_dns) in [
        (filter!(source_fqdn: texts(&["web.shop.svc."])), true, true),
        (filter!(source_fqdn: texts(&["shop.svc"])), false, false),
        (filter!(destination_fqdn: texts(&["x", "*.example.org"])), true, true),
        (filter!(destination_fqdn: texts(&["*.example"])), false, false),
        (filter!(source_service: texts(&["shop/w"])), true, true),
        (filter!(source_service: texts(&["web"])), false, false),
        (filter!(destination_service: texts(&["/db"])), true, true),
        (filter!(destination_service: texts(&["shop/web"])), false, false),
        (filter!(source_ip_xlated: texts(&["192.0.2.0/24"])), true, true),
        (filter!(source_ip_xlated: texts(&["10.0.0.1"])), false, false),
        (filter!(encrypted: vec![true]), true, true),
        (filter!(encrypted: vec![false]), false, false),
        (filter!(trace_id: texts(&["4bf92f3577b34da6a3ce929d0e0e4736"])), true, true),
        (filter!(trace_id: texts(&["4bf9"])), false, false),
        (filter!(ip_trace_id: vec![1, 77]), true, true),
        (filter!(ip_trace_id: vec![0]), false, false),
        (filter!(dns_query: texts(&["^db\\."])), false, true),
        (filter!(dns_query: texts(&["^shop"])), false, false),
        (filter!(http_status_code: texts(&["4+"])), true, false),
        (filter!(http_status_code: texts(&["404"]), event_type: kind(129)), true, false),
        (filter!(http_status_code: texts(&["200", "5+"])), false, false),
        (filter!(http_method: texts(&["get"])), true, false),
        (filter!(http_method: texts(&["POST"])), false, false),
        (filter!(http_path: texts(&["^/items/\\d+$"])), true, false),
        (filter!(http_path: texts(&["all"])), false, false),
        (filter!(http_url: texts(&["all=yes"])), true, false),
        (filter!(http_url: texts(&["^/items"])), false, false),
        (filter!(http_header: vec![header("X-Id", "7")]), true, false),
        (filter!(http_header: vec![header("x-id", "7"), header("X-Id", "8")]), false, false),
        (filter!(protocol: texts(&["HTTP"])), true, false),
        (filter!(protocol: texts(&["dns"])), false, true),
        (filter!(protocol: texts(&["kafka"])), false, false),
        (filter!(protocol: texts(&["tcp"])), true, true),
    ] {
        assert_eq!(matches(&http, filter.clone()), on_http, "http: {filter:?}");
        assert_eq!(matches(&dns, filter.clone()), on_dns, "dns: {filter:?}");
    }
    // A flow without details has none of it.
    for filter in [
        filter!(destination_fqdn: texts(&["*"])),
        filter!(destination_service: texts(&["/"])),
        filter!(source_ip_xlated: texts(&["0.0.0.0/0"])),
        filter!(trace_id: texts(&[""])),
        filter!(http_url: texts(&[""])),
        filter!(dns_query: texts(&[""])),
    ] {
        assert!(!matches(&sample(), filter.clone()), "{filter:?}");
    }
    assert!(matches(&sample(), filter!(ip_trace_id: vec![0])));
}

#[test]
fn interfaces_match_traces() {
    let seen = |ifindex, event_type: EventType| {
        sample().with(|sample| {
            sample.flow.ifindex = ifindex;
            sample.flow.event_type = event_type.0;
        })
    };
    let interface = |index, name: &str| vec![pb::NetworkInterface { index, name: name.into() }];
    for (sample, index, name, expected) in [
        (seen(7, EventType::TRACE), 7, "", true),
        (seen(7, EventType::TRACE), 0, "eth0", true),
        (seen(7, EventType::TRACE), 7, "eth0", true),
        (seen(7, EventType::TRACE), 0, "", true),
        (seen(7, EventType::TRACE), 8, "eth0", false),
        (seen(7, EventType::TRACE), 7, "eth1", false),
        (seen(8, EventType::TRACE), 0, "eth0", false),
        (seen(0, EventType::TRACE), 0, "", false),
        (seen(7, EventType::POLICY_VERDICT), 7, "", false),
    ] {
        assert_eq!(matches(&sample, filter!(interface: interface(index, name))), expected, "{index} {name}");
    }
}

#[test]
fn answers_are_remembered_by_endpoint() {
    let mut interner = crate::MetaInterner::new();
    let handles: Vec<_> =
        ["web-1", "db-0"].map(|name| interner.intern(pod(name, 300, &["k8s:app=x"])).unwrap()).to_vec();
    let table = interner.table().load();
    let filters = FilterSet::compile(&[filter!(source_pod: texts(&["shop/web"]))], &[]).unwrap();
    for (handle, expected) in [(0, true), (1, false), (0, true), (1, false)] {
        let flow = Flow { source_meta: handles[handle], ..sample().flow };
        let node = NodeInfo::default();
        let view = FlowView::new(&flow, 1, InstanceId::new(1), &table, &node);
        assert_eq!(filters.passes(&view), expected, "{handle}");
        assert_eq!(filters.clone().passes(&view), expected, "{handle}");
    }
}
