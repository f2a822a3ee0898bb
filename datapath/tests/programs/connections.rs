//! Conntrack: one entry for both directions, cached verdicts, counters, the end of a connection.

use specola_datapath::abi::{
    conntrack::{NO_SLOT, SIDE_INITIATOR, SIDE_RESPONDER, state},
    direction,
    event::{Event, ct_state, flags, kind, point, tcp_flags::*},
    ipcache::{IpInfo, ip_flags},
    metrics::drop,
    names::{FROM_CONTAINER, FROM_HOST, FROM_NETDEV, TO_CONTAINER},
};
use specola_testkit::packet::Frame;

use crate::harness::{A, B, Kernel, LocalPod, NODE, OK, REDIRECT, REMOTE, Rule, Run, SHOT, from_pod};

/// A TCP segment of pod A to pod B's port 80, or back.
fn segment(kernel: &mut Kernel, from_a: bool, flags: u8, data: usize) -> Run {
    let (pod, frame) = if from_a {
        (A, Frame::v4(A.v4, B.v4).tcp(40000, 80, flags))
    } else {
        (B, Frame::v4(B.v4, A.v4).tcp(80, 40000, flags))
    };
    kernel.run(FROM_CONTAINER, Some(pod), &from_pod(pod, frame.data(&vec![0; data])))
}

/// Policy that lets A open connections to B's port 80 and nothing else.
fn one_way() -> Kernel {
    let mut kernel = Kernel::new();
    kernel.allow(A, Rule::egress().peer(B.identity).port(6, 80).cookie(1));
    kernel.allow(B, Rule::ingress().peer(A.identity).port(6, 80).cookie(2));
    kernel
}

fn counters(event: &Event) -> (u64, u64, u64, u64) {
    (event.packets_fwd, event.bytes_fwd, event.packets_rev, event.bytes_rev)
}

#[test]
fn a_whole_connection_on_one_node() {
    let mut kernel = one_way();
    let run = segment(&mut kernel, true, SYN, 0);
    assert_eq!((run.action, run.events.len()), (REDIRECT, 3));
    let trace = run.events[2];
    assert_eq!(
        (trace.kind, trace.obs_point, trace.ct_state),
        (kind::TRACE, point::TO_ENDPOINT, ct_state::NEW)
    );
    assert_eq!((counters(&trace), trace.flags), ((1, 54, 0, 0), flags::COUNTERS));

    // The answer needs no policy of its own; its first packet is reported, the other way round.
    let run = segment(&mut kernel, false, SYN | ACK, 0);
    assert_eq!(run.action, REDIRECT);
    let trace = run.only();
    assert_eq!(
        (trace.endpoint_id, trace.direction, trace.ct_state),
        (A.id, direction::INGRESS, ct_state::REPLY)
    );
    assert_eq!((trace.src_identity, trace.dst_identity), (B.identity, A.identity));
    assert_eq!((counters(trace), trace.flags), ((1, 54, 1, 54), flags::COUNTERS | flags::REPLY));

    // Silence until the end.
    assert_eq!(segment(&mut kernel, true, ACK, 0).events, []);
    assert_eq!(segment(&mut kernel, true, ACK | PSH, 100).events, []);
    assert_eq!(segment(&mut kernel, false, ACK | PSH, 1000).events, []);

    let run = segment(&mut kernel, true, FIN | ACK, 0);
    assert_eq!((run.only().ct_state, counters(run.only())), (ct_state::ESTABLISHED, (4, 316, 2, 1108)));
    assert_eq!(run.only().tcp_flags, FIN | ACK | PSH, "all flags since the last record");
    let run = segment(&mut kernel, false, FIN | ACK, 0);
    assert_eq!(run.only().flags, flags::COUNTERS | flags::REPLY);
    assert_eq!(kernel.connections()[0].state, state::CLOSING);
    let run = segment(&mut kernel, true, ACK, 0);
    assert_eq!((counters(run.only()), run.only().flags), ((5, 370, 3, 1162), flags::COUNTERS | flags::CLOSE));
    let [entry] = kernel.connections()[..] else { panic!() };
    assert_eq!((entry.state, entry.packets, entry.bytes), (state::CLOSED, [5, 3], [370, 1162]));
    assert_eq!(entry.reported_bytes, entry.bytes);
    // What straggles in is counted but not reported.
    assert_eq!(segment(&mut kernel, false, FIN | ACK, 0).events, []);
    assert_eq!(kernel.connections()[0].packets, [5, 4]);
}

