//! Every packet that a test sends is found again: in a record, in a fold count, or counted as lost.

#[path = "common/fixtures.rs"]
mod fixtures;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use fixtures::{CLUSTER, yaml};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use specola_testkit::eventually;
use specola_tests::inside::{send_to_ports, storm, udp_socket};
use specola_tests::sandbox::PATIENCE;
use specola_tests::{Books, Flow, Sandbox, Witness};

/// UDP to 9000-9009 from the clients; all other ports of the server are closed.
const ALLOW_UDP: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-udp, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: client}}]
    toPorts: [{ports: [{port: '9000', endPort: 9009, protocol: UDP}]}]
";

const ALLOWED: std::ops::RangeInclusive<u16> = 9000..=9009;

#[test]
fn a_stopped_agent_loses_what_does_not_fit_and_says_so_exactly() {
    let sandbox = Sandbox::up("ledger-stop", &yaml(&[CLUSTER, ALLOW_UDP]));
    let server: IpAddr = sandbox.pod_ip("shop/server", false).parse().expect("an address");
    let near = udp_socket(&sandbox.netns("shop/near"), 0);
    let witness = Witness::new(sandbox.netns("shop/near"), "output", &[("sent", "udp dport 10000-59999")]);
    let before = Books::settled(&sandbox, "n1");

    // More than the lane of denies holds: 4 MiB of 200 bytes each.
    let agent = Stopped::new(&sandbox, "n1");
    let sent = send_to_ports(&near, server, 10_000..60_000);
    drop(agent);
    let after = Books::settled(&sandbox, "n1");

    let lane = |name: &str| after.since(&before, &format!("deny.{name}"));
    let (attempts, taken, lost, folded) =
        (lane("attempts"), lane("taken"), lane("reserve_failed"), lane("folded"));
    eprintln!("stopped agent: {sent} denied packets = {taken} delivered + {folded} folded + {lost} lost");
    assert_eq!(witness.packets("sent"), sent);
    assert_eq!(after.since(&before, "ingress.133"), sent, "packets that the programs dropped");
    assert_eq!(attempts, sent);
    assert_eq!(taken + folded + lost, sent);
    assert!(taken > 0 && folded + lost > 0, "the lane was filled and overrun");
    assert_eq!(after.shrunk_since(&before), Vec::<String>::new());
    let (records, expanded) =
        (after.since(&before, "ledger.consumed"), after.since(&before, "ledger.expanded"));
    assert!(records >= taken && expanded >= taken, "{records} records, {expanded} of them two flows");
}

#[test]
fn each_deny_arrives_under_a_storm_of_allowed_connections() {
    const DENIES: u16 = 1000;
    let sandbox = Sandbox::up("ledger-storm", &yaml(&[CLUSTER, ALLOW_UDP]));
    let server: IpAddr = sandbox.pod_ip("shop/server", false).parse().expect("an address");
    let (near, server_netns) = (sandbox.netns("shop/near"), sandbox.netns("shop/server"));
    let _sinks: Vec<_> = ALLOWED.map(|port| udp_socket(&server_netns, port)).collect();
    let denied = udp_socket(&near, 0);
    let mut observer = Observer::start(&sandbox, || {
        send_to_ports(&denied, server, std::iter::once(9999));
    });
    let before = Books::settled(&sandbox, "n1");

    let is_over = AtomicBool::new(false);
    let started = Instant::now();
    let (datagrams, took) = std::thread::scope(|scope| {
        let storm = scope.spawn(|| storm(&near, server, ALLOWED, &is_over));
        // Each is one connection that the policy refuses, told from the others by its port.
        for port in 10_000..10_000 + DENIES {
            let due = started + Duration::from_millis(u64::from(port - 10_000));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            send_to_ports(&denied, server, std::iter::once(port));
        }
        let took = started.elapsed();
        is_over.store(true, Ordering::Relaxed);
        (storm.join().expect("no panic"), took)
    });
    let missing = observer.missing(10_000..10_000 + DENIES);
    let after = Books::settled(&sandbox, "n1");
    // Two verdicts for each: the sender's egress, the receiver's ingress.
    let connections = after.since(&before, "allow.attempts") / 2;
    let rate = |count: u64| (count as f64 / took.as_secs_f64()).round();
    eprintln!(
        "storm: {} datagrams, {} allowed connections, {} denies a second for {took:.2?}; allowed: {} records taken, \
         {} lost; {} denies not seen",
        rate(datagrams),
        rate(connections),
        rate(DENIES.into()),
        after.since(&before, "allow.taken"),
        after.since(&before, "allow.reserve_failed"),
        missing.len(),
    );
    assert_eq!(missing, BTreeSet::new(), "denies that no client was told");
    assert_eq!(after.since(&before, "deny.attempts"), u64::from(DENIES));
    assert_eq!(after.since(&before, "deny.reserve_failed"), 0);
    assert!(connections >= 10 * u64::from(DENIES), "{connections} connections are no storm");
}

