//! Assembly: builds every part, connects them, and runs until a signal.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, bail};
use ipnet::IpNet;
use specola_datapath::{Config as DatapathConfig, Datapath, EventReader, ReaderCounts};
use specola_directory::{DirectoryReader, DirectoryWriter, directory};
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{Config as FlowConfig, FlowServer, ListenConfig, Listeners, Pipeline, flow_server};
use specola_lifecycle::{Drain, Lifecycle, build_info, termination};
use specola_policy::{IpFamilies, Settings};
use specola_telemetry::{Metrics, init_logs};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::admin::{AdminService, AdminSocket};
use crate::config::AgentConfig;
use crate::cookie::CookieTable;
use crate::desired::{Desired, DesiredDirectory, Node as NodeObject};
use crate::follow::{DesiredFollower, RouteFollower, StoreFollower};
use crate::fs_watch::DirWatch;
use crate::http::{HttpServer, Refresh};
use crate::identity::LocalIdentities;
use crate::ipam::Ipam;
use crate::metrics::{AgentMetrics, ScrapedCounts};
use crate::net::{HostDevice, Net};
use crate::node::{Node, NodeHandle, NodeInputs, NodeParts, NodeSettings};
use crate::persist;
use crate::store::{Contents, DirectoryStore, Store};
use crate::warnings::Warnings;

/// Runs the agent until SIGTERM, SIGINT or a fatal error. Pinned programs and maps keep working after it.
///
/// # Errors
/// A part cannot be set up, or a task ends before shutdown.
pub async fn run(config: AgentConfig) -> anyhow::Result<()> {
    init_logs(config.log_format.into(), &config.log_filter)?;
    tracing::info!(version = build_info().semver(), node = config.node_name, "agent starts");
    let stop = stop_signal()?;
    tokio::pin!(stop);
    let agent = tokio::select! {
        agent = Agent::build(&config) => agent?,
        () = &mut stop => return Ok(()),
    };
    let Agent { life, reader } = agent;
    let outcome = life.run_until(stop, config.drain_timeout).await;
    for error in &outcome.errors {
        tracing::error!(%error, "while stopping");
    }
    if !outcome.aborted.is_empty() {
        tracing::error!(tasks = outcome.aborted.join(", "), "tasks missed the drain deadline");
    }
    reader.stop().await?;
    tracing::info!("agent stopped; programs and maps stay in force");
    outcome.cause.map_or(Ok(()), |cause| Err(cause).context("the agent stopped by itself"))
}

/// A program that is ready to run.
struct Agent {
    life: Lifecycle,
    reader: ReaderThread,
}

impl Agent {
    async fn build(config: &AgentConfig) -> anyhow::Result<Self> {
        prepare_directories(config)?;
        let warnings = Warnings::default();
        let (files, node_object) = read_desired(config).await?;
        let store = Arc::new(DirectoryStore::open(&config.store_dir).context("opening the store")?);
        let state = LocalState::open(config, &node_object)?;
        let net = Net::open()?;
        let (settings, host) = build_network(config, &node_object, &state.ipam, &net).await?;
        let mut datapath = build_datapath(config, &net, &settings, host).await?;
        let events = datapath.take_reader().context("the event reader was taken twice")?;
        let (writer, directory_reader) = build_directory(config, &node_object);
        let (pipeline, flows) = build_flow_server(config, directory_reader)?;

        let mut life = Lifecycle::new();
        let (desired_out, desired) = watch::channel(Arc::new(files.merge()));
        let (contents_out, contents) = watch::channel(Arc::new(store.list()?));
        let (routes_out, routes) = watch::channel(BTreeMap::new());
        let metrics = build_metrics();
        let parts = NodeParts {
            kernel: Box::new(datapath),
            store: Arc::clone(&store) as Arc<dyn Store>,
            directory: writer,
            ipam: state.ipam,
            cookies: state.cookies,
            local_identities: state.local_identities,
            metrics: metrics.agent.clone(),
            warnings: warnings.clone(),
            peer_routes: routes_out,
        };
        let devices = net.names().await?;
        let node = build_node(&mut life, settings, parts, (desired, contents), devices)?;
        let reader = ReaderThread::start(events, pipeline)?;
        let followers = Followers { files, store, desired_out, contents_out, routes };
        followers.spawn(&mut life, &net, &warnings)?;
        spawn_servers(&mut life, config, &node, &net, &flows, metrics).await?;
        Ok(Self { life, reader })
    }
}

/// State that survives a restart.
struct LocalState {
    ipam: Ipam,
    cookies: CookieTable,
    local_identities: LocalIdentities,
}

