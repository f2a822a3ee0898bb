//! Policy entries: which one decides, what is reported.

use specola_datapath::abi::{
    direction,
    endpoint::policy_flags,
    event::{flags, kind, lane, match_type},
    metrics::drop,
    names::{FROM_CONTAINER, FROM_NETDEV},
    proto::{ICMP, ICMPV6, TCP, UDP},
};
use specola_testkit::packet::Frame;

use crate::harness::{
    A, B, CIDR, DEFAULT_EGRESS, DEFAULT_INGRESS, Kernel, OK, REDIRECT, REMOTE, REVISION, Rule, SHOT, WORLD,
    from_pod,
};

/// What an entry set must answer for one packet of pod A to [`REMOTE`].
struct Case {
    name: &'static str,
    rules: &'static [Rule],
    frame: fn(Frame) -> Frame,
    verdict: i32,
    cookie: u32,
    match_type: u8,
}

const fn egress() -> Rule {
    Rule::egress()
}

const TO_80: fn(Frame) -> Frame = |frame| frame.tcp(40000, 80, 2);
const DENY: i32 = -(drop::POLICY_DENY as i32);
const DEFAULT_DENY: i32 = -(drop::POLICY_DENIED as i32);

const CASES: &[Case] = &[
    Case {
        name: "empty",
        rules: &[],
        frame: TO_80,
        verdict: DEFAULT_DENY,
        cookie: DEFAULT_EGRESS,
        match_type: match_type::NONE,
    },
    Case {
        name: "ingress only",
        rules: &[Rule::ingress().cookie(1)],
        frame: TO_80,
        verdict: DEFAULT_DENY,
        cookie: DEFAULT_EGRESS,
        match_type: match_type::NONE,
    },
    Case {
        name: "any peer",
        rules: &[egress().cookie(2)],
        frame: TO_80,
        verdict: 0,
        cookie: 2,
        match_type: match_type::ALL,
    },
    Case {
        name: "this peer",
        rules: &[egress().peer(REMOTE.2).cookie(3)],
        frame: TO_80,
        verdict: 0,
        cookie: 3,
        match_type: match_type::L3_ONLY,
    },
    Case {
        name: "another peer",
        rules: &[egress().peer(B.identity).cookie(3)],
        frame: TO_80,
        verdict: DEFAULT_DENY,
        cookie: DEFAULT_EGRESS,
        match_type: match_type::NONE,
    },
    Case {
        name: "peer and port",
        rules: &[egress().peer(REMOTE.2).port(TCP, 80).cookie(4)],
        frame: TO_80,
        verdict: 0,
        cookie: 4,
        match_type: match_type::L3_L4,
    },
    Case {
        name: "peer and another port",
        rules: &[egress().peer(REMOTE.2).port(TCP, 81).cookie(4)],
        frame: TO_80,
        verdict: DEFAULT_DENY,
        cookie: DEFAULT_EGRESS,
        match_type: match_type::NONE,
    },
    Case {
        name: "peer and port of UDP",
        rules: &[egress().peer(REMOTE.2).port(UDP, 80).cookie(4)],
        frame: TO_80,
        verdict: DEFAULT_DENY,
        cookie: DEFAULT_EGRESS,
        match_type: match_type::NONE,
    },
    Case {
        name: "port of anybody",
        rules: &[egress().port(TCP, 80).cookie(5)],
        frame: TO_80,
        verdict: 0,
        cookie: 5,
        match_type: match_type::L4_ONLY,
    },
    Case {
        name: "protocol of the peer",
        rules: &[egress().peer(REMOTE.2).proto(TCP).cookie(6)],
        frame: TO_80,
        verdict: 0,
        cookie: 6,
        match_type: match_type::L3_PROTO,
    },
    Case {
        name: "protocol of anybody",
        rules: &[egress().proto(TCP).cookie(7)],
        frame: TO_80,
        verdict: 0,
        cookie: 7,
        match_type: match_type::PROTO_ONLY,
    },
    Case {
        name: "port range",
        rules: &[egress().peer(REMOTE.2).ports(TCP, 64, 10).cookie(8)],
        frame: TO_80,
        verdict: 0,
        cookie: 8,
        match_type: match_type::L3_L4,
    },
    Case {
        name: "outside of the range",
        rules: &[egress().ports(TCP, 128, 9).cookie(8)],
        frame: TO_80,
        verdict: DEFAULT_DENY,
        cookie: DEFAULT_EGRESS,
        match_type: match_type::NONE,
    },
    Case {
        name: "deny over any peer",
        rules: &[egress().cookie(1), egress().peer(REMOTE.2).deny().cookie(9)],
        frame: TO_80,
        verdict: DENY,
        cookie: 9,
        match_type: match_type::L3_ONLY,
    },
    Case {
        name: "deny of anybody over this peer",
        rules: &[egress().peer(REMOTE.2).cookie(1), egress().deny().cookie(10)],
        frame: TO_80,
        verdict: DENY,
        cookie: 10,
        match_type: match_type::ALL,
    },
    Case {
        name: "deny of the port over this peer",
        rules: &[egress().peer(REMOTE.2).cookie(1), egress().port(TCP, 80).deny().cookie(11)],
        frame: TO_80,
        verdict: DENY,
        cookie: 11,
        match_type: match_type::L4_ONLY,
    },
    Case {
        name: "deny of another port",
        rules: &[egress().peer(REMOTE.2).cookie(1), egress().port(TCP, 81).deny().cookie(11)],
        frame: TO_80,
        verdict: 0,
        cookie: 1,
        match_type: match_type::L3_ONLY,
    },
    Case {
        name: "tie: the longer port wins",
        rules: &[egress().peer(REMOTE.2).cookie(1), egress().port(TCP, 80).cookie(12)],
        frame: TO_80,
        verdict: 0,
        cookie: 12,
        match_type: match_type::L4_ONLY,
    },
    Case {
        name: "tie of the same length: the peer wins",
        rules: &[egress().peer(REMOTE.2).port(TCP, 80).cookie(13), egress().port(TCP, 80).cookie(1)],
        frame: TO_80,
        verdict: 0,
        cookie: 13,
        match_type: match_type::L3_L4,
    },
    Case {
        name: "redirect without a proxy",
        rules: &[egress().port(TCP, 80).proxy(15001).cookie(14)],
        frame: TO_80,
        verdict: -(drop::PROXY_NOT_SUPPORTED as i32),
        cookie: 14,
        match_type: match_type::L4_ONLY,
    },
    Case {
        name: "deny by audit",
        rules: &[egress().deny().audit().cookie(15)],
        frame: TO_80,
        verdict: 0,
        cookie: 15,
        match_type: match_type::ALL,
    },
    Case {
        name: "ICMP type",
        rules: &[egress().port(ICMP, 8).cookie(16)],
        frame: |frame| frame.icmp(8, 0, 3),
        verdict: 0,
        cookie: 16,
        match_type: match_type::L4_ONLY,
    },
    Case {
        name: "another ICMP type",
        rules: &[egress().port(ICMP, 13).cookie(16)],
        frame: |frame| frame.icmp(8, 0, 3),
        verdict: DEFAULT_DENY,
        cookie: DEFAULT_EGRESS,
        match_type: match_type::NONE,
    },
];

