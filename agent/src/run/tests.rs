//! The whole agent, in network namespaces, with the real datapath.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use specola_proto::specola::v1 as pb;
use specola_proto::specola::v1::agent_client::AgentClient;
use specola_testkit::netns::NetNs;
use specola_testkit::{eventually_async, require_root};
use tonic::transport::{Channel, Endpoint};

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    config: AgentConfig,
}

/// One node and what belongs to it; everything is gone when it drops.
struct World {
    dir: tempfile::TempDir,
    node: NetNs,
    pins: PathBuf,
    attach: &'static str,
}

impl World {
    fn new(name: &str, attach: &'static str) -> Self {
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

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join("desired").join(name), text).expect("writes");
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join("desired").join(name)).expect("removes");
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
    fn with_agent<T: Send>(&self, work: impl AsyncFnOnce(AgentClient<Channel>) -> T + Send) -> T {
        let config = self.config();
        self.node.enter(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime starts");
            runtime.block_on(async {
                let agent = Agent::build(&config).await.expect("the agent starts");
                let (stop, stopped) = oneshot::channel::<()>();
                let stopped = async { stopped.await.unwrap_or_default() };
                let running = tokio::spawn(agent.run_until(stopped, LIMIT));
                let result = work(client(&config).await).await;
                drop(stop);
                running.await.expect("no panic").expect("drains");
                result
            })
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.pins).expect("pins can be removed");
    }
}

async fn client(config: &AgentConfig) -> AgentClient<Channel> {
    let address = format!("unix://{}", config.admin_socket.display());
    let endpoint = Endpoint::from_shared(address).expect("a valid address");
    AgentClient::new(endpoint.connect().await.expect("the admin socket answers"))
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n"
    )
}

const DENY_ALL: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: closed, namespace: shop}\n\
                        spec:\n  endpointSelector: {matchLabels: {app: web}}\n  ingressDeny:\n  - fromEntities: [all]\n";

fn request(name: &str, netns: &NetNs) -> pb::AddEndpointRequest {
    pb::AddEndpointRequest {
        container_id: format!("c-{name}"),
        netns: netns.path().display().to_string(),
        ifname: String::new(),
        pod: Some(pb::PodRef { namespace: "shop".to_owned(), name: name.to_owned() }),
    }
}

fn pings(from: &NetNs, address: &str) -> bool {
    let output =
        from.command("ping").args(["-n", "-c1", "-W1", address]).output().expect("ping is installed");
    output.status.success()
}