/// Addresses are given again; the connections of who had one before are not.
#[test]
fn answers_to_an_earlier_holder_of_an_address_are_asked_for_a_policy() {
    for (side, endpoint, direction) in [(0, A, direction::INGRESS), (1, B, direction::EGRESS)] {
        let mut kernel = one_way();
        segment(&mut kernel, true, SYN, 0);
        assert_eq!(segment(&mut kernel, false, SYN | ACK, 0).action, REDIRECT);
        kernel.edit_connections(|connection| connection.sides[side].slot = 77);
        let run = segment(&mut kernel, false, ACK, 10);
        let event = run.only();
        assert_eq!((run.action, event.verdict), (SHOT, -133), "{event:#?}");
        assert_eq!((event.endpoint_id, event.direction), (endpoint.id, direction));
    }
}

#[test]
fn a_reset_closes_at_once() {
    let mut kernel = one_way();
    segment(&mut kernel, true, SYN, 0);
    let run = segment(&mut kernel, false, RST | ACK, 0);
    let trace = run.only();
    assert_eq!(trace.flags, flags::COUNTERS | flags::CLOSE | flags::REPLY);
    assert_eq!((counters(trace), trace.tcp_flags), ((1, 54, 1, 54), RST | ACK));
    assert_eq!(segment(&mut kernel, false, RST | ACK, 0).events, []);
}

#[test]
fn a_syn_after_the_end_is_a_connection_of_its_own() {
    let mut kernel = one_way();
    segment(&mut kernel, true, SYN, 0);
    segment(&mut kernel, false, RST | ACK, 0);
    let run = segment(&mut kernel, true, SYN, 0);
    assert_eq!((run.action, run.events.len()), (REDIRECT, 3));
    assert!(run.events.iter().all(|event| event.ct_state == ct_state::REOPENED));
    assert_eq!(counters(&run.events[2]), (1, 54, 0, 0));
    assert_eq!(kernel.connections()[0].state, state::NEW);
}

#[test]
fn who_answers_may_not_open() {
    let mut kernel = one_way();
    segment(&mut kernel, true, SYN, 0);
    segment(&mut kernel, false, SYN | ACK, 0);
    let before = kernel.connections();
    // B tries to open a connection from the same ports: B has no egress policy for it.
    let run = segment(&mut kernel, false, SYN, 0);
    assert_eq!((run.action, run.only().verdict, run.only().endpoint_id), (SHOT, -133, B.id));
    assert_eq!(run.only().ct_state, ct_state::NEW);
    assert_eq!(kernel.connections(), before, "and the old connection goes on");
    // Likewise an echo request on the id of somebody else's.
    kernel.allow(A, Rule::egress().port(1, 8).cookie(3));
    kernel.allow(B, Rule::ingress().port(1, 8).cookie(4));
    let ping =
        |from: LocalPod, to: LocalPod, kind| from_pod(from, Frame::v4(from.v4, to.v4).icmp(kind, 0, 9));
    assert_eq!(kernel.run(FROM_CONTAINER, Some(A), &ping(A, B, 8)).action, REDIRECT);
    assert_eq!(kernel.run(FROM_CONTAINER, Some(B), &ping(B, A, 0)).action, REDIRECT);
    assert_eq!(kernel.run(FROM_CONTAINER, Some(B), &ping(B, A, 8)).action, SHOT);
}

