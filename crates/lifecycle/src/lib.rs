//! Start and stop of long-running programs: supervised tasks, two-phase drain, readiness, build info.
//!
//! A program makes one [`Lifecycle`], spawns its tasks through it, and ends in [`Lifecycle::run_until`]. Shutdown has
//! two phases: readiness goes false and every [`Drain`] is signalled; tasks that have not ended by the deadline are
//! aborted and named.
#![forbid(unsafe_code)]

mod build;
mod drain;
mod readiness;
mod signal;
mod tasks;

pub use build::{BuildInfo, build_info};
pub use drain::{Drain, DrainTrigger, drain};
pub use readiness::{Readiness, ReadinessGate};
pub use signal::termination;
pub use tasks::{Lifecycle, Outcome, TaskError};
