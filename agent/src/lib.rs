//! The node agent: composition root of Specola.
//!
//! [`run`] (or [`run_until`]) brings one node up in the network namespace that the process runs in: it prepares the host devices, loads
//! the datapath, follows the desired state (a directory of Kubernetes YAML) and the store that the cluster shares,
//! keeps endpoints, identities, addresses and policies realized in the kernel, and serves the flow API, the admin API
//! and metrics.
//!
//! Threads: one tokio runtime for sockets, timers and files; the *node thread*, sole owner of all state that decides;
//! the *reader thread*, which drains kernel events into the flow pipeline; and short-lived threads that enter a pod's
//! network namespace.
#![forbid(unsafe_code)]

mod admin;
pub mod bpf;
mod cleanup;
mod config;
mod cookie;
mod desired;
mod endpoint;
mod follow;
mod fs_watch;
mod host;
mod identity;
mod ingest;
mod ipam;
mod journal;
mod metrics;
mod net;
mod node;
mod overrides;
mod persist;
mod preflight;
mod revision;
mod run;
mod stamp;
mod store;
mod sweep;
mod synthetic;
#[cfg(feature = "test-util")]
pub mod test_util;
mod trial;
mod warnings;

pub use cleanup::{Cleanup, CleanupPlan};
pub use config::{
    AgentConfig, Attach, FlowExportConfig, FlowMetricsConfig, Listen, LocalhostRule, LogForm, MetricsTls,
    ObserverTls, PolicyLanguage, PolicyMode, PolicyOverflow, RedactionConfig, TlsVersion,
};
pub use host::{Devices, HostPolicy, HostPolicyState, Look};
pub use ingest::{Ingest, IngestOptions, IngestReport, Ingested};
pub use preflight::{Check, Outcome, PreflightOptions, preflight};
pub use run::{run, run_until};
pub use trial::{KernelAnswer, KernelTrial, TrialError};