async fn revision_ready(client: &mut AgentClient<Channel>, revision: u64) {
    let client = client.clone();
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

#[test]
fn endpoints_are_wired_enforced_restored_and_removed() {
    let world = World::new("life", "auto");
    let (web, db) = (NetNs::new("web").expect("namespace"), NetNs::new("db").expect("namespace"));
    world.write("pods.yaml", &[pod("web"), pod("db")].join("---\n"));
    let first = world.with_agent(async |mut client| {
        let added = client.add_endpoint(request("web", &web)).await.expect("adds web").into_inner();
        let again = client.add_endpoint(request("web", &web)).await.expect("adds web again").into_inner();
        assert_eq!(added.ips, again.ips);
        assert_eq!(added.ips[0].address, "10.7.0.2/32");
        assert_eq!(added.ips[0].gateway, "10.7.0.1");
        let endpoint = added.endpoint.expect("has an endpoint");
        assert_eq!(endpoint.state(), pb::EndpointState::Ready, "{endpoint:?}");
        client.add_endpoint(request("db", &db)).await.expect("adds db");
        for (from, to) in [
            (&world.node, "10.7.0.2"),
            (&world.node, "fd07::2"),
            (&web, "10.7.0.1"),
            (&db, "10.7.0.2"),
            (&db, "fd07::2"),
        ] {
            assert!(pings(from, to), "{} to {to}", from.name());
        }
        world.write("policy.yaml", DENY_ALL);
        revision_ready(&mut client, 2).await;
        assert!(!pings(&db, "10.7.0.2"), "denied");
        let shown = client.get_status(pb::GetStatusRequest {}).await.expect("has a status").into_inner();
        assert!(shown.warnings.is_empty(), "{:?}", shown.warnings);
        assert!(shown.drops.iter().any(|drop| drop.reason == 181 && drop.packets > 0), "{:?}", shown.drops);
        endpoint
    });
    assert!(!pings(&db, "10.7.0.2"), "denied while no agent runs");
    assert!(pings(&web, "10.7.0.1"), "allowed while no agent runs");
    world.with_agent(async |mut client| {
        revision_ready(&mut client, 2).await;
        let listed = client.list_endpoints(pb::ListEndpointsRequest {}).await.expect("lists").into_inner();
        assert_eq!(listed.endpoints.len(), 2);
        let restored = &listed.endpoints[0];
        assert_eq!((restored.id, restored.slot, &restored.ips), (first.id, first.slot, &first.ips));
        assert_eq!(restored.identity, first.identity);
        assert!(!pings(&db, "10.7.0.2"), "still denied");
        world.remove("policy.yaml");
        revision_ready(&mut client, 3).await;
        assert!(pings(&db, "10.7.0.2"), "allowed again");
        let delete = pb::DeleteEndpointRequest { container_id: "c-web".to_owned(), ifname: String::new() };
        client.delete_endpoint(delete.clone()).await.expect("deletes");
        client.delete_endpoint(delete).await.expect("is gone already");
        assert!(!web.ip("link show").contains("eth0"));
        assert!(!pings(&db, "10.7.0.2"));
    });
}

#[test]
fn a_pod_that_is_not_known_yet_is_closed() {
    let world = World::new("closed", "auto");
    let web = NetNs::new("web").expect("namespace");
    world.with_agent(async |mut client| {
        let added = client.add_endpoint(request("web", &web)).await.expect("adds").into_inner();
        let endpoint = added.endpoint.expect("has an endpoint");
        assert_eq!(endpoint.state(), pb::EndpointState::WaitingForIdentity, "{endpoint:?}");
        assert!(!pings(&web, "10.7.0.1"));
        world.write("pods.yaml", &pod("web"));
        revision_ready(&mut client, 1).await;
        assert!(pings(&web, "10.7.0.1"));
    });
}

#[test]
fn a_namespace_that_does_not_exist_is_refused_and_leaves_nothing() {
    let world = World::new("refused", "auto");
    world.with_agent(async |mut client| {
        let web = NetNs::new("web").expect("namespace");
        let missing = pb::AddEndpointRequest { netns: "/nonexistent".to_owned(), ..request("web", &web) };
        let error = client.add_endpoint(missing).await.expect_err("no such namespace");
        assert_eq!(error.code(), tonic::Code::FailedPrecondition);
        assert!(error.message().contains("/nonexistent"), "{error}");
        let bad = pb::AddEndpointRequest { pod: None, ..request("web", &web) };
        assert_eq!(client.add_endpoint(bad).await.expect_err("no pod").code(), tonic::Code::InvalidArgument);
        let listed = client.list_endpoints(pb::ListEndpointsRequest {}).await.expect("lists").into_inner();
        assert!(listed.endpoints.is_empty());
    });
}

#[test]
fn clsact_filters_enforce_and_survive_too() {
    let world = World::new("clsact", "clsact");
    let web = NetNs::new("web").expect("namespace");
    world.write("pods.yaml", &pod("web"));
    world.with_agent(async |mut client| {
        client.add_endpoint(request("web", &web)).await.expect("adds web");
        assert!(pings(&world.node, "10.7.0.2"));
        world.write("policy.yaml", DENY_ALL);
        revision_ready(&mut client, 2).await;
        let shown = client.get_status(pb::GetStatusRequest {}).await.expect("has a status").into_inner();
        assert_eq!(shown.attach_mode, "clsact");
        assert!(!pings(&world.node, "10.7.0.2"), "denied");
    });
    assert!(!pings(&world.node, "10.7.0.2"), "denied while no agent runs");
    world.with_agent(async |mut client| {
        revision_ready(&mut client, 2).await;
        world.remove("policy.yaml");
        revision_ready(&mut client, 3).await;
        assert!(pings(&world.node, "10.7.0.2"), "allowed again");
    });
}
