//! The node itself as an endpoint: reported always, governed where a policy is in force, never hurt otherwise.

use specola_datapath::abi::{
    config::host_mode,
    conntrack::{CtKey4, CtSide, CtValue, SIDE_SEEDED, ZONE_HOST, flags as ct_flags, state},
    direction,
    endpoint::{HOST_SLOT, host_word::SUSPENDED, policy_flags},
    event::{ct_state, flags, kind, point, tcp_flags::*},
    metrics::drop,
    names::{FROM_HOST, FROM_NETDEV, TO_HOST, TO_NETDEV},
};
use specola_testkit::packet::Frame;

use crate::harness::{
    A, DEFAULT_EGRESS, DEFAULT_INGRESS, HOST, Kernel, NODE, OK, REDIRECT, Rule, Run, SHOT, WORLD,
};

/// `TC_ACT_UNSPEC`: the packet goes on to the next program at the hook.
const NEXT: u32 = u32::MAX;
const OBSERVED: u32 = policy_flags::READY;
const GOVERNED: u32 = policy_flags::READY | policy_flags::ENFORCED;

fn only(flags: u32) -> Kernel {
    Kernel::of_host(host_mode::ONLY, flags)
}

fn incoming(port: u16, flags: u8) -> Vec<u8> {
    Frame::v4(WORLD.0, NODE.0).tcp(40000, port, flags).bytes()
}

fn outgoing(port: u16, flags: u8) -> Vec<u8> {
    Frame::v4(NODE.0, WORLD.0).tcp(port, 40000, flags).bytes()
}

fn receive(kernel: &mut Kernel, frame: &[u8]) -> Run {
    kernel.run(FROM_NETDEV, None, frame)
}

fn send(kernel: &mut Kernel, frame: &[u8]) -> Run {
    kernel.run(TO_NETDEV, None, frame)
}

#[test]
fn a_connection_of_the_node_is_reported_without_a_verdict() {
    let mut kernel = only(OBSERVED);
    let run = receive(&mut kernel, &incoming(22, SYN));
    assert_eq!(run.action, NEXT);
    let trace = run.only();
    assert_eq!((trace.kind, trace.obs_point, trace.ct_state), (kind::TRACE, point::TO_HOST, ct_state::NEW));
    assert_eq!((trace.src_identity, trace.dst_identity), (WORLD.1, NODE.2));
    assert_eq!((trace.endpoint_id, trace.direction), (HOST.id, direction::INGRESS));
    let run = send(&mut kernel, &outgoing(22, SYN | ACK));
    assert_eq!(run.action, NEXT);
    let trace = run.only();
    assert_eq!((trace.obs_point, trace.ct_state), (point::TO_NETWORK, ct_state::REPLY));
    assert_eq!((trace.packets_fwd, trace.packets_rev), (1, 1));
    let [connection] = kernel.connections()[..] else { panic!("one connection") };
    assert_eq!(connection.sides[1].slot, HOST_SLOT, "the node is the responder");
}

#[test]
fn both_families_and_link_local_addresses_are_the_nodes() {
    let mut kernel = only(OBSERVED);
    for (src, dst) in [("2001:db8::9", NODE.1), ("fe80::9", "fe80::1")] {
        let frame = Frame::v6(src, dst).tcp(40000, 22, SYN).bytes();
        let trace = *receive(&mut kernel, &frame).only();
        assert_eq!((trace.obs_point, trace.dst_identity), (point::TO_HOST, NODE.2), "{dst}");
        let frame = Frame::v6(dst, src).tcp(22, 40000, SYN | ACK).bytes();
        assert_eq!(send(&mut kernel, &frame).only().ct_state, ct_state::REPLY, "{dst}");
    }
}

#[test]
fn what_is_not_the_nodes_is_left_alone() {
    let mut kernel = only(GOVERNED);
    for (name, frame) in [
        ("forwarded", Frame::v4(WORLD.0, "192.0.2.7").tcp(1, 2, SYN)),
        ("broadcast", Frame::v4(WORLD.0, "255.255.255.255").udp(1, 2)),
        ("multicast", Frame::v6("2001:db8::9", "ff02::fb").udp(5353, 5353)),
    ] {
        let run = receive(&mut kernel, &frame.bytes());
        assert_eq!((run.action, run.events.len()), (NEXT, 0), "{name}");
    }
    let run = send(&mut kernel, &Frame::v4("192.0.2.7", WORLD.0).tcp(1, 2, SYN).bytes());
    assert_eq!((run.action, run.events.len()), (NEXT, 0));
    assert_eq!(kernel.connections(), []);
}

