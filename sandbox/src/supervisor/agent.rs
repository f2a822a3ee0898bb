//! One agent per node: started, waited for, started again when it ends.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::shared::Shared;
use super::{join_all, tail};
use crate::admin::Admin;
use crate::cgroup;
use crate::client::{pin_dir, state_dir};
use crate::layout::Layout;
use crate::links::NODE_DEVICE;
use crate::place::Place;
use crate::spec::NodeSpec;
use crate::state::Node;

/// Port of the observer service.
const OBSERVER_PORT: u16 = 4244;
/// Port of the agents' metrics.
const METRICS_PORT: u16 = 9965;

/// The agents of a sandbox.
pub(super) struct Agents {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    /// By node: whether its agent shall run.
    wanted: BTreeMap<String, watch::Sender<bool>>,
}

impl Agents {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, tasks: JoinSet::new(), stop: watch::Sender::new(false), wanted: BTreeMap::new() }
    }

    /// Starts an agent for every node and keeps it running.
    pub(super) fn start(&mut self) {
        for node in self.shared.cluster().nodes {
            let wanted = watch::Sender::new(true);
            let switches = Switches { stop: self.stop.subscribe(), wanted: wanted.subscribe() };
            self.wanted.insert(node.name.clone(), wanted);
            self.tasks.spawn(keep_running(Arc::clone(&self.shared), node, switches));
        }
    }

    /// Kills agents with SIGKILL; they stay away until [`Self::revive`]. `node`: one of them, all without.
    ///
    /// # Errors
    /// There is no such node, or an agent does not end in time.
    pub(super) async fn kill(&self, node: Option<&str>) -> anyhow::Result<()> {
        let nodes = self.chosen(node)?;
        for (_, wanted) in &nodes {
            wanted.send_replace(false);
        }
        let deadline = Instant::now() + KILL_LIMIT;
        for (name, _) in nodes {
            while self.shared.cluster().node(name).is_some_and(|node| node.pid.is_some()) {
                if Instant::now() > deadline {
                    bail!("the agent of node {name} was killed and has not ended");
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Starts agents that were killed and waits until they serve; one that runs is left alone.
    ///
    /// # Errors
    /// There is no such node, or an agent ends or is not ready in time.
    pub(super) async fn revive(&self, node: Option<&str>) -> anyhow::Result<()> {
        let nodes = self.chosen(node)?;
        for (_, wanted) in &nodes {
            wanted.send_replace(true);
        }
        for (name, _) in nodes {
            self.wait_ready(name).await?;
        }
        Ok(())
    }

    fn chosen(&self, node: Option<&str>) -> anyhow::Result<Vec<(&String, &watch::Sender<bool>)>> {
        let Some(node) = node else { return Ok(self.wanted.iter().collect()) };
        let found = self.wanted.get_key_value(node);
        found.map(|found| vec![found]).with_context(|| format!("no node {node}; see `specola sandbox ps`"))
    }

    /// Waits until the node's agent serves.
    ///
    /// # Errors
    /// When it ends or is not ready in time, with the end of its log.
    pub(super) async fn wait_ready(&self, name: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        let restarts = self.shared.cluster().node(name).map_or(0, |node| node.restarts);
        loop {
            let cluster = self.shared.cluster();
            let node = cluster.node(name).with_context(|| format!("no node {name}"))?;
            if is_ready(node).await {
                return Ok(());
            }
            if node.restarts > restarts {
                bail!("the agent of node {name} {}; {}", node.state, tail(&node.log));
            }
            if Instant::now() > deadline {
                let seconds = READY_LIMIT.as_secs();
                bail!("the agent of node {name} is not ready after {seconds} s; {}", tail(&node.log));
            }
            sleep(POLL).await;
        }
    }

    /// Asks all agents to end and waits for them.
    pub(super) async fn stop(&mut self) {
        self.stop.send_replace(true);
        join_all(&mut self.tasks).await;
    }
}

/// What is known of a node before its agent runs.
pub(super) fn describe(layout: &Layout, cluster_cgroup: &Path, spec: &NodeSpec) -> Node {
    let directory = layout.node(&spec.name);
    let at = |port: u16| address_of(spec, port);
    Node {
        name: spec.name.clone(),
        state: "starting".to_owned(),
        pid: None,
        restarts: 0,
        addresses: spec.addresses.clone(),
        pod_cidrs: spec.pod_cidrs.clone(),
        clock_offset_ms: spec.clock_offset_ms,
        observer_socket: directory.join("observer.sock"),
        observer_address: at(OBSERVER_PORT),
        admin_socket: directory.join("admin.sock"),
        metrics_address: at(METRICS_PORT),
        netns: layout.node_netns(&spec.name),
        cgroup: cluster_cgroup.join(&spec.name),
        log: directory.join("agent.log"),
    }
}

/// A port of a node, as the sandbox's namespaces reach it.
pub(super) fn address_of(spec: &NodeSpec, port: u16) -> String {
    match spec.addresses.first() {
        Some(&address) => std::net::SocketAddr::new(address, port).to_string(),
        None => format!("127.0.0.1:{port}"),
    }
}

async fn is_ready(node: &Node) -> bool {
    let Ok(mut admin) = Admin::connect(&node.admin_socket).await else { return false };
    admin.is_ready().await.unwrap_or(false)
}

/// What an agent's keeper is told.
struct Switches {
    /// The sandbox stops.
    stop: watch::Receiver<bool>,
    /// The agent shall run.
    wanted: watch::Receiver<bool>,
}

/// Runs the agent again and again, as long as it is wanted, until it is told to stop.
async fn keep_running(shared: Arc<Shared>, node: Node, switches: Switches) {
    let Switches { mut stop, mut wanted } = switches;
    loop {
        tokio::select! {
            biased;
            () = becomes(&mut stop, true) => return,
            () = becomes(&mut wanted, true) => {}
        }
        let ended = match spawn(&shared, &node) {
            Err(error) => format!("cannot be started: {error:#}"),
            Ok(mut child) => {
                let pid = child.id();
                note(&shared, &node.name, |node| (node.pid, node.state) = (pid, "running".to_owned()));
                let status = tokio::select! {
                    biased;
                    () = becomes(&mut stop, true) => return terminate(child).await,
                    () = becomes(&mut wanted, false) => None,
                    status = child.wait() => Some(status),
                };
                match status {
                    None => {
                        let state = child.kill().await.map_or_else(
                            |error| format!("cannot be killed: {error}"),
                            |()| "killed".to_owned(),
                        );
                        eprintln!("{} the agent of node {}: {state}", jiff::Timestamp::now(), node.name);
                        note(&shared, &node.name, |node| (node.pid, node.state) = (None, state));
                        continue;
                    }
                    Some(Ok(status)) => format!("ended with {status}"),
                    Some(Err(error)) => format!("cannot be watched: {error}"),
                }
            }
        };
        eprintln!("{} the agent of node {} {ended}", jiff::Timestamp::now(), node.name);
        note(&shared, &node.name, |node| {
            (node.pid, node.state, node.restarts) = (None, ended, node.restarts + 1)
        });
        tokio::select! {
            biased;
            () = becomes(&mut stop, true) => return,
            () = sleep(RESTART_PAUSE) => {}
        }
    }
}

/// Waits until a switch stands so; for ever when nobody can turn it any more.
pub(super) async fn becomes(switch: &mut watch::Receiver<bool>, wanted: bool) {
    if switch.wait_for(|stands| *stands == wanted).await.is_err() {
        std::future::pending().await
    }
}

fn spawn(shared: &Shared, node: &Node) -> anyhow::Result<Child> {
    let layout = shared.layout();
    let state = state_dir(node);
    fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
    let place = Place { cgroup: node.cgroup.join("agent"), netns: node.netns.clone(), names: None };
    cgroup::create(&place.cgroup)?;
    let settings = shared.settings();
    let mut command = place.command(shared.program());
    command.arg(shared.program()).args(["agent", "--node-name", &node.name]);
    command.arg("--state-dir").arg(&state);
    command.arg("--desired-dir").arg(layout.desired());
    command.arg("--store-dir").arg(layout.store());
    command.arg("--admin-socket").arg(&node.admin_socket);
    command.arg("--observer-socket").arg(&node.observer_socket);
    command.arg("--observer-listen").arg(format!("0.0.0.0:{OBSERVER_PORT}"));
    command.arg("--metrics-listen").arg(format!("0.0.0.0:{METRICS_PORT}"));
    command.arg("--pin-dir").arg(pin_dir(&shared.cluster(), node));
    command.args([
        "--device",
        NODE_DEVICE,
        "--attach",
        &settings.attach,
        "--policy-mode",
        &settings.policy_mode,
        "--policy-overflow",
        &settings.policy_overflow,
    ]);
    if node.clock_offset_ms != 0 {
        command.arg(format!("--clock-offset={}", node.clock_offset_ms));
    }
    command.args(settings.agents.args());
    let log = open_log(&node.log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start {}", shared.program().display()))
}

/// Opens a log for appending.
pub(super) fn open_log(path: &Path) -> anyhow::Result<File> {
    let log = OpenOptions::new().create(true).append(true).open(path);
    log.with_context(|| format!("cannot open the log {}", path.display()))
}

pub(super) async fn terminate(mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended just now.
        _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if let Err(error) = child.wait().await {
        eprintln!("cannot wait for a process: {error}");
    }
}

fn note(shared: &Shared, node: &str, change: impl FnOnce(&mut Node)) {
    if let Err(error) = shared.update_node(node, change) {
        eprintln!("{error:#}");
    }
}

const READY_LIMIT: Duration = Duration::from_secs(30);
const KILL_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(25);
pub(super) const RESTART_PAUSE: Duration = Duration::from_secs(1);
