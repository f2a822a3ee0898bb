use std::collections::HashSet;

use specola_directory::directory;
use specola_flow::{EventType, InstanceId, NodeInfo};
use specola_proto::flow::{L7FlowType, layer7::Record};
use specola_ring::Read;

use super::*;
use crate::{Config, flow_server};

#[test]
fn equal_seeds_give_equal_events() {
    let events = |seed| {
        let mut source = Synthetic::new(seed);
        (0..5_000).map(|n| source.event(1_000 + n)).collect::<Vec<_>>()
    };
    assert_eq!(events(7), events(7));
    assert_ne!(events(7), events(8));
}

/// Requests and responses of every kind come as flows with their details, and all metrics of them count.
#[test]
fn requests_go_through_the_access_log() {
    let (mut writer, reader) = directory(NodeInfo { name: "n1".into(), ..NodeInfo::default() });
    writer.apply(Synthetic::changes()).unwrap();
    let config = Config { capacity: 1 << 12, ..Config::new(InstanceId::new(1), "1") };
    let (mut pipeline, server) = flow_server(config, reader.clone()).unwrap();
    let (mut source, mut again) = (Synthetic::new(1), Synthetic::new(1));
    let log = server.access_log();
    for n in 0..2_000 {
        let record = source.access(1 + n);
        assert_eq!(record, again.access(1 + n), "equal seeds give equal requests");
        log.send(record).unwrap();
    }
    pipeline.ingest(&[], 0);
    let status = server.status();
    assert!(status.ledger.is_balanced());
    assert_eq!((status.ledger.agent, status.details.kept, status.details.lost), (2_000, 2_000, 0));
    let mut kinds = HashSet::new();
    for seq in 0..status.seen {
        let Read::Item(flow) = server.ring().read(seq) else { panic!("flow {seq} is gone") };
        let kept = server.shared.details.of(&flow).expect("details of every flow");
        let l7 = kept.detail.l7.as_ref().unwrap();
        assert_eq!(flow.is_reply(), Some(l7.r#type() == L7FlowType::Response));
        let (name, service) = match flow.is_reply() {
            Some(true) => (&kept.detail.source_names, &kept.detail.source_service),
            _ => (&kept.detail.destination_names, &kept.detail.destination_service),
        };
        assert!(!name.is_empty() && (service.is_some() || name[0] == "api.example.com"));
        let record = match l7.record.as_ref().unwrap() {
            Record::Http(_) => "http",
            Record::Dns(_) => "dns",
            Record::Kafka(_) => "kafka",
        };
        kinds.insert((record, flow.verdict, l7.r#type));
    }
    for kind in ["http", "dns", "kafka"] {
        assert!(kinds.contains(&(kind, 1, 1)) && kinds.contains(&(kind, 1, 2)), "{kind}: {kinds:?}");
    }
    assert!(kinds.contains(&("http", 2, 1)), "a denied request");
}

/// The whole mix goes through the pipeline without a rejected or missing record, and every name is known.
#[test]
fn the_pipeline_takes_the_mix() {
    let (mut writer, reader) = directory(NodeInfo { name: "n1".into(), ..NodeInfo::default() });
    writer.apply(Synthetic::changes()).unwrap();
    let config = Config { capacity: 1 << 15, ..Config::new(InstanceId::new(1), "1") };
    let (mut pipeline, server) = flow_server(config, reader.clone()).unwrap();
    let mut source = Synthetic::new(1);
    let events: Vec<Event> = (0..20_000).map(|n| source.event(1 + n)).collect();
    pipeline.ingest(&events, 0);
    let status = server.status();
    assert!(status.ledger.is_balanced());
    assert_eq!(
        (status.ledger.consumed, status.ledger.kernel_lost, status.ledger.loss_records),
        (20_000, 0, 0)
    );
    assert_eq!(status.ledger.rejected.values().sum::<u64>(), 0);

    let mut kinds = HashSet::new();
    for seq in 0..status.seen {
        let Read::Item(flow) = server.ring().read(seq) else { panic!("flow {seq} is gone") };
        kinds.insert((flow.event_type, flow.verdict, flow.protocol, flow.ip_version));
        for (meta, identity) in
            [(flow.source_meta, flow.source_identity), (flow.destination_meta, flow.destination_identity)]
        {
            assert_eq!(reader.metas().get(meta).map(|meta| meta.identity.0), Some(identity), "{flow:?}");
        }
        assert!(!reader.metas().shown_labels(flow.source_meta).is_empty());
        if flow.event_type() == EventType::POLICY_VERDICT {
            assert!(reader.load().origins(flow.cookie).is_some(), "{flow:?}");
        }
    }
    let denied = kinds.iter().any(|(kind, verdict, ..)| (*kind, *verdict) == (5, 2));
    let forwarded = kinds.iter().any(|(kind, verdict, ..)| (*kind, *verdict) == (4, 1));
    assert!(denied && forwarded);
    for protocol in [1, 6, 17, 58] {
        assert!(kinds.iter().any(|(_, _, known, _)| *known == protocol), "{protocol}");
    }
}
