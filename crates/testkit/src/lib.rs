//! Helpers for tests: namespaces and file systems that clean up after themselves, packets, conditions to wait for.
//!
//! Only dev-dependencies may use this crate.
#![forbid(unsafe_code)]

pub mod bpffs;
pub mod netns;
pub mod object;
pub mod packet;
pub mod wait;

pub use bpffs::BpfFs;
pub use object::object_under_test;
pub use wait::{eventually, eventually_async};

/// Fails the test with the remedy when it does not run as root: tests never skip silently.
///
/// # Panics
/// The effective user is not root.
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root, network namespaces and bpf(): run it through `make test` as root; \
         `make test-unit` runs the tests that do not"
    );
}
