//! Logs and the metric registry of Specola's own programs.
#![forbid(unsafe_code)]

mod logs;
mod metrics;

pub use logs::{LogError, LogFormat, init_logs};
pub use metrics::{CONTENT_TYPE, Metrics};
pub use prometheus_client;