#[test]
fn when_policy_allows_it_the_other_side_takes_the_ports_over() {
    let mut kernel = one_way();
    segment(&mut kernel, true, SYN, 0);
    segment(&mut kernel, false, SYN | ACK, 10);
    kernel.open();
    let run = segment(&mut kernel, false, SYN, 0);
    assert_eq!(run.action, REDIRECT);
    let closed =
        run.events.iter().find(|event| event.flags & flags::CLOSE != 0).expect("the old one is closed");
    assert_eq!((counters(closed), closed.flags & flags::REPLY), ((1, 54, 1, 64), flags::REPLY));
    let opened = run.events.last().unwrap();
    assert_eq!((opened.kind, opened.ct_state, counters(opened)), (kind::TRACE, ct_state::NEW, (1, 54, 0, 0)));
    assert_eq!(segment(&mut kernel, true, SYN | ACK, 0).only().ct_state, ct_state::REPLY);
}

#[test]
fn a_new_deny_cuts_an_old_connection_in_both_directions() {
    let mut kernel = one_way();
    segment(&mut kernel, true, SYN, 0);
    segment(&mut kernel, false, SYN | ACK, 0);
    kernel.allow(B, Rule::ingress().deny().cookie(99));
    // Not noticed under the old epoch: the verdict is cached.
    assert_eq!(segment(&mut kernel, true, ACK, 0).action, REDIRECT);
    kernel.endpoint(B, 1, 2);
    for _ in 0..3 {
        // Every deny is reported, the cached ones as well, and none of them is counted as forwarded.
        let run = segment(&mut kernel, true, ACK, 0);
        let event = run.only();
        assert_eq!((run.action, event.verdict, event.cookie), (SHOT, -i32::from(drop::POLICY_DENY), 99));
        assert_eq!((event.ct_state, event.endpoint_id), (ct_state::ESTABLISHED, B.id));
    }
    assert_eq!(kernel.connections()[0].packets, [2, 1]);
    // The answers as well, by the same verdict: it is about the connection, which the other side opened.
    let run = segment(&mut kernel, false, ACK, 0);
    let event = run.only();
    assert_eq!((run.action, event.verdict, event.cookie), (SHOT, -i32::from(drop::POLICY_DENY), 99));
    assert_eq!(
        (event.ct_state, event.endpoint_id, event.direction),
        (ct_state::REPLY, B.id, direction::INGRESS)
    );
    assert_eq!(kernel.counted(direction::INGRESS, drop::POLICY_DENY), 4);
}

