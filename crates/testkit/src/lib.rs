//! Helpers for tests: network namespaces that clean up after themselves, conditions to wait for.
//!
//! Only dev-dependencies may use this crate.
#![forbid(unsafe_code)]

pub mod netns;
pub mod packet;
pub mod wait;

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
