//! What a packet's way costs from pod to pod: with Specola, with empty programs at the same hooks, and bare.
//!
//! One sandbox of two nodes. In each round the agents run and everything is measured; then they are killed and their
//! links removed, empty programs take the places and the same is measured; then these go too, and the bare way, plain
//! routing, is measured. The agents then come back for the next round. Figures are the lowest and the median of the
//! rounds.
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;
use serde_json::{Value, json};
use specola_datapath::{EmptyProgram, Hook};
use specola_testkit::netns;
use specola_tests::Sandbox;
use specola_tests::inside::udp_socket;
use specola_tests::sandbox::check;

const CLUSTER: &str = "\
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: bench, labels: {app: server}}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata: {name: near, namespace: bench, labels: {role: client}}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: bench, labels: {role: client}}
spec: {nodeName: n2}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: bench}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: client}}]
    toPorts: [{ports: [{port: '7000', protocol: TCP}, {port: '7001', protocol: UDP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: clients, namespace: bench}
spec:
  endpointSelector: {matchLabels: {role: client}}
  egress:
  - toEndpoints: [{matchLabels: {app: server}}]
";

const PORT: u16 = 7000;
const UDP_PORT: u16 = 7001;
const ROUND_TRIPS: usize = 20_000;
const CONNECTS: usize = 2_000;
const DATAGRAMS: u32 = 300_000;
const BULK: Duration = Duration::from_secs(2);

const SPECOLA: &str = "Specola";
const EMPTY: &str = "empty programs";
const BARE: &str = "bare routing";
const METRICS: [(&str, &str); 5] = [
    ("rr", "TCP request-response p50, us"),
    ("connect", "connect + 1 byte p50, us"),
    ("udp", "UDP sender CPU per packet, ns"),
    ("udp_busy", "UDP CPU of both cores per packet, ns"),
    ("cpu_per_gbit", "TCP bulk, CPU-ms per Gbit, both cores"),
];

/// Figures of all rounds by (path, metric, configuration).
type Results = BTreeMap<(&'static str, &'static str, &'static str), Vec<f64>>;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |flag: &str| {
        arguments.iter().position(|one| one == flag).and_then(|at| arguments.get(at + 1)).cloned()
    };
    let rounds: usize = after("--rounds").map_or(5, |text| text.parse().expect("--rounds takes a number"));
    let sandbox = Sandbox::up("paths", CLUSTER);
    let mut results = Results::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        measure_all(&sandbox, SPECOLA, &mut results);
        check(&mut sandbox.specola(&["sandbox", "kill", "--name", sandbox.name(), "--agents"]));
        let hooks = unhook(&sandbox);
        let routes = Routes::add(&sandbox);
        let held = hook_empty(&hooks);
        measure_all(&sandbox, EMPTY, &mut results);
        drop(held);
        measure_all(&sandbox, BARE, &mut results);
        drop(routes);
        check(&mut sandbox.specola(&["sandbox", "start", "--name", sandbox.name(), "--agents"]));
    }
    print_table(&results);
    if let Some(path) = after("--json") {
        std::fs::write(&path, to_json(&results).to_string())
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// A place where a program of ours was: network namespace, interface, direction.
struct Place {
    netns: PathBuf,
    ifindex: u32,
    hook: Hook,
}

/// Removes all links of all nodes, which takes the programs off the interfaces and changes nothing else.
fn unhook(sandbox: &Sandbox) -> Vec<Place> {
    let ps = sandbox.ps();
    let mut places = Vec::new();
    let pins = Path::new(ps["pin_dir"].as_str().expect("a pin directory"));
    for node in ps["nodes"].as_array().expect("nodes") {
        let netns = PathBuf::from(node["netns"].as_str().expect("a namespace"));
        let links = pins.join(node["name"].as_str().expect("a name")).join("links");
        for entry in std::fs::read_dir(&links).unwrap_or_else(|error| panic!("{}: {error}", links.display()))
        {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            let (program, ifindex) = name.rsplit_once('-').expect("program-ifindex");
            let is_ingress =
                ["from_container", "from_netdev", "to_host"].iter().any(|one| program.ends_with(one));
            let hook = if is_ingress { Hook::Ingress } else { Hook::Egress };
            places.push(Place { netns: netns.clone(), ifindex: ifindex.parse().expect("an index"), hook });
            std::fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    assert!(places.len() >= 10, "the hooks of three pods and two nodes, not {}", places.len());
    places
}

/// Routes of the nodes to each of their pods. With Specola one route of the node leads to all of them, and the programs
/// know the way from there.
struct Routes {
    /// Namespace of the node, `ip` arguments without the verb.
    added: Vec<(PathBuf, &'static str, String)>,
}

impl Routes {
    fn add(sandbox: &Sandbox) -> Self {
        let ps = sandbox.ps();
        let mut added = Vec::new();
        for pod in ps["pods"].as_array().expect("pods") {
            let name = |key: &str| pod[key].as_str().expect("a text");
            let node = ps["nodes"].as_array().expect("nodes").iter().find(|node| node["name"] == pod["node"]);
            let node = PathBuf::from(node.expect("the pod's node")["netns"].as_str().expect("a namespace"));
            let pod_netns = sandbox.netns(&format!("{}/{}", name("namespace"), name("name")));
            let (mac, peer) = netns::enter(&pod_netns, || (link_part("address"), link_part("peer")));
            let host_side =
                netns::enter(&node, || nix::net::if_::if_indextoname(peer.parse().expect("an index")));
            let host_side =
                host_side.expect("the host's end of the pair").into_string().expect("a plain name");
            let address = sandbox.pod_ip(&format!("{}/{}", name("namespace"), name("name")), false);
            added.push((
                node.clone(),
                "neigh",
                format!("{address} lladdr {mac} dev {host_side} nud permanent"),
            ));
            added.push((node, "route", format!("{address}/32 dev {host_side}")));
        }
        for (node, object, what) in &added {
            ip(node, object, "replace", what);
        }
        Self { added }
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        for (node, object, what) in self.added.iter().rev() {
            ip(node, object, "del", what.split(" nud").next().expect("a first part"));
        }
    }
}

fn ip(netns: &Path, object: &str, verb: &str, what: &str) {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display())).args(["ip", object, verb]).args(what.split(' '));
    check(&mut command);
}

/// Part of what `ip` says of the device of the pod that the thread is in: its address, or the index of its peer.
fn link_part(what: &str) -> String {
    let text = check(Command::new("ip").args(["-o", "link", "show", "eth0"]));
    let found = match what {
        "address" => text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()),
        _ => text.split("@if").nth(1).and_then(|rest| rest.split(':').next()),
    };
    found.unwrap_or_else(|| panic!("no {what}: {text}")).to_owned()
}

fn hook_empty(places: &[Place]) -> Vec<OwnedFd> {
    let program = EmptyProgram::load().expect("root may load programs");
    let attach = |place: &Place| {
        netns::enter(&place.netns, || program.attach(place.ifindex, place.hook))
            .expect("the interface is there")
    };
    places.iter().map(attach).collect()
}

fn measure_all(sandbox: &Sandbox, configuration: &'static str, results: &mut Results) {
    let server = sandbox.netns("bench/server");
    let address: IpAddr = sandbox.pod_ip("bench/server", false).parse().expect("an address");
    for (path, pod) in [("same node", "bench/near"), ("across nodes", "bench/far")] {
        let client = sandbox.netns(pod);
        let mut note = |metric, value| results.entry((path, metric, configuration)).or_default().push(value);
        note("rr", round_trip(&server, &client, address));
        note("connect", connect(&server, &client, address));
        let (sender, busy) = datagrams(&server, &client, address);
        note("udp", sender);
        note("udp_busy", busy);
        note("cpu_per_gbit", bulk(&server, &client, address));
    }
}

/// Median time of a byte there and back, microseconds.
fn round_trip(server: &Path, client: &Path, address: IpAddr) -> f64 {
    let (near, far) = pair(server, client, address);
    let echo = std::thread::spawn(move || echo(far));
    pin(0);
    let mut near = near;
    let times = (0..ROUND_TRIPS).map(|_| {
        let start = Instant::now();
        near.write_all(&[1]).expect("the server reads");
        near.read_exact(&mut [0]).expect("the server answers");
        start.elapsed()
    });
    let times: Vec<_> = times.collect();
    drop(near);
    echo.join().expect("no panic");
    median_us(times)
}

fn echo(mut stream: TcpStream) {
    pin(1);
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        stream.write_all(&byte).expect("the client reads");
    }
}

/// Median time of a new connection and a byte back, microseconds.
fn connect(server: &Path, client: &Path, address: IpAddr) -> f64 {
    let listener = netns::enter(server, || TcpListener::bind((address, PORT))).expect("a free port");
    let accept = std::thread::spawn(move || {
        pin(1);
        for _ in 0..CONNECTS {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(&[1]).expect("the client reads");
            // The client closes first, so that no port of the server waits.
            assert_eq!(stream.read(&mut [0]).expect("an end"), 0, "the client sends nothing");
        }
    });
    let times = netns::enter(client, || {
        pin(0);
        let one = || {
            let start = Instant::now();
            let mut stream = TcpStream::connect((address, PORT)).expect("allowed");
            stream.read_exact(&mut [0]).expect("a byte");
            start.elapsed()
        };
        (0..CONNECTS).map(|_| one()).collect::<Vec<_>>()
    });
    accept.join().expect("no panic");
    median_us(times)
}

/// CPU per datagram of 64 bytes in nanoseconds: of the sending thread, and of both cores.
fn datagrams(server: &Path, client: &Path, address: IpAddr) -> (f64, f64) {
    // Nobody reads: what does not fit is dropped at the socket, after the whole way.
    let _receiver = udp_socket(server, UDP_PORT);
    let sender = udp_socket(client, 0);
    sender.connect((address, UDP_PORT)).expect("an address");
    pin(0);
    let (busy, own) = (busy_seconds(), own_seconds());
    for _ in 0..DATAGRAMS {
        sender.send(&[0; 64]).expect("sent");
    }
    let per_packet = |seconds: f64| seconds * 1e9 / f64::from(DATAGRAMS);
    (per_packet(own_seconds() - own), per_packet(busy_seconds() - busy))
}

/// CPU of both cores for a Gbit of one TCP stream, milliseconds.
fn bulk(server: &Path, client: &Path, address: IpAddr) -> f64 {
    let (mut near, mut far) = pair(server, client, address);
    let reader = std::thread::spawn(move || {
        pin(1);
        let (mut bytes, mut buffer) = (0_u64, vec![0; 128 << 10]);
        loop {
            match far.read(&mut buffer).expect("readable") {
                0 => return bytes,
                count => bytes += count as u64,
            }
        }
    });
    pin(0);
    let buffer = vec![0; 128 << 10];
    let (busy, start) = (busy_seconds(), Instant::now());
    while start.elapsed() < BULK {
        near.write_all(&buffer).expect("writable");
    }
    drop(near);
    let bytes = reader.join().expect("no panic");
    let gbit = as_f64(bytes) * 8.0 / 1e9;
    (busy_seconds() - busy) * 1e3 / gbit
}

/// A connection from the client's to the server's namespace.
fn pair(server: &Path, client: &Path, address: IpAddr) -> (TcpStream, TcpStream) {
    let listener = netns::enter(server, || TcpListener::bind((address, PORT))).expect("a free port");
    let target = SocketAddr::new(address, PORT);
    let near = netns::enter(client, || TcpStream::connect(target)).expect("allowed");
    let (far, _) = listener.accept().expect("the client");
    for stream in [&near, &far] {
        stream.set_nodelay(true).expect("a TCP socket");
    }
    (near, far)
}

/// Keeps the calling thread on one core.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core).expect("a core");
    sched_setaffinity(Pid::from_raw(0), &set).expect("a machine with two cores");
}

/// CPU time of the calling thread, seconds.
fn own_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("a thread has usage");
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| as_f64(time.tv_sec().cast_unsigned()) + as_f64(time.tv_usec().cast_unsigned()) / 1e6)
        .sum()
}

