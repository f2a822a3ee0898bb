//! The record's bytes, the lanes' ledger.

use specola_datapath::abi::{
    event::{EVENT_SIZE, Event, lane},
    names::FROM_CONTAINER,
};
use specola_testkit::packet::{Frame, other};

use crate::harness::{A, B, Kernel, REMOTE, Rule, SHOT, from_pod};

/// The record of a denied SYN, byte for byte, but for the stamp and the CPU. Whoever changes a line here changes the
/// ABI: raise `EVENT_ABI`.
#[rustfmt::skip]
const GOLDEN: [u8; EVENT_SIZE] = [
    // abi, kind, obs_point, flags, lane_seq
    1, 5, 0, 0,  1, 0, 0, 0,
    // boot_ns
    0, 0, 0, 0, 0, 0, 0, 0,
    // cpu, endpoint_slot, endpoint_id 1001, ip_version, proto
    0, 0,  1, 0,  0xe9, 0x03,  4,  6,
    // ifindex, length
    1, 0, 0, 0,  64, 0, 0, 0,
    // src_identity 5001, dst_identity 5009
    0x89, 0x13, 0, 0,  0x91, 0x13, 0, 0,
    // src_addr 10.0.1.1
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 1, 1,
    // dst_addr 10.0.2.9
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 2, 9,
    // src_port 40000, dst_port 80, tcp_flags SYN, ct_state, match_type L3-L4, direction egress
    0x40, 0x9c,  80, 0,  2,  0,  2,  2,
    // verdict -181, cookie 77
    0x4b, 0xff, 0xff, 0xff,  77, 0, 0, 0,
    // revision 7, epoch 1
    7, 0, 0, 0,  1, 0, 0, 0,
    // src_mac, dst_mac
    0x0a, 0, 0, 0, 0, 0x01,  0x0a, 0, 0, 0, 1, 0x01,
    // proxy_port, lane, icmp_type
    0, 0,  0,  0,
    // fold, icmp_code, pad0
    0, 0, 0, 0,  0,  0, 0, 0,
    // packets_fwd, packets_rev, bytes_fwd, bytes_rev, created_ns
    0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0,
    // reserved
    0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn a_denied_packet_yields_these_bytes() {
    let mut kernel = Kernel::new();
    kernel.allow(A, Rule::egress().peer(REMOTE.2).port(6, 80).deny().cookie(77));
    let frame = from_pod(A, Frame::v4(A.v4, REMOTE.0).tcp(40000, 80, 2).data(&[0; 10]));
    let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
    let mut event = *run.only();
    assert_ne!(event.boot_ns, 0);
    event.boot_ns = 0;
    event.cpu = 0;
    assert_eq!(event.as_bytes(), GOLDEN);
}

#[test]
fn nothing_of_one_packet_shows_in_the_record_of_the_next() {
    let mut kernel = Kernel::new();
    kernel.open();
    // Fill the per-CPU record with everything a packet can have.
    kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, Frame::v6(A.v6, B.v6).icmp(128, 7, 9)));
    kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, Frame::v4(A.v4, B.v4).tcp(40000, 80, 0x1b)));
    let mut unknown = other(0x88cc);
    unknown[..6].copy_from_slice(&A.host_mac);
    unknown[6..12].copy_from_slice(&A.mac);
    let run = kernel.run(FROM_CONTAINER, Some(A), &unknown);
    let event = *run.only();
    let empty = Event {
        kind: 1,
        lane_seq: event.lane_seq,
        boot_ns: event.boot_ns,
        cpu: event.cpu,
        endpoint_slot: A.slot,
        endpoint_id: A.id,
        ifindex: 1,
        length: 60,
        src_identity: A.identity,
        src_mac: A.mac,
        dst_mac: A.host_mac,
        ct_state: 5,
        direction: 2,
        verdict: -139,
        ..Event::zeroed()
    };
    assert_eq!(event, empty);
}

#[test]
fn a_full_lane_loses_records_by_number_and_no_packets() {
    let mut kernel = Kernel::new();
    let frame = from_pod(A, Frame::v4(A.v4, B.v4).tcp(40000, 80, 2));
    kernel.run(FROM_CONTAINER, Some(A), &frame);
    // 1 MiB holds 5,242 records of 200 bytes.
    kernel.time(FROM_CONTAINER, &frame, 6_000);
    let count = kernel.lane(lane::DENY);
    assert_eq!(count.attempts, 6_001);
    assert_eq!(count.attempts, count.submitted + count.reserve_failed + count.folded);
    assert!(count.reserve_failed > 0);
    assert_eq!(kernel.events().len() as u64 + 1, count.submitted);
    // The sequence shows the gap. Sequences are per CPU, and the run may have moved to another one.
    let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
    assert_eq!(run.action, SHOT);
    assert!(u64::from(run.only().lane_seq) <= count.attempts + 1);
    assert_eq!(kernel.counted(2, 133), 6_002);
}