/// Who only answers goes on for as long as the connection may, also when the opener says no more.
#[test]
fn answers_are_judged_by_the_policy_that_let_their_connection_in() {
    type Back = (fn(LocalPod, &str) -> Frame, u8, u16);
    let udp: Back = (|pod, to| Frame::v4(pod.v4, to).udp(53, 40000), 17, 53);
    let tcp: Back = (|pod, to| Frame::v4(pod.v4, to).tcp(53, 40000, ACK), 6, 53);
    let ping: Back = (|pod, to| Frame::v4(pod.v4, to).icmp(0, 0, 40000), 1, 8);
    let opener = |proto| {
        let base = Frame::v4(A.v4, B.v4);
        match proto {
            17 => base.udp(40000, 53),
            6 => base.tcp(40000, 53, SYN),
            _ => base.icmp(8, 0, 40000),
        }
    };
    for (back, proto, port) in [udp, tcp, ping] {
        // Either side's policy may take the connection back.
        for (pod, way, denied) in
            [(A, direction::EGRESS, Rule::egress()), (B, direction::INGRESS, Rule::ingress())]
        {
            let mut kernel = Kernel::new();
            kernel.allow(A, Rule::egress().peer(B.identity).port(proto, port).cookie(1));
            kernel.allow(B, Rule::ingress().peer(A.identity).port(proto, port).cookie(2));
            assert_eq!(kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, opener(proto))).action, REDIRECT);
            let answer = from_pod(B, back(B, A.v4));
            assert_eq!(kernel.run(FROM_CONTAINER, Some(B), &answer).action, REDIRECT);
            // A new epoch without a new answer changes nothing and says nothing.
            kernel.endpoint(pod, 1, 2);
            let run = kernel.run(FROM_CONTAINER, Some(B), &answer);
            assert_eq!((run.action, run.events.len()), (REDIRECT, 0), "{proto} {way}");
            kernel.allow(pod, denied.deny().cookie(99));
            kernel.endpoint(pod, 1, 3);
            for _ in 0..2 {
                let run = kernel.run(FROM_CONTAINER, Some(B), &answer);
                let event = run.only();
                assert_eq!((run.action, event.verdict, event.cookie), (SHOT, -181, 99), "{proto} {way}");
                assert_eq!((event.endpoint_id, event.direction), (pod.id, way));
                assert_eq!((event.flags & flags::REPLY, event.ct_state), (flags::REPLY, ct_state::REPLY));
                assert_eq!((event.src_identity, event.dst_identity), (B.identity, A.identity));
            }
            // And lets it go on when the deny goes.
            kernel.clear_entries(pod);
            let side = if pod.id == A.id {
                Rule::egress().peer(B.identity)
            } else {
                Rule::ingress().peer(A.identity)
            };
            kernel.allow(pod, side.port(proto, port).cookie(3));
            kernel.endpoint(pod, 1, 4);
            let run = kernel.run(FROM_CONTAINER, Some(B), &answer);
            let verdict = run.events[0];
            assert_eq!((run.action, verdict.kind, verdict.cookie), (REDIRECT, kind::POLICY_VERDICT, 3));
        }
    }
}

/// The same from afar: the opener is no pod of this node, the answer leaves it.
#[test]
fn an_answer_that_leaves_the_node_is_cut_too() {
    let mut kernel = Kernel::new();
    kernel.allow(A, Rule::ingress().peer(REMOTE.2).port(17, 53).cookie(5));
    let query = Frame::v4(REMOTE.0, A.v4).udp(40000, 53).bytes();
    assert_eq!(kernel.run(FROM_NETDEV, None, &query).action, REDIRECT);
    let answer = from_pod(A, Frame::v4(A.v4, REMOTE.0).udp(53, 40000));
    assert_eq!(kernel.run(FROM_CONTAINER, Some(A), &answer).action, OK);
    kernel.clear_entries(A);
    kernel.endpoint(A, 1, 2);
    let run = kernel.run(FROM_CONTAINER, Some(A), &answer);
    let event = run.only();
    assert_eq!((run.action, event.verdict, event.direction), (SHOT, -133, direction::INGRESS));
    assert_eq!((event.src_identity, event.dst_identity), (A.identity, REMOTE.2));
}

/// What a connection remembers of its other end counts only as long as no address changed hands.
#[test]
fn an_address_that_changes_hands_is_looked_up_again() {
    let local = IpInfo { identity: B.identity, slot: B.slot, ..IpInfo::default() };
    let remote = IpInfo { identity: REMOTE.2, ..IpInfo::default() };
    let node = IpInfo { identity: NODE.2, flags: ip_flags::LOCAL_NODE, ..IpInfo::default() };
    let frame = from_pod(A, Frame::v4(A.v4, REMOTE.0).udp(1, 2));
    let mut kernel = Kernel::with(5_000, 42);
    kernel.open();
    let mut epoch = 1;
    for (info, action, mark) in
        [(remote, OK, 0x0400), (node, REDIRECT, 0x0400), (local, REDIRECT, 0x0100)].repeat(2)
    {
        epoch += 1;
        kernel.ip(REMOTE.0, info);
        kernel.set_node_epoch(epoch);
        for _ in 0..3 {
            let run = kernel.run(FROM_CONTAINER, Some(A), &frame);
            assert_eq!((run.action, run.mark & 0x0500), (action, mark), "{info:?}");
        }
    }
    // A pod that goes takes its connections with it.
    kernel.endpoint(LocalPod { identity: 0, ..B }, 0, 0);
    assert_eq!(kernel.run(FROM_CONTAINER, Some(A), &frame).only().verdict, -203);
}

