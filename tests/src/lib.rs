//! End-to-end tests: a sandbox cluster per test, driven through the `specola` binary as a user would.
#![forbid(unsafe_code)]

pub mod books;
pub mod flows;
pub mod host;
pub mod inside;
pub mod sandbox;
pub mod seed;

pub use books::Books;
pub use flows::Flow;
pub use host::Host;
pub use inside::Witness;
pub use sandbox::Sandbox;
