//! End-to-end tests: a sandbox cluster per test, driven through the `specola` binary as a user would.
#![forbid(unsafe_code)]

pub mod flows;
pub mod sandbox;

pub use flows::Flow;
pub use sandbox::Sandbox;
