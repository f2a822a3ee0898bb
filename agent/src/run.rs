//! Assembly: builds every part, connects them, and runs until a signal.

mod books;
mod flows;
mod host;
mod peers;
mod reader;
mod servers;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use specola_datapath::ReaderWaker;
use specola_directory::{DirectoryReader, DirectoryWriter, directory};
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{
    Clock, Config as FlowConfig, FlowMetrics, FlowServer, Pipeline, Wake, flow_server,
};
use specola_lifecycle::{Drain, Lifecycle, Outcome, build_info, termination};
use specola_telemetry::{Metrics, init_logs};
use tokio::sync::{oneshot, watch};

use self::books::Books;
pub(crate) use self::flows::{spawn_exporters, spawn_metrics as spawn_flow_metrics};
use self::host::{attach_devices, build_datapath, build_network};
use self::peers::{PeerFollower, started};
use self::reader::ReaderThread;
use self::servers::spawn_servers;
pub(crate) use self::servers::{spawn_metrics, spawn_observer};
use crate::config::AgentConfig;
use crate::cookie::CookieTable;
use crate::desired::{Desired, DesiredDirectory, Node as NodeObject};
use crate::follow::{AddressFollower, DesiredFollower, RouteFollower, StoreFollower};
use crate::fs_watch::DirWatch;
use crate::identity::LocalIdentities;
use crate::ipam::Ipam;
use crate::metrics::{AgentMetrics, ScrapedCounts};
use crate::net::{AddressWatch, Net};
use crate::node::{HeldFlows, Node, NodeHandle, NodeInputs, NodeParts, NodeSettings};
use crate::overrides::Overrides;
use crate::persist;
use crate::revision::Revisions;
use crate::store::{Contents, DirectoryStore, NoStore, Store};
use crate::sweep::Sweeper;
use crate::synthetic::run_synthetic;
use crate::warnings::Warnings;

/// Runs the agent until SIGTERM, SIGINT or a fatal error. Pinned programs and maps keep working after it.
///
/// # Errors
/// A part cannot be set up, or a task ends before shutdown.
pub async fn run(config: AgentConfig) -> anyhow::Result<()> {
    init_logs(config.log_format.into(), &config.log_filter)?;
    run_until(config, stop_signal()?).await
}

/// [`run`] with another end than a signal, and without setting up logs.
///
/// # Errors
/// As [`run`].
pub async fn run_until(config: AgentConfig, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    tracing::info!(version = build_info().semver(), node = config.node_name, "agent starts");
    if let Some(rate) = config.synthetic {
        return run_synthetic(&config, rate, stop).await;
    }
    run_ready(config, stop, || {}).await
}

/// [`run_until`], which calls `ready` once everything is set up.
pub(crate) async fn run_ready(
    config: AgentConfig,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    tokio::pin!(stop);
    let agent = tokio::select! {
        agent = Agent::build(&config) => agent?,
        () = &mut stop => return Ok(()),
    };
    ready();
    agent.run_until(stop, config.drain_timeout).await
}

/// A program that is ready to run.
struct Agent {
    /// What makes events and takes requests.
    life: Lifecycle,
    /// What brings flows out: it ends after the last one is in the ring.
    sinks: Lifecycle,
    reader: ReaderThread,
}

