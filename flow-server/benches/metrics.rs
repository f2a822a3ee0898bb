//! What a flow costs in metrics: CPU time for each, with the ring and with the names of its pods.
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use nix::sys::resource::{UsageWho, getrusage};
use specola_directory::directory;
use specola_flow::{
    Direction, EndpointMeta, EventType, Flow, FlowView, InstanceId, MetaInterner, NodeInfo, Verdict,
    Workload, protocol,
};
use specola_flow_server::{Config, MetricSpec, MetricsSettings, flow_server};

const ROUNDS: u32 = 5;
const FLOWS: u32 = 500_000;

fn main() {
    println!("| metrics of a flow | CPU, ns |\n|---|---|");
    for (name, list) in [
        ("drop tcp flow icmp port-distribution policy", "drop tcp flow icmp port-distribution policy"),
        (
            "the same with workloads and namespaces",
            "drop:CONTEXT tcp:CONTEXT flow:CONTEXT icmp:CONTEXT port-distribution policy:CONTEXT",
        ),
        ("flow alone", "flow"),
    ] {
        let context = "sourceContext=workload-name|reserved-identity;destinationContext=workload-name|reserved-identity;\
                       labelsContext=source_namespace,destination_namespace";
        let list = list.replace("CONTEXT", context);
        let best = (0..ROUNDS).map(|_| round(&list)).fold(f64::INFINITY, f64::min);
        println!("| {name} | {best:.0} |");
    }
}

fn round(list: &str) -> f64 {
    let (_pipeline, server) =
        flow_server(Config::new(InstanceId::new(1), "1"), directory(NodeInfo::default()).1)
            .expect("a small ring");
    let metrics = server.flow_metrics(MetricsSettings::default());
    metrics.apply(MetricSpec::parse_list(list).expect("a list").0).expect("no conflict");
    let mut interner = MetaInterner::new();
    let handles: Vec<_> = (0..32)
        .map(|pod| {
            let meta = EndpointMeta {
                namespace: format!("team-{}", pod % 4),
                pod_name: format!("web-{pod}-abcde"),
                labels: (0..8)
                    .map(|n| format!("k8s:label-{n}=value-{pod}").parse().expect("a label"))
                    .collect(),
                workloads: vec![Workload { name: format!("web-{pod}"), kind: "Deployment".into() }],
                ..EndpointMeta::default()
            };
            interner.intern(meta).expect("there is room")
        })
        .collect();
    let table = interner.table();
    let (metas, node) = (table.load(), NodeInfo::default());
    let start = cpu_ns();
    for n in 0..FLOWS {
        let at = n as usize;
        let mut flow = Flow {
            ip_version: 4,
            protocol: protocol::TCP,
            tcp_flags: if n % 4 == 0 { 0x02 } else { 0x10 },
            destination_port: (n % 20) as u16,
            verdict: if n % 16 == 0 { Verdict::DROPPED.0 } else { Verdict::FORWARDED.0 },
            drop_reason: if n % 16 == 0 { 133 } else { 0 },
            event_type: if n % 4 == 0 { EventType::POLICY_VERDICT.0 } else { EventType::TRACE.0 },
            direction: Direction::EGRESS.0,
            source_meta: handles[at % handles.len()],
            destination_meta: handles[at / 7 % handles.len()],
            ..Flow::default()
        };
        flow.set_reply(Some(n % 2 == 0));
        metrics.observe(&FlowView::new(&flow, n.into(), InstanceId::new(1), &metas, &node));
    }
    (cpu_ns() - start) / f64::from(FLOWS)
}

fn cpu_ns() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("it takes no arguments");
    let ns = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e9 + time.tv_usec() as f64 * 1e3;
    ns(usage.user_time()) + ns(usage.system_time())
}
