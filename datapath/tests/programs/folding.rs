//! Denied packets beyond so many per second are counted under an exact key.

use std::{collections::HashMap, time::Duration};

use specola_datapath::abi::{
    event::{Event, flags, kind, lane},
    fold::{FOLD_ENTRIES, FoldKey},
    names::FROM_CONTAINER,
};
use specola_testkit::packet::Frame;

use crate::harness::{A, DEFAULT_EGRESS, Kernel, REMOTE, Rule, SHOT, from_pod};

const LIMIT: u32 = 100;

/// A SYN of pod A to the remote pod.
fn syn(port: u16) -> Vec<u8> {
    from_pod(A, Frame::v4(A.v4, REMOTE.0).tcp(40000, port, 2).data(&[0; 10]))
}

/// Packets by destination port and cookie: records, and counts.
fn packets(events: &[Event], kernel: &Kernel) -> HashMap<(u16, u32), u64> {
    let mut packets = HashMap::new();
    for event in events {
        assert_eq!((event.fold, event.src_identity, event.dst_identity), (0, A.identity, REMOTE.2));
        *packets.entry((event.dst_port, event.cookie)).or_default() += 1;
    }
    for (key, count) in kernel.folds() {
        assert_eq!((key.endpoint_id, key.src_identity, key.dst_identity), (A.id, A.identity, REMOTE.2));
        *packets.entry((key.port, key.cookie)).or_default() += count.packets;
    }
    packets
}

#[test]
fn a_flood_is_counted_and_everything_else_has_its_records() {
    let mut kernel = Kernel::folding(LIMIT, FOLD_ENTRIES);
    kernel.allow(A, Rule::egress().peer(REMOTE.2).port(6, 80).deny().cookie(77));
    for port in 1000..1050 {
        for _ in 0..3 {
            assert_eq!(kernel.run(FROM_CONTAINER, Some(A), &syn(port)).action, SHOT);
        }
        kernel.time(FROM_CONTAINER, &syn(80), 200);
    }
    // `run` emptied the lane now and then; the books have everything.
    let deny = kernel.lane(lane::DENY);
    assert_eq!(deny.attempts, 50 * 203);
    assert_eq!((deny.attempts, deny.reserve_failed), (deny.submitted + deny.folded, 0));
    assert_eq!(kernel.counted(2, 181), 10_000);
    assert_eq!(kernel.counted(2, 133), 150);

    let folds = kernel.folds();
    let counted: u64 = folds.iter().map(|(_, count)| count.packets).sum();
    assert_eq!(counted, deny.folded);
    assert!(counted > 0);
    assert_eq!(folds.len(), 51);
    for (key, count) in folds {
        if key.port != 80 {
            assert_eq!((count.packets, key.cookie, key.reason), (0, DEFAULT_EGRESS, 133), "{key:?}");
            continue;
        }
        assert_eq!((key.cookie, key.reason, key.kind), (77, 181, kind::POLICY_VERDICT));
        assert_eq!((key.proto, key.direction, key.endpoint_slot), (6, 2, A.slot));
        assert_eq!(count.bytes, count.packets * syn(80).len() as u64);
        let sample = kernel.fold_sample(&key).expect("a sample for what was folded");
        assert_eq!(FoldKey::of(&sample), key);
        assert_eq!((sample.tcp_flags, sample.src_port, sample.fold), (2, 40000, 0));
        assert!(count.last_ns >= sample.boot_ns && sample.boot_ns >= count.created_ns);
    }
}

#[test]
fn every_packet_is_in_a_record_or_in_a_count() {
    let mut kernel = Kernel::folding(LIMIT, FOLD_ENTRIES);
    kernel.allow(A, Rule::egress().peer(REMOTE.2).port(6, 80).deny().cookie(77));
    let mut events = kernel.run(FROM_CONTAINER, Some(A), &syn(80)).events;
    kernel.time(FROM_CONTAINER, &syn(80), 9_999);
    for port in 1000..1050 {
        kernel.time(FROM_CONTAINER, &syn(port), 7);
    }
    events.extend(kernel.events());
    let mut expected: HashMap<_, _> = (1000..1050).map(|port| ((port, DEFAULT_EGRESS), 7)).collect();
    expected.insert((80, 77), 10_000);
    assert_eq!(packets(&events, &kernel), expected);
    assert!(events.len() < 10_000, "{}", events.len());
    // Records that were written have numbers without gaps, on each CPU.
    let mut last: HashMap<u16, u32> = HashMap::new();
    events.sort_by_key(|event| (event.cpu, event.lane_seq));
    for event in events {
        assert_eq!(event.lane_seq, last.insert(event.cpu, event.lane_seq).unwrap_or(0) + 1);
    }
}

