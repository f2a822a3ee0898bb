//! The node thread: sole owner of all state that decides.
//!
//! Desired state and store contents arrive as whole snapshots (only the newest counts), requests as calls that run on
//! this thread one by one. Each of them ends in one pass of [`reconcile`], which brings kernel, directory and store in
//! line. So no lock is held anywhere, and no two policy updates can cross.

mod cluster;
mod endpoints;
mod entries;
pub(crate) mod feed;
mod host;
mod identities;
pub(crate) mod ips;
mod kernel;
mod life;
pub(crate) mod names;
mod notices;
mod operator;
mod peers;
mod policies;
mod publish;
mod realize;
mod reconcile;
mod takeover;
mod views;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use specola_datapath::abi::ipcache::IpInfo;
use specola_directory::{DirectoryWriter, Held, LINGER};
use specola_flow_server::AgentLog;
use specola_labels::{LabelFilter, NumericIdentity};
use specola_lifecycle::Drain;
use specola_policy::{Engine, IpFamilies, ParseOptions, Settings};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::endpoints::{EndpointRequest, NodeError};
pub(crate) use self::entries::update as policy_update;
pub(crate) use self::host::HostSettings;
pub(crate) use self::identities::add_ports;
pub(crate) use self::kernel::{Kernel, NodeDevices};
pub(crate) use self::operator::AuditTarget;
pub(crate) use self::views::{KernelCounts, Wanted, direction_name, lane_name, show_origins};

use self::cluster::ClusterView;
use self::feed::DirectoryFeed;
use self::host::HostEndpoint;
use self::ips::NodeAddresses;
use self::life::Endpoint;
use self::notices::Notices;
use self::policies::Named;
use crate::config::PolicyOverflow;
use crate::cookie::CookieTable;
use crate::desired::Desired;
use crate::endpoint::Turn;
use crate::identity::LocalIdentities;
use crate::ipam::Ipam;
use crate::metrics::AgentMetrics;
use crate::overrides::Overrides;
use crate::revision::Revisions;
use crate::store::{Contents, FlowApi, NodeSpec, Store};
use crate::warnings::Warnings;

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub(crate) struct NodeSettings {
    pub(crate) node_name: String,
    pub(crate) cluster_name: String,
    pub(crate) policy: Settings,
    /// Parts of the policy language that are on.
    pub(crate) language: ParseOptions,
    pub(crate) overflow: PolicyOverflow,
    /// Policies of all endpoints are only reported.
    pub(crate) audit_mode: bool,
    /// Labels of this node besides those of its Node object.
    pub(crate) node_labels: BTreeMap<String, String>,
    /// `InternalIP` addresses of the Node object.
    pub(crate) internal_ips: Vec<IpAddr>,
    /// Addresses of the node's devices at the start.
    pub(crate) local_ips: Vec<IpAddr>,
    pub(crate) mtu: u32,
    pub(crate) devices: NodeDevices,
    /// Where this node serves flows.
    pub(crate) flow_api: FlowApi,
    pub(crate) endpoints_dir: PathBuf,
    /// How the node itself is looked after; none = only its pods are.
    pub(crate) host: Option<HostSettings>,
}

impl NodeSettings {
    fn families(&self) -> IpFamilies {
        self.policy.ip_families
    }
}

/// Parts that the node takes over.
#[derive(Debug)]
pub(crate) struct NodeParts {
    pub(crate) kernel: Box<dyn Kernel>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directory: DirectoryWriter,
    pub(crate) ipam: Ipam,
    pub(crate) cookies: CookieTable,
    pub(crate) revisions: Revisions,
    pub(crate) overrides: Overrides,
    pub(crate) local_identities: LocalIdentities,
    pub(crate) metrics: AgentMetrics,
    pub(crate) warnings: Warnings,
    /// Where the node says what it does.
    pub(crate) agent_log: AgentLog,
    /// Where the wanted routes to peers go.
    pub(crate) peer_routes: watch::Sender<BTreeMap<IpNet, IpAddr>>,
    pub(crate) flows: HeldFlows,
}

