//! The pipeline: whatever bytes come, nothing panics and the books balance.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use proptest::prelude::*;
use specola_datapath_common::event::{EVENT_SIZE, Event, kind, match_type};
use specola_directory::{Change, DirectoryReader, directory};
use specola_flow::{
    EndpointMeta, FilterSet, Flow, FlowMask, FlowView, InstanceId, MessageContext, NodeInfo, PolicyOrigin,
    flow_message,
};
use specola_flow_server::{AgentQueueFull, Config, FlowServer, Pipeline, flow_server};
use specola_labels::NumericIdentity;
use specola_proto::flow as pb;
use specola_ring::{Next, Read};
use zerocopy::FromBytes;

fn bed(capacity: usize) -> (Pipeline, FlowServer, DirectoryReader) {
    let (mut writer, reader) = directory(NodeInfo { name: "n1".into(), ..NodeInfo::default() });
    let meta = EndpointMeta { id: 7, identity: NumericIdentity(300), ..EndpointMeta::default() };
    let origins = [PolicyOrigin { name: "p".into(), ..PolicyOrigin::default() }].into();
    writer
        .apply([
            Change::UpsertEndpoint { meta, addresses: vec!["10.0.0.1".parse().unwrap()] },
            Change::UpsertOrigins { cookie: 1, origins },
        ])
        .unwrap();
    let config = Config { capacity, ..Config::new(InstanceId::new(9), "1.2.3") };
    let (pipeline, server) = flow_server(config, reader.clone()).unwrap();
    (pipeline, server, reader)
}

fn verdict(verdict: i32) -> Event {
    Event { kind: kind::POLICY_VERDICT, verdict, match_type: match_type::NONE, ..Event::zeroed() }
}

#[test]
fn the_books_balance() {
    let (mut pipeline, server, _) = bed(4);
    let agent_events = server.agent_events();
    agent_events.send(verdict(0)).unwrap();
    agent_events.send(verdict(-133)).unwrap();
    pipeline.ingest(&[verdict(0), verdict(-181), verdict(-999), Event { kind: 77, ..verdict(0) }], 0);
    pipeline.reject("size", 3);
    pipeline.reject("abi", 0);
    let status = server.status();
    let ledger = status.ledger;
    assert_eq!((ledger.consumed, ledger.agent, ledger.expanded, ledger.pushed), (7, 2, 2, 6));
    assert_eq!(ledger.rejected.into_iter().collect::<Vec<_>>(), [("kind", 1), ("size", 3), ("verdict", 1)]);
    assert!(server.status().ledger.is_balanced());
    // Pushed = held + overwritten.
    assert_eq!((status.seen, status.held, status.overwritten), (6, 4, 2));
}

