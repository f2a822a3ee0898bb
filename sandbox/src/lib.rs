//! Runs a whole cluster in network namespaces on one machine: nodes, agents, pods, workloads.
//!
//! A detached supervisor owns each sandbox. Everything lives below `/run/specola/sandbox/<name>`, one control group
//! and one directory of pins; nothing touches the machine's own network namespace or root control group.
#![forbid(unsafe_code)]

mod admin;
mod agent_flags;
mod cgroup;
mod cleanup;
pub mod cli;
pub mod client;
mod demo;
mod layout;
mod links;
mod lock;
mod mounts;
mod netns;
mod place;
mod spec;
mod state;
mod supervisor;
mod up;
mod workload;

pub use agent_flags::{AgentFlags, LocalhostRule};
pub use cleanup::clean_stale;
pub use state::{Cluster, Node, Phase, Pod};
pub use up::{Sandbox, UpOptions};
pub use workload::ANNOTATION;
pub use workload::journal::{Connection, Kind, Outcome, read as read_journal};

/// The pods' interface.
pub const POD_DEVICE: &str = "eth0";
