//! The agent under load: its namespaces, its files, its CPU time.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use specola_proto::specola::v1 as api;
use specola_proto::specola::v1::agent_client::AgentClient;
use specola_testkit::netns::NetNs;
use specola_testkit::{eventually, eventually_async, require_root};
use specola_tests::sandbox::specola;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{self, ENDPOINTS, FIRST_NEWCOMER, NEWCOMERS};

/// Longest wait for the agent to take up thousands of files.
const LIMIT: Duration = Duration::from_secs(120);

/// A running agent with its endpoints; everything is gone when it drops.
pub(crate) struct Agent {
    process: Child,
    runtime: Runtime,
    client: AgentClient<Channel>,
    files: tempfile::TempDir,
    pins: PathBuf,
    /// Pods that nobody talks to: interfaces of one namespace.
    crowd: NetNs,
    _node: NetNs,
    network: NetNs,
    server: NetNs,
    prober: NetNs,
    server_address: Ipv4Addr,
    newcomers: Cell<u32>,
}

impl Agent {
    /// Starts it, gives it its endpoints, and then the identities of the cluster.
    pub(crate) fn start(identities: u32) -> Self {
        require_root();
        let netns = |name: &str| NetNs::new(name).expect("a namespace");
        let (node, network) = (netns("node"), netns("network"));
        connect(&node, &network);
        let files = tempfile::tempdir().expect("a temporary directory");
        // Other pods of the namespace that newcomers come into are gone; its directory stays.
        let namespace = files.path().join("store/ciliumendpoints").join(cluster::NEWCOMERS_NAMESPACE);
        for dir in [files.path().join("desired"), namespace] {
            std::fs::create_dir_all(dir).expect("makes a directory");
        }
        let desired = files.path().join("desired");
        write(&desired.join("nodes.yaml"), cluster::NODES);
        write(&desired.join("pods.yaml"), &cluster::pods());
        let pins = PathBuf::from(format!("/sys/fs/bpf/specola/bench-changes-{}", std::process::id()));
        let process = spawn(&node, files.path(), &pins);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(reach(&files.path().join("admin.sock")));
        let mut agent = Self {
            process,
            runtime,
            client,
            files,
            pins,
            crowd: netns("crowd"),
            _node: node,
            network,
            server: netns("server"),
            prober: netns("prober"),
            server_address: Ipv4Addr::UNSPECIFIED,
            newcomers: Cell::new(0),
        };
        agent.add_endpoints();
        agent.add_identities(identities);
        agent
    }

    fn add_endpoints(&mut self) {
        self.add_endpoint("probers", "prober", self.prober.path(), "eth0");
        for index in 0..ENDPOINTS {
            let (namespace, name) = cluster::pod_name(index);
            if index == 0 {
                self.server_address = self.add_endpoint(&namespace, &name, self.server.path(), "eth0");
            } else {
                self.add_endpoint(&namespace, &name, self.crowd.path(), &format!("p{index}"));
            }
        }
    }

    /// Gives the endpoint's IPv4 address.
    fn add_endpoint(&self, namespace: &str, name: &str, netns: &Path, ifname: &str) -> Ipv4Addr {
        let request = api::AddEndpointRequest {
            container_id: format!("c-{name}"),
            netns: netns.display().to_string(),
            ifname: ifname.to_owned(),
            pod: Some(api::PodRef { namespace: namespace.to_owned(), name: name.to_owned() }),
        };
        let mut client = self.client.clone();
        let added =
            self.runtime.block_on(client.add_endpoint(request)).expect("adds an endpoint").into_inner();
        let mut addresses = added.ips.iter().filter_map(|ip| ip.address.split('/').next()?.parse().ok());
        addresses.next().expect("an IPv4 address")
    }

    fn add_identities(&self, identities: u32) {
        let dir = self.files.path().join("store/ciliumidentities");
        for number in (cluster::FIRST_IDENTITY..).take(identities as usize) {
            write(&dir.join(format!("{number}.yaml")), &cluster::identity(number));
        }
        self.wait_for("identities", |status| status.identities > identities);
    }

    /// Gives it policies until it has so many, and waits until they are in force.
    pub(crate) fn grow_to(&self, policies: usize) {
        for index in 0..policies {
            let path = self.policies().join(format!("policy-{index:05}.yaml"));
            if !path.exists() {
                write(&path, &cluster::policy(index));
            }
        }
        self.prepare_port(crate::PORTS[0]).take_effect();
        let wanted = u32::try_from(policies + 1).expect("some thousands");
        self.wait_for("policies", |status| status.policies == wanted);
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&api::GetStatusResponse) -> bool) {
        eventually(what, LIMIT, || {
            let mut client = self.client.clone();
            let status = self.runtime.block_on(client.get_status(api::GetStatusRequest {}));
            let status = status.expect("the agent answers").into_inner();
            let is_ready = status.endpoints_ready == status.endpoints_total && status.refused.is_empty();
            if is_ready && is_so(&status) { Ok(()) } else { Err(summary(&status)) }
        });
    }

    /// A policy that opens a port for the prober instead of any other, beside the policy directory.
    pub(crate) fn prepare_port(&self, port: u16) -> Prepared {
        let path = self.policies().join("probed.yaml");
        Prepared::new(&path, &cluster::open_port(port))
    }

    /// A pod that is to come on another node.
    pub(crate) fn newcomer(&self) -> Newcomer {
        let count = self.newcomers.replace(self.newcomers.get() + 1);
        let number = FIRST_NEWCOMER + count % NEWCOMERS;
        let [high, low] = u16::try_from(count + 1).expect("some thousands").to_be_bytes();
        Newcomer { store: self.files.path().join("store"), number, address: Ipv4Addr::new(10, 8, high, low) }
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> CpuTime {
        CpuTime::of(self.process.id())
    }

    /// Namespace of the pod that sends to the server.
    pub(crate) fn prober(&self) -> &Path {
        self.prober.path()
    }

    /// Namespace of the pod that gets the probes.
    pub(crate) fn server(&self) -> &Path {
        self.server.path()
    }

    /// Namespace behind the node's device, where newcomers are.
    pub(crate) fn network(&self) -> &Path {
        self.network.path()
    }

    pub(crate) const fn server_address(&self) -> Ipv4Addr {
        self.server_address
    }

    fn policies(&self) -> PathBuf {
        self.files.path().join("desired")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.files.path().join("log")).unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- end of the agent's log");
            end.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        // One that ended already needs neither.
        _ = self.process.kill();
        _ = self.process.wait();
        if let Err(error) = std::fs::remove_dir_all(&self.pins) {
            eprintln!("{} stays: {error}", self.pins.display());
        }
    }
}

