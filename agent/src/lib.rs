//! The node agent: composition root of Specola.
#![forbid(unsafe_code)]
#![expect(dead_code, unused_imports, reason = "parts land before what connects them")]

mod config;
mod fs_watch;
mod ipam;
mod net;
mod persist;
mod run;
mod store;

pub use config::{AgentConfig, Attach, LogForm, PolicyMode};
pub use run::run;
