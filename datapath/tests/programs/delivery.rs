//! Which way an allowed packet takes, its marks and link addresses, and who observes it.

use specola_datapath::abi::{
    direction,
    endpoint::policy_flags,
    event::{ct_state, flags, kind, point},
    names::{FROM_CONTAINER, FROM_HOST, FROM_NETDEV, TO_CONTAINER, TO_HOST, TO_NETDEV},
};
use specola_testkit::packet::{DST_MAC, Frame, SRC_MAC};

use crate::harness::{A, B, Kernel, LocalPod, NODE, OK, REDIRECT, REMOTE, SHOT, WORLD, from_pod};

/// Marks, as the programs set them.
const INGRESS_DONE: u32 = 0x0100;
const FROM_POD: u32 = 0x0400;
const TRACE: u32 = 0x0800;
/// A bit of the mark that is not ours.
const FOREIGN: u32 = 0x4000;

fn macs(frame: &[u8]) -> (&[u8], &[u8]) {
    (&frame[0..6], &frame[6..12])
}

#[test]
fn to_a_pod_of_the_same_node() {
    let mut kernel = Kernel::new();
    kernel.open();
    let frame = from_pod(A, Frame::v4(A.v4, B.v4).udp(1, 2));
    let run = kernel.run_marked(FROM_CONTAINER, Some(A), &frame, FOREIGN);
    assert_eq!((run.action, run.mark), (REDIRECT, FOREIGN | INGRESS_DONE));
    assert_eq!(macs(&run.frame), (&B.mac[..], &B.host_mac[..]));
    assert_eq!(run.frame[12..], frame[12..]);
    let trace = run.events.last().unwrap();
    assert_eq!(
        (trace.obs_point, trace.endpoint_id, trace.direction),
        (point::TO_ENDPOINT, B.id, direction::INGRESS)
    );
    assert_eq!((trace.src_mac, trace.dst_mac), (A.mac, A.host_mac), "as the sender wrote them");
}

#[test]
fn to_another_node_or_the_world() {
    for address in [REMOTE.0, WORLD.0] {
        let mut kernel = Kernel::new();
        kernel.open();
        let frame = from_pod(A, Frame::v4(A.v4, address).udp(1, 2));
        let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
        assert_eq!((run.action, run.mark, &run.frame), (OK, FROM_POD | TRACE, &frame));
        let trace = run.events.last().unwrap();
        assert_eq!(
            (trace.obs_point, trace.endpoint_id, trace.direction),
            (point::TO_STACK, A.id, direction::EGRESS)
        );
        // The node device reports the same packet once more, and no later one.
        let run = kernel.run_marked(TO_NETDEV, None, &frame, FROM_POD | TRACE);
        let event = run.only();
        assert_eq!((run.action, event.kind, event.obs_point), (OK, kind::TRACE, point::TO_NETWORK));
        assert_eq!((event.endpoint_id, event.src_identity, event.packets_fwd), (A.id, A.identity, 1));
        let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
        assert_eq!((run.mark, run.events.len()), (FROM_POD, 0));
        assert_eq!(kernel.run_marked(TO_NETDEV, None, &frame, FROM_POD).events, []);
        assert_eq!(kernel.connections()[0].packets, [2, 0], "an observer does not count");
    }
}

#[test]
fn to_the_node_itself() {
    let host_mac = [0x0e, 0, 0, 0, 0, 1];
    let mut kernel = Kernel::with(5_000, 42);
    kernel.open();
    let frame = from_pod(A, Frame::v4(A.v4, NODE.0).tcp(1, 2, 2));
    let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
    assert_eq!((run.action, run.mark), (REDIRECT, FROM_POD | TRACE));
    assert_eq!(macs(&run.frame), (&host_mac[..], &A.host_mac[..]));
    assert_eq!(run.only().kind, kind::POLICY_VERDICT, "the host device reports");
    let run = kernel.run_marked(TO_HOST, None, &run.frame, run.mark);
    let event = run.only();
    assert_eq!((run.action, event.obs_point, event.endpoint_id), (OK, point::TO_HOST, A.id));
    assert_eq!((event.dst_identity, event.flags, event.packets_fwd), (NODE.2, flags::COUNTERS, 1));
    assert_eq!(event.ct_state, ct_state::NEW);
    // The end is reported there as well.
    let reset = from_pod(A, Frame::v4(A.v4, NODE.0).tcp(1, 2, 4));
    let run = kernel.run(FROM_CONTAINER, Some(A), &reset);
    assert_eq!((run.mark, run.events.len()), (FROM_POD | TRACE, 0));
    let run = kernel.run_marked(TO_HOST, None, &run.frame, run.mark);
    assert_eq!((run.only().flags, run.only().packets_fwd), (flags::COUNTERS | flags::CLOSE, 2));
}

#[test]
fn to_the_node_itself_without_a_host_device() {
    let mut kernel = Kernel::new();
    kernel.open();
    let frame = from_pod(A, Frame::v6(A.v6, NODE.1).udp(1, 2));
    let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
    assert_eq!((run.action, &run.frame), (OK, &frame));
    assert_eq!(run.events.last().unwrap().obs_point, point::TO_STACK);
}

