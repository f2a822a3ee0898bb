//! Pods come and go a million times: memory stays flat, and no flow gets another pod's name.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use specola_datapath_common::{
    event::{Event, kind, point},
    v4_mapped,
};
use specola_directory::{Change, DirectoryReader, LINGER, directory};
use specola_flow::{EndpointMeta, InstanceId, NodeInfo, Workload};
use specola_flow_server::{Config, FlowServer, flow_server};
use specola_labels::{Label, NumericIdentity};
use specola_ring::Read;
use zerocopy::FromZeros;

const PODS: u32 = 1_000_000;
/// Pods that live at the same time; each batch replaces all of them.
const ALIVE: u32 = 500;
const RING: usize = 4096;

fn address(place: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + place)
}

fn pod(number: u32) -> EndpointMeta {
    EndpointMeta {
        identity: NumericIdentity(300 + number % 1000),
        namespace: "shop".into(),
        pod_name: format!("web-{number}"),
        labels: [Label::k8s("app", "web")].into_iter().collect(),
        workloads: vec![Workload { name: "web".into(), kind: "Deployment".into() }],
        cluster_name: "default".into(),
        ..EndpointMeta::default()
    }
}

/// The event's packet length is the number of the pod that sends.
fn event(number: u32) -> Event {
    Event {
        kind: kind::TRACE,
        obs_point: point::TO_ENDPOINT,
        ip_version: 4,
        proto: 6,
        length: number,
        src_addr: v4_mapped(address(number % ALIVE).octets()),
        dst_addr: v4_mapped([192, 0, 2, 1]),
        ..Event::new_zeroed()
    }
}

/// Resident memory of this process, kB.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Every flow that can be read names its pod, and that one only.
fn check(server: &FlowServer, names: &DirectoryReader) {
    let ring = server.ring();
    for seq in ring.oldest()..ring.head() {
        let Read::Item(flow) = ring.read(seq) else { panic!("nothing is overwritten meanwhile") };
        let metas = names.metas();
        let pod_name = metas.get(flow.source_meta).map(|meta| meta.pod_name.as_str());
        assert_eq!(pod_name, Some(format!("web-{}", flow.length).as_str()), "flow {seq}");
    }
}

#[test]
fn a_million_pods_leave_no_trace() {
    let (mut writer, names) = directory(NodeInfo::default());
    let config = Config { capacity: RING, ..Config::new(InstanceId::new(1), "1.2.3") };
    let (mut pipeline, server) = flow_server(config, names.clone()).unwrap();
    let mut now = Instant::now();
    let (mut most, mut warm_kb) = (0, 0);
    for (round, first) in (0..PODS).step_by(ALIVE as usize).enumerate() {
        let pods = first..first + ALIVE;
        let upserts = pods.clone().map(|number| Change::UpsertIp {
            prefix: IpAddr::V4(address(number % ALIVE)).into(),
            identity: NumericIdentity(300 + number % 1000),
            meta: Some(pod(number)),
        });
        writer.apply(upserts).unwrap();
        // Half of the pods send, so that some entries have flows and some have none.
        let events: Vec<Event> = pods.filter(|number| number % 2 == 0).map(event).collect();
        pipeline.ingest(&events, 0);
        now += Duration::from_secs(1);
        writer.collect(server.held(), now);
        most = most.max(writer.entries());
        if round % 100 == 99 {
            check(&server, &names);
        }
        if first == PODS / 4 {
            warm_kb = resident_kb();
        }
    }
    check(&server, &names);
    // Alive, in the ring, lingering (entries of as many batches as it takes), reserved identities.
    let lingering = (LINGER.as_secs() as usize + 2) * ALIVE as usize;
    assert!(most <= ALIVE as usize + RING + lingering + 100, "{most} entries at once");
    let (end_kb, slack_kb) = (resident_kb(), 8 * 1024);
    assert!(end_kb < warm_kb + slack_kb, "{warm_kb} kB after a quarter, {end_kb} kB at the end");
}
