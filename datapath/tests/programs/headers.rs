//! What is read from headers, and what is refused.

use specola_datapath::abi::{
    event::{Event, kind},
    metrics::drop,
    names::{FROM_CONTAINER, FROM_NETDEV},
    proto,
};
use specola_testkit::packet::Frame;

use crate::harness::{A, B, Kernel, OK, REMOTE, SHOT, from_pod, octets16};

/// Runs the frame through an open policy and gives back the trace record.
fn traced(frame: Frame) -> Event {
    let mut kernel = Kernel::new();
    kernel.open();
    let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, frame));
    assert_eq!(run.action, OK, "{run:#?}");
    *run.events.iter().find(|event| event.kind == kind::TRACE).expect("a first packet is traced")
}

/// Name, frame, protocol, source and destination port, ICMP type and code.
type Case = (&'static str, Frame, u8, (u16, u16), (u8, u8));

#[test]
fn addresses_ports_and_kinds_are_read() {
    let v4 = || Frame::v4(A.v4, REMOTE.0);
    let v6 = || Frame::v6(A.v6, REMOTE.1);
    let long = [7, 39, 4].iter().copied().chain([0; 37]).collect::<Vec<u8>>();
    let cases: [Case; 13] = [
        ("tcp", v4().tcp(40000, 80, 0x02), proto::TCP, (40000, 80), (0, 0)),
        ("udp", v4().udp(53, 5353), proto::UDP, (53, 5353), (0, 0)),
        ("sctp", v4().raw(132, &[0, 9, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0]), proto::SCTP, (9, 10), (0, 0)),
        ("echo", v4().icmp(8, 0, 77), proto::ICMP, (0, 0), (8, 0)),
        ("timestamp", v4().icmp(13, 0, 77), proto::ICMP, (0, 0), (13, 0)),
        ("4 bytes of options", v4().options(&[1, 1, 1, 0]).tcp(1, 2, 2), proto::TCP, (1, 2), (0, 0)),
        ("40 bytes of options", v4().options(&long).tcp(1, 2, 2), proto::TCP, (1, 2), (0, 0)),
        ("tcp6", v6().tcp(40000, 80, 0x02), proto::TCP, (40000, 80), (0, 0)),
        ("udp6", v6().udp(53, 5353), proto::UDP, (53, 5353), (0, 0)),
        ("echo6", v6().icmp(128, 3, 77), proto::ICMPV6, (0, 0), (128, 3)),
        ("hop-by-hop", v6().extension(0, &[5, 2, 0, 0]).udp(3, 4), proto::UDP, (3, 4), (0, 0)),
        (
            "three extensions",
            v6().extension(0, &[0; 6]).extension(60, &[0; 14]).extension(43, &[0; 22]).tcp(3, 4, 2),
            proto::TCP,
            (3, 4),
            (0, 0),
        ),
        ("atomic fragment", v6().fragment(9, 0, false).udp(3, 4), proto::UDP, (3, 4), (0, 0)),
    ];
    for (name, frame, protocol, ports, icmp) in cases {
        let event = traced(frame.clone());
        assert_eq!(event.proto, protocol, "{name}: {event:#?}");
        assert_eq!((event.src_port, event.dst_port), ports, "{name}: {event:#?}");
        assert_eq!((event.icmp_type, event.icmp_code), icmp, "{name}: {event:#?}");
        assert_eq!(event.length as usize, frame.bytes().len(), "{name}");
        let (src, dst) = if event.ip_version == 4 { (A.v4, REMOTE.0) } else { (A.v6, REMOTE.1) };
        assert_eq!((event.src_addr, event.dst_addr), (octets16(src), octets16(dst)), "{name}");
        assert_eq!((event.src_mac, event.dst_mac), (A.mac, A.host_mac), "{name}");
    }
}

#[test]
fn an_authentication_header_counts_in_units_of_four() {
    // Payload length 4: (4 + 2) * 4 = 24 bytes.
    let mut udp = vec![17, 4];
    udp.extend([0; 22]);
    udp.extend([0, 3, 0, 4, 0, 8, 0, 0]);
    let event = traced(Frame::v6(A.v6, REMOTE.1).raw(51, &udp));
    assert_eq!((event.proto, event.src_port, event.dst_port), (proto::UDP, 3, 4));
}

/// A change to the bytes of a frame.
type Edit = fn(&mut Vec<u8>);

#[test]
fn malformed_headers_are_dropped_with_their_reason() {
    let mut kernel = Kernel::new();
    kernel.open();
    let v4 = || from_pod(A, Frame::v4(A.v4, B.v4).tcp(1, 2, 2));
    let v6 = || from_pod(A, Frame::v6(A.v6, B.v6).tcp(1, 2, 2));
    let cases: [(&str, Vec<u8>, Edit, u8); 13] = [
        ("IPv4 of another version", v4(), |f| f[14] = 0x65, drop::INVALID_PACKET),
        ("IPv4 header of 16 bytes", v4(), |f| f[14] = 0x44, drop::INVALID_PACKET),
        ("IPv4 header longer than the packet", v4(), |f| f[14] = 0x4f, drop::INVALID_PACKET),
        ("IPv4 longer than the frame", v4(), |f| f[17] += 1, drop::INVALID_PACKET),
        ("IPv4 length 0", v4(), |f| (f[16], f[17]) = (0, 0), drop::INVALID_PACKET),
        ("IPv6 of another version", v6(), |f| f[14] = 0x40, drop::INVALID_PACKET),
        ("IPv6 longer than the frame", v6(), |f| f[19] += 1, drop::INVALID_PACKET),
        ("TCP cut", v4(), |f| f.truncate(14 + 39), drop::CT_INVALID_HEADER),
        ("TCP header of 16 bytes", v4(), |f| f[14 + 20 + 12] = 0x40, drop::CT_INVALID_HEADER),
        ("unknown transport", v4(), |f| f[14 + 9] = 47, drop::CT_UNKNOWN_L4),
        ("ICMPv6 in IPv4", v4(), |f| f[14 + 9] = 58, drop::CT_UNKNOWN_L4),
        ("no next header", v6(), |f| f[14 + 6] = 59, drop::CT_UNKNOWN_L4),
        ("ICMP in IPv6", v6(), |f| f[14 + 6] = 1, drop::CT_UNKNOWN_L4),
    ];
    for (name, mut frame, edit, reason) in cases {
        edit(&mut frame);
        if name == "TCP cut" {
            frame[17] = 39;
        }
        let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
        assert_eq!(run.action, SHOT, "{name}");
        let event = run.only();
        assert_eq!((event.kind, event.verdict), (kind::DROP, -i32::from(reason)), "{name}: {event:#?}");
        assert_eq!((event.endpoint_id, event.src_identity), (A.id, A.identity), "{name}");
    }
    assert_eq!(kernel.connections(), []);
}

#[test]
fn every_cut_of_a_frame_gets_a_verdict() {
    let mut kernel = Kernel::new();
    kernel.open();
    let frames = [
        from_pod(A, Frame::v4(A.v4, B.v4).options(&[1, 1, 1, 0]).tcp(1, 2, 2)),
        from_pod(A, Frame::v6(A.v6, B.v6).extension(0, &[0; 6]).extension(60, &[0; 6]).udp(1, 2)),
        from_pod(A, Frame::v4(A.v4, B.v4).icmp(3, 1, 0).data(&Frame::v4(B.v4, A.v4).udp(1, 2).packet())),
        from_pod(A, Frame::v6(A.v6, B.v6).icmp(1, 1, 0).data(&Frame::v6(B.v6, A.v6).udp(1, 2).packet())),
    ];
    for frame in frames {
        // A test run takes no frame that ends in the network header.
        let network_header = if frame[12] == 0x08 { 20 } else { 40 };
        for len in 14 + network_header..frame.len() {
            let run = kernel.run(FROM_CONTAINER, Some(A), &frame[..len]);
            assert_eq!((run.action, run.events.len()), (SHOT, 1), "{len} of {} bytes: {run:#?}", frame.len());
        }
    }
}

#[test]
fn extension_headers_have_bounds() {
    let mut kernel = Kernel::new();
    kernel.open();
    let chain = |count: usize| {
        (0..count).fold(Frame::v6(A.v6, REMOTE.1), |frame, _| frame.extension(60, &[0; 6])).udp(1, 2)
    };
    assert_eq!(kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, chain(7))).action, OK);
    for (name, frame) in [
        ("nine headers", chain(9)),
        ("too far", Frame::v6(A.v6, REMOTE.1).extension(60, &[0; 1022]).udp(1, 2)),
        ("cut", Frame::v6(A.v6, REMOTE.1).raw(60, &[17, 0, 0])),
    ] {
        let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, frame));
        assert_eq!((run.action, run.only().verdict), (SHOT, -i32::from(drop::INVALID_EXTHDR)), "{name}");
    }
}

