//! The process that owns a sandbox: it builds the cluster, keeps its agents running, and takes it down.
//!
//! `up` starts it detached and reads its progress from standard output. While the cluster comes up the end of
//! standard input means that `up` is gone, and everything is taken down again.

mod agent;
mod control;
mod converge;
mod names;
mod pod;
mod relay;
mod report;
mod shared;

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::future::try_join_all;
use nix::unistd::{dup2_stderr, setsid};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::agent_flags::AgentFlags;
use crate::layout::Layout;
use crate::links::{self, Port};
use crate::lock::Ownership;
use crate::mounts::Mounts;
use crate::spec::{NodeSpec, Spec, underlay_prefix};
use crate::state::{Cluster, Phase, replace, start_time};
use crate::{cgroup, cleanup, netns};

use agent::Agents;
use control::Control;
pub(crate) use control::{NewPod, Request, call};
use pod::Pods;
use relay::RelayKeeper;
pub(crate) use report::Report;
use report::Starter;
use shared::Shared;

/// What `up` tells the supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub layout: Layout,
    /// The cluster file, absolute.
    pub file: PathBuf,
    /// How the agents attach their programs: "auto", "tcx" or "clsact".
    pub attach: String,
    /// Passed to the agents: "default", "always" or "never".
    pub policy_mode: String,
    /// Passed to the agents: "keep" or "deny".
    pub policy_overflow: String,
    /// A relay runs in front of the nodes.
    pub relay: bool,
    /// Passed to the agents.
    pub agents: AgentFlags,
    /// Clients begin only when asked to over the control socket.
    pub hold: bool,
    /// Ends when standard input does, also once the cluster is ready.
    pub bound: bool,
    /// The `specola` binary.
    pub program: PathBuf,
}

/// Builds the cluster and lives until it is taken down.
///
/// # Errors
/// When it does not come up, or something of it cannot be removed.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let starter = Starter::default();
    let result = own(settings, &starter);
    if let Err(error) = &result
        && !starter.failed(error)
    {
        eprintln!("{} {error:#}", jiff::Timestamp::now());
    }
    result
}

fn own(settings: Settings, starter: &Starter) -> anyhow::Result<()> {
    // Out of the terminal's session: Ctrl-C there is for `up` alone.
    setsid().context("cannot make an own session")?;
    std::env::set_current_dir("/").context("cannot leave the working directory")?;
    let layout = settings.layout.clone();
    let owned = Ownership::take(&layout, LOCK_LIMIT)?;
    let mounts = Mounts::find()?;
    cleanup::clean(&owned, &layout, &mounts).context("cannot remove what an earlier sandbox left")?;
    let spec = Spec::read(&settings.file, settings.agents.language())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let lived = runtime.block_on(live(settings, spec, &mounts, starter));
    // The thread that reads standard input cannot be interrupted.
    runtime.shutdown_background();
    let cleaned = cleanup::clean(&owned, &layout, &mounts).context("cannot take the sandbox down");
    lived.and(cleaned)
}

async fn live(settings: Settings, spec: Spec, mounts: &Mounts, starter: &Starter) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    // Caught, so that a write to a pipe whose reader is gone is an error and not the end.
    let _pipe = signal(SignalKind::pipe())?;
    let is_bound = settings.bound;
    let mut supervisor = Supervisor::prepare(settings, &spec, mounts)?;
    let started = tokio::select! {
        biased;
        _ = term.recv() => Err(anyhow!("ended by a signal while starting")),
        _ = int.recv() => Err(anyhow!("ended by a signal while starting")),
        () = starter_gone() => Err(anyhow!("`up` ended before the sandbox was ready")),
        started = supervisor.start(&spec, starter) => started,
    };
    let lived = match started {
        Err(error) => Err(error),
        Ok(()) => {
            starter.ready();
            tokio::select! {
                biased;
                _ = term.recv() => Ok(()),
                _ = int.recv() => Ok(()),
                () = starter_gone(), if is_bound => Ok(()),
                () = supervisor.serve() => Ok(()),
            }
        }
    };
    supervisor.stop().await;
    lived
}

/// Ends when the process that holds the other end of standard input does.
async fn starter_gone() {
    let mut byte = [0];
    while !matches!(tokio::io::stdin().read(&mut byte).await, Ok(0) | Err(_)) {}
}

struct Supervisor {
    shared: Arc<Shared>,
    control: Control,
    agents: Agents,
    pods: Pods,
    relay: RelayKeeper,
    hold: bool,
}