/// Time that the machine's cores were busy since boot, interrupts included, seconds.
fn busy_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").expect("/proc is mounted");
    let first = text.lines().next().expect("a line for all cores");
    let ticks: Vec<u64> =
        first.split_whitespace().skip(1).map(|word| word.parse().expect("a number")).collect();
    // user, nice, system, idle, iowait, irq, softirq: all but idle and iowait; 100 a second.
    as_f64(ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / 100.0
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "measured figures")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

/// Lowest and median.
fn spread(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[0], sorted[sorted.len() / 2])
}

fn print_table(results: &Results) {
    println!("| path | figure | {BARE} | {EMPTY} | {SPECOLA} | to bare | to empty |");
    println!("|---|---|---|---|---|---|---|");
    for path in ["same node", "across nodes"] {
        for (metric, title) in METRICS {
            let of = |configuration| spread(&results[&(path, metric, configuration)]);
            let (bare, empty, ours) = (of(BARE), of(EMPTY), of(SPECOLA));
            let shown = |(low, middle): (f64, f64)| format!("{low:.1} / {middle:.1}");
            println!(
                "| {path} | {title} | {} | {} | {} | {:.2} | {:.2} |",
                shown(bare),
                shown(empty),
                shown(ours),
                ours.1 / bare.1,
                ours.1 / empty.1
            );
        }
    }
}

fn to_json(results: &Results) -> Value {
    let rows = results.iter().map(|((path, metric, configuration), values)| {
        json!({"path": path, "metric": metric, "configuration": configuration, "values": values})
    });
    Value::Array(rows.collect())
}
