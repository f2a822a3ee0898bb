//! Every program loads; what each one costs.

use specola_datapath::abi::names;
use specola_testkit::packet::Frame;

use crate::harness::{A, Kernel, REMOTE, from_pod};

const PROGRAMS: [&str; 6] = [
    names::FROM_CONTAINER,
    names::TO_CONTAINER,
    names::FROM_NETDEV,
    names::TO_NETDEV,
    names::FROM_HOST,
    names::TO_HOST,
];

#[test]
fn every_program_passes_the_verifier_with_room_to_grow() {
    let mut kernel = Kernel::new();
    for name in PROGRAMS {
        kernel.run(name, Some(A), &from_pod(A, Frame::v4(A.v4, REMOTE.0).tcp(40000, 80, 2)));
        let checked = kernel.verified_instructions(name);
        // Kernels give up at a million.
        assert!(checked < 150_000, "{name}: {checked} instructions verified");
    }
}

/// Prints what one packet costs: `cargo test -p specola-datapath --test programs -- --nocapture established`.
#[test]
#[expect(clippy::print_stdout, reason = "the time is for the reader; nothing depends on it")]
fn an_established_flow_runs_without_events() {
    let mut kernel = Kernel::new();
    kernel.open();
    let syn = from_pod(A, Frame::v4(A.v4, REMOTE.0).tcp(40000, 80, 0x02));
    assert_eq!(kernel.run(names::FROM_CONTAINER, Some(A), &syn).events.len(), 2);
    let data = from_pod(A, Frame::v4(A.v4, REMOTE.0).tcp(40000, 80, 0x10).data(&[0; 74]));
    let each = kernel.time(names::FROM_CONTAINER, &data, 100_000);
    println!("from_container, established, 128 bytes: {each:?}");
    assert_eq!(kernel.events(), []);
}
