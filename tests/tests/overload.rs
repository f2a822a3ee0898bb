//! Ten times the ring's capacity of allowed traffic beside a thousand distinct denied packets a second, and a client that
//! is stopped for five seconds: it gets every denied packet, all else is missing only with a count, and the books hold,
//! then and after the agent has been stopped and started again.

#[path = "common/fixtures.rs"]
mod fixtures;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fixtures::{CLUSTER, yaml};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use specola_flow::FlowUuid;
use specola_testkit::eventually;
use specola_tests::inside::{send_to_ports, storm, udp_socket};
use specola_tests::sandbox::PATIENCE;
use specola_tests::{Books, Sandbox};

/// Flows that the ring holds, half of them denied ones.
const RING: u64 = 1 << 15;
/// One a millisecond: five seconds of them, two flows each, fit into the protected half.
const DENIES: u16 = 5_000;
const FIRST_DENIED: u16 = 10_000;
const STALL: Duration = Duration::from_secs(5);
/// Time in which the storm must have made its flows; only a broken one takes so long.
const STORM_PATIENCE: Duration = Duration::from_secs(180);

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

#[test]
fn every_deny_reaches_a_client_that_stalled_under_overload() {
    let ring = RING.to_string();
    let settings = [("SPECOLA_RING_SIZE", ring.as_str()), ("SPECOLA_RING_PROTECTED_PERCENT", "50")];
    let sandbox = Sandbox::up_in("overload", &yaml(&[CLUSTER, ALLOW_UDP]), &[], &settings);
    let server: IpAddr = sandbox.pod_ip("shop/server", false).parse().expect("an address");
    let (near, server_netns) = (sandbox.netns("shop/near"), sandbox.netns("shop/server"));
    let _sinks: Vec<UdpSocket> = (9000..=9009).map(|port| udp_socket(&server_netns, port)).collect();
    let denied = udp_socket(&near, 0);
    let client = Client::start(&sandbox, || {
        send_to_ports(&denied, server, std::iter::once(9999));
    });

    let before = Books::settled(&sandbox, "n1");
    client.signal(Signal::SIGSTOP);
    let is_over = AtomicBool::new(false);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let over = Over(&is_over);
        let storm = scope.spawn(|| storm(&near, server, 9000..=9009, &is_over));
        for port in FIRST_DENIED..FIRST_DENIED + DENIES {
            let due = started + Duration::from_millis(u64::from(port - FIRST_DENIED));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            send_to_ports(&denied, server, std::iter::once(port));
        }
        eventually("ten rings of flows", STORM_PATIENCE, || {
            let pushed = Books::now(&sandbox, "n1").since(&before, "ledger.pushed");
            if pushed > 10 * RING + 2 * u64::from(DENIES) { Ok(()) } else { Err(pushed) }
        });
        assert!(started.elapsed() >= STALL, "the client was not stalled long enough");
        drop(over);
        storm.join().expect("no panic");
    });
    client.signal(Signal::SIGCONT);

    // All records of the ring since the client's first one: received, or lost with a count.
    let (head, seen) = eventually("the client has accounted for every record", PATIENCE, || {
        let head = Books::now(&sandbox, "n1").get("ledger.pushed");
        let seen = client.seen().clone();
        if seen.first.is_some_and(|first| first + seen.records() == head) {
            Ok((head, seen))
        } else {
            Err((head, seen))
        }
    });
    let after = Books::settled(&sandbox, "n1");
    let grown = |name: &str| after.since(&before, name);
    eprintln!(
        "overload in {:.1?}: {} flows in a ring of {RING}; client: {} flows, {} lost in the ring, {} lost in the kernel; \
         head {head}; deny lane {} of {} records, allow lane {} lost, trace lane {} lost",
        started.elapsed(),
        grown("ledger.pushed"),
        seen.flows,
        seen.lost,
        seen.kernel_lost,
        grown("deny.taken"),
        grown("deny.attempts"),
        grown("allow.reserve_failed"),
        grown("trace.reserve_failed"),
    );
    let all: BTreeSet<u16> = (FIRST_DENIED..FIRST_DENIED + DENIES).collect();
    for (what, found) in [("policy verdicts", &seen.verdicts), ("drops", &seen.drops)] {
        let missing: Vec<_> = all.difference(found).collect();
        assert!(missing.is_empty(), "{what} that the client never got: {missing:?}");
    }
    assert_eq!((grown("deny.attempts"), grown("deny.reserve_failed")), (u64::from(DENIES), 0));
    assert!(seen.lost >= 9 * RING, "{} lost are no overload", seen.lost);
    assert_eq!(after.shrunk_since(&before), Vec::<String>::new());

    // What the agent held when it was stopped is lost, and told as that; nothing else changes.
    drop(client);
    let stopped = sandbox.agent_pid("n1").expect("a running agent");
    kill(Pid::from_raw(stopped), Signal::SIGTERM).expect("the agent is ours");
    eventually("another agent runs", PATIENCE, || match sandbox.agent_pid("n1") {
        Some(pid) if pid != stopped => Ok(()),
        other => Err(other),
    });
    eventually("the new agent answers", PATIENCE, || {
        let socket = sandbox.admin_socket("n1");
        let asked = sandbox.specola(&["status", "--admin-socket", &socket]).output().expect("specola starts");
        if asked.status.success() { Ok(()) } else { Err(asked) }
    });
    let later = Books::settled(&sandbox, "n1");
    assert!(later.since(&after, "ledger.lost_flows") >= RING, "the ring was full when the agent stopped");
    assert_eq!(later.since(&after, "ledger.lost_records"), 0, "a stop in peace loses no record");
    assert_eq!(later.shrunk_since(&after), Vec::<String>::new());
}