/// Packets that a connection lets through without asking are those of its own sender.
#[test]
fn a_known_connection_does_not_cover_a_forged_sender() {
    let mut kernel = Kernel::new();
    kernel.open();
    let mut run =
        |program, source: &str| kernel.run(program, None, &Frame::v4(source, A.v4).udp(1, 2).bytes());
    // The node's own connection to the pod, also when it is known.
    assert_eq!(run(FROM_HOST, NODE.0).action, REDIRECT);
    assert_eq!(run(FROM_HOST, NODE.0).action, REDIRECT);
    assert_eq!(run(FROM_NETDEV, NODE.0).only().verdict, -132);
    // And a pod's.
    let known = from_pod(B, Frame::v4(B.v4, A.v4).udp(1, 2));
    for _ in 0..2 {
        assert_eq!(kernel.run(FROM_CONTAINER, Some(B), &known).action, REDIRECT);
    }
    for (program, pod) in [(FROM_NETDEV, None), (FROM_HOST, None), (TO_CONTAINER, Some(A))] {
        let run = kernel.run(program, pod, &Frame::v4(B.v4, A.v4).udp(1, 2).bytes());
        let event = run.only();
        assert_eq!((run.action, event.verdict, event.src_identity), (SHOT, -132, B.identity), "{program}");
    }
    // Unless the pod did send it, to an address that the stack translated.
    for (program, pod) in [(FROM_HOST, None), (TO_CONTAINER, Some(A))] {
        let frame = Frame::v4(B.v4, A.v4).udp(1, 2).bytes();
        assert_ne!(kernel.run_marked(program, pod, &frame, 0x0400).action, SHOT, "{program}");
    }
}

#[test]
fn a_change_of_any_address_asks_again() {
    let mut kernel = one_way();
    segment(&mut kernel, true, SYN, 0);
    let stamps = |kernel: &Kernel| kernel.connections()[0].sides.map(|side| side.stamp);
    let before = stamps(&kernel);
    segment(&mut kernel, true, ACK, 0);
    assert_eq!(stamps(&kernel), before);
    kernel.set_node_epoch(2);
    // The same answer: no record, but a new stamp.
    assert_eq!(segment(&mut kernel, true, ACK, 0).events, []);
    assert_ne!(stamps(&kernel), before);
}

#[test]
fn a_deny_that_is_lifted_is_reported_as_a_verdict() {
    let mut kernel = one_way();
    segment(&mut kernel, true, SYN, 0);
    kernel.allow(B, Rule::ingress().deny().peer(A.identity).port(6, 80).cookie(99));
    kernel.endpoint(B, 1, 2);
    assert_eq!(segment(&mut kernel, true, ACK, 0).action, SHOT);
    kernel.allow(B, Rule::ingress().peer(A.identity).port(6, 80).cookie(3));
    kernel.endpoint(B, 1, 3);
    let run = segment(&mut kernel, true, ACK, 0);
    assert_eq!(run.action, REDIRECT);
    let verdict = run.only();
    assert_eq!((verdict.kind, verdict.verdict, verdict.cookie), (kind::POLICY_VERDICT, 0, 3));
}

#[test]
fn without_a_syn_it_is_new_and_says_so() {
    let mut kernel = one_way();
    let run = segment(&mut kernel, true, ACK, 0);
    assert_eq!(run.action, REDIRECT);
    for event in &run.events {
        assert_eq!((event.ct_state, event.flags & flags::MID_STREAM), (ct_state::NEW, flags::MID_STREAM));
    }
    // The other way round policy says no: an answer to nothing is no answer.
    let mut kernel = one_way();
    assert_eq!(segment(&mut kernel, false, SYN | ACK, 0).only().verdict, -133);
    // A reset of nothing leaves nothing behind.
    let mut kernel = one_way();
    assert_eq!(segment(&mut kernel, true, RST, 0).action, REDIRECT);
    assert_eq!(kernel.connections(), []);
}

