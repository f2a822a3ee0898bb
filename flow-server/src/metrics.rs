//! Metrics: what flows count for (`hubble_*`, as configured), and the flow server's own counters (`specola_flow_*`).
//!
//! Flow metrics read the ring with a cursor of their own. The writer never waits for them; when they fall behind by more
//! than the ring holds, what they missed is counted.

mod config;
mod context;
mod file;
mod handler;
mod l4;
mod l7;
mod options;
mod own;
mod set;
mod table;

pub use config::{MetricName, MetricSpec, MetricsConfigError};
pub use set::{Cardinality, FlowMetrics, MetricsSettings};

#[cfg(test)]
mod tests;
