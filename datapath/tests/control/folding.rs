//! Denied packets that were counted reach the reader once, whoever reads.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aya::maps::{Array, HashMap as KernelMap, Map, MapData};
use specola_datapath_common::direction::INGRESS;
use specola_datapath_common::event::{Event, kind, lane};
use specola_datapath_common::metrics::drop;
use specola_testkit::netns::NetNs;

use super::traffic::{ALICE, BOB, LIMIT, Node};
use super::*;

const PER_SECOND: u32 = 10;

/// Alice may send, bob takes nothing.
fn closed_node() -> Node {
    let mut node = Node::with(|config| Config { fold_per_second: PER_SECOND, ..config });
    node.let_into_bob(&[]);
    node
}

/// Sends packets to bob's port, each of which is denied there.
fn flood(alice: &NetNs, port: u16, packets: u64) {
    let socket = Node::socket(alice, 0);
    for _ in 0..packets {
        socket.send_to(b"flood", SocketAddrV4::new(BOB.1, port)).unwrap();
    }
}

/// Packets that records stand for, each with the right attribution.
fn packets(events: &[Event], port: u16) -> u64 {
    let of_port = events.iter().filter(|event| event.lane == lane::DENY && event.dst_port == port);
    of_port
        .map(|event| {
            assert_eq!((event.kind, event.verdict), (kind::POLICY_VERDICT, -i32::from(drop::POLICY_DENIED)));
            assert_eq!((event.endpoint_id, event.direction), (BOB.0, INGRESS));
            assert_eq!((event.cookie, event.src_identity), (101, 1000 + u32::from(ALICE.0)));
            assert_eq!(event.src_addr, abi::v4_mapped(Ipv4Addr::octets(&ALICE.1)));
            if event.fold > 0 {
                assert_eq!(event.bytes_fwd, u64::from(event.fold) * u64::from(event.length));
                assert_eq!(event.lane_seq, 0);
            }
            u64::from(event.fold).max(1)
        })
        .sum()
}

/// Folded = reported + waiting, and nothing was lost.
fn assert_books(datapath: &Datapath) {
    let deny = datapath.lane_counts().unwrap()[usize::from(lane::DENY)];
    assert_eq!(deny.attempts, deny.submitted + deny.reserve_failed + deny.folded);
    assert_eq!(deny.folded, datapath.reader_counts().folded + datapath.folds_waiting().unwrap());
    assert_eq!(deny.reserve_failed, 0);
}

#[test]
fn every_denied_packet_is_in_a_record_or_a_fold() {
    let mut node = closed_node();
    let (events, arrived) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let sink = {
        let (events, arrived) = (Arc::clone(&events), Arc::clone(&arrived));
        move |tick: Tick<'_>| {
            assert!(tick.events.is_sorted_by_key(|event| event.boot_ns));
            events.lock().unwrap().extend_from_slice(tick.events);
            arrived.store(packets(&events.lock().unwrap(), 9000), Ordering::Release);
            None
        }
    };
    let reader = node.datapath.take_reader().unwrap();
    let waker = reader.waker();
    let reader = reader.spawn(sink).unwrap();
    flood(&node.alice, 9000, 5_000);
    for port in 9100..9150 {
        flood(&node.alice, port, 3);
    }
    // The running reader reports by itself, within a second or so.
    specola_testkit::eventually("all packets", LIMIT, || match arrived.load(Ordering::Acquire) {
        5_000 => Ok(()),
        other => Err(other),
    });
    assert_books(&node.datapath);
    flood(&node.alice, 9000, 1_000);
    waker.stop();
    let counts = reader.join().unwrap();
    assert_eq!(counts, node.datapath.reader_counts());
    assert!(counts.folded > 0);
    assert_eq!(node.datapath.folds_waiting().unwrap(), 0);
    assert_books(&node.datapath);
    let events = events.lock().unwrap();
    assert_eq!(packets(&events, 9000), 6_000);
    for port in 9100..9150 {
        assert_eq!(packets(&events, port), 3, "port {port}");
    }
    assert_eq!(node.dropped(drop::POLICY_DENIED), 6_150);
}