#[test]
fn an_entry_that_outlived_its_time_answers_for_nobody() {
    let mut kernel = one_way();
    segment(&mut kernel, true, SYN, 0);
    segment(&mut kernel, false, SYN | ACK, 0);
    kernel.edit_connections(|entry| entry.last_seen_ns = 0);
    kernel.edit_connections(|entry| entry.state = state::CLOSING);
    let run = segment(&mut kernel, false, ACK, 0);
    assert_eq!((run.action, run.only().verdict, run.only().ct_state), (SHOT, -133, ct_state::NEW));
}

#[test]
fn the_interval_brings_a_record_with_sums() {
    let mut kernel = Kernel::with(0, 0);
    kernel.open();
    segment(&mut kernel, true, SYN, 0);
    for packets in 2..5 {
        let run = segment(&mut kernel, true, ACK, 0);
        assert_eq!(counters(run.only()), (packets, packets * 54, 0, 0));
        assert_eq!(run.only().tcp_flags, ACK, "each flag is in one record");
    }
}

#[test]
fn both_families_and_both_tables() {
    let mut kernel = Kernel::new();
    kernel.open();
    for frame in [
        Frame::v4(A.v4, B.v4).udp(5, 6),
        Frame::v4(A.v4, B.v4).tcp(5, 6, SYN),
        Frame::v6(A.v6, B.v6).udp(5, 6),
        Frame::v6(A.v6, B.v6).tcp(5, 6, SYN),
        Frame::v6(A.v6, B.v6).icmp(128, 0, 6),
    ] {
        let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, frame));
        assert_eq!((run.action, run.events.len()), (REDIRECT, 3));
    }
    for frame in [
        Frame::v4(B.v4, A.v4).udp(6, 5),
        Frame::v4(B.v4, A.v4).tcp(6, 5, SYN | ACK),
        Frame::v6(B.v6, A.v6).udp(6, 5),
        Frame::v6(B.v6, A.v6).tcp(6, 5, SYN | ACK),
        Frame::v6(B.v6, A.v6).icmp(129, 0, 6),
    ] {
        let run = kernel.run(FROM_CONTAINER, Some(B), &from_pod(B, frame));
        assert_eq!(
            (run.action, run.only().ct_state, run.only().flags & flags::REPLY),
            (REDIRECT, ct_state::REPLY, flags::REPLY)
        );
    }
    let entries = kernel.connections();
    assert_eq!(entries.len(), 5);
    assert!(entries.iter().all(|entry| entry.packets == [1, 1] && entry.state == state::ESTABLISHED));
}

#[test]
fn icmp_errors_belong_to_the_connection_they_quote() {
    for (base, back, kind) in [
        (Frame::v4(A.v4, REMOTE.0), Frame::v4("198.51.100.9", A.v4), 3),
        (Frame::v6(A.v6, REMOTE.1), Frame::v6("2001:db8::9", A.v6), 1),
    ] {
        let mut kernel = Kernel::new();
        kernel.allow(A, Rule::egress().port(17, 53).cookie(3));
        let query = base.clone().udp(40000, 53);
        let error = |quoted: &Frame| back.clone().icmp(kind, 4, 0).data(&quoted.packet()).bytes();
        // Not before the connection exists.
        assert_eq!(kernel.run(FROM_NETDEV, None, &error(&query)).only().verdict, -133);
        assert_eq!(kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, query.clone())).action, OK);
        let run = kernel.run(FROM_NETDEV, None, &error(&query));
        assert_eq!((run.action, run.only().ct_state), (REDIRECT, ct_state::RELATED), "{run:#?}");
        // Nor about another one, nor to somebody else than who sent the packet.
        assert_eq!(kernel.run(FROM_NETDEV, None, &error(&base.clone().udp(40001, 53))).action, SHOT);
        let elsewhere =
            if kind == 3 { Frame::v4("198.51.100.9", B.v4) } else { Frame::v6("2001:db8::9", B.v6) };
        let run = kernel.run(FROM_NETDEV, None, &elsewhere.icmp(kind, 4, 0).data(&query.packet()).bytes());
        assert_eq!(run.action, SHOT);
    }
}

