//! Agent events, peers, reflection, health, and what headers say.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use specola_directory::{DirectoryWriter, directory};
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{
    AgentLog, Clock, Config, FlowServer, ListenConfig, Listeners, Peer, Peers, Pipeline, flow_server,
};
use specola_lifecycle::{DrainTrigger, drain};
use specola_proto::{
    flow::AgentEvent,
    google::Timestamp,
    observer::{
        GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetFlowsRequest,
        GetNodesRequest, observer_client::ObserverClient,
    },
    peer::{ChangeNotification, NotifyRequest, peer_client::PeerClient},
};
use tonic::{Code, Streaming, transport::Channel};

const SECOND: u64 = 1_000_000_000;
/// Far beyond anything that a passing test needs; only a broken one waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bed {
    server: FlowServer,
    clock: Arc<AtomicU64>,
    address: SocketAddr,
    _pipeline: Pipeline,
    _directory: DirectoryWriter,
    _drain: DrainTrigger,
}

impl Bed {
    async fn new() -> Self {
        let (writer, reader) = directory(NodeInfo { name: "n1".into(), ..NodeInfo::default() });
        let clock = Arc::new(AtomicU64::new(SECOND));
        let now = Arc::clone(&clock);
        let config = Config {
            clock: Clock::from_fn(move || now.load(Ordering::Relaxed)),
            ..Config::new(InstanceId::new(1), "1.2.3")
        };
        let (pipeline, server) = flow_server(config, reader).unwrap();
        let listen = ListenConfig { tcp: Some("127.0.0.1:0".parse().unwrap()), ..ListenConfig::default() };
        let listeners = Listeners::bind(&listen).await.unwrap();
        let address = listeners.tcp_address().unwrap();
        let (trigger, watcher) = drain();
        let served = server.clone();
        tokio::spawn(async move { served.serve(listeners, watcher).await.unwrap() });
        Self { server, clock, address, _pipeline: pipeline, _directory: writer, _drain: trigger }
    }