/// A file that waits under a hidden name in its own directory.
pub(crate) struct Prepared {
    hidden: PathBuf,
    path: PathBuf,
}

impl Prepared {
    fn new(path: &Path, text: &str) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let hidden = path.with_file_name(format!(".{name}.new"));
        write(&hidden, text);
        Self { hidden, path: path.to_owned() }
    }

    /// Gives it its name.
    pub(crate) fn take_effect(self) {
        std::fs::rename(&self.hidden, &self.path).expect("renames");
    }
}

/// A pod of another node, known by its objects in the store.
pub(crate) struct Newcomer {
    store: PathBuf,
    number: u32,
    address: Ipv4Addr,
}

impl Newcomer {
    pub(crate) const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Makes its objects, as the agent of its node does.
    pub(crate) fn come(&self) {
        let identity = Prepared::new(&self.identity_path(), &cluster::newcomer_identity(self.number));
        let endpoint = cluster::newcomer_endpoint(self.number, self.address);
        let endpoint = Prepared::new(&self.endpoint_path(), &endpoint);
        identity.take_effect();
        endpoint.take_effect();
    }

    /// Removes its objects.
    pub(crate) fn go(&self) {
        std::fs::remove_file(self.endpoint_path()).expect("removes its endpoint");
        std::fs::remove_file(self.identity_path()).expect("removes its identity");
    }

    fn endpoint_path(&self) -> PathBuf {
        let name = cluster::newcomer_name(self.number);
        self.store.join("ciliumendpoints").join(cluster::NEWCOMERS_NAMESPACE).join(format!("{name}.yaml"))
    }

    fn identity_path(&self) -> PathBuf {
        self.store.join("ciliumidentities").join(format!("{}.yaml", self.number))
    }
}

/// CPU time of an agent's threads, but for the one that reads events: the probes keep that one at work.
#[derive(Clone, Copy)]
pub(crate) struct CpuTime {
    /// Of the node thread, milliseconds.
    pub(crate) node_ms: f64,
    /// Of all others, milliseconds.
    pub(crate) others_ms: f64,
}

impl CpuTime {
    fn of(process: u32) -> Self {
        let mut used = Self { node_ms: 0.0, others_ms: 0.0 };
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("the agent runs");
        for task in tasks {
            let task = task.expect("an entry").path();
            let read = |name: &str| std::fs::read_to_string(task.join(name)).unwrap_or_default();
            let busy_ns: f64 =
                read("schedstat").split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
            match read("comm").trim() {
                "events" => {}
                "node" => used.node_ms += busy_ns / 1e6,
                _ => used.others_ms += busy_ns / 1e6,
            }
        }
        used
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        // A pool's thread that ended takes its time with it.
        Self {
            node_ms: self.node_ms - before.node_ms,
            others_ms: (self.others_ms - before.others_ms).max(0.0),
        }
    }
}

/// The node's device to the network, and the addresses of newcomers behind it.
fn connect(node: &NetNs, network: &NetNs) {
    node.veth("net0", network, "eth0");
    node.ip("addr add 172.30.0.2/24 dev net0");
    node.sysctl("net.ipv4.ip_forward", "1");
    network.ip("addr add 172.30.0.3/24 dev eth0");
    network.ip("route add local 10.8.0.0/16 dev lo");
    network.ip("route add 10.7.0.0/16 via 172.30.0.2");
}

fn spawn(node: &NetNs, files: &Path, pins: &Path) -> Child {
    let log = std::fs::File::create(files.join("log")).expect("a log");
    let mut command = node.command(&specola().display().to_string());
    command.args(["agent", "--node-name", "n1", "--device", "net0"]);
    command.args(["--observer-listen", "none", "--metrics-listen", "none", "--log-filter", "warn"]);
    for (flag, name) in [
        ("--state-dir", "state"),
        ("--desired-dir", "desired"),
        ("--store-dir", "store"),
        ("--admin-socket", "admin.sock"),
        ("--observer-socket", "observer.sock"),
    ] {
        command.arg(flag).arg(files.join(name));
    }
    command.arg("--pin-dir").arg(pins).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("nsenter starts")
}

async fn reach(socket: &Path) -> AgentClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("a valid address");
    let channel = eventually_async("the admin socket answers", LIMIT, || endpoint.connect()).await;
    AgentClient::new(channel)
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn summary(status: &api::GetStatusResponse) -> String {
    format!(
        "{} of {} endpoints ready, {} policies, {} identities, refused {:?}, {:?}",
        status.endpoints_ready,
        status.endpoints_total,
        status.policies,
        status.identities,
        status.refused,
        status.warnings
    )
}
