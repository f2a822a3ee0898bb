//! Many followers of one server: equal ones share bytes, slow ones lose alone, and every account is exact.

use std::{path::PathBuf, sync::Arc, time::Duration};

use specola_datapath_common::event::Event;
use specola_directory::{DirectoryWriter, directory};
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{
    Config, FlowServer, ListenConfig, Listeners, ObserverService, Pipeline, Synthetic, flow_server,
};
use specola_lifecycle::{Drain, DrainTrigger, drain};
use specola_proto::{
    flow::FlowFilter,
    google::FieldMask,
    observer::{
        GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes,
        observer_client::ObserverClient, observer_server::Observer,
    },
};
use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};

/// Far beyond anything that a passing test needs; only a broken one waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A synthetic node that is served on a unix socket.
struct Bed {
    pipeline: Pipeline,
    server: FlowServer,
    source: Synthetic,
    time_ns: u64,
    socket: PathBuf,
    drain: Drain,
    _kept: (DirectoryWriter, tempfile::TempDir, DrainTrigger),
}

impl Bed {
    async fn new(capacity: usize) -> Self {
        let (mut writer, reader) = directory(NodeInfo { name: "n1".into(), ..NodeInfo::default() });
        writer.apply(Synthetic::changes()).unwrap();
        let config = Config { capacity, ..Config::new(InstanceId::new(1), "1") };
        let (pipeline, server) = flow_server(config, reader).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("observer.sock");
        let listen = ListenConfig { unix: Some(socket.clone()), ..ListenConfig::default() };
        let listeners = Listeners::bind(&listen).await.unwrap();
        let (trigger, drain) = drain();
        let (served, watcher) = (server.clone(), drain.clone());
        tokio::spawn(async move { served.serve(listeners, watcher).await.unwrap() });
        let kept = (writer, dir, trigger);
        Self { pipeline, server, source: Synthetic::new(3), time_ns: 1, socket, drain, _kept: kept }
    }

    /// Pushes this many events; most give one flow, denied ones two.
    fn push(&mut self, events: usize) {
        let batch: Vec<Event> = (0..events).map(|n| self.source.event(self.time_ns + n as u64)).collect();
        self.time_ns += events as u64;
        self.pipeline.ingest(&batch, 0);
    }

    fn head(&self) -> u64 {
        self.server.ring().head()
    }

    /// A connection of its own.
    async fn client(&self) -> ObserverClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display())).unwrap();
        ObserverClient::new(endpoint.connect().await.unwrap())
    }

    async fn follow(&self, request: GetFlowsRequest) -> Streaming<GetFlowsResponse> {
        let request = GetFlowsRequest { follow: true, ..request };
        self.client().await.get_flows(request).await.unwrap().into_inner()
    }
}

async fn next(stream: &mut Streaming<GetFlowsResponse>) -> GetFlowsResponse {
    let answer = tokio::time::timeout(PATIENCE, stream.message()).await.expect("an answer in time");
    answer.unwrap().expect("the stream goes on")
}

/// Sequence number in a flow's id, and what the answer stands for: one flow, or lost ones.
fn account(answer: &GetFlowsResponse) -> (Option<u64>, u64) {
    match &answer.response_types {
        Some(ResponseTypes::Flow(flow)) => {
            let id: specola_flow::FlowUuid = flow.uuid.parse().unwrap();
            (Some(id.seq), 1)
        }
        Some(ResponseTypes::LostEvents(lost)) => (None, lost.num_events_lost),
        other => panic!("neither a flow nor a loss: {other:?}"),
    }
}