#[test]
fn a_pod_cannot_pass_off_its_traffic_as_an_error_about_others() {
    let mut kernel = Kernel::new();
    kernel.allow(A, Rule::egress().port(17, 53).cookie(3));
    kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, Frame::v4(A.v4, REMOTE.0).udp(40000, 53)));
    let quoted = Frame::v4(A.v4, REMOTE.0).udp(40000, 53).packet();
    let run =
        kernel.run(FROM_CONTAINER, Some(B), &from_pod(B, Frame::v4(B.v4, A.v4).icmp(3, 3, 0).data(&quoted)));
    assert_eq!((run.action, run.only().verdict, run.only().endpoint_id), (SHOT, -133, B.id));
}

#[test]
fn packets_of_the_network_and_of_the_host_are_tracked_alike() {
    for (program, from, identity) in [(FROM_NETDEV, REMOTE.0, REMOTE.2), (FROM_HOST, NODE.0, NODE.2)] {
        let mut kernel = Kernel::new();
        kernel.allow(A, Rule::ingress().peer(identity).port(6, 80).cookie(5));
        let run = kernel.run(program, None, &Frame::v4(from, A.v4).tcp(40000, 80, SYN).bytes());
        assert_eq!((run.action, run.events.len()), (REDIRECT, 2));
        assert_eq!((run.events[0].cookie, run.events[0].src_identity), (5, identity));
        let [entry] = kernel.connections()[..] else { panic!() };
        assert_eq!(entry.sides[SIDE_INITIATOR].slot, NO_SLOT);
        assert_eq!((entry.sides[SIDE_RESPONDER].slot, entry.sides[SIDE_RESPONDER].cookie), (A.slot, 5));
        let answer = from_pod(A, Frame::v4(A.v4, from).tcp(80, 40000, SYN | ACK));
        let run = kernel.run(FROM_CONTAINER, Some(A), &answer);
        assert_eq!((run.action, run.only().ct_state, run.only().endpoint_id), (OK, ct_state::REPLY, A.id));
        assert_eq!((run.only().direction, run.only().src_identity), (direction::EGRESS, A.identity));
        assert_eq!(run.only().dst_identity, identity);
    }
}

#[test]
fn a_pod_that_talks_to_itself_is_not_subject_to_policy() {
    let mut kernel = Kernel::new();
    let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, Frame::v4(A.v4, A.v4).tcp(40000, 80, SYN)));
    assert_eq!(
        (run.action, run.only().kind, run.only().obs_point),
        (REDIRECT, kind::TRACE, point::TO_ENDPOINT)
    );
}

#[test]
fn a_packet_that_comes_back_through_the_stack_is_counted_once() {
    const FROM_POD: u32 = 0x0400;
    let mut kernel = Kernel::new();
    kernel.open();
    segment(&mut kernel, true, SYN, 0);
    let frame = Frame::v4(A.v4, B.v4).tcp(40000, 80, ACK).bytes();
    for (program, action) in [(TO_CONTAINER, OK), (FROM_HOST, REDIRECT)] {
        assert_eq!(kernel.run_marked(program, Some(B), &frame, FROM_POD).action, action);
        assert_eq!(kernel.connections()[0].packets, [1, 0]);
    }
    // Without the mark no pod sent it.
    assert_eq!(kernel.run(TO_CONTAINER, Some(B), &frame).only().verdict, -132);
    assert_eq!(kernel.connections()[0].packets, [1, 0]);
}
