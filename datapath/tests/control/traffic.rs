//! Two pods on a node, with real packets.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use specola_datapath_common::direction::{EGRESS, INGRESS};
use specola_datapath_common::event::{Event, kind};
use specola_datapath_common::metrics::drop;
use specola_datapath_common::policy::PolicyKey;
use specola_datapath_common::{proto, v4_mapped};
use specola_testkit::eventually;
use specola_testkit::netns::NetNs;

use super::*;

mod scale;
mod upgrade;

pub(super) const LIMIT: Duration = Duration::from_secs(20);
pub(super) const ALICE: (u16, Ipv4Addr) = (1, Ipv4Addr::new(10, 7, 0, 2));
pub(super) const BOB: (u16, Ipv4Addr) = (2, Ipv4Addr::new(10, 7, 0, 3));
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);

/// A node with pods alice (slot 1) and bob (slot 2), endpoints added, without a policy.
pub(super) struct Node {
    pub(super) alice: NetNs,
    pub(super) bob: NetNs,
    pub(super) datapath: Datapath,
    pub(super) _ns: NetNs,
    pub(super) pins: Pins,
}

impl Node {
    fn new(attach: AttachMode) -> Self {
        Self::with(|config| Config { attach, ..config })
    }

    pub(super) fn with(change: impl FnOnce(Config) -> Config) -> Self {
        let pins = Pins::new();
        let ns = NetNs::new("node").unwrap();
        ns.sysctl("net.ipv4.ip_forward", "1");
        let [alice, bob] = ["alice", "bob"].map(|name| NetNs::new(name).unwrap());
        let mut datapath = Datapath::load(&change(pins.config())).unwrap();
        for (pod, (slot, address)) in [(&alice, ALICE), (&bob, BOB)] {
            let lxc = format!("lxc{slot}");
            ns.veth(&lxc, pod, "eth0");
            ns.ip(&format!("route add {address}/32 dev {lxc}"));
            pod.ip(&format!("addr add {address}/32 dev eth0"));
            pod.ip(&format!("route add {ROUTER} dev eth0"));
            pod.ip(&format!("route add default via {ROUTER} dev eth0"));
            let [a, b, c, d, e, f] = ns.mac(&lxc);
            let router = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            pod.ip(&format!("neigh add {ROUTER} lladdr {router} dev eth0 nud permanent"));
            let record = EndpointRecord {
                mac: pod.mac("eth0"),
                host_mac: ns.mac(&lxc),
                ipv4: address.octets(),
                ..endpoint(slot, ns.ifindex(&lxc))
            };
            datapath.add_endpoint(slot, &record).unwrap();
            let info = IpInfo { identity: record.identity, slot, ..IpInfo::default() };
            datapath.upsert_ip(IpNet::from(std::net::IpAddr::from(address)), info).unwrap();
            ns.enter(|| datapath.attach_endpoint(record.ifindex)).unwrap();
        }
        Self { alice, bob, datapath, _ns: ns, pins }
    }

    /// Lets everything out of both pods, and into bob what `entries` say.
    pub(super) fn let_into_bob(&mut self, entries: &[(PolicyKey, PolicyValue)]) {
        let out = allow_all(EGRESS);
        self.datapath.apply_policy(ALICE.0, &[out, allow_all(INGRESS)], &[], ready(1)).unwrap();
        let mut bob = entries.to_vec();
        bob.push(out);
        self.datapath.apply_policy(BOB.0, &bob, &[], ready(1)).unwrap();
    }

    /// A UDP socket of a pod.
    pub(super) fn socket(pod: &NetNs, port: u16) -> UdpSocket {
        pod.enter(|| UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))).unwrap()
    }

    pub(super) fn dropped(&self, reason: u8) -> u64 {
        let counts = self.datapath.packet_counts().unwrap();
        counts.iter().filter(|count| count.reason == reason).map(|count| count.packets).sum()
    }
}

/// The entry that lets everything pass in one direction.
fn allow_all(direction: u8) -> (PolicyKey, PolicyValue) {
    let egress = u8::from(direction == EGRESS);
    let key = PolicyKey { prefix_len: FULL_PREFIX_STATIC, identity: 0, egress, proto: 0, dport_be: 0 };
    (key, PolicyValue { proxy_port_be: 0, deny_plen: 0, auth: 0, precedence: PRECEDENCE_ALLOW, cookie: 50 })
}

fn udp(entry: (PolicyKey, PolicyValue)) -> (PolicyKey, PolicyValue) {
    (PolicyKey { proto: proto::UDP, ..entry.0 }, entry.1)
}

/// A reader that collects on its own thread.
struct Collector {
    events: Arc<Mutex<Vec<Event>>>,
    waker: ReaderWaker,
    thread: JoinHandle<ReaderCounts>,
}