/// Ends the storm, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a client has been told.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Sequence number of the first flow.
    first: Option<u64>,
    flows: u64,
    /// Records that were overwritten before this client came to them.
    lost: u64,
    /// Records that tell of events that the kernel had no room for, and how many those were.
    notices: u64,
    kernel_lost: u64,
    /// Ports of denied packets, by kind of flow.
    verdicts: BTreeSet<u16>,
    drops: BTreeSet<u16>,
}

impl Seen {
    /// Records of the ring that it knows of.
    const fn records(&self) -> u64 {
        self.flows + self.lost + self.notices
    }

    fn take(&mut self, line: &str) {
        let answer: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let lost = &answer["lost_events"];
        if let Some(count) = lost["num_events_lost"].as_str() {
            let count: u64 = count.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
            if lost["source"] == "HUBBLE_RING_BUFFER" {
                self.lost += count;
            } else {
                self.notices += 1;
                self.kernel_lost += count;
            }
        }
        let flow = &answer["flow"];
        if let Some(uuid) = flow["uuid"].as_str() {
            let uuid: FlowUuid = uuid.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
            self.first.get_or_insert(uuid.seq);
            self.flows += 1;
            let port =
                flow["l4"]["UDP"]["destination_port"].as_u64().and_then(|port| u16::try_from(port).ok());
            let kinds = match (flow["verdict"].as_str(), flow["event_type"]["type"].as_u64()) {
                (Some("DROPPED"), Some(5)) => &mut self.verdicts,
                (Some("DROPPED"), Some(1)) => &mut self.drops,
                _ => return,
            };
            kinds.extend(port);
        }
    }
}

/// `specola observe -f` of all flows of one node.
struct Client {
    process: Child,
    seen: Arc<Mutex<Seen>>,
}

impl Client {
    /// Starts it and makes denied packets with `mark` until it has seen one.
    fn start(sandbox: &Sandbox, mark: impl Fn()) -> Self {
        let server = format!("unix://{}", sandbox.observer_socket("n1"));
        let arguments = ["observe", "--server", &server, "-f", "-o", "json"];
        let mut process = sandbox.specola(&arguments).stdout(Stdio::piped()).spawn().expect("specola starts");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).take(&line);
            }
        });
        let client = Self { process, seen };
        eventually("the client sees denied packets", PATIENCE, || {
            mark();
            let seen = client.seen().clone();
            if seen.drops.contains(&9999) { Ok(()) } else { Err(seen) }
        });
        client
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"));
        kill(pid, signal).expect("the client is ours");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.process.kill().expect("the client is ours");
        self.process.wait().expect("the client is ours");
    }
}