#[test]
fn malformed_packets_of_the_network_are_dropped_when_they_are_for_a_pod() {
    let mut kernel = Kernel::new();
    kernel.open();
    let mut frame = Frame::v4(REMOTE.0, B.v4).raw(6, &[0; 12]).bytes();
    let run = kernel.run(FROM_NETDEV, None, &frame);
    assert_eq!((run.action, run.only().verdict), (SHOT, -i32::from(drop::CT_INVALID_HEADER)));
    assert_eq!((run.only().endpoint_id, run.only().src_identity), (B.id, REMOTE.2));
    // For somebody else it is the stack's business.
    frame[14 + 16..14 + 20].copy_from_slice(&[172, 20, 0, 9]);
    assert_eq!(kernel.run(FROM_NETDEV, None, &frame).action, OK);
}

#[test]
fn ipv6_packets_with_mapped_addresses_are_refused() {
    let mut kernel = Kernel::new();
    kernel.open();
    let (mapped_a, mapped_b) = ("::ffff:10.0.1.1", "::ffff:10.0.1.2");
    for (src, dst) in [(A.v6, mapped_b), (mapped_a, B.v6), (mapped_a, mapped_b)] {
        let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, Frame::v6(src, dst).tcp(1, 2, 2)));
        let verdict = (run.action, run.only().verdict);
        assert_eq!(verdict, (SHOT, -i32::from(drop::INVALID_PACKET)), "{src} to {dst}");
    }
    assert_eq!(kernel.connections(), []);
    // One bit beside the prefix is an ordinary address.
    for dst in ["::fffe:10.0.1.2", "::1:ffff:10.0.1.2", "1::ffff:10.0.1.2"] {
        let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, Frame::v6(A.v6, dst).tcp(1, 2, 2)));
        assert_eq!(run.action, OK, "{dst}");
    }
}

