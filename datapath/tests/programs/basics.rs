//! Every program loads.

use specola_datapath::abi::{event::point, names};
use specola_testkit::packet::Frame;

use crate::harness::{A, B, Kernel, OK, REDIRECT, from_pod};

#[test]
fn every_program_loads_and_lets_a_frame_through_it() {
    let mut kernel = Kernel::new();
    kernel.open();
    for name in [
        names::FROM_CONTAINER,
        names::TO_CONTAINER,
        names::FROM_NETDEV,
        names::TO_NETDEV,
        names::FROM_HOST,
        names::TO_HOST,
    ] {
        let run = kernel.run(name, Some(A), &from_pod(A, Frame::v4(A.v4, "198.51.100.1").tcp(1, 2, 2)));
        println!("{name}: {run:?}");
    }
    let _ = (B, OK, REDIRECT, point::TO_STACK);
}
