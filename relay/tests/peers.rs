//! Peers as they come and change: names of clusters, addresses, certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use specola_directory::{DirectoryWriter, directory};
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{
    Config, FlowServer, ListenConfig, Listeners, Peer, Pipeline, Synthetic, TlsFiles, flow_server,
};
use specola_lifecycle::{DrainTrigger, drain};
use specola_proto::flow::FlowFilter;
use specola_proto::observer::{
    GetFlowsRequest, GetFlowsResponse, GetNodesRequest, Node, get_flows_response::ResponseTypes,
    observer_client::ObserverClient,
};
use specola_proto::relay::NodeState;
use specola_relay::{Relay, RelayConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codec::Streaming;
use tonic::transport::{Channel, Endpoint};

const NAME: &str = "n1.default.hubble-grpc.cilium.io";
/// Far beyond anything that a passing test needs; only a broken one waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    config: RelayConfig,
}

/// A relay with these arguments; its address.
async fn relay(arguments: &[&str]) -> SocketAddr {
    let arguments = ["relay", "--listen-address", "127.0.0.1:0"].iter().chain(arguments);
    let relay = Relay::start(&Program::try_parse_from(arguments).unwrap().config).await.unwrap();
    let address = relay.address.unwrap();
    tokio::spawn(relay.run_until(std::future::pending()));
    address
}

/// A node that is called n1 and has flows.
struct Server {
    flows: FlowServer,
    address: Option<SocketAddr>,
    drain: DrainTrigger,
    _kept: (Pipeline, DirectoryWriter),
}

async fn server(seed: u64, listen: ListenConfig) -> Server {
    let node = NodeInfo { name: "n1".into(), cluster_name: "default".into(), labels: Vec::new() };
    let (mut writer, reader) = directory(node);
    writer.apply(Synthetic::changes()).unwrap();
    let (mut pipeline, flows) = flow_server(Config::new(InstanceId::new(seed), "1.2.3"), reader).unwrap();
    let mut source = Synthetic::new(seed);
    for record in 0..50 {
        pipeline.ingest(&[source.event(1_790_000_000_000_000_000 + record)], 0);
    }
    let listeners = Listeners::bind(&listen).await.unwrap();
    let (address, (trigger, watcher), serving) = (listeners.tcp_address(), drain(), flows.clone());
    tokio::spawn(async move { serving.serve(listeners, watcher).await });
    Server { flows, address, drain: trigger, _kept: (pipeline, writer) }
}

async fn plain(address: SocketAddr) -> ObserverClient<Channel> {
    ObserverClient::connect(format!("http://{address}")).await.unwrap()
}

