//! GetFlows and the other calls, over real sockets, with a clock that the test sets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use specola_datapath_common::{
    direction,
    event::{Event, ct_state, flags, kind, match_type, point},
    proto, v4_mapped,
};
use specola_directory::{Change, DirectoryWriter, directory};
use specola_flow::{EndpointMeta, InstanceId, NodeInfo, PolicyOrigin};
use specola_flow_server::{Clock, Config, FlowServer, ListenConfig, Listeners, Pipeline, flow_server};
use specola_labels::{Label, NumericIdentity};
use specola_lifecycle::{DrainTrigger, drain};
use specola_proto::{
    flow::{
        DropReason, EventTypeFilter, Flow, FlowFilter, LostEvent, LostEventSource, TraceObservationPoint,
        TrafficDirection, Verdict,
    },
    google::{Any, FieldMask, Timestamp},
    observer::{
        GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNodesRequest, ServerStatusRequest,
        get_flows_response::ResponseTypes, observer_client::ObserverClient,
    },
    specola::v1::{FlowExtension, FlowRequestOptions},
};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};

const SECOND: u64 = 1_000_000_000;
/// Far beyond anything that a passing test needs; only a broken one waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node with pods shop/web (7, 300, 10.0.0.1) and shop/db (8, 301, 10.0.0.2), its server and a client.
struct Bed {
    pipeline: Pipeline,
    server: FlowServer,
    directory: DirectoryWriter,
    clock: Arc<AtomicU64>,
    client: ObserverClient<Channel>,
    address: SocketAddr,
    drain: Option<DrainTrigger>,
    serving: tokio::task::JoinHandle<()>,
}

impl Bed {
    async fn new(capacity: usize) -> Self {
        let node =
            NodeInfo { name: "n1".into(), cluster_name: "default".into(), labels: vec!["zone=a".into()] };
        let (mut writer, reader) = directory(node);
        writer.apply([pod(7, 300, "web", "10.0.0.1"), pod(8, 301, "db", "10.0.0.2")]).unwrap();
        let clock = Arc::new(AtomicU64::new(1_000 * SECOND));
        let now = Arc::clone(&clock);
        let config = Config {
            capacity,
            clock: Clock::from_fn(move || now.load(Ordering::Relaxed)),
            ..Config::new(InstanceId::new(1), "1.2.3")
        };
        let (pipeline, server) = flow_server(config, reader).unwrap();
        let listen = ListenConfig { tcp: Some("127.0.0.1:0".parse().unwrap()), unix: None, tls: None };
        let listeners = Listeners::bind(&listen).await.unwrap();
        let address = listeners.tcp_address().unwrap();
        let (trigger, watcher) = drain();
        let served = server.clone();
        let serving = tokio::spawn(async move { served.serve(listeners, watcher).await.unwrap() });
        let client = ObserverClient::connect(format!("http://{address}")).await.unwrap();
        Self { pipeline, server, directory: writer, clock, client, address, drain: Some(trigger), serving }
    }

    /// Pushes traces of web -> db at these times, seconds, each with the time as source port.
    fn traces(&mut self, times: impl IntoIterator<Item = u64>) {
        let events: Vec<Event> = times.into_iter().map(trace_at).collect();
        self.pipeline.ingest(&events, 0);
    }

    async fn open(&mut self, request: GetFlowsRequest) -> Streaming<GetFlowsResponse> {
        self.client.get_flows(request).await.unwrap().into_inner()
    }

    /// Everything that a request without follow answers.
    async fn all(&mut self, request: GetFlowsRequest) -> Vec<GetFlowsResponse> {
        let mut stream = self.open(request).await;
        let mut all = Vec::new();
        while let Some(answer) = next(&mut stream).await {
            all.push(answer);
        }
        all
    }

    /// Source ports of the answer, which are the times of the flows.
    async fn ports(&mut self, request: GetFlowsRequest) -> Vec<u64> {
        self.all(request).await.iter().map(port).collect()
    }