/// The policies between which an update in place, entry by entry, would open port 80 for a moment.
fn counterexample(old: bool) -> String {
    let (wide, narrow) = if old { ("80-83", "80") } else { ("80-81", "80-83") };
    let ports = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        format!("toPorts: [{{ports: [{{port: '{first}', endPort: {last}, protocol: UDP}}]}}]")
    };
    let peer = "fromEndpoints: [{matchLabels: {app: near}}]";
    let all = "fromEntities: [all]";
    let (deny, allow) = if old { (peer, all) } else { (all, peer) };
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: changing, namespace: shop}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: server}}}}\n  ingress:\n  - {allow}\n    {}\n  ingressDeny:\n  - {deny}\n    \
         {}\n",
        ports(narrow),
        ports(wide),
    )
}

#[test]
fn an_update_is_never_more_open_than_both_policies() {
    const SWAPS: usize = 10;
    let sandbox = Sandbox::up("ledger-update", &yaml(&[CLUSTER, &counterexample(true)]));
    let server: IpAddr = sandbox.pod_ip("shop/server", false).parse().expect("an address");
    let (near, server_netns) = (sandbox.netns("shop/near"), sandbox.netns("shop/server"));
    // Closed by both policies; open in the new one only.
    let (closed, changing) = (udp_socket(&server_netns, 80), udp_socket(&server_netns, 82));
    closed.set_nonblocking(true).expect("a socket");
    changing.set_nonblocking(true).expect("a socket");
    let drain = |socket: &UdpSocket| std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count();
    let is_over = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                // A new socket each time, hence a connection that no verdict is known of.
                sent += send_to_ports(&udp_socket(&near, 0), server, [80, 82].into_iter());
            }
            sent
        });
        let probe = Prober { netns: near.clone(), server };
        for swap in 1..=SWAPS {
            let is_old = swap % 2 == 0;
            sandbox.apply(&counterexample(is_old));
            eventually("the policy is in force", PATIENCE, || {
                drain(&changing);
                probe.send(82);
                std::thread::sleep(Duration::from_millis(50));
                if (drain(&changing) > 0) == is_old { Err(swap) } else { Ok(()) }
            });
            assert_eq!(drain(&closed), 0, "port 80 was open around swap {swap}");
        }
        is_over.store(true, Ordering::Relaxed);
        sender.join().expect("no panic")
    });
    assert_eq!(drain(&closed), 0, "port 80 was open");
    eprintln!("updates: {SWAPS} swaps, {sent} packets, none more than both policies let pass");
    assert!(sent > 1000, "{sent} packets are no load");
}

/// Sends single packets.
struct Prober {
    netns: std::path::PathBuf,
    server: IpAddr,
}

impl Prober {
    fn send(&self, port: u16) {
        send_to_ports(&udp_socket(&self.netns, 0), self.server, std::iter::once(port));
    }
}

/// An agent that does not run until this goes.
struct Stopped(Pid);

impl Stopped {
    fn new(sandbox: &Sandbox, node: &str) -> Self {
        let pid = Pid::from_raw(sandbox.agent_pid(node).expect("a running agent"));
        kill(pid, Signal::SIGSTOP).expect("the agent is ours");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).expect("the agent is ours");
    }
}

/// `specola observe -f` of denied packets.
struct Observer {
    process: Child,
    ports: Receiver<u16>,
}

impl Observer {
    /// Starts it and makes denied packets with `mark` until one is seen.
    fn start(sandbox: &Sandbox, mark: impl Fn()) -> Self {
        let arguments = ["observe", "--sandbox", sandbox.name(), "-f", "-o", "json", "--type", "drop"];
        let mut process = sandbox.specola(&arguments).stdout(Stdio::piped()).spawn().expect("specola starts");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let (sender, ports) = sync_channel(4096);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                for flow in Flow::parse_lines(&line) {
                    let port = u16::try_from(flow.destination_port()).unwrap_or(0);
                    if sender.send(port).is_err() {
                        return;
                    }
                }
            }
        });
        eventually("the observer sees denied packets", PATIENCE, || {
            mark();
            ports.recv_timeout(Duration::from_millis(200))
        });
        Self { process, ports }
    }

    /// Ports that are not seen, however long one waits.
    fn missing(&mut self, wanted: impl Iterator<Item = u16>) -> BTreeSet<u16> {
        let mut missing: BTreeSet<u16> = wanted.collect();
        while !missing.is_empty() {
            match self.ports.recv_timeout(PATIENCE) {
                Ok(port) => _ = missing.remove(&port),
                Err(_silent) => break,
            }
        }
        missing
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.process.kill().expect("the observer is ours");
        self.process.wait().expect("the observer is ours");
    }
}