impl Agent {
    async fn build(config: &AgentConfig) -> anyhow::Result<Self> {
        prepare_directories(config)?;
        let warnings = Warnings::default();
        let (files, node_object) = read_desired(config).await?;
        let shared = open_shared_store(config)?;
        let store: Arc<dyn Store> = match &shared {
            Some(shared) => Arc::clone(shared) as Arc<dyn Store>,
            None => Arc::new(NoStore),
        };
        let state = LocalState::open(config, &node_object)?;
        let net = Net::open()?;
        let (mut settings, host) = build_network(config, &node_object, &state.ipam, &net).await?;
        let mut datapath = build_datapath(config, &net, &mut settings, host).await?;
        let events = datapath.take_reader().context("the event reader was taken twice")?;
        let connections = datapath.take_conntrack().context("the connection tables were taken twice")?;
        let books = Books::open(&datapath)?;
        let (writer, directory_reader) = build_directory(config, &node_object);
        let (pipeline, flows) = build_flow_server(config, directory_reader, books, events.waker())?;

        let (mut life, mut sinks) = (Lifecycle::new(), Lifecycle::new());
        let (desired_out, desired) = watch::channel(Arc::new(files.merge()));
        let (contents_out, contents) = watch::channel(Arc::new(store.list()?));
        let (routes_out, routes) = watch::channel(BTreeMap::new());
        let mut metrics = build_metrics(&flows);
        let parts = NodeParts {
            kernel: Box::new(datapath),
            store,
            directory: writer,
            ipam: state.ipam,
            cookies: state.cookies,
            revisions: state.revisions,
            overrides: state.overrides,
            local_identities: state.local_identities,
            metrics: metrics.agent.clone(),
            warnings: warnings.clone(),
            agent_log: flows.agent_log(),
            peer_routes: routes_out,
            flows: HeldFlows(Box::new({
                let flows = flows.clone();
                move || flows.held()
            })),
        };
        started(&flows.agent_log());
        let peers = PeerFollower::new(config, flows.clone(), contents.clone());
        let node = build_node(&mut life, settings, parts, (desired, contents), &net).await?;
        // What waits in the lanes gets its names from the directory, which the node's first pass fills.
        node.call(|_| ()).await.context("the node thread's first pass")?;
        // Policies are realized: now traffic of the node may meet them.
        attach_devices(&mut life, config, &net, &node, &warnings).await?;
        let reader = ReaderThread::start(events, pipeline, config.clock_offset_ns())?;
        let sweeper = Sweeper {
            connections,
            events: flows.agent_events(),
            metrics: metrics.agent.clone(),
            warnings: warnings.clone(),
        };
        life.spawn("connections", sweeper.run(life.drain()));
        life.spawn("peers", peers.run(life.drain()));
        let followers = Followers { files, store: shared, desired_out, contents_out, routes };
        followers.spawn(&mut life, &net, &node, &warnings)?;
        spawn_exporters(&mut sinks, &config.flow_export, &flows, &metrics.registry, &warnings)?;
        metrics.flows =
            spawn_flow_metrics(&mut sinks, &config.flow_metrics, &flows, &metrics.registry, &warnings)?;
        spawn_observer(&mut sinks, config, &flows).await?;
        spawn_servers(&mut life, config, &node, &net, &flows, metrics).await?;
        Ok(Self { life, sinks, reader })
    }

    /// Runs until `stop`, then drains: first the tasks that make events, then the events that the kernel has left, then
    /// what brings flows out.
    async fn run_until(self, stop: impl Future<Output = ()>, deadline: Duration) -> anyhow::Result<()> {
        let Self { life, sinks, reader } = self;
        let mut read = Ok(());
        let between = async { read = reader.stop().await };
        let outcome = life.run_before(sinks, stop, between, deadline).await;
        report(&outcome);
        read?;
        tracing::info!("agent stopped; programs and maps stay in force");
        outcome.cause.map_or(Ok(()), |cause| Err(cause).context("the agent stopped by itself"))
    }
}

/// Says what went wrong while a program stopped.
pub(crate) fn report(outcome: &Outcome) {
    for error in &outcome.errors {
        tracing::error!(%error, "while stopping");
    }
    if !outcome.aborted.is_empty() {
        tracing::error!(tasks = outcome.aborted.join(", "), "tasks missed the drain deadline");
    }
}

/// State that survives a restart.
struct LocalState {
    ipam: Ipam,
    cookies: CookieTable,
    revisions: Revisions,
    overrides: Overrides,
    local_identities: LocalIdentities,
}

impl LocalState {
    fn open(config: &AgentConfig, node: &NodeObject) -> anyhow::Result<Self> {
        let file = |name: &str| config.state_dir.join(name);
        let ipam = if config.is_host_only() {
            Ipam::without_pods(&file("ipam.json"))
        } else {
            Ipam::open(&file("ipam.json"), &node.pod_cidrs()).context("pod addresses")?
        };
        Ok(Self {
            ipam,
            cookies: CookieTable::open(&file("cookies.jsonl")).context("cookies")?,
            revisions: Revisions::open(&file("revisions.jsonl")).context("policy revisions")?,
            overrides: Overrides::open(&file("overrides.json")).context("what the operator set")?,
            local_identities: LocalIdentities::open(&file("identities.json")).context("local identities")?,
        })
    }
}