#[test]
fn fold_records_stand_for_their_packets_and_come_from_no_ring_buffer() {
    let (mut pipeline, server, _) = bed(8);
    let numbered = |lane_seq| Event { lane_seq, ..verdict(-133) };
    pipeline.ingest(&[numbered(5), Event { fold: 40, ..verdict(-133) }, numbered(6)], 0);
    let ledger = server.status().ledger;
    assert_eq!((ledger.consumed, ledger.agent, ledger.expanded, ledger.kernel_lost), (2, 1, 3, 0));
    assert!(ledger.is_balanced());
    let folded: Vec<u32> = (0..6)
        .map(|seq| match server.ring().read(seq) {
            Read::Item(flow) => flow.folded,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(folded, [0, 0, 39, 39, 0, 0]);
}

#[test]
fn a_full_agent_queue_refuses_and_counts() {
    let (mut pipeline, server, _) = bed(4);
    let agent_events = server.agent_events();
    let mut queued = 0;
    while agent_events.send(verdict(0)).is_ok() {
        queued += 1;
    }
    assert_eq!(agent_events.send(verdict(0)), Err(AgentQueueFull));
    pipeline.ingest(&[], 0);
    let ledger = server.status().ledger;
    assert_eq!((ledger.agent, ledger.pushed, ledger.agent_refused), (queued, queued, 2));
    drop(pipeline);
    assert_eq!(agent_events.send(verdict(0)), Err(AgentQueueFull));
}

#[test]
fn flows_keep_the_order_of_events() {
    let (mut pipeline, server, _) = bed(16);
    let events: Vec<Event> = (0..5).map(|n| Event { boot_ns: n, ..verdict(0) }).collect();
    pipeline.ingest(&events[..2], 100);
    pipeline.ingest(&events[2..], 200);
    let mut cursor = server.ring().cursor(0);
    let times: Vec<u64> = std::iter::from_fn(|| match cursor.next() {
        Next::Item { value, .. } => Some(value.time_ns),
        Next::Lost(_) | Next::Pending => None,
    })
    .collect();
    assert_eq!(times, [100, 101, 202, 203, 204]);
}

#[test]
fn the_writer_never_waits_for_readers() {
    let (mut pipeline, server, _) = bed(8);
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (stop, mut cursor) = (Arc::clone(&stop), server.ring().cursor(0));
        std::thread::spawn(move || {
            let (mut got, mut lost_count) = (0, 0);
            loop {
                let is_last = stop.load(Ordering::Acquire);
                match cursor.next() {
                    Next::Item { .. } => got += 1,
                    Next::Lost(lost) => lost_count += lost.count(),
                    Next::Pending if is_last => return got + lost_count,
                    Next::Pending => std::thread::yield_now(),
                }
            }
        })
    };
    let batch = [verdict(0); 64];
    for _ in 0..1_000 {
        pipeline.ingest(&batch, 0);
    }
    stop.store(true, Ordering::Release);
    assert_eq!(reader.join().unwrap(), 64_000);
}

/// Bytes of a record, half of the time with a kind that is known, so that more than rejection is tried.
fn record_bytes() -> impl Strategy<Value = [u8; EVENT_SIZE]> {
    let kinds = prop_oneof![Just(None), prop::sample::select(vec![1_u8, 4, 5]).prop_map(Some)];
    (prop::array::uniform::<_, EVENT_SIZE>(any::<u8>()), kinds, -300..300_i32).prop_map(
        |(mut bytes, kind, verdict)| {
            if let Some(kind) = kind {
                bytes[1] = kind;
                bytes[80..84].copy_from_slice(&verdict.to_ne_bytes());
            }
            bytes
        },
    )
}

/// A filter that asks every kind of clause.
fn curious_filter() -> pb::FlowFilter {
    let text = |value: &str| vec![value.to_owned()];
    pb::FlowFilter {
        uuid: vec![],
        verdict: vec![1, 2, 3, 4, 5],
        reply: vec![true, false],
        source_pod: text("/"),
        destination_label: text("!missing"),
        node_name: text("n*"),
        protocol: vec!["tcp".into(), "icmp".into(), "sctp".into()],
        tcp_flags: vec![pb::TcpFlags::default()],
        source_ip: vec!["::/0".into(), "0.0.0.0/0".into()],
        ip_version: vec![0, 1, 2],
        ..pb::FlowFilter::default()
    }
}

proptest! {
    #[test]
    fn any_record_is_converted_filtered_and_encoded(
        records in prop::collection::vec(record_bytes(), 1..40),
        offset: i64,
    ) {
        let (mut pipeline, server, directory) = bed(64);
        let events: Vec<Event> = records.iter().map(|bytes| Event::read_from_bytes(bytes).unwrap()).collect();
        pipeline.ingest(&events, offset);
        let status = server.status();
        prop_assert!(status.ledger.is_balanced());
        prop_assert_eq!(status.seen, status.ledger.pushed);
        let single = |filter| FilterSet::compile(&[filter], &[]).unwrap();
        let filters = [single(curious_filter()), single(pb::FlowFilter::default())];
        let mask = FlowMask::compile(&["source.labels".into(), "l4.TCP.flags.SYN".into()]).unwrap().unwrap();
        let snapshot = directory.load();
        for seq in 0..status.seen {
            let Read::Item(flow) = server.ring().read(seq) else { continue };
            check(&flow, seq, &directory, snapshot.node(), &filters, &mask)?;
        }
    }
}

fn check(
    flow: &Flow,
    seq: u64,
    directory: &DirectoryReader,
    node: &NodeInfo,
    [curious, everything]: &[FilterSet; 2],
    mask: &FlowMask,
) -> Result<(), TestCaseError> {
    let metas = directory.metas();
    let view = FlowView::new(flow, seq, InstanceId::new(9), &metas, node);
    prop_assert!(everything.passes(&view));
    let _any_answer = curious.passes(&view);
    let snapshot = directory.load();
    let origins = snapshot.origins(flow.cookie);
    let context = MessageContext {
        version: "1.2.3",
        node_name: "n1",
        origins: origins.map_or(&[], AsRef::as_ref),
        interface: None,
        extension: true,
    };
    let message = flow_message(&view, &context);
    prop_assert!(serde_json::to_string(&message).is_ok());
    prop_assert!(mask.apply(&message).is_ok());
    Ok(())
}