#[test]
fn the_right_entry_decides() {
    for case in CASES {
        let mut kernel = Kernel::new();
        for &rule in case.rules {
            kernel.allow(A, rule);
        }
        let frame = (case.frame)(Frame::v4(A.v4, REMOTE.0));
        let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, frame));
        let Case { name, .. } = case;
        assert_eq!(run.action, if case.verdict < 0 { SHOT } else { OK }, "{name}");
        let event = &run.events[0];
        assert_eq!(event.kind, kind::POLICY_VERDICT, "{name}");
        let got = (event.verdict, event.cookie, event.match_type);
        assert_eq!(got, (case.verdict, case.cookie, case.match_type), "{name}: {event:#?}");
        assert_eq!(
            (event.direction, event.revision, event.epoch),
            (direction::EGRESS, REVISION, 1),
            "{name}"
        );
        assert_eq!((event.src_identity, event.dst_identity), (A.identity, REMOTE.2), "{name}");
        let audited = event.flags & flags::AUDIT != 0;
        assert_eq!(audited, *name == "deny by audit", "{name}");
        assert_eq!(event.lane, if case.verdict < 0 || audited { lane::DENY } else { lane::ALLOW }, "{name}");
        // A denied packet: this one record, no connection. An allowed one: a trace besides.
        assert_eq!(run.events.len(), if case.verdict < 0 { 1 } else { 2 }, "{name}");
        assert_eq!(kernel.connections().len(), usize::from(case.verdict == 0), "{name}");
        if case.verdict < 0 {
            assert_eq!(kernel.counted(direction::EGRESS, case.verdict.unsigned_abs() as u8), 1, "{name}");
        }
    }
}

#[test]
fn icmpv6_types_are_matched_as_ports() {
    let mut kernel = Kernel::new();
    kernel.allow(A, egress().port(ICMPV6, 128).cookie(3));
    let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, Frame::v6(A.v6, REMOTE.1).icmp(128, 0, 3)));
    assert_eq!((run.action, run.events[0].cookie), (OK, 3));
    let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, Frame::v6(A.v6, REMOTE.1).icmp(129, 0, 4)));
    assert_eq!((run.action, run.only().verdict), (SHOT, DEFAULT_DENY));
}