#[test]
fn from_the_network_and_the_host_to_a_pod() {
    let sources =
        [(FROM_NETDEV, REMOTE.0), (FROM_NETDEV, WORLD.0), (FROM_HOST, NODE.0), (FROM_HOST, WORLD.0)];
    for ((program, source), hint) in
        sources.into_iter().flat_map(|case| [0, A.slot, B.slot].map(|hint| (case, hint)))
    {
        let mut kernel = Kernel::new();
        kernel.open();
        kernel.hint(B.v4, hint);
        // A mark that came along is worth nothing.
        let mark = if program == FROM_NETDEV { INGRESS_DONE } else { 0 };
        let run = kernel.run_marked(program, None, &Frame::v4(source, B.v4).udp(1, 2).bytes(), mark);
        assert_eq!(
            (run.action, run.mark, run.events.len()),
            (REDIRECT, INGRESS_DONE, 2),
            "{program} {source} {hint}"
        );
        assert_eq!(macs(&run.frame), (&B.mac[..], &B.host_mac[..]));
        let trace = run.events[1];
        assert_eq!((trace.obs_point, trace.endpoint_id), (point::TO_ENDPOINT, B.id));
        assert_eq!((trace.src_mac, trace.dst_mac), (SRC_MAC, DST_MAC));
        assert_eq!(trace.dst_identity, B.identity);
    }
}

#[test]
fn traffic_of_others_passes_unseen() {
    let mut kernel = Kernel::new();
    for (program, frame) in [
        (FROM_NETDEV, Frame::v4(REMOTE.0, NODE.0).tcp(1, 2, 2)),
        (FROM_NETDEV, Frame::v6(REMOTE.1, "2001:db8::1").udp(1, 2)),
        (FROM_HOST, Frame::v4(NODE.0, REMOTE.0).tcp(1, 2, 2)),
        (TO_NETDEV, Frame::v4(NODE.0, REMOTE.0).tcp(1, 2, 2)),
        (TO_HOST, Frame::v4(REMOTE.0, NODE.0).tcp(1, 2, 2)),
    ] {
        let run = kernel.run(program, None, &frame.bytes());
        assert_eq!((run.action, run.events.len(), &run.frame), (OK, 0, &frame.bytes()), "{program}");
    }
    let run = kernel.run_marked(
        FROM_NETDEV,
        None,
        &Frame::v4(REMOTE.0, NODE.0).udp(1, 2).bytes(),
        INGRESS_DONE | FROM_POD | TRACE | FOREIGN,
    );
    assert_eq!((run.action, run.mark), (OK, FOREIGN), "marks from outside end here");
    // A process of the host that sets our marks gets no record of a pod.
    let run =
        kernel.run_marked(TO_NETDEV, None, &Frame::v4(NODE.0, REMOTE.0).udp(1, 2).bytes(), FROM_POD | TRACE);
    assert_eq!((run.action, run.events.len()), (OK, 0));
    assert_eq!(kernel.connections(), []);
}

#[test]
fn the_last_hook_asks_the_policy_unless_it_was_asked() {
    let mut kernel = Kernel::new();
    let frame = Frame::v4(REMOTE.0, B.v4).udp(1, 2).bytes();
    let run = kernel.run(TO_CONTAINER, Some(B), &frame);
    assert_eq!((run.action, run.only().verdict, run.only().endpoint_id), (SHOT, -133, B.id));
    let run = kernel.run_marked(TO_CONTAINER, Some(B), &frame, INGRESS_DONE);
    assert_eq!((run.action, run.events.len()), (OK, 0));
    kernel.open();
    let run = kernel.run(TO_CONTAINER, Some(B), &frame);
    assert_eq!((run.action, run.events[1].obs_point), (OK, point::TO_ENDPOINT));
}

#[test]
fn a_pod_cannot_set_the_marks() {
    let mut kernel = Kernel::new();
    let frame = from_pod(A, Frame::v4(A.v4, B.v4).udp(1, 2));
    let run = kernel.run_marked(FROM_CONTAINER, Some(A), &frame, 0x0f00 | FOREIGN);
    assert_eq!((run.action, run.mark), (SHOT, FOREIGN));
}

#[test]
fn a_receiver_that_went_away_is_closed() {
    let mut kernel = Kernel::new();
    kernel.open();
    kernel.endpoint(LocalPod { identity: 0, ..B }, 0, 0);
    let run = kernel.run(FROM_NETDEV, None, &Frame::v4(REMOTE.0, B.v4).udp(1, 2).bytes());
    assert_eq!((run.action, run.only().kind, run.only().verdict), (SHOT, kind::DROP, -203));
}

fn frame(from: &str, to: &str) -> Frame {
    Frame::new(from.parse().unwrap(), to.parse().unwrap())
}

#[test]
fn a_hint_saves_the_search() {
    for program in [FROM_NETDEV, FROM_HOST] {
        for (from, to) in [(REMOTE.0, B.v4), (REMOTE.1, B.v6)] {
            let mut kernel = Kernel::new();
            kernel.open();
            kernel.forget_address(to);
            let run = kernel.run(program, None, &frame(from, to).udp(1, 2).bytes());
            assert_eq!((run.action, run.events[0].dst_identity), (REDIRECT, B.identity), "{program} {to}");
        }
    }
}

#[test]
fn a_hint_counts_only_if_the_endpoint_confirms_it() {
    let mut kernel = Kernel::new();
    kernel.open();
    let without_addresses = LocalPod { v4: "0.0.0.0", v6: "::", ..B };
    kernel.endpoint(without_addresses, policy_flags::READY, 1);
    // Half of a pod's address is not enough, nor is no address.
    let others = [
        (REMOTE.0, "10.99.0.1"),
        (REMOTE.0, "0.0.0.0"),
        (REMOTE.1, "::"),
        (REMOTE.1, "fd00:9::1"),
        (REMOTE.1, "fd00:1:0:0:9::1"),
    ];
    for program in [FROM_NETDEV, FROM_HOST] {
        for (from, to) in others {
            for slot in [A.slot, B.slot] {
                kernel.hint(to, slot);
                let run = kernel.run(program, None, &frame(from, to).udp(1, 2).bytes());
                assert_eq!((run.action, run.events.len()), (OK, 0), "{program} {to} {slot}");
            }
        }
    }
}
