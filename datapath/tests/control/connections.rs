use std::net::Ipv4Addr;

use specola_datapath_common::conntrack::{
    CtKey4, CtKey6, CtSide, CtValue, flags::BESIDE, lifetime_ms, state,
};
use specola_datapath_common::event::flags;
use specola_datapath_common::{IPV4, direction, v4_mapped};

use super::*;

fn v4(proto: u8, port: u16) -> ConnectionKey {
    let (lo_addr, hi_addr) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    ConnectionKey::V4(CtKey4 { lo_addr, hi_addr, lo_port: 40000, hi_port: port, proto, pad: 0, zone: 0 })
}

fn v6(proto: u8, port: u16) -> ConnectionKey {
    let (lo_addr, hi_addr) = ([0xfd; 16], [0xfe; 16]);
    ConnectionKey::V6(CtKey6 { lo_addr, hi_addr, lo_port: 40000, hi_port: port, proto, pad: 0, zone: 0 })
}

fn value(packets: u64) -> CtValue {
    CtValue { packets: [packets, 0], ..CtValue::default() }
}

/// A TCP connection over IPv4.
pub(super) fn some_connection() -> Connection {
    Connection { key: v4(6, 80), value: value(5) }
}

#[test]
fn connections_of_all_tables_are_listed_looked_up_and_removed() {
    let pins = Pins::new();
    let mut conntrack = pins.load().take_conntrack().unwrap();
    let few = [v4(6, 80), v4(6, 81), v4(17, 53), v4(1, 0), v6(6, 80), v6(58, 0), v6(132, 9)];
    // More than one read of the kernel gives.
    let many = (1000..1700).map(|port| v6(17, port));
    let wanted: HashMap<_, _> = few.into_iter().chain(many).zip((1..).map(value)).collect();
    for (&key, &value) in &wanted {
        assert!(conntrack.insert(&Connection { key, value }).unwrap());
    }
    let mut found = HashMap::new();
    conntrack
        .for_each(|Connection { key, value }| {
            assert_eq!(found.insert(key, value), None, "{key:?} is shown twice");
        })
        .unwrap();
    assert_eq!(found, wanted);

    assert_eq!(conntrack.lookup(&v4(17, 53)).unwrap(), Some(wanted[&v4(17, 53)]));
    assert_eq!(conntrack.lookup(&v4(6, 53)).unwrap(), None, "the same ports under another protocol");
    assert_eq!(conntrack.take(&v4(17, 53)).unwrap(), Some(wanted[&v4(17, 53)]));
    assert_eq!(conntrack.take(&v4(17, 53)).unwrap(), None);
    assert_eq!(conntrack.lookup(&v4(17, 53)).unwrap(), None);
}

#[test]
fn what_a_full_table_forgets_is_counted_also_over_restarts() {
    let pins = Pins::new();
    let mut datapath = pins.load();
    let mut conntrack = datapath.take_conntrack().unwrap();
    let now = 1_000_000_000;
    let fresh = CtValue { last_seen_ns: now, ..value(1) };
    // Entries of before the counting began are no news.
    let (Ok(true), Ok(0)) = (
        conntrack.insert(&Connection { key: v4(6, 1), value: fresh }),
        conntrack.sweep(now, |_| ()).map(|sweep| sweep.evicted),
    ) else {
        panic!("an entry and a first sweep");
    };
    let more = u64::from(pins.config().ct_tcp_entries) * 2;
    for port in 10..10 + u16::try_from(more).unwrap() {
        assert!(conntrack.insert(&Connection { key: v4(6, port), value: fresh }).unwrap());
    }
    let sweep = conntrack.sweep(now, |_| ()).unwrap();
    assert!(sweep.evicted > 0 && sweep.evicted == 1 + more - sweep.present, "{sweep:?}");
    let counts = datapath.connection_counts().unwrap();
    assert_eq!(counts.created, counts.removed + counts.present + counts.evicted, "{counts:?}");
    // All are removed by the sweep of a later time: no eviction.
    let after = conntrack.sweep(u64::MAX, |_| ()).unwrap();
    assert_eq!((after.present, after.removed, after.evicted), (0, sweep.present, sweep.evicted));
    drop((datapath, conntrack));
    let mut datapath = pins.load();
    let again = datapath.take_conntrack().unwrap().sweep(now, |_| ()).unwrap();
    assert_eq!((again.present, again.evicted), (0, sweep.evicted));
    assert_eq!(
        specola_datapath::PinnedMaps::open(pins.config().pin_dir)
            .unwrap()
            .connection_counts()
            .unwrap()
            .evicted,
        sweep.evicted
    );
}

