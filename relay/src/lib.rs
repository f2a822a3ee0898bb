//! One flow API in front of all nodes: it follows who the peers are, asks all of them, and merges their streams by
//! time. Flows are passed on as the peers encoded them.
#![forbid(unsafe_code)]

mod config;
mod dial;
mod discover;
mod envelope;
mod flows;
mod marks;
mod merge;
mod metrics;
mod names;
mod newest;
mod observer;
mod pool;
mod serve;
mod shared;
mod tail;
mod upstream;

use std::time::{SystemTime, UNIX_EPOCH};

pub use config::RelayConfig;
pub use dial::Target;
pub use discover::{InvalidSource, Source};
pub use serve::{Relay, run};

/// Wall clock, ns since 1970.
fn now_ns() -> u64 {
    // A clock before 1970 reads as 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