/// Says which flows can be read, so that the names in them are kept.
pub(crate) struct HeldFlows(pub(crate) Box<dyn Fn() -> Held + Send>);

impl std::fmt::Debug for HeldFlows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeldFlows")
    }
}

/// What arrives from outside.
#[derive(Debug)]
pub(crate) struct NodeInputs {
    pub(crate) desired: watch::Receiver<Arc<Desired>>,
    pub(crate) contents: watch::Receiver<Arc<Contents>>,
    pub(crate) calls: mpsc::Receiver<Call>,
}

/// Work that runs on the node thread.
pub(crate) struct Call(Box<dyn FnOnce(&mut Node) + Send>);

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
    }
}

/// The node thread has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the agent is shutting down")]
pub(crate) struct NodeGone;

/// Sends calls to the node thread.
#[derive(Clone, Debug)]
pub(crate) struct NodeHandle {
    calls: mpsc::Sender<Call>,
}

impl NodeHandle {
    /// A handle and the end that the node gets.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Call>) {
        let (calls, receiver) = mpsc::channel(CALLS);
        (Self { calls }, receiver)
    }

    /// Runs `work` on the node thread and returns what it gives.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Node) -> T + Send + 'static,
    ) -> Result<T, NodeGone> {
        let (reply, answer) = oneshot::channel();
        let call = Call(Box::new(move |node| {
            // The one who asked may have gone away; the work is done all the same.
            drop(reply.send(work(node)));
        }));
        self.calls.send(call).await.map_err(|_closed| NodeGone)?;
        answer.await.map_err(|_closed| NodeGone)
    }
}

/// What the last pass was about, so that the next one does only what is new.
#[derive(Debug)]
struct Seen {
    desired: Option<Arc<Desired>>,
    contents_version: u64,
    /// Endpoints or addresses changed since, or something failed.
    touched: bool,
    /// The operator's names changed since.
    names: bool,
    /// What others see of an endpoint changed since.
    unpublished: bool,
    /// What decided which prefixes have identities.
    named: Option<Named>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            desired: None,
            contents_version: 0,
            touched: true,
            names: false,
            unpublished: true,
            named: None,
        }
    }
}

/// The state of one node.
#[derive(Debug)]
pub(crate) struct Node {
    settings: NodeSettings,
    addresses: NodeAddresses,
    kernel: Box<dyn Kernel>,
    store: Arc<dyn Store>,
    feed: DirectoryFeed,
    ipam: Ipam,
    cookies: CookieTable,
    revisions: Revisions,
    overrides: Overrides,
    local_identities: LocalIdentities,
    metrics: AgentMetrics,
    warnings: Warnings,
    notices: Notices,
    peer_routes: watch::Sender<BTreeMap<IpNet, IpAddr>>,
    flows: HeldFlows,
    filter: LabelFilter,
    engine: Engine,
    desired: Arc<Desired>,
    /// What the last pass was about.
    seen: Seen,
    /// The desired state whose policies the engine has; none when that is not certain.
    taken: Option<Arc<Desired>>,
    /// The desired state whose groups and services the engine has.
    objects: Arc<Desired>,
    contents: Arc<Contents>,
    /// Grows with each new `contents`.
    contents_version: u64,
    endpoints: BTreeMap<u16, Endpoint>,
    host: Option<HostEndpoint>,
    ids: Turn,
    slots: Turn,
    /// What the kernel's ipcache holds.
    ips: HashMap<IpNet, IpInfo>,
    /// Identities of the cluster that nobody has any more, and that policies forget after the ipcache.
    leaving: BTreeSet<NumericIdentity>,
    /// Who has the identities of the cluster, as of the last pass.
    cluster: ClusterView,
    /// Identities whose names the directory does not have yet; none = it may lack any.
    relabelled: Option<BTreeSet<NumericIdentity>>,
    /// Other nodes that have identities of their own, by name.
    peers: BTreeMap<String, NumericIdentity>,
    /// Interfaces may run programs of an earlier build, over its maps: see [`takeover`].
    takes_over: bool,
    /// Something failed that time may mend.
    retry: bool,
}

