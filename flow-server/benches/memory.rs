//! Resident memory per flow held: `cargo bench -p specola-flow-server --bench memory [-- --json FILE]`.
//!
//! Each ring is filled by the pipeline in a process of its own, with flows of connections between 1,000 pods (eight
//! labels, a workload); one in eight is denied, and so gives a verdict and a drop, which are held longer.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use specola_datapath_common::event::{Event, ct_state, kind, lane, point};
use specola_datapath_common::{direction, v4_mapped};
use specola_directory::{Change, DirectoryReader, directory};
use specola_flow::{EndpointMeta, InstanceId, NodeInfo, Workload};
use specola_flow_server::{Config, flow_server};
use specola_labels::{Label, NumericIdentity};
use zerocopy::FromZeros;

const SIZES: [usize; 3] = [4_096, 65_536, 1 << 20];
const PODS: u32 = 1_000;
const BATCH: usize = 512;

#[expect(clippy::print_stdout, reason = "the report")]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut json = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--fill" => {
                let size = arguments.next().and_then(|size| size.parse().ok()).expect("--fill takes a size");
                let [full, turned] = fill(size);
                println!("{full} {turned}");
                return;
            }
            "--json" => json = Some(arguments.next().expect("--json takes a file")),
            // What cargo passes to every bench.
            "--bench" => {}
            other => panic!("unknown argument {other}: --json FILE"),
        }
    }
    let rows: Vec<(usize, [f64; 2])> = SIZES.into_iter().map(|size| (size, in_own_process(size))).collect();
    println!("| flows held | resident bytes per flow, just full | after the ring turned over four times |");
    println!("|---|---|---|");
    for (size, [full, turned]) in &rows {
        println!("| {size} | {full:.0} | {turned:.0} |");
    }
    if let Some(file) = json {
        let row = |(size, [full, turned]): &(usize, [f64; 2])| serde_json::json!({ "flows": size, "bytes_full": full, "bytes_turned_over": turned });
        let rows: Vec<_> = rows.iter().map(row).collect();
        let text = serde_json::to_string_pretty(&rows).expect("plain numbers");
        fs::write(&file, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

fn in_own_process(size: usize) -> [f64; 2] {
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new(program).args(["--fill", &size.to_string()]).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("numbers");
    let mut numbers = text.split_whitespace().map(|number| number.parse::<f64>().expect("a number"));
    [numbers.next().expect("full"), numbers.next().expect("turned over")]
}

/// Bytes per flow when the ring is just full, and later.
fn fill(size: usize) -> [f64; 2] {
    let names = names();
    let before = resident();
    let config = Config { capacity: size, ..Config::new(InstanceId::new(1), "1.2.3") };
    let (mut pipeline, server) = flow_server(config, names).expect("memory for the ring");
    let per_flow = || (resident() - before) as f64 / size as f64;
    let (mut number, mut full) = (0, 0.0);
    while server.held().head < 5 * size as u64 {
        let events: Vec<Event> = (number..number + BATCH as u64).map(event).collect();
        number += BATCH as u64;
        pipeline.ingest(&events, 1_700_000_000_000_000_000);
        if full == 0.0 && server.held().head >= size as u64 {
            full = per_flow();
        }
    }
    [full, per_flow()]
}

fn address(pod: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + pod)
}

fn names() -> DirectoryReader {
    let (mut writer, reader) = directory(NodeInfo { name: "node1".into(), ..NodeInfo::default() });
    let pods = (0..PODS).map(|pod| Change::UpsertIp {
        prefix: IpAddr::V4(address(pod)).into(),
        identity: NumericIdentity(1000 + pod),
        meta: Some(EndpointMeta {
            identity: NumericIdentity(1000 + pod),
            namespace: "shop".into(),
            pod_name: format!("frontend-7c5ddbdf54-{pod:05}"),
            labels: (0..8).map(|key| Label::k8s(&format!("example.com/label-{key}"), "some-value")).collect(),
            workloads: vec![Workload { name: "frontend".into(), kind: "Deployment".into() }],
            cluster_name: "default".into(),
            ..EndpointMeta::default()
        }),
    });
    writer.apply(pods).expect("room for the pods");
    reader
}

fn event(number: u64) -> Event {
    // Scatters the tuples; the constant is odd.
    let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let pod = |shift: u32| (random >> shift) as u32 % PODS;
    let is_denied = number.is_multiple_of(8);
    Event {
        kind: if is_denied { kind::POLICY_VERDICT } else { kind::TRACE },
        lane: if is_denied { lane::DENY } else { lane::TRACE },
        obs_point: point::TO_ENDPOINT,
        lane_seq: number as u32,
        boot_ns: number * 1_000,
        ip_version: 4,
        proto: 6,
        tcp_flags: 0x10,
        ct_state: ct_state::ESTABLISHED,
        direction: direction::INGRESS,
        verdict: if is_denied { -133 } else { 0 },
        length: 1500,
        src_identity: 1000 + pod(8),
        dst_identity: 1000 + pod(30),
        src_addr: v4_mapped(address(pod(8)).octets()),
        dst_addr: v4_mapped(address(pod(30)).octets()),
        src_port: (random >> 48) as u16,
        dst_port: 8080,
        ..Event::new_zeroed()
    }
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").expect("the kernel's figures");
    let pages: u64 = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * PAGE
}

/// Of x86-64 and most others.
const PAGE: u64 = 4096;
