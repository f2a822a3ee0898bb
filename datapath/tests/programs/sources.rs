//! A pod sends from its own addresses only; nobody outside sends from a pod's.

use specola_datapath::abi::{
    direction,
    event::kind,
    metrics::drop,
    names::{FROM_CONTAINER, FROM_NETDEV, TO_CONTAINER},
};
use specola_testkit::packet::{Frame, other};

use crate::harness::{A, B, Kernel, NODE, OK, REDIRECT, REMOTE, Run, SHOT, from_pod};

#[track_caller]
fn assert_dropped(run: &Run, reason: u8, direction: u8) {
    assert_eq!(run.action, SHOT, "{run:#?}");
    let event = run.only();
    assert_eq!((event.kind, event.verdict), (kind::DROP, -i32::from(reason)), "{event:#?}");
    assert_eq!(event.direction, direction, "{event:#?}");
}

#[test]
fn spoofed_sources_of_pods_are_dropped() {
    let mut kernel = Kernel::new();
    kernel.open();
    let cases: [(&str, Vec<u8>, u8); 9] = [
        (
            "foreign MAC",
            Frame::v4(A.v4, B.v4).macs(B.mac, A.host_mac).udp(1, 2).bytes(),
            drop::INVALID_SOURCE_MAC,
        ),
        ("the other pod's IPv4", from_pod(A, Frame::v4(B.v4, REMOTE.0).udp(1, 2)), drop::INVALID_SOURCE_IP),
        ("the node's IPv4", from_pod(A, Frame::v4(NODE.0, B.v4).udp(1, 2)), drop::INVALID_SOURCE_IP),
        (
            "no IPv4 (DHCP)",
            from_pod(A, Frame::v4("0.0.0.0", "255.255.255.255").udp(68, 67)),
            drop::INVALID_SOURCE_IP,
        ),
        ("the other pod's IPv6", from_pod(A, Frame::v6(B.v6, REMOTE.1).udp(1, 2)), drop::INVALID_SOURCE_IP),
        ("IPv4 mapped", from_pod(A, Frame::v6("::ffff:10.0.1.1", B.v6).udp(1, 2)), drop::INVALID_PACKET),
        ("link-local data", from_pod(A, Frame::v6("fe80::1", B.v6).udp(1, 2)), drop::INVALID_SOURCE_IP),
        ("unspecified data", from_pod(A, Frame::v6("::", B.v6).tcp(1, 2, 2)), drop::INVALID_SOURCE_IP),
        (
            "neighbour discovery that a router passed on",
            from_pod(A, Frame::v6("fe80::1", "ff02::1").hop_limit(254).icmp(136, 0, 0)),
            drop::INVALID_SOURCE_IP,
        ),
    ];
    for (name, frame, reason) in cases {
        let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
        assert_eq!(run.only().verdict, -i32::from(reason), "{name}");
        assert_dropped(&run, reason, direction::EGRESS);
    }
    assert_eq!(kernel.connections(), []);
    assert_eq!(kernel.counted(direction::EGRESS, drop::INVALID_SOURCE_MAC), 1);
    assert_eq!(kernel.counted(direction::EGRESS, drop::INVALID_SOURCE_IP), 7);
    assert_eq!(kernel.counted(direction::EGRESS, drop::INVALID_PACKET), 1);
    assert_eq!(kernel.counted(direction::EGRESS, 0), 0);
}

#[test]
fn local_sources_from_the_network_are_dropped() {
    let mut kernel = Kernel::new();
    kernel.open();
    for frame in [
        Frame::v4(A.v4, B.v4).udp(1, 2),
        Frame::v4(NODE.0, B.v4).tcp(1, 2, 2),
        Frame::v6(A.v6, B.v6).udp(1, 2),
        Frame::v6(NODE.1, REMOTE.1).udp(1, 2),
    ] {
        let run = kernel.run(FROM_NETDEV, None, &frame.bytes());
        assert_dropped(&run, drop::INVALID_SOURCE_IP, direction::INGRESS);
    }
    assert_eq!(kernel.counted(direction::INGRESS, drop::INVALID_SOURCE_IP), 4);
}

#[test]
fn address_resolution_passes_before_any_policy() {
    let mut kernel = Kernel::new();
    let mut arp = other(0x0806);
    arp[6..12].copy_from_slice(&A.mac);
    let frames = [
        ("arp", arp),
        ("router solicitation", from_pod(A, Frame::v6("fe80::1", "ff02::2").hop_limit(255).icmp(133, 0, 0))),
        ("address detection", from_pod(A, Frame::v6("::", "ff02::1:ff00:1").hop_limit(255).icmp(135, 0, 0))),
        ("listener report", from_pod(A, Frame::v6("fe80::1", "ff02::16").hop_limit(1).icmp(143, 0, 0))),
        ("asking the router", from_pod(A, Frame::v6(A.v6, NODE.1).hop_limit(255).icmp(135, 0, 0))),
    ];
    for (name, frame) in frames {
        let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
        assert_eq!((run.action, run.events.len()), (OK, 0), "{name}: {run:#?}");
    }
    let advertisement = Frame::v6("fe80::2", "fe80::1").hop_limit(255).icmp(136, 0, 0).bytes();
    assert_eq!(kernel.run(TO_CONTAINER, Some(A), &advertisement).action, OK);
    // Aimed at another pod it is traffic like any other: no policy allows it here.
    let frame = from_pod(A, Frame::v6(A.v6, B.v6).hop_limit(255).icmp(135, 0, 0));
    let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
    assert_eq!((run.action, run.only().verdict), (SHOT, -133));
}

#[test]
fn other_protocols_of_pods_are_dropped_and_of_the_network_left_to_the_stack() {
    let mut kernel = Kernel::new();
    for ethertype in [0x8100, 0x88cc, 0x8847, 0x0000, 0xffff] {
        let mut frame = other(ethertype);
        frame[6..12].copy_from_slice(&A.mac);
        assert_dropped(&kernel.run(FROM_CONTAINER, Some(A), &frame), drop::UNSUPPORTED_L3, direction::EGRESS);
        let run = kernel.run(FROM_NETDEV, None, &frame);
        assert_eq!((run.action, run.events.len()), (OK, 0));
    }
}

#[test]
fn an_interface_without_endpoint_and_an_endpoint_without_policy_are_closed() {
    let mut kernel = Kernel::new();
    kernel.open();
    let frame = from_pod(A, Frame::v4(A.v4, REMOTE.0).udp(1, 2));
    let run = kernel.run(FROM_CONTAINER, None, &frame);
    assert_dropped(&run, drop::EP_NOT_READY, direction::EGRESS);
    assert_eq!(run.only().endpoint_id, 0);

    kernel.endpoint(A, 0, 1);
    let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
    assert_dropped(&run, drop::EP_NOT_READY, direction::EGRESS);
    assert_eq!((run.only().endpoint_id, run.only().src_identity), (A.id, A.identity));

    // As a receiver too, although the sender may send.
    let run = kernel.run(FROM_CONTAINER, Some(B), &from_pod(B, Frame::v4(B.v4, A.v4).udp(1, 2)));
    assert_eq!(run.action, SHOT);
    let last = run.events.last().unwrap();
    assert_eq!((last.kind, last.verdict), (kind::DROP, -203));
    assert_eq!((last.endpoint_id, last.direction), (A.id, direction::INGRESS));

    kernel.endpoint(A, 1, 2);
    assert_eq!(
        kernel.run(FROM_CONTAINER, Some(B), &from_pod(B, Frame::v4(B.v4, A.v4).udp(1, 2))).action,
        REDIRECT
    );
}