impl Node {
    /// Puts the parts together. `desired` and `contents` must be read already: a node that starts with neither would
    /// open what policies had closed.
    pub(crate) fn new(
        settings: NodeSettings,
        parts: NodeParts,
        desired: Arc<Desired>,
        contents: Arc<Contents>,
    ) -> anyhow::Result<Self> {
        let ips = parts.kernel.ips()?;
        let takes_over = parts.kernel.has_old_maps()?;
        let mut feed = DirectoryFeed::new(parts.directory, &settings.cluster_name);
        feed.cookies(parts.cookies.iter())?;
        let addresses =
            NodeAddresses::new(&settings.internal_ips, parts.ipam.routers(), settings.local_ips.clone());
        let host = settings.host.as_ref().map(|_| HostEndpoint::default());
        let mut engine = Engine::new(settings.policy.clone());
        engine.advance(parts.revisions.latest());
        Ok(Self {
            engine,
            settings,
            host,
            addresses,
            kernel: parts.kernel,
            store: parts.store,
            feed,
            ipam: parts.ipam,
            cookies: parts.cookies,
            revisions: parts.revisions,
            overrides: parts.overrides,
            local_identities: parts.local_identities,
            metrics: parts.metrics,
            warnings: parts.warnings,
            notices: Notices::new(parts.agent_log),
            peer_routes: parts.peer_routes,
            flows: parts.flows,
            filter: LabelFilter::identity_relevant(),
            desired,
            seen: Seen::default(),
            taken: None,
            objects: Arc::default(),
            contents,
            contents_version: 0,
            endpoints: BTreeMap::new(),
            ids: Turn::new(1, host::ID - 1),
            slots: Turn::new(1, endpoints::LAST_SLOT),
            ips,
            leaving: BTreeSet::new(),
            cluster: ClusterView::default(),
            relabelled: None,
            peers: BTreeMap::new(),
            takes_over,
            retry: false,
        })
    }

    /// Runs until the drain. What is in the kernel stays as it is.
    pub(crate) async fn run(mut self, mut inputs: NodeInputs, drain: Drain) {
        self.reconcile();
        let mut collected = tokio::time::Instant::now();
        loop {
            let (retry, has_retired) = (self.retry, self.feed.has_retired());
            let unfinished = self.kernel.has_unfinished_policies();
            tokio::select! {
                biased;
                () = drain.signalled() => return,
                Some(call) = inputs.calls.recv() => call.0(&mut self),
                Ok(()) = inputs.desired.changed() => {
                    self.desired = Arc::clone(&inputs.desired.borrow_and_update());
                    self.reconcile();
                }
                Ok(()) = inputs.contents.changed() => {
                    self.contents = Arc::clone(&inputs.contents.borrow_and_update());
                    self.contents_version += 1;
                    self.reconcile();
                }
                () = tokio::time::sleep(FINISH), if unfinished => self.kernel.finish_policies(),
                () = tokio::time::sleep(RETRY), if retry => self.reconcile(),
                () = tokio::time::sleep_until(collected + LINGER), if has_retired => {
                    self.feed.collect((self.flows.0)());
                    collected = tokio::time::Instant::now();
                }
                else => return,
            }
        }
    }

    /// Takes the addresses that the node's devices have now.
    pub(crate) fn take_addresses(&mut self, devices: Vec<IpAddr>) {
        let now = NodeAddresses::new(&self.settings.internal_ips, self.ipam.routers(), devices);
        if now != self.addresses {
            tracing::info!(addresses = ?now.all, "the node's addresses changed");
            self.addresses = now;
            self.touch();
            self.reconcile();
        }
    }

    /// The spec of this node's CiliumNode object.
    pub(crate) fn published_spec(&self) -> NodeSpec {
        publish::node_spec(&self.settings, &self.ipam)
    }
}

/// Calls that may wait for the node thread.
const CALLS: usize = 64;
/// Time between looks at whether the second half of policy updates can be done: about a grace period of the kernel.
const FINISH: Duration = Duration::from_millis(20);
/// Time after which something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