/// Reads until all flows up to `head` are accounted for.
async fn read_to(
    stream: &mut Streaming<GetFlowsResponse>,
    mut from: u64,
    head: u64,
) -> Vec<GetFlowsResponse> {
    let mut answers = Vec::new();
    while from < head {
        let answer = next(stream).await;
        from += account(&answer).1;
        answers.push(answer);
    }
    assert_eq!(from, head, "more flows than there are");
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_followers_get_equal_answers_whenever_they_join() {
    let mut bed = Bed::new(1 << 13).await;
    let (mut first, mut second) =
        (bed.follow(GetFlowsRequest::default()).await, bed.follow(GetFlowsRequest::default()).await);
    let mut all = Vec::new();
    for round in 0..20 {
        let from = bed.head();
        // From a single flow to many chunks.
        bed.push(1 + round * round);
        let head = bed.head();
        let answers = read_to(&mut first, from, head).await;
        assert_eq!(answers, read_to(&mut second, from, head).await);
        all.extend(answers);
    }
    let seqs: Vec<u64> = all.iter().filter_map(|answer| account(answer).0).collect();
    assert_eq!(seqs, (0..bed.head()).collect::<Vec<_>>());

    // One that begins in the past writes for itself until it meets the others.
    let number = 700;
    let mut late = bed.follow(GetFlowsRequest { number, ..GetFlowsRequest::default() }).await;
    bed.push(100);
    let (start, head) = (all.len() as u64 - number, bed.head());
    let newest = read_to(&mut first, all.len() as u64, head).await;
    let expected = [&all[all.len() - number as usize..], &newest].concat();
    assert_eq!(read_to(&mut late, start, head).await, expected);
    let counts = bed.server.stream_counts();
    assert_eq!((counts.open, counts.lost, counts.filtered), (3, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_with_other_questions_get_other_answers() {
    let mut bed = Bed::new(1 << 12).await;
    let drops = || vec![FlowFilter { verdict: vec![2], ..FlowFilter::default() }];
    let mut all = bed.follow(GetFlowsRequest::default()).await;
    let mut denied = bed.follow(GetFlowsRequest { whitelist: drops(), ..GetFlowsRequest::default() }).await;
    let mask = ["uuid", "verdict"].into_iter().collect::<FieldMask>();
    let mut masked = bed
        .follow(GetFlowsRequest { whitelist: drops(), field_mask: Some(mask), ..GetFlowsRequest::default() })
        .await;
    bed.push(1_000);
    let is_dropped = |answer: &GetFlowsResponse| match &answer.response_types {
        Some(ResponseTypes::Flow(flow)) => flow.verdict == 2,
        _ => false,
    };
    let head = bed.head();
    let expected: Vec<_> = read_to(&mut all, 0, head).await.into_iter().filter(is_dropped).collect();
    assert!(expected.len() > 20);
    for full in expected {
        assert_eq!(next(&mut denied).await, full);
        let short = next(&mut masked).await;
        assert_eq!(account(&short), account(&full));
        let Some(ResponseTypes::Flow(flow)) = short.response_types else { panic!("no flow") };
        assert!(flow.verdict == 2 && flow.source.is_none() && flow.summary.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_read_loses_alone_and_is_told_the_exact_number() {
    let mut bed = Bed::new(1 << 12).await;
    let mut reading = bed.follow(GetFlowsRequest::default()).await;
    let mut stalled = bed.follow(GetFlowsRequest::default()).await;
    // Ten times the ring, and more than any window or buffer on the way: about 45 MB.
    let mut answers = Vec::new();
    while bed.head() < 10 << 12 {
        let from = bed.head();
        bed.push(1_000);
        answers.extend(read_to(&mut reading, from, bed.head()).await);
    }
    let head = bed.head();
    let seqs: Vec<u64> = answers.iter().filter_map(|answer| account(answer).0).collect();
    assert_eq!(seqs, (0..head).collect::<Vec<_>>(), "the reader that keeps up misses nothing");

    let late = read_to(&mut stalled, 0, head).await;
    let lost: u64 =
        late.iter().filter(|answer| account(answer).0.is_none()).map(|answer| account(answer).1).sum();
    assert!(lost > 0, "what the stalled one did not take was kept somewhere");
    let counts = bed.server.stream_counts();
    assert_eq!((counts.lost, counts.delivered), (lost, 2 * head - lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_inside_the_process_gets_the_same_messages() {
    use futures::StreamExt as _;

    let mut bed = Bed::new(1 << 12).await;
    bed.push(500);
    let service = Arc::new(ObserverService::new(bed.server.clone(), bed.drain.clone()));
    let inside = service.get_flows(Request::new(GetFlowsRequest::default())).await.unwrap().into_inner();
    let inside: Vec<GetFlowsResponse> = inside.map(Result::unwrap).collect().await;
    let mut outside = bed.client().await.get_flows(GetFlowsRequest::default()).await.unwrap().into_inner();
    let outside = read_to(&mut outside, 0, bed.head()).await;
    assert_eq!(inside, outside);
}