    async fn observer(&self) -> ObserverClient<Channel> {
        ObserverClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    /// Puts one event on record for each of these times, seconds; its kind is the time.
    fn events(&self, times: impl IntoIterator<Item = u64>) {
        let log: AgentLog = self.server.agent_log();
        for time in times {
            self.clock.store(time * SECOND, Ordering::Relaxed);
            log.push(AgentEvent { r#type: i32::try_from(time).unwrap(), notification: None });
        }
    }

    async fn kinds(&self, request: GetAgentEventsRequest) -> Vec<i32> {
        let mut stream = self.observer().await.get_agent_events(request).await.unwrap().into_inner();
        let mut kinds = Vec::new();
        while let Some(answer) = next(&mut stream).await {
            kinds.push(kind(&answer));
        }
        kinds
    }
}

async fn next<T>(stream: &mut Streaming<T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, stream.message()).await.expect("the answer is due").unwrap()
}

fn kind(answer: &GetAgentEventsResponse) -> i32 {
    assert_eq!(answer.node_name, "n1");
    let kind = answer.agent_event.as_ref().unwrap().r#type;
    assert_eq!(answer.time.unwrap().seconds, i64::from(kind));
    kind
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

#[tokio::test]
async fn agent_events_are_selected_by_number_and_time() {
    let bed = Bed::new().await;
    let all = GetAgentEventsRequest::default;
    assert!(bed.kinds(all()).await.is_empty());
    bed.events(2..=9);
    for (request, expected) in [
        (all(), vec![2, 3, 4, 5, 6, 7, 8, 9]),
        (GetAgentEventsRequest { number: 2, ..all() }, vec![8, 9]),
        (GetAgentEventsRequest { number: 2, first: true, ..all() }, vec![2, 3]),
        (GetAgentEventsRequest { since: at(7), ..all() }, vec![7, 8, 9]),
        (GetAgentEventsRequest { since: at(5), number: 2, ..all() }, vec![5, 6]),
        (GetAgentEventsRequest { until: at(3), ..all() }, vec![2, 3]),
        (GetAgentEventsRequest { number: 2, until: at(5), ..all() }, vec![4, 5]),
        (GetAgentEventsRequest { since: at(4), until: at(6), ..all() }, vec![4, 5, 6]),
    ] {
        assert_eq!(bed.kinds(request).await, expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_follower_that_agent_events_overtook_is_told() {
    let bed = Bed::new().await;
    let follow = GetAgentEventsRequest { follow: true, ..GetAgentEventsRequest::default() };
    let mut stream = bed.observer().await.get_agent_events(follow).await.unwrap().into_inner();
    // Nothing runs beside these lines: the server cannot send meanwhile.
    bed.events(2..2 + 4096 + 10);
    let answer = tokio::time::timeout(PATIENCE, stream.message()).await.expect("the answer is due");
    let status = answer.expect_err("ten events are gone");
    assert_eq!(status.code(), Code::DataLoss, "{status}");
    assert!(status.message().starts_with("10 agent events"), "{status}");
}

#[tokio::test]
async fn agent_events_are_followed() {
    let bed = Bed::new().await;
    bed.events([2, 3]);
    let mut client = bed.observer().await;
    let follow = GetAgentEventsRequest { follow: true, ..GetAgentEventsRequest::default() };
    let mut new = client.get_agent_events(follow).await.unwrap().into_inner();
    let last = GetAgentEventsRequest { number: 1, ..follow };
    let mut last = client.get_agent_events(last).await.unwrap().into_inner();
    bed.events([4, 5]);
    for (stream, expected) in [(&mut new, vec![4, 5]), (&mut last, vec![3, 4, 5])] {
        for kind_due in expected {
            assert_eq!(kind(&next(stream).await.unwrap()), kind_due);
        }
    }
    let until = GetAgentEventsRequest { until: at(5), number: 5, ..follow };
    let mut until = client.get_agent_events(until).await.unwrap().into_inner();
    for kind_due in [2, 3, 4, 5] {
        assert_eq!(kind(&next(&mut until).await.unwrap()), kind_due);
    }
    bed.events([6]);
    assert!(next(&mut until).await.is_none());
}

#[tokio::test]
async fn wrong_requests_are_refused() {
    let bed = Bed::new().await;
    let mut client = bed.observer().await;
    let both = GetAgentEventsRequest { first: true, follow: true, ..GetAgentEventsRequest::default() };
    let refused = client.get_agent_events(both).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "first cannot be specified with follow");
    let nanos = Some(Timestamp { seconds: 1, nanos: -1 });
    let time = GetAgentEventsRequest { since: nanos, ..GetAgentEventsRequest::default() };
    assert_eq!(client.get_agent_events(time).await.unwrap_err().code(), Code::InvalidArgument);
    let debug = client.get_debug_events(GetDebugEventsRequest::default()).await.unwrap_err();
    assert_eq!(debug.code(), Code::Unimplemented);
    assert!(debug.message().starts_with("the kernel programs make no debug events"), "{debug}");
}

#[tokio::test]
async fn peers_come_change_and_leave() {
    let bed = Bed::new().await;
    let peers = |list: &[(&str, &str, Option<&str>)]| -> Peers {
        let peer = |(name, address, tls): &(&str, &str, Option<&str>)| {
            let server_name = tls.map(str::to_owned);
            ((*name).to_owned(), Peer { address: (*address).to_owned(), server_name })
        };
        list.iter().map(peer).collect()
    };
    bed.server.set_peers(peers(&[("n1", "10.0.0.1:4244", Some("n1.default.hubble-grpc.cilium.io"))]));
    let mut client = PeerClient::connect(format!("http://{}", bed.address)).await.unwrap();
    let mut stream = client.notify(NotifyRequest {}).await.unwrap().into_inner();
    let told = |change: ChangeNotification| {
        (change.name, change.address, change.r#type, change.tls.map(|tls| tls.server_name))
    };
    let expect = |name: &str, address: &str, kind: i32, tls: Option<&str>| {
        (name.to_owned(), address.to_owned(), kind, tls.map(str::to_owned))
    };
    let first = told(next(&mut stream).await.unwrap());
    assert_eq!(first, expect("n1", "10.0.0.1:4244", 1, Some("n1.default.hubble-grpc.cilium.io")));
    let node = bed.observer().await.get_nodes(GetNodesRequest {}).await.unwrap().into_inner().nodes.remove(0);
    assert_eq!(node.address, "10.0.0.1:4244");
    assert!(node.tls.is_some_and(|tls| tls.enabled && tls.server_name == "n1.default.hubble-grpc.cilium.io"));
    for (now, expected) in [
        (vec![("n1", "10.0.0.9:4244", None)], vec![expect("n1", "10.0.0.9:4244", 3, None)]),
        (
            vec![("n1", "10.0.0.9:4244", None), ("n2", "10.0.0.2:4244", None)],
            vec![expect("n2", "10.0.0.2:4244", 1, None)],
        ),
        (vec![("n2", "10.0.0.2:4244", None)], vec![expect("n1", "10.0.0.9:4244", 2, None)]),
    ] {
        bed.server.set_peers(peers(&now));
        for change in expected {
            assert_eq!(told(next(&mut stream).await.unwrap()), change);
        }
    }
}

#[tokio::test]
async fn replies_say_who_answers_and_what_they_cover() {
    let bed = Bed::new().await;
    let mut client = bed.observer().await;
    let flows = client.get_flows(GetFlowsRequest::default()).await.unwrap();
    for (header, value) in [
        ("hubble-server-version", "1.2.3"),
        ("specola-coverage", "whole"),
        ("specola-coverage-overwritten", "0"),
        ("specola-coverage-kernel-lost", "0"),
    ] {
        assert_eq!(flows.metadata().get(header).unwrap(), value, "{header}");
    }
    assert!(flows.metadata().get("specola-coverage-oldest-ns").is_none());
    let mut peers = PeerClient::connect(format!("http://{}", bed.address)).await.unwrap();
    let notify = peers.notify(NotifyRequest {}).await.unwrap();
    assert_eq!(notify.metadata().get("hubble-server-version").unwrap(), "1.2.3");
}

#[tokio::test]
async fn a_connection_that_asks_too_often_is_told() {
    let bed = Bed::new().await;
    let (mut greedy, mut other) = (bed.observer().await, bed.observer().await);
    let mut refused = None;
    for _ in 0..2_000 {
        if let Err(status) = greedy.get_nodes(GetNodesRequest {}).await {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.expect("the clock stands still, so the limit is reached");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("more than 100 requests per second"), "{refused}");
    other.get_nodes(GetNodesRequest {}).await.unwrap();
}