#[test]
fn pods_send_nothing_that_only_routers_send() {
    let mut kernel = Kernel::new();
    kernel.open();
    let mut run = |kind: u8, hop_limit: u8| {
        let mut frame = from_pod(A, Frame::v6(A.v6, "ff02::1").icmp(kind, 0, 0));
        frame[14 + 7] = hop_limit;
        kernel.run(FROM_CONTAINER, Some(A), &frame)
    };
    for kind in [134, 137] {
        for hop_limit in [255, 64] {
            let run = run(kind, hop_limit);
            let verdict = (run.action, run.only().verdict);
            assert_eq!(verdict, (SHOT, -i32::from(drop::FORBIDDEN_ICMPV6_MESSAGE)), "{kind}, {hop_limit}");
        }
    }
    for (kind, hop_limit) in [(133, 255), (135, 255), (136, 255), (131, 1), (132, 1), (143, 1)] {
        assert_eq!(run(kind, hop_limit).action, OK, "{kind}");
    }
}

#[test]
fn padding_of_the_frame_is_no_transport_header() {
    let mut kernel = Kernel::new();
    kernel.open();
    let v4 = || Frame::v4(A.v4, B.v4);
    let v6 = || Frame::v6(A.v6, B.v6);
    // Frame, and the length of the transport header that has to be inside of the packet.
    for (name, frame, header) in [
        ("tcp", v4().tcp(1, 2, 2), 20),
        ("udp", v4().udp(1, 2), 8),
        ("icmp", v4().icmp(8, 0, 7), 8),
        ("tcp6", v6().tcp(1, 2, 2), 20),
        ("udp6", v6().udp(1, 2), 8),
        ("icmp6", v6().icmp(128, 0, 7), 8),
    ] {
        let mut frame = from_pod(A, frame);
        frame.resize(128, 0);
        let (at, base) = if frame[12] == 0x08 { (17, 20) } else { (19, 0) };
        frame[at] = base + header - 1;
        let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
        let verdict = (run.action, run.only().verdict);
        assert_eq!(verdict, (SHOT, -i32::from(drop::CT_INVALID_HEADER)), "{name}");
        frame[at] = base + header;
        assert_ne!(kernel.run(FROM_CONTAINER, Some(A), &frame).action, SHOT, "{name} with padding");
    }
    // Length 0 of IPv6 says nothing: the frame's length counts.
    let mut jumbo = from_pod(A, v6().tcp(3, 4, 2));
    (jumbo[18], jumbo[19]) = (0, 0);
    assert_ne!(kernel.run(FROM_CONTAINER, Some(A), &jumbo).action, SHOT);
}
