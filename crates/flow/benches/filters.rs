//! What one look at a flow costs, for each kind of filter: CPU time of the best of several rounds.
//!
//! `cargo bench -p specola-flow --features proto --bench filters`
#![expect(clippy::print_stdout, reason = "a table is what the bench is for")]

use std::{hint::black_box, time::Instant};

use specola_flow::{
    EndpointMeta, FilterSet, Flow, FlowNames, FlowView, InstanceId, MetaInterner, NodeInfo, PolicyOrigin,
    Workload,
};
use specola_labels::{Label, NumericIdentity};
use specola_proto::flow as pb;

const ROUNDS: usize = 9;
const LOOKS: u32 = 200_000;

#[derive(Debug)]
struct Names;

impl FlowNames for Names {
    fn interface_name(&self, _: u32) -> Option<&str> {
        Some("eth0")
    }

    fn policy_origins(&self, _: u32) -> &[PolicyOrigin] {
        &[]
    }
}

fn pod(name: &str, identity: u32) -> EndpointMeta {
    let label = |n: usize| Label::k8s(&format!("topology.example.org/label-{n}"), &format!("value-{n}"));
    EndpointMeta {
        identity: NumericIdentity(identity),
        namespace: "shop".into(),
        pod_name: name.into(),
        labels: (0..7).map(label).chain([Label::k8s("app", name)]).collect(),
        workloads: vec![Workload { name: name.into(), kind: "Deployment".into() }],
        cluster_name: "default".into(),
        ..EndpointMeta::default()
    }
}

fn filters() -> Vec<(&'static str, pb::FlowFilter)> {
    let text = |value: &str| vec![value.to_owned()];
    let cel = |value: &str| Some(pb::flow_filter::Experimental { cel_expression: text(value) });
    let empty = pb::FlowFilter::default;
    vec![
        ("empty", empty()),
        ("verdict", pb::FlowFilter { verdict: vec![1], ..empty() }),
        (
            "event type",
            pb::FlowFilter {
                event_type: vec![pb::EventTypeFilter { r#type: 4, ..Default::default() }],
                ..empty()
            },
        ),
        ("port", pb::FlowFilter { destination_port: text("5432"), ..empty() }),
        ("protocol", pb::FlowFilter { protocol: text("tcp"), ..empty() }),
        ("address", pb::FlowFilter { source_ip: text("10.0.0.1"), ..empty() }),
        ("prefix", pb::FlowFilter { source_ip: text("10.0.0.0/8"), ..empty() }),
        ("identity", pb::FlowFilter { source_identity: vec![300], ..empty() }),
        ("pod", pb::FlowFilter { source_pod: text("shop/web"), ..empty() }),
        (
            "workload",
            pb::FlowFilter {
                source_workload: vec![pb::Workload { name: "web".into(), kind: String::new() }],
                ..empty()
            },
        ),
        (
            "label",
            pb::FlowFilter { source_label: text("app=web,topology.example.org/label-6=value-6"), ..empty() },
        ),
        ("node name", pb::FlowFilter { node_name: text("default/n*"), ..empty() }),
        ("node labels", pb::FlowFilter { node_labels: text("zone=a"), ..empty() }),
        (
            "interface",
            pb::FlowFilter {
                interface: vec![pb::NetworkInterface { index: 7, name: "eth0".into() }],
                ..empty()
            },
        ),
        (
            "TCP flags",
            pb::FlowFilter { tcp_flags: vec![pb::TcpFlags { syn: true, ..Default::default() }], ..empty() },
        ),
        (
            "CEL, number",
            pb::FlowFilter { experimental: cel("_flow.l4.TCP.destination_port == 5432u"), ..empty() },
        ),
        (
            "CEL, names",
            pb::FlowFilter {
                experimental: cel(
                    "_flow.source.namespace == 'shop' && _flow.source.pod_name.startsWith('web')",
                ),
                ..empty()
            },
        ),
        (
            "CEL, label",
            pb::FlowFilter { experimental: cel("'k8s:app=web' in _flow.source.labels"), ..empty() },
        ),
        (
            "CEL, exists",
            pb::FlowFilter {
                experimental: cel(
                    "_flow.source.labels.exists(l, l.startsWith('k8s:topology.example.org/label-6'))",
                ),
                ..empty()
            },
        ),
        ("CEL, address", pb::FlowFilter { experimental: cel("_flow.IP.source == '10.0.0.1'"), ..empty() }),
    ]
}

fn main() {
    let mut interner = MetaInterner::new();
    let mut flow = Flow {
        source_addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1],
        destination_addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 2],
        source_meta: interner.intern(pod("web", 300)).expect("an empty table has a place"),
        destination_meta: interner.intern(pod("db", 301)).expect("an empty table has a place"),
        source_identity: 300,
        destination_identity: 301,
        source_port: 40_000,
        destination_port: 5432,
        ip_version: 4,
        protocol: 6,
        tcp_flags: 2,
        verdict: 1,
        event_type: 4,
        ifindex: 7,
        ..Flow::default()
    };
    flow.set_reply(Some(false));
    let table = interner.table();
    let metas = table.load();
    let node = NodeInfo { name: "n1".into(), cluster_name: "default".into(), labels: vec!["zone=a".into()] };
    println!("| filter | ns per flow |\n|---|---|");
    for (name, filter) in filters() {
        let set = FilterSet::compile(&[filter], &[]).expect("the list is right");
        let round = || {
            let started = Instant::now();
            for seq in 0..u64::from(LOOKS) {
                let view = FlowView::new(black_box(&flow), seq, InstanceId::new(1), &metas, &node)
                    .with_names(&Names);
                assert!(set.passes(black_box(&view)), "{name}");
            }
            started.elapsed().as_nanos() as f64 / f64::from(LOOKS)
        };
        let best = (0..ROUNDS).map(|_| round()).fold(f64::MAX, f64::min);
        println!("| {name} | {best:.1} |");
    }
}
