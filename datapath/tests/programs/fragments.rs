//! Fragmented datagrams.

use specola_datapath::abi::{
    event::flags,
    metrics::drop,
    names::FROM_CONTAINER,
    proto::{ICMP, UDP},
};
use specola_testkit::packet::Frame;

use crate::harness::{A, Kernel, OK, REMOTE, Rule, SHOT, from_pod};

fn both_families() -> [Frame; 2] {
    [Frame::v4(A.v4, REMOTE.0), Frame::v6(A.v6, REMOTE.1)]
}

#[test]
fn later_fragments_belong_to_the_connection_of_the_first() {
    for base in both_families() {
        let mut kernel = Kernel::with(0, 0);
        kernel.allow(A, Rule::egress().port(UDP, 53).cookie(3));
        let first = from_pod(A, base.clone().fragment(77, 0, true).udp(40000, 53).data(&[0; 16]));
        assert_eq!(kernel.run(FROM_CONTAINER, Some(A), &first).action, OK);
        let later = from_pod(A, base.clone().fragment(77, 24, false).raw(UDP, &[1; 40]));
        let run = kernel.run(FROM_CONTAINER, Some(A), &later);
        assert_eq!(run.action, OK, "{run:#?}");
        let event = run.only();
        assert_eq!((event.src_port, event.dst_port, event.packets_fwd), (40000, 53, 2));
        assert_eq!(event.flags & flags::FRAGMENT, flags::FRAGMENT);
        assert_eq!(kernel.connections().len(), 1);
    }
}

#[test]
fn a_later_fragment_without_its_first_passes_only_where_ports_do_not_matter() {
    for base in both_families() {
        let mut kernel = Kernel::new();
        kernel.allow(A, Rule::egress().port(UDP, 53).cookie(3));
        let later = from_pod(A, base.fragment(78, 24, false).raw(UDP, &[1; 40]));
        let run = kernel.run(FROM_CONTAINER, Some(A), &later);
        assert_eq!((run.action, run.only().verdict), (SHOT, -i32::from(drop::FRAG_NOT_FOUND)));

        kernel.allow(A, Rule::egress().proto(UDP).cookie(4));
        let run = kernel.run(FROM_CONTAINER, Some(A), &later);
        assert_eq!((run.action, run.events[0].cookie), (OK, 4));
        assert_eq!(kernel.connections(), []);

        kernel.allow(A, Rule::egress().deny().peer(REMOTE.2).cookie(5));
        let run = kernel.run(FROM_CONTAINER, Some(A), &later);
        assert_eq!((run.action, run.only().verdict), (SHOT, -i32::from(drop::POLICY_DENY)));
    }
}

#[test]
fn another_datagram_of_the_same_pair_is_not_mixed_up() {
    let mut kernel = Kernel::new();
    kernel.allow(A, Rule::egress().port(UDP, 53).cookie(3));
    let base = || Frame::v4(A.v4, REMOTE.0);
    kernel.run(
        FROM_CONTAINER,
        Some(A),
        &from_pod(A, base().fragment(1, 0, true).udp(40000, 53).data(&[0; 16])),
    );
    for later in
        [base().fragment(2, 24, false).raw(UDP, &[0; 8]), base().fragment(1, 24, false).raw(ICMP, &[0; 8])]
    {
        assert_eq!(kernel.run(FROM_CONTAINER, Some(A), &from_pod(A, later)).action, SHOT);
    }
}

#[test]
fn a_first_fragment_must_hold_the_whole_transport_header() {
    let mut kernel = Kernel::new();
    kernel.open();
    for base in both_families() {
        let tiny = from_pod(A, base.fragment(5, 0, true).raw(6, &[0; 16]));
        let run = kernel.run(FROM_CONTAINER, Some(A), &tiny);
        assert_eq!((run.action, run.only().verdict), (SHOT, -i32::from(drop::CT_INVALID_HEADER)));
    }
}