impl Collector {
    fn start(datapath: &mut Datapath) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let collect = move |tick: Tick<'_>| {
            assert!(tick.events.is_sorted_by_key(|event| event.boot_ns));
            assert_eq!(tick.rejected.total(), 0);
            assert!(tick.clock_offset_ns > 0, "wall time is later than boot time");
            sink.lock().unwrap().extend_from_slice(tick.events);
            None
        };
        let reader = datapath.take_reader().unwrap();
        let waker = reader.waker();
        Self { events, waker, thread: reader.spawn(collect).unwrap() }
    }

    #[track_caller]
    fn wait_for(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        eventually(what, LIMIT, || {
            let events = self.events.lock().unwrap();
            events.iter().find(|event| wanted(event)).copied().ok_or_else(|| events.clone())
        })
    }

    fn finish(self) -> (Vec<Event>, ReaderCounts) {
        self.waker.stop();
        let counts = self.thread.join().unwrap();
        (Arc::into_inner(self.events).unwrap().into_inner().unwrap(), counts)
    }
}

fn verdicts_and_ledger(attach: AttachMode) {
    let mut node = Node::new(attach);
    let collector = Collector::start(&mut node.datapath);
    let (from_alice, at_bob) = (Node::socket(&node.alice, 40000), Node::socket(&node.bob, 9000));

    // Not ready: nothing leaves.
    from_alice.send_to(b"early", SocketAddrV4::new(BOB.1, 9000)).unwrap();
    let early = collector.wait_for("a drop of the endpoint that is not ready", |event| {
        event.verdict == -i32::from(drop::EP_NOT_READY)
    });
    assert_eq!((early.endpoint_slot, early.endpoint_id, early.kind), (ALICE.0, ALICE.0, kind::DROP));

    // Let in: UDP 9000 and TCP 80 from alice.
    let alice_identity = 1000 + u32::from(ALICE.0);
    node.let_into_bob(&[udp(allow(alice_identity, 9000, 7)), allow(alice_identity, 80, 8)]);
    from_alice.send_to(b"hello", SocketAddrV4::new(BOB.1, 9000)).unwrap();
    at_bob.set_read_timeout(Some(LIMIT)).unwrap();
    let mut bytes = [0; 16];
    let (length, sender) = at_bob.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..length], sender.port()), (&b"hello"[..], 40000));
    let let_in = collector.wait_for("bob's ingress verdict", |event| {
        event.kind == kind::POLICY_VERDICT && event.direction == INGRESS && event.verdict == 0
    });
    assert_eq!((let_in.endpoint_slot, let_in.cookie, let_in.dst_port), (BOB.0, 7, 9000));
    assert_eq!((let_in.src_identity, let_in.dst_identity), (alice_identity, 1000 + u32::from(BOB.0)));
    assert_eq!((let_in.src_addr, let_in.dst_addr), (v4_mapped(ALICE.1.octets()), v4_mapped(BOB.1.octets())));

    let listener = node.bob.enter(|| TcpListener::bind(SocketAddrV4::new(BOB.1, 80))).unwrap();
    let to_bob =
        node.alice.enter(|| TcpStream::connect_timeout(&listener.local_addr().unwrap(), LIMIT)).unwrap();
    drop(to_bob);

    // Refused: another port, with the cookie of bob's default.
    from_alice.send_to(b"no", SocketAddrV4::new(BOB.1, 9001)).unwrap();
    let refused = collector.wait_for("the denied packet", |event| {
        event.verdict == -i32::from(drop::POLICY_DENIED) && event.dst_port == 9001
    });
    assert_eq!((refused.endpoint_slot, refused.direction), (BOB.0, INGRESS));
    assert_eq!((refused.cookie, refused.revision), (ready(1).default_cookie_ingress, 1));
    assert_eq!(node.dropped(drop::POLICY_DENIED), 1);
    assert_eq!(node.dropped(drop::EP_NOT_READY), 1);

    let (events, counts) = collector.finish();
    let lanes = node.datapath.lane_counts().unwrap();
    for (index, lane) in lanes.iter().enumerate() {
        assert_eq!(lane.attempts, lane.submitted + lane.reserve_failed + lane.folded, "lane {index}");
        assert_eq!(lane.submitted, counts.consumed[index], "lane {index}");
    }
    assert_eq!(events.len() as u64, counts.consumed.iter().sum::<u64>());
    assert_eq!(node.datapath.reader_counts(), counts);
    let books = node.datapath.lane_books().unwrap();
    assert_eq!(books.map(|book| book.taken), counts.consumed);
    assert!(books.iter().all(|book| book.is_balanced), "{books:?}");
}

#[test]
fn verdicts_reach_the_reader_and_every_record_is_accounted_for_with_tcx() {
    verdicts_and_ledger(AttachMode::Tcx);
}

#[test]
fn verdicts_reach_the_reader_and_every_record_is_accounted_for_with_clsact() {
    verdicts_and_ledger(AttachMode::Clsact);
}