#[test]
fn without_a_limit_every_packet_has_a_record() {
    let mut kernel = Kernel::folding(0, FOLD_ENTRIES);
    kernel.run(FROM_CONTAINER, Some(A), &syn(80));
    kernel.time(FROM_CONTAINER, &syn(80), 1_000);
    assert_eq!(kernel.events().len(), 1_000);
    assert_eq!((kernel.folds(), kernel.lane(lane::DENY).folded), (Vec::new(), 0));
}

#[test]
fn keys_beyond_the_room_have_records() {
    let mut kernel = Kernel::folding(10, 2);
    kernel.run(FROM_CONTAINER, Some(A), &syn(1));
    kernel.run(FROM_CONTAINER, Some(A), &syn(2));
    for port in 3..23 {
        kernel.time(FROM_CONTAINER, &syn(port), 50);
    }
    let events = kernel.events();
    assert_eq!(events.len(), 1_000);
    let deny = kernel.lane(lane::DENY);
    assert_eq!((deny.attempts, deny.submitted, deny.folded), (1_002, 1_002, 0));
    // Who was there before is still counted.
    kernel.time(FROM_CONTAINER, &syn(1), 50);
    let written = kernel.events().len() as u64;
    assert_eq!(written + kernel.lane(lane::DENY).folded, 50);
    assert!(kernel.lane(lane::DENY).folded > 0);
}

#[test]
fn audited_and_malformed_packets_are_counted_apart() {
    let mut kernel = Kernel::folding(1, FOLD_ENTRIES);
    kernel.allow(A, Rule::egress().peer(REMOTE.2).port(6, 80).deny().audit().cookie(5));
    kernel.allow(A, Rule::egress().peer(REMOTE.2).port(6, 81).deny().cookie(5));
    let truncated = from_pod(A, Frame::v4(A.v4, REMOTE.0).tcp(40000, 80, 2))[..40].to_vec();
    kernel.run(FROM_CONTAINER, Some(A), &syn(81));
    for _ in 0..20 {
        // One connection would be audited once.
        kernel.clear_connections();
        kernel.time(FROM_CONTAINER, &syn(80), 1);
        kernel.time(FROM_CONTAINER, &syn(81), 1);
        kernel.time(FROM_CONTAINER, &truncated, 1);
    }
    let mut seen: Vec<_> = kernel
        .folds()
        .iter()
        .filter(|(_, count)| count.packets > 0)
        .map(|(key, _)| (key.kind, key.reason, key.flags, key.port))
        .collect();
    seen.sort_unstable();
    let (_, reason, ..) = seen[0];
    assert_eq!(
        seen,
        [
            (kind::DROP, reason, 0, 0),
            (kind::POLICY_VERDICT, 0, flags::AUDIT, 80),
            (kind::POLICY_VERDICT, 181, 0, 81)
        ]
    );
    assert_ne!(reason, 0);
}

#[test]
fn cpus_share_a_count() {
    let mut kernel = Kernel::folding(LIMIT, FOLD_ENTRIES);
    kernel.run(FROM_CONTAINER, Some(A), &syn(80));
    let frame = syn(80);
    let cpus = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            let (kernel, frame) = (&kernel, &frame);
            scope.spawn(move || {
                let mut set = nix::sched::CpuSet::new();
                set.set(cpu).unwrap();
                nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).unwrap();
                kernel.repeat(FROM_CONTAINER, frame, 20_000);
            });
        }
    });
    let deny = kernel.lane(lane::DENY);
    assert_eq!(deny.attempts, 1 + 20_000 * cpus as u64);
    assert_eq!(deny.attempts, deny.submitted + deny.reserve_failed + deny.folded);
    let counted: u64 = kernel.folds().iter().map(|(_, count)| count.packets).sum();
    assert_eq!(counted, deny.folded);
    assert_eq!(kernel.events().len() as u64 + 1, deny.submitted);
}

/// Prints what a denied packet costs: `cargo test -p specola-datapath --test programs -- --nocapture denied_packet`.
#[test]
#[expect(clippy::print_stdout, reason = "the time is for the reader; nothing depends on it")]
fn what_a_denied_packet_costs() {
    let measure = |limit: u32, drained: bool| -> Duration {
        let mut kernel = Kernel::folding(limit, FOLD_ENTRIES);
        kernel.run(FROM_CONTAINER, Some(A), &syn(80));
        let rounds: Vec<Duration> = (0..20)
            .map(|_| {
                if drained {
                    kernel.events();
                }
                kernel.time(FROM_CONTAINER, &syn(80), 5_000)
            })
            .collect();
        rounds.into_iter().min().unwrap_or_default()
    };
    println!("each has a record: {:?}", measure(0, true));
    println!("each has a record, none folded: {:?}", measure(1_000_000, true));
    println!("lane full: {:?}", measure(0, false));
    println!("folded: {:?}", measure(LIMIT, true));
}