#[test]
fn a_sweep_removes_what_is_over_and_shows_what_nobody_closed() {
    let pins = Pins::new();
    let mut conntrack = pins.load().take_conntrack().unwrap();
    let now = 100_000_000_000_000;
    let idle = |ms: u64, state| CtValue { last_seen_ns: now - ms * 1_000_000, state, ..value(ms) };
    let entries = [
        (v4(6, 1), idle(lifetime_ms::TCP - 1, state::ESTABLISHED), "stays"),
        (v4(6, 2), idle(lifetime_ms::TCP + 1, state::ESTABLISHED), "closed"),
        (v4(6, 3), idle(lifetime_ms::TCP_NEW + 1, state::NEW), "closed"),
        (v4(6, 4), idle(lifetime_ms::TCP_NEW + 1, state::ESTABLISHED), "stays"),
        (v4(6, 5), idle(lifetime_ms::TCP_CLOSING + 1, state::CLOSED), "removed"),
        (v6(17, 6), idle(lifetime_ms::OTHER + 1, state::ESTABLISHED), "closed"),
        (v6(17, 7), idle(lifetime_ms::OTHER - 1, state::NEW), "stays"),
        (v4(17, 9), CtValue { flags: BESIDE, ..idle(lifetime_ms::OTHER + 1, state::NEW) }, "removed"),
        (v6(17, 8), CtValue { last_seen_ns: now + 5, ..value(8) }, "stays"),
    ];
    for (key, value, _) in entries {
        assert!(conntrack.insert(&Connection { key, value }).unwrap());
    }
    let mut closed = HashMap::new();
    let sweep = conntrack.sweep(now, |Connection { key, value }| {
        closed.insert(key, value);
    });
    assert_eq!(sweep.unwrap(), Sweep { present: 4, removed: 5, closed: 3, evicted: 0 });
    for (key, value, fate) in entries {
        assert_eq!(conntrack.lookup(&key).unwrap().is_some(), fate == "stays", "{key:?}");
        assert_eq!(closed.get(&key), (fate == "closed").then_some(&value), "{key:?}");
    }
}

#[test]
fn the_initiator_comes_first() {
    let low = (Ipv4Addr::new(10, 0, 0, 1).into(), 40000);
    let high = (Ipv4Addr::new(10, 0, 0, 2).into(), 80);
    for (initiator, expected) in [(0, [low, high]), (1, [high, low])] {
        let connection = Connection { key: v4(6, 80), value: CtValue { initiator, ..value(1) } };
        assert_eq!(connection.ends(), expected);
    }
}

#[test]
fn a_close_record_says_what_the_programs_would_have_said() {
    let side = |slot| CtSide { slot, stamp: 2, ..CtSide::default() };
    let connection = Connection {
        key: v4(17, 53),
        value: CtValue {
            initiator: 0,
            packets: [3, 2],
            bytes: [300, 200],
            created_ns: 77,
            sides: [side(4), side(9)],
            ..CtValue::default()
        },
    };
    let event = connection.close_event(1000);
    assert_eq!(abi::event::Event::from_bytes(event.as_bytes()), Ok(&event), "it passes the decoder");
    assert_eq!(event.flags, flags::CLOSE | flags::COUNTERS | flags::BY_AGENT);
    assert_eq!((event.src_addr, event.src_port), (v4_mapped([10, 0, 0, 1]), 40000));
    assert_eq!((event.dst_addr, event.dst_port), (v4_mapped([10, 0, 0, 2]), 53));
    assert_eq!((event.ip_version, event.proto, event.boot_ns, event.created_ns), (IPV4, 17, 1000, 77));
    assert_eq!((event.packets_fwd, event.packets_rev, event.bytes_fwd, event.bytes_rev), (3, 2, 300, 200));
    assert_eq!((event.endpoint_slot, event.direction), (9, direction::INGRESS));

    // Only the initiator is a pod of this node.
    let outward = Connection {
        value: CtValue { sides: [side(4), CtSide::default()], ..connection.value },
        ..connection
    };
    let event = outward.close_event(1000);
    assert_eq!((event.endpoint_slot, event.direction), (4, direction::EGRESS));

    // Echo identifiers are no ports.
    let ping = Connection { key: v4(1, 40000), value: CtValue::default() }.close_event(1000);
    assert_eq!((ping.src_port, ping.dst_port), (0, 0));
}