impl LocalState {
    fn open(config: &AgentConfig, node: &NodeObject) -> anyhow::Result<Self> {
        let file = |name: &str| config.state_dir.join(name);
        Ok(Self {
            ipam: Ipam::open(&file("ipam.json"), &node.pod_cidrs()).context("pod addresses")?,
            cookies: CookieTable::open(&file("cookies.jsonl")).context("cookies")?,
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

fn endpoints_dir(config: &AgentConfig) -> std::path::PathBuf {
    config.state_dir.join("endpoints")
}

/// Reads the desired state, and waits until it has this node with its pod CIDRs.
async fn read_desired(config: &AgentConfig) -> anyhow::Result<(DesiredDirectory, NodeObject)> {
    let mut files = DesiredDirectory::new(&config.desired_dir);
    let watch = DirWatch::new().context("watching the desired state")?;
    watch.add(&config.desired_dir).with_context(|| format!("watching {}", config.desired_dir.display()))?;
    let mut said = false;
    loop {
        files.scan();
        let desired = files.merge();
        match desired.nodes.get(&config.node_name) {
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
        watch.changed().await?;
    }
}

async fn build_network(
    config: &AgentConfig,
    node: &NodeObject,
    ipam: &Ipam,
    net: &Net,
) -> anyhow::Result<(NodeSettings, HostDevice)> {
    let cidrs: Vec<IpNet> = ipam.cidrs().collect();
    let host = net
        .ensure_host_device(ipam.routers(), &cidrs, &config.devices, config.mtu)
        .await
        .context("setting up the host device")?;
    let internal_ips = node.internal_ips();
    let mut local_ips: Vec<IpAddr> = net.local_addresses().await?;
    local_ips.extend(internal_ips.iter().copied().chain(ipam.routers().iter()));
    local_ips.sort_unstable();
    local_ips.dedup();
    let policy = Settings {
        cluster_name: config.cluster_name.clone(),
        mode: config.policy_mode.into(),
        ip_families: families(&cidrs),
        ..Settings::default()
    };
    let settings = NodeSettings {
        node_name: config.node_name.clone(),
        cluster_name: config.cluster_name.clone(),
        policy,
        internal_ips,
        local_ips,
        mtu: config.mtu,
        endpoints_dir: endpoints_dir(config),
    };
    Ok((settings, host))
}

fn families(cidrs: &[IpNet]) -> IpFamilies {
    let has = |ipv4: bool| cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == ipv4);
    match (has(true), has(false)) {
        (true, false) => IpFamilies::V4,
        (false, true) => IpFamilies::V6,
        _ => IpFamilies::Dual,
    }
}

async fn build_datapath(
    config: &AgentConfig,
    net: &Net,
    settings: &NodeSettings,
    host: HostDevice,
) -> anyhow::Result<Datapath> {
    let mut devices = Vec::new();
    for name in &config.devices {
        devices.push(net.ifindex(name).await?);
    }
    let mut wanted = DatapathConfig::new(&config.pin_dir);
    wanted.attach = config.attach.into();
    wanted.trace_interval_ms = config.trace_interval_ms;
    wanted.host_ifindex = host.ifindex;
    wanted.host_mac = host.mac;
    wanted.dual_stack = settings.policy.ip_families == IpFamilies::Dual;
    let load = move || -> anyhow::Result<Datapath> {
        let mut datapath = Datapath::load(&wanted).context("loading the datapath")?;
        for map in datapath.recreated() {
            tracing::warn!(?map, "a pinned map had another layout and starts empty");
        }
        datapath.attach_host(host.ifindex).context("attaching to the host device")?;
        for ifindex in devices {
            datapath.attach_netdev(ifindex).context("attaching to a node device")?;
        }
        Ok(datapath)
    };
    tokio::task::spawn_blocking(load).await?
}

fn build_directory(config: &AgentConfig, node: &NodeObject) -> (DirectoryWriter, DirectoryReader) {
    let labels = node.metadata.labels.iter().map(|(key, value)| format!("{key}={value}"));
    directory(NodeInfo {
        name: config.node_name.clone(),
        cluster_name: config.cluster_name.clone(),
        labels: labels.collect(),
    })
}

fn build_flow_server(
    config: &AgentConfig,
    directory: DirectoryReader,
) -> anyhow::Result<(Pipeline, FlowServer)> {
    // The hasher's keys are random for each process.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let version = build_info().semver();
    let mut flows = FlowConfig::new(InstanceId::new(random), &version);
    flows.capacity = config.flow_capacity;
    flow_server(flows, directory).context("making the flow ring")
}

#[derive(Clone, Debug)]
struct AllMetrics {
    registry: Arc<Metrics>,
    agent: AgentMetrics,
    scraped: ScrapedCounts,
}

fn build_metrics() -> AllMetrics {
    let all = AllMetrics {
        registry: Arc::new(Metrics::new()),
        agent: AgentMetrics::new(),
        scraped: ScrapedCounts::default(),
    };
    all.registry.register(|registry| {
        all.agent.register(registry);
        all.scraped.register(registry);
    });
    all
}

/// Starts the node thread. It is ready once its first pass is done.
fn build_node(
    life: &mut Lifecycle,
    settings: NodeSettings,
    parts: NodeParts,
    (desired, contents): (watch::Receiver<Arc<Desired>>, watch::Receiver<Arc<Contents>>),
    devices: Vec<(u32, String)>,
) -> anyhow::Result<NodeHandle> {
    let (handle, calls) = NodeHandle::channel();
    let first = (Arc::clone(&desired.borrow()), Arc::clone(&contents.borrow()));
    let mut node = Node::new(settings, parts, first.0, first.1)?;
    node.restore(&devices).context("restoring endpoints")?;
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

/// The thread that drains kernel events into the flow pipeline.
struct ReaderThread {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<ReaderCounts>,
}

impl ReaderThread {
    fn start(reader: EventReader, mut pipeline: Pipeline) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let sink = move |tick: specola_datapath::Tick<'_>| {
            for (reason, count) in tick.rejected.by_reason() {
                pipeline.reject(reason, count);
            }
            pipeline.ingest(tick.events, tick.clock_offset_ns);
        };
        let thread = reader.spawn(Arc::clone(&stop), sink).context("starting the reader thread")?;
        Ok(Self { stop, thread })
    }

    /// Stops after a last drain of the lanes.
    async fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Release);
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        let counts = joined.map_err(|_panic| anyhow::anyhow!("the reader thread panicked"))?;
        tracing::debug!(?counts, "reader stopped");
        Ok(())
    }
}

struct Followers {
    files: DesiredDirectory,
    store: Arc<DirectoryStore>,
    desired_out: watch::Sender<Arc<Desired>>,
    contents_out: watch::Sender<Arc<Contents>>,
    routes: watch::Receiver<BTreeMap<IpNet, IpAddr>>,
}

impl Followers {
    fn spawn(self, life: &mut Lifecycle, net: &Net, warnings: &Warnings) -> anyhow::Result<()> {
        let desired = DesiredFollower {
            directory: self.files,
            watch: DirWatch::new()?,
            out: self.desired_out,
            warnings: warnings.clone(),
        };
        life.spawn("desired state", desired.run(life.drain()));
        let store = StoreFollower {
            store: self.store,
            watch: DirWatch::new()?,
            out: self.contents_out,
            warnings: warnings.clone(),
        };
        life.spawn("store", store.run(life.drain()));
        let routes = RouteFollower { net: net.clone(), wanted: self.routes, warnings: warnings.clone() };
        life.spawn("routes", routes.run(life.drain()));
        Ok(())
    }
}

async fn spawn_servers(
    life: &mut Lifecycle,
    config: &AgentConfig,
    node: &NodeHandle,
    net: &Net,
    flows: &FlowServer,
    metrics: AllMetrics,
) -> anyhow::Result<()> {
    make_parent(&config.observer_socket)?;
    let listen =
        ListenConfig { unix: Some(config.observer_socket.clone()), tcp: Some(config.observer_listen) };
    let observer = Listeners::bind(&listen).await?;
    let (server, drain) = (flows.clone(), life.drain());
    life.spawn("observer", async move { server.serve(observer, drain).await });

    let listener = TcpListener::bind(config.metrics_listen)
        .await
        .with_context(|| format!("listening on {} for metrics", config.metrics_listen))?;
    let refresh = refresh(node.clone(), flows.clone(), metrics.scraped);
    let http = HttpServer { metrics: metrics.registry, readiness: life.readiness(), refresh };
    life.spawn("metrics", http.run(listener, life.drain()));

    // Last: who finds the admin socket finds an agent that works.
    let socket = AdminSocket::bind(&config.admin_socket).await?;
    let admin = AdminService::new(node.clone(), net.clone(), flows.clone(), life.readiness(), config.mtu);
    life.spawn("admin", admin.serve(socket, life.drain()));
    Ok(())
}

fn refresh(node: NodeHandle, flows: FlowServer, scraped: ScrapedCounts) -> Refresh {
    Arc::new(move || {
        let (node, flows, scraped) = (node.clone(), flows.clone(), scraped.clone());
        Box::pin(async move {
            let kernel = match node.call(|node| node.kernel_counts()).await {
                Ok(Ok(counts)) => counts,
                Ok(Err(error)) => return tracing::warn!(error = format!("{error:#}"), "kernel counters"),
                Err(gone) => return tracing::debug!(%gone, "kernel counters"),
            };
            let status = flows.status();
            let ledger = status.ledger;
            let numbers = vec![
                ("consumed", ledger.consumed),
                ("agent", ledger.agent),
                ("agent_refused", ledger.agent_refused),
                ("expanded", ledger.expanded),
                ("pushed", ledger.pushed),
                ("rejected", ledger.rejected.values().sum()),
                ("overwritten", status.overwritten),
            ];
            scraped.set(kernel, numbers);
        })
    })
}

fn make_parent(path: &Path) -> anyhow::Result<()> {
    match path.parent() {
        Some(parent) => Ok(persist::make_dir(parent)?),
        None => Ok(()),
    }
}