    async fn refusal(&mut self, request: GetFlowsRequest) -> String {
        let status = self.client.get_flows(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        status.message().to_owned()
    }
}

fn pod(id: u16, identity: u32, name: &str, address: &str) -> Change {
    let meta = EndpointMeta {
        id,
        identity: NumericIdentity(identity),
        namespace: "shop".into(),
        pod_name: name.into(),
        labels: [Label::k8s("app", name)].into_iter().collect(),
        cluster_name: "default".into(),
        ..EndpointMeta::default()
    };
    Change::UpsertEndpoint { meta, addresses: vec![address.parse().unwrap()] }
}

fn base(kind: u8) -> Event {
    Event {
        kind,
        boot_ns: SECOND,
        ip_version: 4,
        proto: proto::TCP,
        src_addr: v4_mapped([10, 0, 0, 1]),
        dst_addr: v4_mapped([10, 0, 0, 2]),
        src_identity: 300,
        dst_identity: 301,
        src_port: 1,
        dst_port: 5432,
        tcp_flags: 0x02,
        endpoint_id: 8,
        direction: direction::INGRESS,
        ct_state: ct_state::NEW,
        obs_point: point::TO_ENDPOINT,
        ..Event::zeroed()
    }
}

fn trace_at(second: u64) -> Event {
    let src_port = u16::try_from(second).unwrap();
    Event { boot_ns: second * SECOND, src_port, ..base(kind::TRACE) }
}

fn at(second: u64) -> Option<Timestamp> {
    Some(Timestamp { seconds: i64::try_from(second).unwrap(), nanos: 0 })
}

async fn next(stream: &mut Streaming<GetFlowsResponse>) -> Option<GetFlowsResponse> {
    tokio::time::timeout(PATIENCE, stream.message()).await.expect("an answer in time").unwrap()
}

fn flow(answer: &GetFlowsResponse) -> &Flow {
    match &answer.response_types {
        Some(ResponseTypes::Flow(flow)) => flow,
        other => panic!("no flow: {other:?}"),
    }
}

fn lost(answer: &GetFlowsResponse) -> &LostEvent {
    match &answer.response_types {
        Some(ResponseTypes::LostEvents(lost)) => lost,
        other => panic!("no loss: {other:?}"),
    }
}

fn port(answer: &GetFlowsResponse) -> u64 {
    use specola_proto::flow::layer4::Protocol;
    match flow(answer).l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(Protocol::Tcp(tcp)) => tcp.source_port.into(),
        other => panic!("no TCP: {other:?}"),
    }
}

fn first(number: u64) -> GetFlowsRequest {
    GetFlowsRequest { number, first: true, ..GetFlowsRequest::default() }
}

fn last(number: u64) -> GetFlowsRequest {
    GetFlowsRequest { number, ..GetFlowsRequest::default() }
}

fn range(since: Option<u64>, until: Option<u64>) -> GetFlowsRequest {
    GetFlowsRequest { since: since.and_then(at), until: until.and_then(at), ..GetFlowsRequest::default() }
}

#[tokio::test]
async fn number_first_since_and_until_select() {
    let mut bed = Bed::new(16).await;
    assert_eq!(bed.ports(last(5)).await, [] as [u64; 0]);
    bed.traces(1..=10);
    let ports_filter = |ports: &[u64]| FlowFilter {
        source_port: ports.iter().map(ToString::to_string).collect(),
        ..FlowFilter::default()
    };
    for (name, request, expected) in [
        ("all", last(0), (1..=10).collect::<Vec<_>>()),
        ("the newest is readable at once", last(1), vec![10]),
        ("last", last(3), vec![8, 9, 10]),
        ("more than there are", last(99), (1..=10).collect()),
        ("the most that can be asked", last(u64::MAX), (1..=10).collect()),
        ("first", first(3), vec![1, 2, 3]),
        ("first without number", first(0), (1..=10).collect()),
        ("since includes its time", range(Some(8), None), vec![8, 9, 10]),
        ("until includes its time", range(None, Some(2)), vec![1, 2]),
        ("since and until", range(Some(4), Some(6)), vec![4, 5, 6]),
        ("nothing in between", range(Some(40), Some(60)), vec![]),
        (
            "since with number: the oldest at or after it",
            GetFlowsRequest { number: 2, ..range(Some(4), None) },
            vec![4, 5],
        ),
        (
            "until with number: the newest up to it",
            GetFlowsRequest { number: 2, ..range(None, Some(4)) },
            vec![3, 4],
        ),
        ("first with since", GetFlowsRequest { since: at(7), ..first(2) }, vec![7, 8]),
        (
            "number counts what passes the filters",
            GetFlowsRequest { whitelist: vec![ports_filter(&[2, 4, 6, 8])], ..last(2) },
            vec![6, 8],
        ),
        (
            "first counts what passes the filters",
            GetFlowsRequest { blacklist: vec![ports_filter(&[1, 2])], ..first(2) },
            vec![3, 4],
        ),
    ] {
        assert_eq!(bed.ports(request).await, expected, "{name}");
    }
}

