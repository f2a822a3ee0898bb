//! What is known about a running sandbox: written by its supervisor, read by every other command.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::agent_flags::AgentFlags;
use crate::layout::Layout;

/// A sandbox cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cluster {
    /// Name of the sandbox.
    pub name: String,
    /// How far it has come.
    pub phase: Phase,
    /// Process id of the supervisor.
    pub pid: u32,
    /// Start time of that process in clock ticks since boot; with the id it names one process for ever.
    pub start_time: u64,
    /// When the supervisor started.
    pub started_at: jiff::Timestamp,
    /// The cluster file.
    pub file: PathBuf,
    /// Directory of all files of the sandbox.
    pub directory: PathBuf,
    /// Kubernetes objects that the agents watch; edit them to change the cluster.
    pub desired_dir: PathBuf,
    /// What the agents share: identities, endpoints, nodes.
    pub store_dir: PathBuf,
    /// Directory of the nodes' pinned maps and links.
    pub pin_dir: PathBuf,
    /// Control group of all its processes but the supervisor.
    pub cgroup: PathBuf,
    /// Its relay, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Relay>,
    /// Flags of its agents.
    #[serde(default)]
    pub agents: AgentFlags,
    /// Its nodes, in the order of the cluster file.
    pub nodes: Vec<Node>,
    /// Its pods, in the order of the cluster file.
    pub pods: Vec<Pod>,
}

/// How far a sandbox has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not every pod is ready yet.
    Starting,
    /// Every pod was ready; clients run.
    Ready,
    /// It is being taken down.
    Stopping,
}

/// The relay of a sandbox. It runs on the first node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Relay {
    /// "running", or how it ended.
    pub state: String,
    /// Its process id.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Unix socket of the flow API.
    pub socket: PathBuf,
    /// TCP address of the flow API, reachable from the sandbox's namespaces.
    pub address: String,
    /// TCP address of its metrics, reachable from the sandbox's namespaces.
    pub metrics_address: String,
    /// What it writes.
    pub log: PathBuf,
}

/// One node and its agent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Node {
    /// Name of the Node object.
    pub name: String,
    /// "running", or how the agent ended.
    pub state: String,
    /// Process id of the agent.
    pub pid: Option<u32>,
    /// How often the agent was started again.
    pub restarts: u32,
    /// Addresses on the underlay.
    pub addresses: Vec<IpAddr>,
    /// Networks that its pods' addresses are from.
    pub pod_cidrs: Vec<ipnet::IpNet>,
    /// How far the times of its flows are off, ms.
    #[serde(default)]
    pub clock_offset_ms: i64,
    /// Unix socket of the observer service.
    pub observer_socket: PathBuf,
    /// TCP address of the observer service, reachable from the sandbox's namespaces.
    pub observer_address: String,
    /// Unix socket of the agent's admin API.
    pub admin_socket: PathBuf,
    /// TCP address of the agent's metrics, reachable from the sandbox's namespaces.
    pub metrics_address: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Control group of its agent and its pods.
    pub cgroup: PathBuf,
    /// What the agent writes.
    pub log: PathBuf,
}

/// One pod.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pod {
    /// Namespace of the Pod object.
    pub namespace: String,
    /// Name of the Pod object.
    pub name: String,
    /// The node that it runs on.
    pub node: String,
    /// Addresses that the agent gave it.
    pub ips: Vec<IpAddr>,
    /// Security identity; 0 while it has none.
    pub identity: u32,
    /// Number of the endpoint on its node.
    pub endpoint: u32,
    /// State of the endpoint: "ready" and so on.
    pub state: String,
    /// Process id of the workloads.
    pub pid: Option<u32>,
    /// The workload annotation.
    pub workload: String,
    /// "running", or how the process ended.
    pub workload_state: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Control group of its processes.
    pub cgroup: PathBuf,
    /// Files of the pod: hosts, resolv.conf, workload.log, connections.jsonl.
    pub directory: PathBuf,
}

impl Cluster {
    /// Reads the state of a sandbox; `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or is not what a supervisor of this version writes.
    pub fn read(layout: &Layout) -> anyhow::Result<Option<Self>> {
        let path = layout.state();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}; run as root", path.display()));
            }
        };
        let cluster = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged or of another version", path.display()))?;
        Ok(Some(cluster))
    }

    /// Writes the state; a reader sees the old or the new one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, layout: &Layout) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        replace(&layout.state(), &text)
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The pod of that name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name)
    }
}

impl Pod {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The record of the connections that its workloads made and took.
    pub fn journal(&self) -> PathBuf {
        self.directory.join("connections.jsonl")
    }

    /// What its workloads wrote to standard error.
    pub fn log(&self) -> PathBuf {
        self.directory.join("workload.log")
    }
}

/// Writes a file as a whole: under a hidden name first, then renamed.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn replace(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
    let draft = path.with_file_name(format!(".{name}.new"));
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Start time of a process in clock ticks since boot; `None` when there is no such process or it has ended.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may hold blanks; the state comes after it, the start time 19 fields later.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A cluster without nodes and pods.
    pub(crate) fn cluster() -> Cluster {
        Cluster {
            name: "test".into(),
            phase: Phase::Ready,
            pid: 1,
            start_time: 1,
            started_at: jiff::Timestamp::UNIX_EPOCH,
            file: "f.yaml".into(),
            directory: "/d".into(),
            desired_dir: "/d/desired".into(),
            store_dir: "/d/store".into(),
            pin_dir: "/p".into(),
            cgroup: "/c".into(),
            relay: None,
            agents: AgentFlags::default(),
            nodes: Vec::new(),
            pods: Vec::new(),
        }
    }

    #[test]
    fn a_process_has_one_start_time() {
        let own = std::process::id();
        assert!(start_time(own).is_some());
        assert_eq!(start_time(own), start_time(own));
        assert_eq!(start_time(u32::MAX), None);
    }

    #[test]
    fn replacing_leaves_no_draft() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("state.json");
        replace(&path, b"one").expect("first");
        replace(&path, b"two").expect("second");
        assert_eq!(fs::read(&path).expect("file"), b"two");
        assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 1);
    }
}