/// Sends from one socket to bob's port 9000 while `work` runs. Gives how many datagrams were sent and received, and what
/// the work gave.
fn under_traffic<T>(from: &UdpSocket, at_bob: &UdpSocket, work: impl FnOnce() -> T) -> (u64, u64, T) {
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let (sent, result) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Acquire) {
                from.send_to(&sent.to_ne_bytes(), SocketAddrV4::new(BOB.1, 9000)).unwrap();
                sent += 1;
                // Not faster than bob reads: a full socket would look like a drop.
                while sent - received.load(Ordering::Acquire) > 64 && !stop.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
            sent
        });
        scope.spawn(|| {
            at_bob.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut bytes = [0; 16];
            loop {
                match at_bob.recv(&mut bytes) {
                    Ok(_) => received.fetch_add(1, Ordering::AcqRel),
                    Err(_) if stop.load(Ordering::Acquire) => break,
                    Err(_) => continue,
                };
            }
        });
        let result = work();
        stop.store(true, Ordering::Release);
        (sender.join().unwrap(), result)
    });
    (sent, received.into_inner(), result)
}

/// Two policies that both let UDP 9000 in, by other entries, among many that change as well.
#[test]
fn no_packet_sees_a_half_written_policy() {
    let mut node = Node::new(AttachMode::Auto);
    let filler = |cookie| (0..2000).map(move |port| udp(allow(77, 20000 + port, cookie)));
    let alice_identity = 1000 + u32::from(ALICE.0);
    let (by_identity, by_port) = (udp(allow(alice_identity, 9000, 1)), udp(allow(0, 9000, 2)));
    node.let_into_bob(&filler(1).chain([by_identity]).collect::<Vec<_>>());

    let (from_alice, at_bob) = (Node::socket(&node.alice, 40000), Node::socket(&node.bob, 9000));
    let (sent, received, swaps) = under_traffic(&from_alice, &at_bob, || {
        let mut swaps = 0;
        for round in 2..22_u32 {
            let (add, remove) =
                if round.is_multiple_of(2) { (by_port, by_identity) } else { (by_identity, by_port) };
            let upserts: Vec<_> = filler(round).chain([add]).collect();
            node.datapath.apply_policy(BOB.0, &upserts, &[remove.0], ready(round)).unwrap();
            swaps += 1;
        }
        swaps
    });
    assert_eq!(node.dropped(drop::POLICY_DENIED), 0, "after {swaps} swaps and {sent} packets");
    assert_eq!(received, sent, "after {swaps} swaps");
    assert!(sent > swaps, "traffic ran during the swaps");
}

#[test]
fn pods_keep_their_policy_while_no_process_runs() {
    let mut node = Node::new(AttachMode::Auto);
    node.let_into_bob(&[udp(allow(1000 + u32::from(ALICE.0), 9000, 7))]);
    let config = node.pins.config();
    // What a process that dies leaves: nothing but pins.
    let Node { alice, bob, datapath, _ns, pins: _pins } = node;
    drop(datapath);
    let (from_alice, at_bob) = (Node::socket(&alice, 40000), Node::socket(&bob, 9000));
    let closed = Node::socket(&bob, 9001);
    at_bob.set_read_timeout(Some(LIMIT)).unwrap();
    for (port, text) in [(9001, b"no "), (9000, b"yes")] {
        from_alice.send_to(text, SocketAddrV4::new(BOB.1, port)).unwrap();
    }
    let mut bytes = [0; 16];
    let length = at_bob.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"yes");
    closed.set_nonblocking(true).unwrap();
    assert_eq!(closed.recv(&mut bytes).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);

    // The next process finds what happened meanwhile.
    let mut datapath = Datapath::load(&config).unwrap();
    assert_eq!(backlogs_by_count(&datapath), datapath.lane_backlogs());
    assert_ne!(datapath.lane_backlogs()[usize::from(lane::DENY)], 0);
    let collector = Collector::start(&mut datapath);
    collector.wait_for("the deny of the time without a process", |event| {
        event.verdict == -i32::from(drop::POLICY_DENIED) && event.dst_port == 9001
    });
    let (_, counts) = collector.finish();
    assert_eq!(datapath.lane_backlogs(), [0; 3]);
    assert_eq!(backlogs_by_count(&datapath), [0; 3]);
    drop(datapath);
    assert_eq!(Datapath::load_maps(&config).unwrap().reader_counts(), counts, "the books outlive the reader");
}

/// What the counters of both sides say is in the lanes.
fn backlogs_by_count(datapath: &Datapath) -> [u64; lane::COUNT] {
    let (submitted, consumed) = (datapath.lane_counts().unwrap(), datapath.reader_counts().consumed);
    let record = (size_of::<Event>() + 8) as u64;
    std::array::from_fn(|index| (submitted[index].submitted - consumed[index]) * record)
}