#[test]
fn nothing_is_dropped_where_no_policy_is_enforced() {
    let cut = Frame::v4(WORLD.0, NODE.0).tcp(1, 2, SYN).bytes()[..40].to_vec();
    let frames = [
        ("cut off", cut),
        ("unknown protocol", Frame::v4(WORLD.0, NODE.0).bytes()),
        ("the node's own address", Frame::v4(NODE.0, NODE.0).udp(1, 2).bytes()),
    ];
    for flags in [0, OBSERVED, GOVERNED | policy_flags::AUDIT] {
        let mut kernel = only(flags);
        for (name, frame) in &frames {
            assert_eq!(receive(&mut kernel, frame).action, NEXT, "{name}, in, {flags}");
            assert_eq!(send(&mut kernel, frame).action, NEXT, "{name}, out, {flags}");
        }
    }
    let mut kernel = only(GOVERNED);
    for (name, frame) in &frames {
        assert_eq!(receive(&mut kernel, frame).action, SHOT, "{name}");
    }
}

#[test]
fn a_policy_judges_what_opens_a_connection() {
    let mut kernel = only(GOVERNED);
    kernel.allow(HOST, Rule::ingress().port(6, 22).cookie(5));
    let run = receive(&mut kernel, &incoming(22, SYN));
    assert_eq!(run.action, NEXT);
    assert_eq!((run.events[0].kind, run.events[0].cookie), (kind::POLICY_VERDICT, 5));
    assert_eq!(send(&mut kernel, &outgoing(22, SYN | ACK)).action, NEXT, "a reply needs no rule");

    let run = receive(&mut kernel, &incoming(80, SYN));
    assert_eq!(run.action, SHOT);
    let verdict = run.only();
    assert_eq!((verdict.verdict, verdict.cookie), (-i32::from(drop::POLICY_DENIED), DEFAULT_INGRESS));
    assert_eq!((verdict.endpoint_id, verdict.endpoint_slot), (HOST.id, HOST_SLOT));
    assert_eq!(send(&mut kernel, &outgoing(9, SYN)).action, SHOT, "no rule for what goes out");
}

#[test]
fn audit_lets_pass_and_says_so() {
    let mut kernel = only(GOVERNED | policy_flags::AUDIT);
    let run = receive(&mut kernel, &incoming(80, SYN));
    assert_eq!(run.action, NEXT);
    assert_ne!(run.events[0].flags & flags::AUDIT, 0, "{run:#?}");
}

#[test]
fn suspension_opens_and_takes_no_state_along() {
    let mut kernel = only(GOVERNED);
    assert_eq!(receive(&mut kernel, &incoming(80, SYN)).action, SHOT);
    kernel.suspend_host(SUSPENDED);
    assert_eq!(receive(&mut kernel, &incoming(80, SYN)).action, NEXT);
    assert_eq!(send(&mut kernel, &outgoing(80, SYN | ACK)).action, NEXT);
    kernel.suspend_host(0);
    assert_eq!(receive(&mut kernel, &incoming(80, ACK)).action, SHOT, "the policy is asked again");
}

#[test]
fn what_the_link_needs_passes_a_closed_node() {
    let mut kernel = only(GOVERNED);
    let received = [
        ("DHCP", Frame::v4(WORLD.0, NODE.0).udp(67, 68)),
        ("DHCPv6", Frame::v6("fe80::9", "fe80::1").udp(547, 546)),
        ("neighbour discovery", Frame::v6("fe80::9", "fe80::1").hop_limit(255).icmp(135, 0, 0)),
        ("group membership", Frame::v4(WORLD.0, NODE.0).hop_limit(1).raw(2, &[0x11; 8])),
    ];
    for (name, frame) in received {
        assert_eq!(receive(&mut kernel, &frame.bytes()).action, NEXT, "{name}");
    }
    let sent = [
        ("DHCP", Frame::v4(NODE.0, WORLD.0).udp(68, 67)),
        ("DHCPv6", Frame::v6("fe80::1", "fe80::9").udp(546, 547)),
        ("neighbour discovery", Frame::v6("fe80::1", "fe80::9").hop_limit(255).icmp(136, 0, 0)),
    ];
    for (name, frame) in sent {
        assert_eq!(send(&mut kernel, &frame.bytes()).action, NEXT, "{name}");
    }
    for (name, frame) in [
        ("a DHCP server", Frame::v4(WORLD.0, NODE.0).udp(68, 67)),
        ("a port beside it", Frame::v4(WORLD.0, NODE.0).udp(67, 69)),
        ("discovery that was routed", Frame::v6("fe80::9", "fe80::1").hop_limit(64).icmp(135, 0, 0)),
        ("group membership that was routed", Frame::v4(WORLD.0, NODE.0).hop_limit(2).raw(2, &[0x11; 8])),
    ] {
        assert_eq!(receive(&mut kernel, &frame.bytes()).action, SHOT, "{name}");
    }
}

