//! What a flow costs in the exporter: CPU time for each from the ring to the file.
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use nix::sys::resource::{UsageWho, getrusage};
use specola_datapath_common::event::{Event, kind};
use specola_directory::{Change, directory};
use specola_flow::{EndpointMeta, InstanceId, NodeInfo, Workload};
use specola_flow_server::{Config, ExporterSpec, Output, flow_server};

const ROUNDS: u32 = 5;
const FLOWS: u32 = 60_000;
const MASK: [&str; 11] = [
    "time",
    "verdict",
    "drop_reason_desc",
    "IP",
    "l4",
    "source.namespace",
    "source.pod_name",
    "destination.namespace",
    "destination.pod_name",
    "event_type",
    "traffic_direction",
];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    println!("| line of JSON of a flow | CPU, us | goal | Hubble |\n|---|---|---|---|");
    for (name, mask, goal, original) in
        [("all fields", &[][..], "<= 5", "40"), ("mask of 11 paths", &MASK[..], "<= 3", "20.7")]
    {
        let best = (0..ROUNDS).map(|_| runtime.block_on(round(mask))).fold(f64::INFINITY, f64::min);
        println!("| {name} | {:.2} | {goal} | {original} |", best / 1e3);
    }
}

async fn round(mask: &[&str]) -> f64 {
    let files = tempfile::tempdir().expect("a directory");
    let config = Config { capacity: 65_536, ..Config::new(InstanceId::new(1), "1") };
    let (mut names, reader) = directory(NodeInfo { name: "node-1".into(), ..NodeInfo::default() });
    for pod in 1..=2_u16 {
        let meta = EndpointMeta {
            id: pod,
            namespace: "team-payments".into(),
            pod_name: format!("backend-7d9c5b6f8d-x2vq{pod}"),
            labels: (0..8)
                .map(|n| format!("k8s:example.org/label-{n}=value-{pod}").parse().expect("a label"))
                .collect(),
            workloads: vec![Workload { name: "backend".into(), kind: "Deployment".into() }],
            cluster_name: "default".into(),
            ..EndpointMeta::default()
        };
        let addresses = vec![format!("10.0.0.{pod}").parse().expect("an address")];
        names.apply([Change::UpsertEndpoint { meta, addresses }]).expect("there is room");
    }
    let (mut pipeline, server) = flow_server(config, reader).expect("a ring");
    let exporters = server.exporters();
    let spec = ExporterSpec {
        field_mask: mask.iter().map(ToString::to_string).collect(),
        max_size_mb: 1000,
        ..ExporterSpec::new("bench", Output::File(files.path().join("flows.log")))
    };
    exporters.apply(vec![spec]).expect("a good exporter");
    let address = |pod| specola_datapath_common::v4_mapped([10, 0, 0, pod]);
    let event = Event {
        kind: kind::TRACE,
        ip_version: 4,
        proto: 6,
        tcp_flags: 0x10,
        src_addr: address(1),
        dst_addr: address(2),
        src_port: 40_000,
        dst_port: 8080,
        src_identity: 12_345,
        dst_identity: 23_456,
        endpoint_id: 2,
        ifindex: 7,
        src_mac: [2; 6],
        dst_mac: [3; 6],
        ..Event::zeroed()
    };
    let batch = vec![event; 1000];
    let before = cpu_ns();
    for _ in 0..FLOWS / 1000 {
        pipeline.ingest(&batch, 1_700_000_000_000_000_000);
    }
    let (trigger, drain) = specola_lifecycle::drain();
    trigger.signal();
    exporters.run(drain).await;
    let counts = server.consumers().remove(0);
    assert_eq!(counts.delivered, u64::from(FLOWS), "{counts:?}");
    (cpu_ns() - before) / f64::from(FLOWS)
}

fn cpu_ns() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("it takes no arguments");
    let ns = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e9 + time.tv_usec() as f64 * 1e3;
    ns(usage.user_time()) + ns(usage.system_time())
}