#[test]
fn a_restart_neither_loses_nor_doubles() {
    let mut node = closed_node();
    let config = Config { fold_per_second: PER_SECOND, ..node.pins.config() };
    let read = |datapath: &mut Datapath| {
        let mut events = Vec::new();
        let mut reader = datapath.take_reader().unwrap();
        reader.read_now(|tick| events.extend_from_slice(tick.events));
        // A second look finds nothing new.
        reader.read_now(|tick| assert_eq!(tick.events, []));
        packets(&events, 9000)
    };
    flood(&node.alice, 9000, 700);
    assert!(node.datapath.folds_waiting().unwrap() > 0);
    assert_eq!(read(&mut node.datapath), 700);
    assert_books(&node.datapath);
    flood(&node.alice, 9000, 300);
    assert_books(&node.datapath);
    // What a process leaves that is killed: nothing but pins.
    let folded = node.datapath.reader_counts().folded;
    let Node { alice, bob: _bob, datapath, _ns, pins: _pins } = node;
    drop(datapath);
    flood(&alice, 9000, 500);
    let mut datapath = Datapath::load(&config).unwrap();
    assert_eq!(datapath.reader_counts().folded, folded);
    assert_books(&datapath);
    assert_eq!(read(&mut datapath), 800);
    assert_books(&datapath);
    assert_eq!(datapath.folds_waiting().unwrap(), 0);
    drop(datapath);
    let mut datapath = Datapath::load_maps(&config).unwrap();
    assert_eq!(read(&mut datapath), 0);
    assert_books(&datapath);
}

/// The kernel's counts, pinned.
struct Counts(KernelMap<MapData, [u8; 32], [u64; 7]>);

impl Counts {
    fn open(node: &Node) -> Self {
        let pin = node.pins.config().pin_dir.join("SP_FOLD@1");
        Self(KernelMap::try_from(Map::HashMap(MapData::from_pin(pin).unwrap())).unwrap())
    }

    fn keys(&self) -> Vec<[u8; 32]> {
        self.0.keys().map(Result::unwrap).collect()
    }
}

#[test]
fn idle_keys_make_room_and_begin_anew() {
    let mut node = closed_node();
    let mut reader = node.datapath.take_reader().unwrap();
    let mut counts = Counts::open(&node);
    let mut read = |packets_sent: u64| {
        flood(&node.alice, 9000, packets_sent);
        let mut events = Vec::new();
        reader.read_now(|tick| events.extend_from_slice(tick.events));
        assert_eq!(packets(&events, 9000), packets_sent);
        let now_ns = events.iter().map(|event| event.boot_ns).max().unwrap();
        // Not idle yet.
        assert_eq!(reader.report_folds_at(now_ns + 5_000_000_000).unwrap(), []);
        now_ns
    };
    let now_ns = read(200);
    assert_eq!(counts.keys().len(), 1);
    // Another process took the entry and was killed before it could forget what it had reported.
    counts.0.remove(&counts.keys()[0]).unwrap();
    read(150);
    assert!(read(300) > now_ns);
    assert_eq!(counts.keys().len(), 1);
    let later = now_ns + 60_000_000_000;
    assert_eq!(reader.report_folds_at(later).unwrap(), []);
    assert_eq!(counts.keys().len(), 0);
    flood(&node.alice, 9000, 120);
    // Idle, and with packets that nobody reported: these come first.
    let records = reader.report_folds_at(later).unwrap();
    let mut verbatim = Vec::new();
    reader.read_now(|tick| verbatim.extend_from_slice(tick.events));
    assert_eq!(packets(&records, 9000) + packets(&verbatim, 9000), 120);
    assert!(!records.is_empty());
    assert_eq!(counts.keys().len(), 1);
    assert_eq!(reader.report_folds_at(later).unwrap(), []);
    assert_eq!(counts.keys().len(), 0);
    assert_eq!(node.datapath.folds_waiting().unwrap(), 0);
}

#[test]
fn counters_of_an_earlier_version_go_on() {
    let pins = Pins::new();
    drop(pins.load());
    let pin = pins.config().pin_dir.join("SP_READER@1");
    std::fs::remove_file(&pin).unwrap();
    // An array that programs and processes map, of lanes and kinds of bad records.
    let definition = aya_obj::Map::new_from_params(2, 4, 8, 6, 1 << 10);
    let old = MapData::create(definition, "old", None).unwrap();
    old.pin(&pin).unwrap();
    let mut old: Array<_, u64> = Array::try_from(Map::Array(old)).unwrap();
    for index in 0..6 {
        old.set(index, u64::from(index) + 10, 0).unwrap();
    }
    for _ in 0..2 {
        let counts = pins.load().reader_counts();
        assert_eq!(counts.consumed, [10, 11, 12]);
        assert_eq!(counts.rejected.by_reason(), [("size", 13), ("abi", 14), ("kind", 15)]);
        assert_eq!(counts.folded, 0);
    }
}