/// The connection of [`incoming`] to port 22, entered as one that was open before the programs were attached, when 9 was
/// the highest cookie.
fn seed(kernel: &mut Kernel) {
    let side = CtSide { slot: HOST_SLOT, cookie: 9, flags: SIDE_SEEDED, ..CtSide::default() };
    // 172.20.0.1 is the lower of the two addresses.
    let key = CtKey4 {
        lo_addr: [172, 20, 0, 1],
        hi_addr: [198, 51, 100, 1],
        lo_port: 22,
        hi_port: 40000,
        proto: 6,
        pad: 0,
        zone: ZONE_HOST,
    };
    let mut value = CtValue {
        created_ns: 1,
        last_seen_ns: u64::MAX / 2,
        initiator: 1,
        state: state::ESTABLISHED,
        flags: ct_flags::SEEDED | ct_flags::MID_STREAM,
        ..CtValue::default()
    };
    value.sides[0].slot = u16::MAX;
    value.sides[1] = side;
    kernel.connect(key, value);
}

#[test]
fn a_session_from_before_is_ended_by_nothing_but_a_later_deny() {
    let mut kernel = only(GOVERNED);
    seed(&mut kernel);
    let run = receive(&mut kernel, &incoming(22, ACK));
    assert_eq!(run.action, NEXT, "no rule allows it");
    assert_eq!(run.only().kind, kind::TRACE, "nothing new was decided");
    assert_ne!(run.only().flags & flags::MID_STREAM, 0);
    assert_eq!(send(&mut kernel, &outgoing(22, ACK)).action, NEXT);

    kernel.allow(HOST, Rule::ingress().port(6, 22).deny().cookie(9));
    kernel.endpoint(HOST, GOVERNED, 2);
    assert_eq!(receive(&mut kernel, &incoming(22, ACK)).action, NEXT, "the deny is as old as the session");
    assert_eq!(receive(&mut kernel, &incoming(22, ACK)).action, NEXT);
    assert_eq!(receive(&mut kernel, &incoming(22, SYN)).action, SHOT, "a new one on its ports is judged");

    kernel.clear_entries(HOST);
    kernel.endpoint(HOST, GOVERNED, 3);
    assert_eq!(receive(&mut kernel, &incoming(22, ACK)).action, NEXT);
    kernel.allow(HOST, Rule::ingress().port(6, 22).deny().cookie(10));
    kernel.endpoint(HOST, GOVERNED, 4);
    let run = receive(&mut kernel, &incoming(22, ACK));
    assert_eq!((run.action, run.only().cookie), (SHOT, 10));
    kernel.clear_entries(HOST);
    kernel.endpoint(HOST, GOVERNED, 5);
    assert_eq!(receive(&mut kernel, &incoming(22, ACK)).action, SHOT, "from now on it is as all others");
}

#[test]
fn pods_keep_their_policy_beside_the_nodes() {
    let mut kernel = Kernel::of_host(host_mode::WITH_PODS, OBSERVED);
    kernel.open();
    let to_pod = Frame::v4(WORLD.0, A.v4).tcp(40000, 80, SYN).bytes();
    assert_eq!(receive(&mut kernel, &to_pod).action, REDIRECT);
    assert_eq!(receive(&mut kernel, &incoming(22, SYN)).action, OK);
    let forged = Frame::v4(NODE.0, A.v4).tcp(40000, 80, SYN).bytes();
    assert_eq!(receive(&mut kernel, &forged).action, SHOT);
}

/// A node with pods and an open pod [`A`]; the node itself has `flags`.
fn with_pods(flags: u32) -> Kernel {
    let mut kernel = Kernel::of_host(host_mode::WITH_PODS, flags);
    kernel.open();
    kernel
}

/// What the host device gets of a pod, as `from_container` marks it when a record is due.
fn of_pod(kernel: &mut Kernel, frame: Frame) -> Run {
    const FROM_POD_AND_TRACE: u32 = 0x0c00;
    kernel.run_marked(TO_HOST, None, &frame.bytes(), FROM_POD_AND_TRACE)
}

fn to_pod(kernel: &mut Kernel, frame: Frame) -> Run {
    kernel.run(FROM_HOST, None, &frame.bytes())
}

fn kinds(run: &Run) -> Vec<(u8, u16)> {
    run.events.iter().map(|event| (event.kind, event.endpoint_id)).collect()
}