/// Asks for the nodes until they are as wanted.
async fn wait_nodes(client: &mut ObserverClient<Channel>, wanted: impl Fn(&[Node]) -> bool) -> Vec<Node> {
    let begin = tokio::time::Instant::now();
    loop {
        let nodes = client.get_nodes(GetNodesRequest {}).await.unwrap().into_inner().nodes;
        if wanted(&nodes) {
            return nodes;
        }
        assert!(begin.elapsed() < PATIENCE, "{nodes:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn are_connected(nodes: &[Node], count: usize) -> bool {
    nodes.len() == count && nodes.iter().all(|node| node.state() == NodeState::NodeConnected)
}

/// Number of flows by name of the node.
async fn flows(client: &mut ObserverClient<Channel>, node_names: &[&str]) -> BTreeMap<String, usize> {
    let node_name: Vec<String> = node_names.iter().map(|name| (*name).to_owned()).collect();
    let whitelist = vec![FlowFilter { node_name, ..FlowFilter::default() }];
    let request = GetFlowsRequest {
        whitelist: whitelist.into_iter().filter(|_| !node_names.is_empty()).collect(),
        ..GetFlowsRequest::default()
    };
    let mut answers = client.get_flows(request).await.unwrap().into_inner();
    let mut counts = BTreeMap::new();
    while let Some(answer) = answers.message().await.unwrap() {
        if matches!(answer.response_types, Some(ResponseTypes::Flow(_))) {
            *counts.entry(answer.node_name).or_default() += 1;
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_several_clusters_have_names_of_their_own_and_may_move() {
    let dir = tempfile::tempdir().unwrap();
    let socket = |name: &str| dir.path().join(name);
    let unix = |name: &str| ListenConfig { unix: Some(socket(name)), ..ListenConfig::default() };
    let url = |name: &str| format!("unix://{}", socket(name).display());
    let peer = |name: &str| -> BTreeMap<String, Peer> {
        [("n1".to_owned(), Peer { address: url(name), server_name: None })].into()
    };
    let (east, west, _moved) =
        (server(1, unix("east")).await, server(2, unix("west")).await, server(3, unix("moved")).await);
    east.flows.set_peers(peer("east"));
    west.flows.set_peers(peer("west"));
    let services = [format!("east={}", url("east")), format!("west={}", url("west"))];
    let address = relay(&["--peer-service", &services[0], "--peer-service", &services[1]]).await;
    let mut client = plain(address).await;
    let nodes = wait_nodes(&mut client, |nodes| are_connected(nodes, 2)).await;
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["east/n1", "west/n1"]);

    let all = flows(&mut client, &[]).await;
    assert_eq!(all.keys().collect::<Vec<_>>(), ["east/n1", "west/n1"]);
    for (filter, expected) in
        [("east/n1", &["east/n1"][..]), ("*/n1", &["east/n1", "west/n1"]), ("north/", &[])]
    {
        let seen: BTreeSet<String> = flows(&mut client, &[filter]).await.into_keys().collect();
        assert!(seen.iter().eq(expected), "{filter}: {seen:?}");
    }

    east.flows.set_peers(peer("moved"));
    let moved = url("moved");
    wait_nodes(&mut client, |nodes| are_connected(nodes, 2) && nodes[0].address == moved).await;
    east.flows.set_peers(BTreeMap::new());
    wait_nodes(&mut client, |nodes| are_connected(nodes, 1)).await;
}

/// Reads a stream until it says this of a node.
async fn wait_state(answers: &mut Streaming<GetFlowsResponse>, wanted: NodeState, node: &str) {
    let read = async {
        loop {
            let answer = answers.message().await.unwrap().expect("the stream goes on");
            if let Some(ResponseTypes::NodeStatus(event)) = answer.response_types
                && event.state_change() == wanted
                && event.node_names.iter().any(|name| name == node)
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no {wanted:?} of {node}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_learn_that_a_node_is_away_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let unix = |name: &str| ListenConfig { unix: Some(dir.path().join(name)), ..ListenConfig::default() };
    let (leaves, _stays) = (server(1, unix("a")).await, server(2, unix("b")).await);
    let url = |name: &str| format!("{name}=unix://{}", dir.path().join(name).display());
    let mut client = plain(relay(&["--peers", &url("a"), "--peers", &url("b")]).await).await;
    wait_nodes(&mut client, |nodes| are_connected(nodes, 2)).await;
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let mut first = client.get_flows(request.clone()).await.unwrap().into_inner();
    wait_state(&mut first, NodeState::NodeConnected, "a").await;
    let mut second = client.get_flows(request.clone()).await.unwrap().into_inner();
    wait_state(&mut second, NodeState::NodeConnected, "b").await;
    leaves.drain.signal();
    wait_state(&mut first, NodeState::NodeUnavailable, "a").await;
    wait_state(&mut second, NodeState::NodeUnavailable, "a").await;
    let mut third = client.get_flows(request).await.unwrap().into_inner();
    wait_state(&mut third, NodeState::NodeUnavailable, "a").await;
    let _back = server(3, unix("a")).await;
    for follower in [&mut first, &mut second, &mut third] {
        wait_state(follower, NodeState::NodeConnected, "a").await;
    }
}

/// An authority and the certificates that it made.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes certificate and key for a name.
    fn issue(&self, dir: &Path, file: &str, name: &str) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        [
            write(dir, &format!("{file}.crt"), &certificate),
            write(dir, &format!("{file}.key"), &key.serialize_pem()),
        ]
    }
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A client over TLS, with a certificate or without.
async fn over_tls(
    address: SocketAddr,
    authority: &Path,
    own: Option<&[PathBuf; 2]>,
) -> Result<ObserverClient<Channel>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some([certificate, key]) => {
            let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from("relay.local").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let mut stream = Some(hyper_util::rt::TokioIo::new(stream.map_err(|error| error.to_string())?));
    let connect = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("one connection only")) }
    });
    let channel = Endpoint::from_static("http://relay.local").connect_with_connector(connect).await;
    Ok(ObserverClient::new(channel.map_err(|error| error.to_string())?))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_show_certificates_and_new_files_count() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let [certificate, key] = nodes.issue(dir.path(), "node", NAME);
    let client_authorities = vec![write(dir.path(), "clients-ca.crt", &clients.pem)];
    let node = server(
        1,
        ListenConfig {
            tcp: Some("127.0.0.1:0".parse().unwrap()),
            tls: Some(TlsFiles { certificate, key, client_authorities, allow_tls12: false }),
            ..ListenConfig::default()
        },
    )
    .await;
    let own = clients.issue(dir.path(), "own", "relay");
    let shown = nodes.issue(dir.path(), "relay", "relay.local");
    // Whom the relay trusts did not make the node's certificate, at first.
    let trusted = write(dir.path(), "trusted.crt", &stranger.pem);
    let peer = format!("n1={}/{NAME}", node.address.unwrap());
    let path = |path: &Path| path.display().to_string();
    let clients_ca = dir.path().join("clients-ca.crt");
    let flags = [
        ("--peers", peer),
        ("--tls-hubble-server-ca-files", path(&trusted)),
        ("--tls-hubble-client-cert-file", path(&own[0])),
        ("--tls-hubble-client-key-file", path(&own[1])),
        ("--tls-relay-server-cert-file", path(&shown[0])),
        ("--tls-relay-server-key-file", path(&shown[1])),
        ("--tls-relay-client-ca-files", path(&clients_ca)),
    ];
    let arguments: Vec<&str> = flags.iter().flat_map(|(flag, value)| [*flag, value.as_str()]).collect();
    let address = relay(&arguments).await;

    let authority = write(dir.path(), "nodes-ca.crt", &nodes.pem);
    // In TLS 1.3 a client learns after the handshake that it is not welcome.
    let refused = match over_tls(address, &authority, None).await {
        Ok(mut client) => client.get_nodes(GetNodesRequest {}).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "a client without a certificate");
    let mut client = over_tls(address, &authority, Some(&own)).await.unwrap();
    wait_nodes(&mut client, |nodes| nodes[0].state() == NodeState::NodeUnavailable).await;
    write(dir.path(), "trusted.crt", &nodes.pem);
    let seen = wait_nodes(&mut client, |nodes| are_connected(nodes, 1)).await;
    assert_eq!(seen[0].tls.as_ref().map(|tls| (tls.enabled, tls.server_name.as_str())), Some((true, NAME)));
    assert!(flows(&mut client, &[]).await["n1"] >= 50);
}