#[test]
fn peers_are_found_by_address_prefix_and_else_are_the_world() {
    for (address, identity) in [(CIDR.0, CIDR.1), WORLD, (REMOTE.0, REMOTE.2)] {
        let mut kernel = Kernel::new();
        kernel.allow(A, egress().peer(identity).cookie(5));
        let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, Frame::v4(A.v4, address).udp(1, 2)));
        assert_eq!((run.action, run.events[0].dst_identity), (OK, identity), "{address}");
        let run = kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, Frame::v4(A.v4, B.v4).udp(1, 2)));
        assert_eq!(run.action, SHOT, "{address}");
    }
}

#[test]
fn both_ends_of_the_same_node_are_asked_egress_first() {
    let syn = from_pod(A, Frame::v4(A.v4, B.v4).tcp(40000, 80, 2));
    let mut kernel = Kernel::new();
    kernel.allow(A, egress().cookie(21));
    // Egress allows, ingress does not.
    let run = kernel.run(FROM_CONTAINER, Some(A), &syn);
    assert_eq!(run.action, SHOT);
    let seen: Vec<_> =
        run.events.iter().map(|e| (e.kind, e.direction, e.endpoint_id, e.verdict, e.cookie)).collect();
    assert_eq!(
        seen,
        [
            (kind::POLICY_VERDICT, direction::EGRESS, A.id, 0, 21),
            (kind::POLICY_VERDICT, direction::INGRESS, B.id, DEFAULT_DENY, DEFAULT_INGRESS),
        ]
    );
    assert_eq!(kernel.connections(), []);
    assert_eq!(kernel.counted(direction::INGRESS, drop::POLICY_DENIED), 1);
    assert_eq!(kernel.counted(direction::EGRESS, 0), 0);

    // Ingress allows this peer and port.
    kernel.allow(B, Rule::ingress().peer(A.identity).port(TCP, 80).cookie(22));
    let run = kernel.run(FROM_CONTAINER, Some(A), &syn);
    assert_eq!(run.action, REDIRECT);
    let seen: Vec<_> =
        run.events.iter().map(|e| (e.kind, e.direction, e.endpoint_id, e.match_type, e.cookie)).collect();
    assert_eq!(
        seen,
        [
            (kind::POLICY_VERDICT, direction::EGRESS, A.id, match_type::ALL, 21),
            (kind::POLICY_VERDICT, direction::INGRESS, B.id, match_type::L3_L4, 22),
            (kind::TRACE, direction::INGRESS, B.id, 0, 0),
        ]
    );
    assert_eq!((kernel.counted(direction::INGRESS, 0), kernel.counted(direction::EGRESS, 0)), (1, 1));

    // Egress denies: nobody asks for ingress.
    kernel.allow(A, egress().deny().cookie(23));
    kernel.set_node_epoch(2);
    let run = kernel.run(FROM_CONTAINER, Some(A), &syn);
    assert_eq!((run.action, run.only().endpoint_id, run.only().cookie), (SHOT, A.id, 23));
}

#[test]
fn audit_mode_lets_pass_what_it_reports() {
    let mut kernel = Kernel::new();
    kernel.endpoint(B, policy_flags::READY | policy_flags::AUDIT, 1);
    let frame = Frame::v4(REMOTE.0, B.v4).tcp(40000, 80, 2).bytes();
    let run = kernel.run(FROM_NETDEV, None, &frame);
    assert_eq!(run.action, REDIRECT);
    let verdict = &run.events[0];
    assert_eq!((verdict.verdict, verdict.cookie, verdict.lane), (0, DEFAULT_INGRESS, lane::DENY));
    assert_eq!(verdict.flags & flags::AUDIT, flags::AUDIT);
    // One record for the connection, not one for each packet; the trace carries no audit flag.
    assert_eq!(run.events[1].flags & flags::AUDIT, 0);
    assert_eq!(
        kernel.run(FROM_NETDEV, None, &Frame::v4(REMOTE.0, B.v4).tcp(40000, 80, 0x10).bytes()).events.len(),
        0
    );

    kernel.allow(B, Rule::ingress().peer(REMOTE.2).deny().cookie(31));
    let run = kernel.run(FROM_NETDEV, None, &Frame::v4(REMOTE.0, B.v4).tcp(40001, 80, 2).bytes());
    assert_eq!((run.action, run.events[0].cookie, run.events[0].verdict), (REDIRECT, 31, 0));
}
