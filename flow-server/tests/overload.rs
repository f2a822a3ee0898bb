//! Ten times the ring's capacity of forwarded flows between distinct denied packets, and a client that does not read:
//! every denied packet reaches it, forwarded ones are missing only with a count, and all accounts hold exactly.

use std::{collections::BTreeSet, time::Duration};

use specola_datapath_common::event::{Event, kind, lane, match_type, point};
use specola_directory::directory;
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{Config, ListenConfig, Listeners, flow_server};
use specola_lifecycle::drain;
use specola_proto::{
    flow::{Flow, LostEventSource},
    observer::{GetFlowsRequest, get_flows_response::ResponseTypes, observer_client::ObserverClient},
};
use tonic::{metadata::MetadataMap, transport::Endpoint};

const CAPACITY: usize = 1 << 15;
/// Five seconds of a thousand a second.
const DENIES: u16 = 5_000;
/// Between two of them.
const FORWARDS: usize = 10 * CAPACITY / DENIES as usize + 1;
/// Far beyond anything that a passing test needs.
const PATIENCE: Duration = Duration::from_secs(120);

fn forward() -> Event {
    Event {
        kind: kind::TRACE,
        lane: lane::TRACE,
        obs_point: point::TO_ENDPOINT,
        ip_version: 4,
        proto: 6,
        dst_port: 80,
        ..Event::zeroed()
    }
}

fn deny(port: u16) -> Event {
    Event {
        kind: kind::POLICY_VERDICT,
        lane: lane::DENY,
        verdict: -133,
        match_type: match_type::NONE,
        dst_port: port,
        ..forward()
    }
}

fn port(flow: &Flow) -> u16 {
    match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(specola_proto::flow::layer4::Protocol::Tcp(tcp)) => tcp.destination_port.try_into().unwrap(),
        other => panic!("no TCP: {other:?}"),
    }
}

fn trailer(trailers: &MetadataMap, name: &str) -> u64 {
    let value = trailers.get(name).unwrap_or_else(|| panic!("no {name} in {trailers:?}"));
    value.to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_deny_reaches_a_stalled_reader_and_the_accounts_hold() {
    let config = Config { capacity: CAPACITY, protected_percent: 50, ..Config::new(InstanceId::new(1), "1") };
    let (mut pipeline, server) = flow_server(config, directory(NodeInfo::default()).1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("observer.sock");
    let listen = ListenConfig { unix: Some(socket.clone()), ..ListenConfig::default() };
    let listeners = Listeners::bind(&listen).await.unwrap();
    let (trigger, watcher) = drain();
    let served = server.clone();
    let serving = tokio::spawn(async move { served.serve(listeners, watcher).await });
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    let mut client = ObserverClient::new(endpoint.connect().await.unwrap());
    let follow = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let mut stream = client.get_flows(follow).await.unwrap().into_inner();

    // The client does not read meanwhile.
    for number in 0..DENIES {
        let mut batch = vec![forward(); FORWARDS];
        batch.push(deny(number));
        pipeline.ingest(&batch, 0);
    }
    let head = server.ring().head();
    // The source stops: followers get what the ring has, and their end.
    drop(pipeline);

    let (mut denied, mut dropped, mut forwarded, mut lost) = (BTreeSet::new(), BTreeSet::new(), 0, 0);
    while let Some(answer) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        match answer.response_types.unwrap() {
            ResponseTypes::Flow(flow) => {
                let kind_of = flow.event_type.map(|event| event.r#type);
                let is_new = match kind_of {
                    Some(5) => denied.insert(port(&flow)),
                    Some(1) => dropped.insert(port(&flow)),
                    _ => {
                        forwarded += 1;
                        true
                    }
                };
                assert!(is_new, "twice: {flow:?}");
            }
            ResponseTypes::LostEvents(told) => {
                assert_eq!(told.source, i32::from(LostEventSource::HubbleRingBuffer));
                lost += told.num_events_lost;
            }
            ResponseTypes::NodeStatus(status) => panic!("{status:?}"),
        }
    }
    let all: BTreeSet<u16> = (0..DENIES).collect();
    assert!(denied == all && dropped == all, "{} verdicts and {} drops arrived", denied.len(), dropped.len());
    assert!(lost > 9 * CAPACITY as u64 / 2, "{lost} lost are no overload");
    assert_eq!(forwarded + lost, u64::from(DENIES) * FORWARDS as u64, "forwards are lost only with a count");

    let trailers = stream.trailers().await.unwrap().expect("trailers");
    let number = |name: &str| trailer(&trailers, name);
    let served = number("specola-coverage-served");
    assert_eq!(served, forwarded + 2 * u64::from(DENIES));
    assert_eq!(number("specola-coverage-lost-ring"), lost);
    assert_eq!((number("specola-coverage-filtered"), number("specola-coverage-lost-kernel")), (0, 0));
    assert_eq!(served + lost, head);
    let status = server.status();
    assert!(status.ledger.is_balanced(), "{status:?}");
    assert_eq!((status.seen, status.ledger.pushed), (head, head));
    assert_eq!((status.streams.delivered, status.streams.lost, status.streams.filtered), (served, lost, 0));

    trigger.signal();
    serving.await.unwrap().unwrap();
    assert!(server.status().ledger.is_balanced());
}
