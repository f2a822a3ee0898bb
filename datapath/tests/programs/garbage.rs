//! Whatever the bytes: each program gives a verdict, and a drop gives exactly one record.

use std::cell::RefCell;

use proptest::{prelude::*, test_runner::TestRunner};
use specola_datapath::abi::names::{
    FROM_CONTAINER, FROM_HOST, FROM_NETDEV, TO_CONTAINER, TO_HOST, TO_NETDEV,
};
use specola_testkit::packet::Frame;

use crate::harness::{A, B, Kernel, OK, REDIRECT, REMOTE, SHOT, from_pod};

const PROGRAMS: [&str; 6] = [FROM_CONTAINER, TO_CONTAINER, FROM_NETDEV, TO_NETDEV, FROM_HOST, TO_HOST];

/// A frame that begins rightly and goes on with noise, so that the noise reaches every stage.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..120);
    let seeds = prop::sample::select(vec![
        from_pod(A, Frame::v4(A.v4, B.v4).options(&[1, 1, 1, 0]).tcp(1, 2, 2)),
        from_pod(A, Frame::v4(A.v4, REMOTE.0).fragment(3, 0, true).udp(1, 2).data(&[0; 8])),
        from_pod(A, Frame::v6(A.v6, B.v6).extension(0, &[0; 6]).fragment(3, 0, true).udp(1, 2)),
        from_pod(A, Frame::v4(A.v4, B.v4).icmp(3, 1, 0).data(&Frame::v4(B.v4, A.v4).udp(1, 2).packet())),
        from_pod(A, Frame::v6(A.v6, B.v6).icmp(1, 1, 0).data(&Frame::v6(B.v6, A.v6).udp(1, 2).packet())),
        Frame::v4(REMOTE.0, B.v4).tcp(1, 2, 2).bytes(),
        Frame::v6(REMOTE.1, B.v6).udp(1, 2).bytes(),
    ]);
    (seeds, any::<prop::sample::Index>(), noise).prop_map(|(mut frame, at, noise)| {
        frame.truncate(at.index(frame.len() + 1));
        frame.extend(noise);
        frame.resize(frame.len().max(14), 0);
        // A test run takes no frame that ends in the network header.
        let least = match (frame[12], frame[13]) {
            (0x08, 0) => 14 + 20,
            (0x86, 0xdd) => 14 + 40,
            _ => 14,
        };
        frame.resize(frame.len().max(least), 0);
        frame
    })
}

#[test]
fn any_bytes_get_a_verdict() {
    let kernel = RefCell::new(Kernel::new());
    kernel.borrow_mut().open();
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() });
    let mark = prop::sample::select(vec![0_u32, 0x0c00, 0x0100]);
    runner
        .run(&(frames(), prop::sample::select(PROGRAMS.to_vec()), mark), |(frame, program, mark)| {
            let run = kernel.borrow_mut().run_marked(program, Some(A), &frame, mark);
            prop_assert!([OK, SHOT, REDIRECT].contains(&run.action), "{program}: {run:?}");
            let drops = run.events.iter().filter(|event| event.kind == 1 || event.verdict < 0).count();
            prop_assert_eq!(drops, usize::from(run.action == SHOT), "{}: {:?}", program, run);
            Ok(())
        })
        .unwrap();
}