#[tokio::test]
async fn flows_out_of_order_are_still_in_the_range() {
    let mut bed = Bed::new(16).await;
    bed.traces([5, 1, 9, 2, 8, 3]);
    assert_eq!(bed.ports(range(Some(2), Some(8))).await, [5, 2, 8, 3]);
}

#[tokio::test]
async fn a_follower_gets_each_flow_at_once() {
    let mut bed = Bed::new(16).await;
    bed.traces(1..=3);
    let follow = |number| GetFlowsRequest { number, follow: true, ..GetFlowsRequest::default() };
    let mut new_only = bed.open(follow(0)).await;
    let mut with_history = bed.open(follow(2)).await;
    assert_eq!(port(&next(&mut with_history).await.unwrap()), 2);
    assert_eq!(port(&next(&mut with_history).await.unwrap()), 3);
    for time in 4..=6 {
        bed.traces([time]);
        // The number does not end a follower.
        assert_eq!(port(&next(&mut with_history).await.unwrap()), time);
        assert_eq!(port(&next(&mut new_only).await.unwrap()), time);
    }
}

#[tokio::test]
async fn a_follower_ends_after_until_with_slack() {
    let mut bed = Bed::new(16).await;
    let request = GetFlowsRequest { follow: true, until: at(2_000), ..GetFlowsRequest::default() };
    let mut stream = bed.open(request).await;
    bed.traces([1_999, 2_001, 2_000, 2_002, 1_998, 2_003, 1_997]);
    for expected in [1_999, 2_000, 1_998] {
        assert_eq!(port(&next(&mut stream).await.unwrap()), expected);
    }
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn a_follower_whose_end_has_passed_ends_without_a_flow() {
    let mut bed = Bed::new(16).await;
    let request = GetFlowsRequest { follow: true, until: at(900), ..GetFlowsRequest::default() };
    let mut stream = bed.open(request).await;
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn a_lapped_reader_is_told_the_exact_number() {
    let mut bed = Bed::new(8).await;
    // Transport buffers take some flows ahead of the reader, so lap it many times over.
    bed.traces([0]);
    let request = GetFlowsRequest { follow: true, number: 1, ..GetFlowsRequest::default() };
    let mut stream = bed.open(request).await;
    assert_eq!(port(&next(&mut stream).await.unwrap()), 0);
    // One batch is pushed without the reader having a turn: it holds the last 8 of 100.
    bed.traces(1..=100);
    let answer = next(&mut stream).await.unwrap();
    let lost = *lost(&answer);
    assert_eq!(lost.source(), LostEventSource::HubbleRingBuffer);
    assert_eq!(answer.node_name, "n1");
    let mut got = Vec::new();
    while got.last() != Some(&100) {
        got.push(port(&next(&mut stream).await.unwrap()));
    }
    assert_eq!(lost.num_events_lost + got.len() as u64, 100);
    assert_eq!(got, ((101 - got.len() as u64)..=100).collect::<Vec<_>>());
    assert!(!got.is_empty() && got.len() <= 8);
    let streams = bed.server.status().streams;
    assert_eq!(
        (streams.open, streams.delivered, streams.lost),
        (1, 1 + got.len() as u64, lost.num_events_lost)
    );
}

#[tokio::test]
async fn events_that_the_kernel_lost_are_told_whatever_was_asked() {
    let mut bed = Bed::new(16).await;
    let numbered = |second, lane_seq| Event { cpu: 3, lane: 2, lane_seq, ..trace_at(second) };
    bed.pipeline.ingest(&[numbered(1, 10), numbered(2, 11), numbered(3, 54)], 0);
    let nothing = FlowFilter { source_port: vec!["9".into()], ..FlowFilter::default() };
    let answers = bed.all(GetFlowsRequest { whitelist: vec![nothing], ..range(Some(50), None) }).await;
    assert_eq!(answers.len(), 0, "older than what was asked for by a whole block");
    let answers = bed.all(last(0)).await;
    assert_eq!(answers[..3].iter().map(port).collect::<Vec<_>>(), [1, 2, 3]);
    let lost = lost(&answers[3]);
    assert_eq!(
        (lost.source(), lost.num_events_lost, lost.cpu),
        (LostEventSource::PerfEventRingBuffer, 42, Some(3))
    );
    assert_eq!((lost.first, lost.last, answers[3].time), (at(3), at(3), at(3)));
    // They are no flows: they do not count.
    assert_eq!(bed.ports(last(1)).await, [3]);
    let ledger = bed.server.status().ledger;
    assert_eq!((ledger.kernel_lost, ledger.loss_records, ledger.consumed, ledger.pushed), (42, 1, 3, 4));
    assert!(ledger.is_balanced());
}

#[tokio::test]
async fn drops_outlive_a_flood_of_other_flows() {
    let mut bed = Bed::new(16).await;
    let denied = |port| Event { verdict: -133, src_port: port, ..base(kind::POLICY_VERDICT) };
    bed.pipeline.ingest(&[denied(1), denied(2)], 0);
    bed.traces(100..200);
    let drops = || FlowFilter { verdict: vec![Verdict::Dropped.into()], ..FlowFilter::default() };
    // The last four records of drops are kept: a verdict and a drop of each packet.
    assert_eq!(bed.ports(GetFlowsRequest { whitelist: vec![drops()], ..last(20) }).await, [1, 1, 2, 2]);
    assert_eq!(bed.ports(GetFlowsRequest { whitelist: vec![drops()], ..last(1) }).await, [2]);
    assert_eq!(bed.ports(first(3)).await, [1, 1, 2]);
    // All that is held, in order, without a word of loss: it was gone before the question.
    let all: Vec<u64> = [1, 1, 2, 2].into_iter().chain(184..200).collect();
    assert_eq!(bed.ports(last(0)).await, all);
    assert_eq!(bed.ports(last(18)).await, all[2..]);
    assert_eq!(bed.ports(range(Some(0), Some(190))).await, all[..11]);
    assert_eq!(bed.ports(range(Some(195), None)).await, (195..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_denied_packet_shows_verdict_and_drop_with_its_policies() {
    let mut bed = Bed::new(16).await;
    let origin = |name: &str, rule_index| PolicyOrigin {
        kind: "CiliumNetworkPolicy".into(),
        namespace: "shop".into(),
        name: name.into(),
        rule_index,
        revision: 4,
        section: "ingress".into(),
        log: format!("log of {name}"),
        ..PolicyOrigin::default()
    };
    let origins = [origin("a", 0), origin("a", 1), origin("b", 0)].into();
    bed.directory.apply([Change::UpsertOrigins { cookie: 5, origins }]).unwrap();
    let denied = Event {
        verdict: -133,
        cookie: 5,
        revision: 6,
        match_type: match_type::NONE,
        length: 74,
        ..base(kind::POLICY_VERDICT)
    };
    bed.pipeline.ingest(&[denied], 0);
    let options = FlowRequestOptions { extension: true };
    let request = GetFlowsRequest { extensions: Some(Any::pack(&options)), ..last(0) };
    let answers = bed.all(request).await;
    let kinds: Vec<_> = answers.iter().map(|answer| flow(answer).event_type.unwrap()).collect();
    assert_eq!(kinds.iter().map(|kind| (kind.r#type, kind.sub_type)).collect::<Vec<_>>(), [(5, 0), (1, 133)]);
    for answer in &answers {
        let flow = flow(answer);
        assert_eq!((flow.verdict(), flow.drop_reason_desc()), (Verdict::Dropped, DropReason::PolicyDenied));
        assert_eq!((flow.traffic_direction(), flow.drop_reason), (TrafficDirection::Ingress, 133));
        assert_eq!(flow.is_reply, None);
        let names: Vec<_> = flow.ingress_denied_by.iter().map(|policy| policy.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(flow.ingress_denied_by[0].kind, "CiliumNetworkPolicy");
        assert!(flow.ingress_allowed_by.is_empty() && flow.egress_denied_by.is_empty());
        assert_eq!(flow.policy_log, ["log of a", "log of b"]);
        let extension: FlowExtension = flow.extensions.as_ref().unwrap().unpack().unwrap().unwrap();
        assert!(extension.default_deny);
        assert_eq!((extension.policy_revision, extension.cookie, extension.packet_length), (6, 5, 74));
        assert_eq!(extension.origins.iter().map(|origin| origin.rule_index).collect::<Vec<_>>(), [0, 1, 0]);
    }
    let counts = bed.server.status().ledger;
    assert_eq!((counts.consumed, counts.expanded, counts.pushed), (1, 1, 2));
    assert!(counts.is_balanced());
}

#[tokio::test]
async fn a_trace_reads_like_hubbles() {
    let mut bed = Bed::new(16).await;
    bed.directory.apply([Change::UpsertInterface { ifindex: 3, name: "lxc1".into() }]).unwrap();
    let event = Event {
        flags: flags::COUNTERS,
        packets_fwd: 12,
        bytes_rev: 34,
        created_ns: SECOND / 2,
        ifindex: 3,
        tcp_flags: 0x12,
        src_mac: [0xaa, 0xbb, 0xcc, 0, 0, 1],
        ..base(kind::TRACE)
    };
    bed.pipeline.ingest(&[event], 5);
    let answers = bed.all(last(1)).await;
    let flow = flow(&answers[0]);
    assert_eq!(flow.uuid, "00000000-0000-8004-8000-000000000000");
    assert_eq!(flow.time, Some(Timestamp { seconds: 1, nanos: 5 }));
    assert_eq!(
        flow.emitter.as_ref().map(|by| (by.name.as_str(), by.version.as_str())),
        Some(("Hubble", "1.2.3"))
    );
    assert_eq!(
        (flow.verdict(), flow.trace_observation_point()),
        (Verdict::Forwarded, TraceObservationPoint::ToEndpoint)
    );
    assert_eq!((flow.is_reply, flow.reply), (Some(false), false));
    assert_eq!((flow.node_name.as_str(), flow.node_labels.as_slice()), ("n1", &["zone=a".to_owned()][..]));
    assert_eq!(flow.summary, "TCP Flags: SYN, ACK");
    assert_eq!(flow.ethernet.as_ref().map(|mac| mac.source.as_str()), Some("aa:bb:cc:00:00:01"));
    assert_eq!(flow.interface.as_ref().map(|port| (port.index, port.name.as_str())), Some((3, "lxc1")));
    let source = flow.source.as_ref().unwrap();
    assert_eq!((source.id, source.identity, source.namespace.as_str()), (7, 300, "shop"));
    assert_eq!(
        (source.pod_name.as_str(), source.labels.as_slice()),
        ("web", &["k8s:app=web".to_owned()][..])
    );
    assert_eq!(flow.ip.as_ref().map(|ip| ip.destination.as_str()), Some("10.0.0.2"));
    // Hubble's own clients get no extension that they cannot print.
    assert_eq!(flow.extensions, None);
    assert_eq!((answers[0].node_name.as_str(), answers[0].time), ("n1", flow.time));
}

#[tokio::test]
async fn names_are_those_of_the_moment_of_the_event() {
    let mut bed = Bed::new(16).await;
    bed.traces([1]);
    bed.directory.apply([pod(9, 302, "other", "10.0.0.1")]).unwrap();
    bed.traces([2]);
    let answers = bed.all(last(0)).await;
    let names: Vec<_> = answers.iter().map(|a| flow(a).source.as_ref().unwrap().pod_name.as_str()).collect();
    assert_eq!(names, ["web", "other"]);
}

#[tokio::test]
async fn a_flow_is_found_by_its_id() {
    let mut bed = Bed::new(16).await;
    bed.traces(1..=10);
    let ids: Vec<String> = bed.all(last(0)).await.iter().map(|answer| flow(answer).uuid.clone()).collect();
    let asks = |ids: &[&String]| FlowFilter {
        uuid: ids.iter().map(ToString::to_string).collect(),
        ..FlowFilter::default()
    };
    for (request, expected) in [
        (GetFlowsRequest { whitelist: vec![asks(&[&ids[4]])], ..last(20) }, vec![5]),
        (
            GetFlowsRequest { whitelist: vec![asks(&[&ids[4], &ids[1]]), asks(&[&ids[8]])], ..last(20) },
            vec![2, 5, 9],
        ),
        (GetFlowsRequest { whitelist: vec![asks(&[&ids[9]])], follow: true, ..last(0) }, vec![10]),
        (GetFlowsRequest { whitelist: vec![asks(&[&"x".to_owned()])], follow: true, ..last(0) }, vec![]),
    ] {
        assert_eq!(bed.ports(request).await, expected);
    }
}

#[tokio::test]
async fn masks_cut_flow_and_envelope() {
    let mut bed = Bed::new(16).await;
    bed.traces([1]);
    let masked = |paths: &[&str]| GetFlowsRequest {
        field_mask: Some(paths.iter().copied().collect::<FieldMask>()),
        ..last(0)
    };
    let answers = bed.all(masked(&["source.pod_name", "verdict"])).await;
    let mut expected = Flow { verdict: Verdict::Forwarded.into(), ..Flow::default() };
    expected.source.get_or_insert_default().pod_name = "web".into();
    assert_eq!(flow(&answers[0]), &expected);
    assert_eq!((answers[0].time, answers[0].node_name.as_str()), (None, ""));
    let answers = bed.all(masked(&["time", "node_name"])).await;
    assert_eq!((answers[0].time, answers[0].node_name.as_str()), (at(1), "n1"));
    assert!(bed.refusal(masked(&["source.nope"])).await.contains("\"source.nope\""));
}

#[tokio::test]
async fn wrong_requests_name_the_field() {
    let mut bed = Bed::new(16).await;
    let filter = |whitelist| GetFlowsRequest { whitelist: vec![FlowFilter::default(), whitelist], ..last(0) };
    for (request, expected) in [
        (GetFlowsRequest { first: true, follow: true, ..last(0) }, "first cannot be specified with follow"),
        (
            GetFlowsRequest { since: Some(Timestamp { seconds: 1, nanos: -1 }), ..last(0) },
            "since: -1 nanoseconds are not within one second",
        ),
        (
            filter(FlowFilter { http_status_code: vec!["x".into()], ..FlowFilter::default() }),
            "whitelist[1].http_status_code: invalid http status code filter: invalid status code prefix: \"x\"",
        ),
        (
            filter(FlowFilter { source_pod: vec![String::new()], ..FlowFilter::default() }),
            "whitelist[1].source_pod: invalid filter, name must not be empty",
        ),
        (
            filter(FlowFilter { destination_port: vec!["70000".into()], ..FlowFilter::default() }),
            "whitelist[1].destination_port: invalid port \"70000\": number too large to fit in target type",
        ),
        (
            filter(FlowFilter { protocol: vec!["foo".into()], ..FlowFilter::default() }),
            "whitelist[1].protocol: unknown protocol: \"foo\"",
        ),
    ] {
        assert_eq!(bed.refusal(request).await, expected);
    }
}

#[tokio::test]
async fn status_nodes_and_namespaces() {
    let mut bed = Bed::new(8).await;
    bed.traces((0..10).map(|n| 990 + n));
    let status = bed.client.server_status(ServerStatusRequest::default()).await.unwrap();
    assert_eq!(status.metadata().get("hubble-server-version").unwrap(), "1.2.3");
    let status = status.into_inner();
    assert_eq!((status.num_flows, status.max_flows, status.seen_flows), (8, 8, 10));
    assert_eq!((status.version.as_str(), status.num_connected_nodes), ("specola v1.2.3", None));
    // The server has just started.
    assert_eq!((status.flows_rate, status.uptime_ns), (0.0, 0));
    bed.clock.fetch_add(8 * SECOND, Ordering::Relaxed);
    let status = bed.client.server_status(ServerStatusRequest::default()).await.unwrap().into_inner();
    // Eight flows from second 992 on, and it is second 1008.
    assert!((status.flows_rate - 0.5).abs() < 1e-9, "{}", status.flows_rate);
    bed.clock.fetch_add(92 * SECOND, Ordering::Relaxed);
    let later = bed.client.server_status(ServerStatusRequest::default()).await.unwrap().into_inner();
    assert_eq!((later.flows_rate, later.uptime_ns), (0.0, 100 * SECOND));
    let nodes = bed.client.get_nodes(GetNodesRequest::default()).await.unwrap().into_inner().nodes;
    assert_eq!(
        nodes.iter().map(|node| (node.name.as_str(), node.seen_flows)).collect::<Vec<_>>(),
        [("n1", 10)]
    );
    let list =
        bed.client.get_namespaces(GetNamespacesRequest::default()).await.unwrap().into_inner().namespaces;
    assert_eq!(
        list.iter().map(|name| (name.cluster.as_str(), name.namespace.as_str())).collect::<Vec<_>>(),
        [("", "shop")]
    );
}

#[tokio::test]
async fn what_is_not_there_says_so() {
    let mut bed = Bed::new(8).await;
    let debug_events =
        bed.client.get_debug_events(specola_proto::observer::GetDebugEventsRequest::default()).await;
    assert_eq!(debug_events.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn filters_work_over_the_wire() {
    let mut bed = Bed::new(16).await;
    bed.traces([1, 2]);
    bed.pipeline.ingest(&[Event { verdict: -132, ..base(kind::DROP) }], 0);
    let drops = FlowFilter { verdict: vec![Verdict::Dropped.into()], ..FlowFilter::default() };
    let traces = FlowFilter {
        event_type: vec![EventTypeFilter { r#type: 4, match_sub_type: true, sub_type: 0 }],
        ..FlowFilter::default()
    };
    for (request, expected) in [
        (GetFlowsRequest { whitelist: vec![drops.clone()], ..last(0) }, 1),
        (GetFlowsRequest { whitelist: vec![drops.clone(), traces.clone()], ..last(0) }, 3),
        (GetFlowsRequest { whitelist: vec![traces], blacklist: vec![drops], ..last(0) }, 2),
        (GetFlowsRequest { blacklist: vec![FlowFilter::default()], ..last(0) }, 0),
    ] {
        assert_eq!(bed.all(request).await.len(), expected);
    }
    // Four answers over three flows each.
    let streams = bed.server.status().streams;
    assert_eq!((streams.open, streams.delivered, streams.filtered, streams.lost), (0, 6, 6, 0));
}

#[tokio::test]
async fn shutdown_ends_followers_and_the_server() {
    let mut bed = Bed::new(8).await;
    let mut stream = bed.open(GetFlowsRequest { follow: true, ..last(0) }).await;
    let drain = bed.drain.take().unwrap();
    tokio::time::timeout(PATIENCE, drain.drained()).await.expect("streams let go of the drain");
    assert_eq!(next(&mut stream).await, None);
    drop((stream, bed.client));
    tokio::time::timeout(PATIENCE, bed.serving).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn followers_end_with_the_pipeline() {
    let mut bed = Bed::new(8).await;
    let mut stream = bed.open(GetFlowsRequest { follow: true, ..last(0) }).await;
    drop(bed.pipeline);
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn health_is_served_under_the_name_that_clients_ask_for() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    let bed = Bed::new(8).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", bed.address)).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    for service in ["", "hubble.server.Observer"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
}