impl Supervisor {
    /// Makes the directories, and from then on logs to a file.
    fn prepare(settings: Settings, spec: &Spec, mounts: &Mounts) -> anyhow::Result<Self> {
        let layout = &settings.layout;
        for directory in [layout.directory(), layout.desired(), layout.store(), layout.netns_dir()] {
            fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let log = OpenOptions::new().create(true).append(true).open(layout.supervisor_log());
        dup2_stderr(log.context("cannot open the supervisor's log")?).context("cannot log to a file")?;
        let cluster = describe(&settings, spec, mounts);
        cgroup::create(&cluster.cgroup)?;
        fs::create_dir_all(&cluster.pin_dir)
            .with_context(|| format!("cannot make the pin directory {}", cluster.pin_dir.display()))?;
        cluster.write(layout)?;
        let control = Control::listen(&layout.control())?;
        let hold = settings.hold;
        let shared = Arc::new(Shared::new(settings, cluster));
        Ok(Self {
            control,
            agents: Agents::new(Arc::clone(&shared)),
            pods: Pods::new(Arc::clone(&shared)),
            relay: RelayKeeper::new(Arc::clone(&shared)),
            shared,
            hold,
        })
    }

    async fn start(&mut self, spec: &Spec, starter: &Starter) -> anyhow::Result<()> {
        let layout = self.shared.layout();
        for object in &spec.objects {
            replace(&layout.desired().join(object.file_name()), object.yaml()?.as_bytes())?;
        }
        starter.progress(&format!("joining {} nodes", spec.nodes.len()));
        build_network(layout, &spec.nodes)?;
        starter.progress("starting the agents");
        self.agents.start();
        try_join_all(spec.nodes.iter().map(|node| self.agents.wait_ready(&node.name))).await?;
        self.relay.start().await?;
        starter.progress(&format!("wiring {} pods", spec.pods.len()));
        for pod in &spec.pods {
            self.pods.prepare(pod)?;
        }
        let baseline = converge::baseline(&self.shared.cluster()).await?;
        try_join_all(spec.pods.iter().map(|pod| self.pods.wire(pod))).await?;
        if !converge::wait(&self.shared.cluster(), &baseline).await? {
            starter.progress(
                "warning: some nodes do not know all pods yet, first connections may be judged without",
            );
        }
        names::write_all(&self.shared.cluster())?;
        starter.progress("starting the workloads");
        for pod in &spec.pods {
            self.pods.launch(pod)?;
        }
        self.pods.wait_listening().await?;
        if !self.hold {
            self.pods.release().await?;
        }
        self.shared.update(|cluster| cluster.phase = Phase::Ready)
    }

    /// Answers the control socket and watches the pods, for ever.
    async fn serve(&mut self) {
        let mut ticks = interval(WATCH_INTERVAL);
        loop {
            tokio::select! {
                biased;
                caller = self.control.accept() => {
                    let Some((request, answer)) = self.control.read(caller).await else { continue };
                    let result = self.handle(request).await;
                    answer.send(result).await;
                }
                _ = ticks.tick() => {
                    // The next look may succeed; the sandbox goes on.
                    if let Err(error) = self.pods.watch() {
                        eprintln!("{} {error:#}", jiff::Timestamp::now());
                    }
                }
            }
        }
    }

    async fn handle(&mut self, request: Request) -> anyhow::Result<()> {
        match request {
            Request::Release => self.pods.release().await,
            Request::Quiesce => self.pods.quiesce().await,
            Request::AddPod { pod } => self.pods.add((*pod).try_into()?).await,
            Request::RemovePod { namespace, name } => self.pods.remove(&namespace, &name).await,
            Request::KillAgents { node } => self.agents.kill(node.as_deref()).await,
            Request::StartAgents { node } => self.agents.revive(node.as_deref()).await,
        }
    }

    /// Ends workloads and agents in order; what does not end is killed with its control group afterwards.
    async fn stop(&mut self) {
        if let Err(error) = self.shared.update(|cluster| cluster.phase = Phase::Stopping) {
            eprintln!("{error:#}");
        }
        self.pods.stop();
        self.relay.stop().await;
        if timeout(STOP_LIMIT, self.agents.stop()).await.is_err() {
            eprintln!("an agent did not end in {} s and is killed", STOP_LIMIT.as_secs());
        }
    }
}

fn describe(settings: &Settings, spec: &Spec, mounts: &Mounts) -> Cluster {
    let layout = &settings.layout;
    let pid = std::process::id();
    let cgroup = layout.below(&mounts.cgroup2);
    Cluster {
        name: layout.name().to_owned(),
        phase: Phase::Starting,
        pid,
        start_time: start_time(pid).unwrap_or_default(),
        started_at: jiff::Timestamp::now(),
        file: settings.file.clone(),
        directory: layout.directory(),
        desired_dir: layout.desired(),
        store_dir: layout.store(),
        pin_dir: layout.below(&mounts.bpffs),
        relay: spec.nodes.first().filter(|_| settings.relay).map(|node| relay::describe(layout, node)),
        agents: settings.agents.clone(),
        nodes: spec.nodes.iter().map(|node| agent::describe(layout, &cgroup, node)).collect(),
        cgroup,
        pods: Vec::new(),
    }
}

fn build_network(layout: &Layout, nodes: &[NodeSpec]) -> anyhow::Result<()> {
    netns::create(&layout.underlay_netns())?;
    let mut ports = Vec::new();
    for node in nodes {
        let netns = layout.node_netns(&node.name);
        netns::create(&netns)?;
        let with_prefix = |&address: &std::net::IpAddr| (address, underlay_prefix(nodes, address.is_ipv4()));
        ports.push(Port { netns, addresses: node.addresses.iter().map(with_prefix).collect() });
    }
    links::build_underlay(&layout.underlay_netns(), &ports).context("cannot build the underlay")
}

/// Ends all tasks of a set and waits until they have.
async fn join_all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// The last lines of a log, for a message about what went wrong.
fn tail(path: &std::path::Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if last.is_empty() {
        "(its log is empty)".to_owned()
    } else {
        format!("its log ends with:\n{}", last.join("\n"))
    }
}

const LOCK_LIMIT: Duration = Duration::from_secs(3);
const STOP_LIMIT: Duration = Duration::from_secs(8);
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const TAIL_LINES: usize = 20;