#[test]
fn the_nodes_policy_judges_what_its_pods_send_it() {
    let mut kernel = with_pods(GOVERNED);
    kernel.allow(HOST, Rule::ingress().peer(A.identity).port(6, 22).cookie(5));
    for (pod, node) in [(A.v4, NODE.0), (A.v6, NODE.1)] {
        let frame = |port, flags| match pod {
            "10.0.1.1" => Frame::v4(pod, node).tcp(40000, port, flags),
            _ => Frame::v6(pod, node).tcp(40000, port, flags),
        };
        let run = of_pod(&mut kernel, frame(22, SYN));
        assert_eq!(
            (run.action, kinds(&run)),
            (OK, vec![(kind::POLICY_VERDICT, HOST.id), (kind::TRACE, A.id)])
        );
        let verdict = run.events[0];
        assert_eq!((verdict.cookie, verdict.direction), (5, direction::INGRESS));
        assert_eq!((verdict.src_identity, verdict.dst_identity), (A.identity, NODE.2));
        let run = of_pod(&mut kernel, frame(22, ACK));
        assert_eq!((run.action, kinds(&run)), (OK, vec![(kind::TRACE, A.id)]), "decided already");

        let before = kernel.counted(direction::INGRESS, drop::POLICY_DENIED);
        let run = of_pod(&mut kernel, frame(80, SYN));
        assert_eq!(run.action, SHOT);
        let verdict = run.only();
        assert_eq!((verdict.verdict, verdict.cookie), (-i32::from(drop::POLICY_DENIED), DEFAULT_INGRESS));
        assert_eq!((verdict.endpoint_id, verdict.endpoint_slot), (HOST.id, HOST_SLOT));
        assert_eq!(kernel.counted(direction::INGRESS, drop::POLICY_DENIED), before + 1);
    }
    kernel.suspend_host(SUSPENDED);
    assert_eq!(of_pod(&mut kernel, Frame::v4(A.v4, NODE.0).tcp(40000, 80, SYN)).action, OK);
}

#[test]
fn the_nodes_policy_judges_what_it_sends_its_pods() {
    let mut kernel = with_pods(GOVERNED);
    kernel.allow(HOST, Rule::egress().peer(A.identity).port(6, 80).cookie(6));
    let run = to_pod(&mut kernel, Frame::v4(NODE.0, A.v4).tcp(40000, 80, SYN));
    assert_eq!(run.action, REDIRECT);
    let expected = [(kind::POLICY_VERDICT, HOST.id), (kind::POLICY_VERDICT, A.id), (kind::TRACE, A.id)];
    assert_eq!(kinds(&run), expected);
    assert_eq!((run.events[0].cookie, run.events[0].direction), (6, direction::EGRESS));
    assert_eq!((run.events[0].src_identity, run.events[0].dst_identity), (NODE.2, A.identity));
    assert_eq!(run.events[1].direction, direction::INGRESS);
    assert_eq!((run.events[2].ct_state, run.events[2].packets_fwd), (ct_state::NEW, 1));
    let answer = of_pod(&mut kernel, Frame::v4(A.v4, NODE.0).tcp(80, 40000, SYN | ACK));
    assert_eq!((answer.action, kinds(&answer)), (OK, vec![(kind::TRACE, A.id)]), "an answer needs no rule");
    let run = to_pod(&mut kernel, Frame::v4(NODE.0, A.v4).tcp(40000, 80, ACK));
    assert_eq!((run.action, run.events.len()), (REDIRECT, 0), "decided already");

    let run = to_pod(&mut kernel, Frame::v6(NODE.1, A.v6).tcp(40000, 81, SYN));
    assert_eq!(run.action, SHOT);
    let verdict = run.only();
    assert_eq!((verdict.endpoint_id, verdict.cookie), (HOST.id, DEFAULT_EGRESS));
    let routed = to_pod(&mut kernel, Frame::v4(WORLD.0, A.v4).tcp(40000, 81, SYN));
    assert_eq!((routed.action, routed.events[0].endpoint_id), (REDIRECT, A.id), "the node only forwards it");
}

#[test]
fn what_the_node_and_its_pods_say_is_reported_once() {
    for flags in [OBSERVED, GOVERNED | policy_flags::AUDIT] {
        let mut kernel = with_pods(flags);
        let run = of_pod(&mut kernel, Frame::v4(A.v4, NODE.0).udp(40000, 53));
        let traces = |run: &Run| run.events.iter().filter(|event| event.kind == kind::TRACE).count();
        assert_eq!((run.action, traces(&run)), (OK, 1), "{run:#?}");
        let run = to_pod(&mut kernel, Frame::v4(NODE.0, A.v4).udp(53, 40000));
        assert_eq!((run.action, traces(&run)), (REDIRECT, 1), "{run:#?}");
        let beside = kernel.connections().iter().filter(|one| one.flags & ct_flags::BESIDE != 0).count();
        assert_eq!(beside, 1, "the node's entry, which nobody reports");
    }
}

#[test]
fn without_a_host_endpoint_nothing_is_reported() {
    let mut kernel = Kernel::new();
    assert_eq!(receive(&mut kernel, &incoming(22, SYN)).events, []);
    let run = send(&mut kernel, &outgoing(22, SYN | ACK));
    assert_eq!((run.action, run.events.len()), (OK, 0));
}
