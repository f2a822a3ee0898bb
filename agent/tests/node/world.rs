//! One node: namespaces, desired state, and an agent that runs as long as a piece of the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use specola_agent::AgentConfig;
use specola_agent::bpf::NodePlace;
use specola_proto::specola::v1 as pb;
use specola_proto::specola::v1::agent_client::AgentClient;
use specola_testkit::netns::NetNs;
use specola_testkit::{eventually_async, require_root};
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    config: AgentConfig,
}

/// One node and what belongs to it; everything is gone when it drops.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) node: NetNs,
    pins: PathBuf,
    attach: &'static str,
}

impl World {
    /// A node named `n1`; `name` tells tests apart.
    pub(crate) fn new(name: &str, attach: &'static str) -> Self {
        require_root();
        let pins = PathBuf::from(format!("/sys/fs/bpf/specola/test-agent-{name}-{}", std::process::id()));
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(dir.path().join("desired")).expect("makes the directory");
        let world = Self { dir, node: NetNs::new("node").expect("namespace"), pins, attach };
        world.write(
            "node.yaml",
            "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: [10.7.0.0/24, 'fd07::/64']}\n\
             status: {addresses: [{type: InternalIP, address: 172.30.0.2}]}\n",
        );
        world
    }

    /// Writes a file of the desired state.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join("desired").join(name), text).expect("writes");
    }

    /// Puts an object of another node into the store.
    pub(crate) fn store(&self, name: &str, text: &str) {
        let path = self.dir.path().join("store").join(name);
        let hidden = path.with_extension("new");
        std::fs::write(&hidden, text).expect("writes");
        std::fs::rename(hidden, path).expect("renames");
    }

    /// Removes a file of the desired state.
    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join("desired").join(name)).expect("removes");
    }

    /// Starts an agent with changed settings that must fail, and gives the error.
    pub(crate) fn start_error(&self, change: impl FnOnce(&mut AgentConfig)) -> String {
        let mut config = self.config();
        change(&mut config);
        self.node.enter(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime starts");
            let never = std::future::pending();
            let result = runtime.block_on(specola_agent::run_until(config, never));
            format!("{:#}", result.expect_err("the agent must not start"))
        })
    }

    /// Where commands find the node.
    pub(crate) fn place(&self) -> NodePlace {
        NodePlace {
            pin_dir: self.pins.clone(),
            state_dir: self.dir.path().join("state"),
            store_dir: self.dir.path().join("store"),
            netns: Some(self.node.path().to_owned()),
        }
    }

    fn config(&self) -> AgentConfig {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0)).to_string();
        let flags = [
            ("--node-name", "n1".to_owned()),
            ("--state-dir", path("state")),
            ("--desired-dir", path("desired")),
            ("--store-dir", path("store")),
            ("--admin-socket", path("admin.sock")),
            ("--observer-socket", path("observer.sock")),
            ("--observer-listen", any_port.clone()),
            ("--metrics-listen", any_port),
            ("--pin-dir", self.pins.display().to_string()),
            ("--attach", self.attach.to_owned()),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        Flags::try_parse_from(["agent".to_owned()].into_iter().chain(flags)).expect("flags parse").config
    }

    /// Runs an agent in the node's namespace as long as `work` takes; then it drains.
    pub(crate) fn with_agent<T: Send>(&self, work: impl AsyncFnOnce(AgentClient<Channel>) -> T + Send) -> T {
        self.with_changed_agent(|_| {}, work)
    }

    /// [`Self::with_agent`], with changed settings.
    pub(crate) fn with_changed_agent<T: Send>(
        &self,
        change: impl FnOnce(&mut AgentConfig),
        work: impl AsyncFnOnce(AgentClient<Channel>) -> T + Send,
    ) -> T {
        let mut config = self.config();
        change(&mut config);
        self.node.enter(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime starts");
            runtime.block_on(async {
                let (stop, stopped) = oneshot::channel::<()>();
                let socket = config.admin_socket.clone();
                let running = tokio::spawn(specola_agent::run_until(config, async {
                    stopped.await.unwrap_or_default();
                }));
                let result = work(connect(&socket).await).await;
                drop(stop);
                running.await.expect("no panic").expect("starts and drains");
                result
            })
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let removed = std::fs::remove_dir_all(&self.pins);
        // Of a test that failed already the first failure counts.
        assert!(removed.is_ok() || std::thread::panicking(), "{}: {removed:?}", self.pins.display());
    }
}

/// Runs a command in a namespace and says whether it succeeded.
pub(crate) fn succeeds(netns: &NetNs, program: &str, arguments: &[&str]) -> bool {
    netns.command(program).args(arguments).output().expect("the program is installed").status.success()
}

/// Whether an address answers from a namespace.
pub(crate) fn pings(from: &NetNs, address: &str) -> bool {
    succeeds(from, "ping", &["-n", "-c1", "-W1", address])
}

/// A Pod object.
pub(crate) fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n"
    )
}

/// The request that makes a namespace the pod of that name.
pub(crate) fn request(name: &str, netns: &NetNs) -> pb::AddEndpointRequest {
    pb::AddEndpointRequest {
        container_id: format!("c-{name}"),
        netns: netns.path().display().to_string(),
        ifname: String::new(),
        pod: Some(pb::PodRef { namespace: "shop".to_owned(), name: name.to_owned() }),
    }
}

/// Waits until every endpoint enforces a revision.
pub(crate) async fn revision_ready(client: &AgentClient<Channel>, revision: u64) {
    eventually_async("policy is realized", LIMIT, || {
        let mut client = client.clone();
        async move {
            let listed = client.list_endpoints(pb::ListEndpointsRequest {}).await.expect("lists");
            let endpoints = listed.into_inner().endpoints;
            let ready = |endpoint: &pb::Endpoint| {
                endpoint.policy_revision >= revision && endpoint.state() == pb::EndpointState::Ready
            };
            if endpoints.iter().all(ready) { Ok(()) } else { Err(endpoints) }
        }
    })
    .await;
}

async fn connect(socket: &Path) -> AgentClient<Channel> {
    let address = format!("unix://{}", socket.display());
    let endpoint = Endpoint::from_shared(address).expect("a valid address");
    let channel = eventually_async("the admin socket answers", LIMIT, || endpoint.connect()).await;
    AgentClient::new(channel)
}