/// Resolves at SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (sender, receiver) = oneshot::channel();
    // Installed now, so that a signal during the start is not lost.
    let waiting = tokio::spawn(async move {
        match termination().await {
            Ok(signal) => tracing::info!(signal, "stopping"),
            Err(error) => tracing::error!(%error, "cannot wait for signals, stopping"),
        }
        if sender.send(()).is_err() {
            tracing::debug!("nobody waits for signals any more");
        }
    });
    Ok(async move {
        // A sender that is gone is a stop as well.
        drop(receiver.await);
        waiting.abort();
    })
}

fn prepare_directories(config: &AgentConfig) -> anyhow::Result<()> {
    for dir in [&config.state_dir, &endpoints_dir(config), &config.desired_dir] {
        persist::make_dir(dir)?;
    }
    Ok(())
}

fn endpoints_dir(config: &AgentConfig) -> PathBuf {
    config.state_dir.join("endpoints")
}

/// The store that the cluster shares. A machine without pods has none.
fn open_shared_store(config: &AgentConfig) -> anyhow::Result<Option<Arc<DirectoryStore>>> {
    if config.is_host_only() {
        return Ok(None);
    }
    Ok(Some(Arc::new(DirectoryStore::open(&config.store_dir).context("opening the store")?)))
}

/// Reads the desired state, and waits until it has this node with its pod CIDRs. A machine without pods needs neither.
async fn read_desired(config: &AgentConfig) -> anyhow::Result<(DesiredDirectory, NodeObject)> {
    let language = config.language.options();
    let memory = config.state_dir.join("desired.jsonl");
    let mut files = DesiredDirectory::open(&config.desired_dir, &memory, language)?;
    let watch = DirWatch::new().context("watching the desired state")?;
    watch.add(&config.desired_dir).with_context(|| format!("watching {}", config.desired_dir.display()))?;
    let mut said = false;
    loop {
        files.scan();
        let desired = files.merge();
        match desired.nodes.get(&config.node_name) {
            node if config.is_host_only() => {
                return Ok((files, node.map(|node| NodeObject::clone(node)).unwrap_or_default()));
            }
            Some(node) if node.pod_cidrs().is_empty() => {
                bail!("Node {} has no spec.podCIDRs; set them in the desired state", config.node_name)
            }
            Some(node) => return Ok((files, NodeObject::clone(node))),
            None if said => {}
            None => {
                said = true;
                let dir = config.desired_dir.display();
                tracing::warn!(node = config.node_name, directory = %dir, "waiting for the Node object");
                for refused in desired.refused {
                    let source = format!("{}:{}", refused.file, refused.line);
                    tracing::warn!(source, errors = refused.errors.join("; "), "document refused");
                }
            }
        }
        drop(watch.changed().await?);
    }
}

fn build_directory(config: &AgentConfig, node: &NodeObject) -> (DirectoryWriter, DirectoryReader) {
    let mut labels = node.metadata.labels.clone();
    labels.extend(config.labels());
    let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
    directory(NodeInfo {
        name: config.node_name.clone(),
        cluster_name: config.cluster_name.clone(),
        labels: labels.collect(),
    })
}

fn build_flow_server(
    config: &AgentConfig,
    directory: DirectoryReader,
    books: Books,
    reader: ReaderWaker,
) -> anyhow::Result<(Pipeline, FlowServer)> {
    let mut flows = flow_config(config)?;
    flows.taken = books.taken;
    flows.wake = Wake::new(move || reader.wake());
    flows.book = Arc::new(books);
    flow_server(flows, directory).context("making the flow ring")
}

/// The flow server's settings, with an instance id of this run.
pub(crate) fn flow_config(config: &AgentConfig) -> anyhow::Result<FlowConfig> {
    // The hasher's keys are random for each process.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let flows = FlowConfig::new(InstanceId::new(random), &build_info().semver());
    let (system, offset_ns) = (flows.clock.clone(), config.clock_offset_ns());
    let clock = Clock::from_fn(move || system.now_ns().saturating_add_signed(offset_ns));
    Ok(FlowConfig {
        capacity: config.ring_size,
        protected_percent: config.ring_protected_percent,
        detail_bytes: usize::try_from(u64::from(config.flow_details_mib) << 20).unwrap_or(usize::MAX),
        redaction: config.redaction.redaction().context("--hubble-redact-http-headers-*")?,
        clock,
        ..flows
    })
}

#[derive(Clone, Debug)]
struct AllMetrics {
    registry: Arc<Metrics>,
    agent: AgentMetrics,
    scraped: ScrapedCounts,
    /// Made of flows, when they are asked for.
    flows: Option<FlowMetrics>,
}

fn build_metrics(flows: &FlowServer) -> AllMetrics {
    let all = AllMetrics {
        registry: Arc::new(Metrics::new()),
        agent: AgentMetrics::new(),
        scraped: ScrapedCounts::default(),
        flows: None,
    };
    all.registry.register(|registry| {
        all.agent.register(registry);
        all.scraped.register(registry);
        flows.register_metrics(registry);
    });
    all
}

/// Restores endpoints and starts the node thread. It is ready once its first pass is done.
async fn build_node(
    life: &mut Lifecycle,
    settings: NodeSettings,
    parts: NodeParts,
    (desired, contents): (watch::Receiver<Arc<Desired>>, watch::Receiver<Arc<Contents>>),
    net: &Net,
) -> anyhow::Result<NodeHandle> {
    let (handle, calls) = NodeHandle::channel();
    let first = (Arc::clone(&desired.borrow()), Arc::clone(&contents.borrow()));
    let mut node = Node::new(settings, parts, first.0, first.1)?;
    for half_made in node.restore(&net.names().await?).context("restoring endpoints")? {
        net.remove_pod_link(&half_made).await?;
    }
    let inputs = NodeInputs { desired, contents, calls };
    let (ended, end) = oneshot::channel();
    let drain = life.drain();
    let thread = std::thread::Builder::new().name("node".to_owned()).spawn(move || {
        let result = run_node(node, inputs, drain);
        // The task that waits is gone only when the program is.
        drop(ended.send(result));
    })?;
    let gate = life.readiness().gate("policies");
    let ready = handle.clone();
    life.spawn("node", async move {
        ready.call(|_| ()).await.context("the node thread's first pass")?;
        gate.open();
        drop(ready);
        end.await.context("the node thread panicked")??;
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        joined.is_ok().then_some(()).context("the node thread cannot be joined")
    });
    Ok(handle)
}

fn run_node(node: Node, inputs: NodeInputs, drain: Drain) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(node.run(inputs, drain));
    Ok(())
}

struct Followers {
    files: DesiredDirectory,
    store: Option<Arc<DirectoryStore>>,
    desired_out: watch::Sender<Arc<Desired>>,
    contents_out: watch::Sender<Arc<Contents>>,
    routes: watch::Receiver<BTreeMap<IpNet, IpAddr>>,
}

impl Followers {
    fn spawn(
        self,
        life: &mut Lifecycle,
        net: &Net,
        node: &NodeHandle,
        warnings: &Warnings,
    ) -> anyhow::Result<()> {
        let desired = DesiredFollower {
            directory: self.files,
            watch: DirWatch::new()?,
            out: self.desired_out,
            warnings: warnings.clone(),
        };
        life.spawn("desired state", desired.run(life.drain()));
        if let Some(store) = self.store {
            let (watch, out) = (DirWatch::new()?, self.contents_out);
            let store = StoreFollower { store, watch, out, warnings: warnings.clone() };
            life.spawn("store", store.run(life.drain()));
        }
        let routes = RouteFollower { net: net.clone(), wanted: self.routes, warnings: warnings.clone() };
        life.spawn("routes", routes.run(life.drain()));
        let addresses = AddressFollower {
            net: net.clone(),
            watch: AddressWatch::open().context("watching the node's addresses")?,
            node: node.clone(),
            warnings: warnings.clone(),
        };
        life.spawn("addresses", addresses.run(life.drain()));
        Ok(())
    }
}
