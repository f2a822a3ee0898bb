use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use flate2::read::GzDecoder;
use serde_json::Value;
use specola_datapath_common::event::Event;
use specola_directory::directory;
use specola_flow::{InstanceId, NodeInfo};
use specola_proto::{flow::FlowFilter, observer::ExportEvent};

use super::{ExporterSpec, Exporters, Output, parse_filters};
use crate::{Config, FlowServer, Pipeline, flow_server};

fn server(capacity: usize) -> (Pipeline, FlowServer) {
    let config = Config { capacity, ..Config::new(InstanceId::new(1), "1") };
    let node = NodeInfo { name: "n1".into(), ..NodeInfo::default() };
    flow_server(config, directory(node).1).unwrap()
}

/// A TCP packet to this port.
fn packet(port: u16) -> Event {
    let mut event = Event::zeroed();
    event.kind = specola_datapath_common::event::kind::TRACE;
    event.ip_version = 4;
    event.proto = 6;
    event.dst_port = port;
    event
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ports(lines: &[Value]) -> Vec<u64> {
    lines
        .iter()
        .map(|line| line["flow"]["l4"]["TCP"]["destination_port"].as_u64().unwrap_or_default())
        .collect()
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come");
}

async fn stop(exporters: Exporters) {
    let (trigger, drain) = specola_lifecycle::drain();
    trigger.signal();
    exporters.run(drain).await;
}

fn to(path: PathBuf) -> ExporterSpec {
    ExporterSpec::new("test", Output::File(path))
}

#[tokio::test]
async fn flows_are_written_as_hubble_does_and_all_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/flows.log");
    let (mut pipeline, server) = server(4096);
    let exporters = server.exporters();
    let include: Vec<FlowFilter> =
        parse_filters(r#"{"destination_port":["1","2","3"]}, {"verdict":["DROPPED"]}"#).unwrap();
    let exclude = parse_filters(r#"{"destination_port":["2"]}"#).unwrap();
    exporters.apply(vec![ExporterSpec { include, exclude, ..to(path.clone()) }]).unwrap();
    let events: Vec<Event> = (0..=4).map(packet).collect();
    pipeline.ingest(&events, 1_700_000_000_123_456_789);
    stop(exporters).await;
    let written = lines(&path);
    assert_eq!(ports(&written), [1, 3]);
    assert_eq!(written[0]["time"], "2023-11-14T22:13:20.123456789Z");
    assert_eq!(written[0]["flow"]["time"], written[0]["time"]);
    assert_eq!(written[0]["node_name"], written[0]["flow"]["node_name"]);
    let event: ExportEvent = serde_json::from_value(written[0].clone()).unwrap();
    assert_eq!(event.node_name, "n1");
    let counts = server.consumers().remove(0);
    assert_eq!(
        (counts.name.as_str(), counts.delivered, counts.filtered, counts.seen()),
        ("export:test", 2, 3, 5)
    );
}

#[tokio::test]
async fn masks_and_aggregates() {
    let directory = tempfile::tempdir().unwrap();
    let (masked, grouped) = (directory.path().join("masked"), directory.path().join("grouped"));
    let (mut pipeline, server) = server(4096);
    let exporters = server.exporters();
    let paths = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    exporters
        .apply(vec![
            ExporterSpec { field_mask: paths(&["source.namespace", "l4"]), ..to(masked.clone()) },
            ExporterSpec {
                name: "grouped".into(),
                aggregate: paths(&["l4.TCP.destination_port"]),
                aggregation_interval_ns: u64::MAX,
                ..to(grouped.clone())
            },
        ])
        .unwrap();
    pipeline.ingest(&[packet(1), packet(2), packet(1), packet(1)], 0);
    stop(exporters).await;
    let line = lines(&masked).remove(0);
    assert_eq!(line["flow"]["source"], serde_json::json!({}));
    assert!(line["time"].is_null() && line["flow"]["verdict"].is_null(), "{line}");
    let groups = lines(&grouped);
    let mut counts: Vec<u64> = groups
        .iter()
        .map(|line| {
            line["flow"]["aggregate"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
        })
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 3]);
    for consumer in server.consumers() {
        assert_eq!((consumer.delivered, consumer.seen()), (4, 4), "{consumer:?}");
    }
}

#[tokio::test]
async fn files_are_put_aside_and_the_oldest_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.log");
    std::fs::write(directory.path().join("flows-of-others.log"), "mine").unwrap();
    let (mut pipeline, server) = server(16_384);
    let exporters = server.exporters();
    exporters
        .apply(vec![ExporterSpec { max_size_mb: 1, max_backups: 2, compress: true, ..to(path.clone()) }])
        .unwrap();
    let events: Vec<Event> = (0..12_000_u16).map(packet).collect();
    pipeline.ingest(&events, 0);
    stop(exporters).await;
    let mut text = String::new();
    let mut aside: Vec<PathBuf> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .collect();
    aside.sort();
    assert_eq!(aside.len(), 2, "{aside:?}");
    for file in &aside {
        GzDecoder::new(std::fs::File::open(file).unwrap()).read_to_string(&mut text).unwrap();
    }
    text.push_str(&std::fs::read_to_string(&path).unwrap());
    let found: Vec<u64> =
        ports(&text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>());
    // The newest ones without a gap: whole lines, none twice.
    let first = found[0];
    assert!(first > 0, "the oldest file was removed");
    assert!(found.iter().copied().eq(first..12_000), "{} lines from {first}", found.len());
    assert!(directory.path().join("flows-of-others.log").exists());
    assert_eq!(server.consumers()[0].delivered, 12_000);
}

#[tokio::test]
async fn a_full_disk_is_counted_and_what_waits_fails_at_the_end() {
    let (mut pipeline, server) = server(4096);
    let exporters = server.exporters();
    exporters.apply(vec![ExporterSpec { max_size_mb: 1_000_000, ..to("/dev/full".into()) }]).unwrap();
    for _ in 0..10 {
        pipeline.ingest(&(0..1000).map(packet).collect::<Vec<_>>(), 0);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let failed = || exporters.counts().exporters[0].2 > 0;
    eventually("a write error", failed).await;
    stop(exporters).await;
    let counts = server.consumers().remove(0);
    assert_eq!(counts.delivered, 0, "{counts:?}");
    assert!(counts.failed > 0 && counts.waiting == 0, "{counts:?}");
    assert_eq!(counts.seen(), 10_000, "also what it had no room for is accounted for: {counts:?}");
}

#[tokio::test]
async fn what_an_exporter_was_too_slow_for_is_in_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.log");
    let (mut pipeline, server) = server(64);
    let exporters = server.exporters();
    exporters.apply(vec![to(path.clone())]).unwrap();
    // On this thread nothing else runs before the end: the exporter finds what is left of a ring overrun.
    for _ in 0..10 {
        pipeline.ingest(&(0..100).map(packet).collect::<Vec<_>>(), 0);
    }
    stop(exporters).await;
    let (lost, flows): (Vec<Value>, Vec<Value>) =
        lines(&path).into_iter().partition(|line| !line["lost_events"].is_null());
    let told: u64 = lost
        .iter()
        .map(|line| {
            assert_eq!(line["lost_events"]["source"], "HUBBLE_RING_BUFFER", "{line}");
            assert_eq!(line["node_name"], "n1");
            line["lost_events"]["num_events_lost"].as_str().unwrap().parse::<u64>().unwrap()
        })
        .sum();
    let counts = server.consumers().remove(0);
    assert!(counts.lost >= 900 && counts.lost == told, "{counts:?}, {told} told of");
    assert_eq!((counts.delivered, counts.seen()), (flows.len() as u64, 1000), "{counts:?}");
}

#[tokio::test]
async fn a_replaced_exporter_leaves_nothing_out_and_writes_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.log");
    let (mut pipeline, server) = server(4096);
    let exporters = server.exporters();
    exporters.apply(vec![to(path.clone())]).unwrap();
    for round in 0..10 {
        pipeline.ingest(&(100 * round..100 * (round + 1)).map(packet).collect::<Vec<_>>(), 0);
        let changed = ExporterSpec { max_backups: usize::from(round) + 7, ..to(path.clone()) };
        exporters.apply(vec![changed]).unwrap();
        tokio::task::yield_now().await;
    }
    stop(exporters).await;
    assert!(ports(&lines(&path)).into_iter().eq(0..1000));
    assert_eq!(server.consumers()[0].seen(), 1000);
}

#[tokio::test]
async fn a_new_set_keeps_equal_ones_and_replaces_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (mut pipeline, server) = server(4096);
    let exporters = server.exporters();
    let file = |text: &str| {
        ExporterSpec::parse_file(&text.replace("DIR", directory.path().to_str().unwrap())).unwrap()
    };
    exporters.apply(file("flowLogs: [{name: a, filePath: DIR/a}, {name: b, filePath: DIR/b}]")).unwrap();
    pipeline.ingest(&[packet(1)], 0);
    eventually("the first line", || lines(&path("a")).len() == 1 && lines(&path("b")).len() == 1).await;
    let past = "{name: c, filePath: DIR/c, end: \"2020-12-31T23:59:59-07:00\"}";
    exporters
        .apply(file(&format!(
            "flowLogs: [{{name: a, filePath: DIR/a}}, {{name: b, filePath: DIR/b2}}, {past}]"
        )))
        .unwrap();
    eventually("the end", || exporters.counts().exporters.contains(&("c".into(), false, 0))).await;
    pipeline.ingest(&[packet(2)], 0);
    eventually("the second line", || lines(&path("a")).len() == 2 && lines(&path("b2")).len() == 1).await;
    exporters.apply(Vec::new()).unwrap();
    let counts = exporters.counts();
    assert_eq!((counts.added, counts.updated, counts.removed), (3, 1, 3));
    assert!(counts.applied_ns > 0 && counts.exporters.is_empty());
    stop(exporters).await;
    assert_eq!(ports(&lines(&path("b"))), [1]);
    assert!(!path("c").exists());
}

#[test]
fn wrong_files_are_refused() {
    for (file, says) in [
        ("flowLogs: [{filePath: /a}]", "flowLogs[0]: name is missing"),
        ("flowLogs: [{name: a}]", "flowLogs[0]: filePath is missing"),
        ("flowLogs: [{name: a, filePath: /a}, {name: a, filePath: /b}]", "the name \"a\""),
        ("flowLogs: [{name: a, filePath: /a}, {name: b, filePath: /a}]", "the filePath \"/a\""),
        ("flowLogs: [{name: a, filePath: /a, fieldMask: [nonsense]}]", "invalid fieldmask"),
        ("flowLogs: [{name: a, filePath: /a, includeFilters: [{source_port: [x]}]}]", "invalid port"),
        ("flowLogs: [{name: a, filePath: /a, end: yesterday}]", "read the exporters' configuration"),
        ("flowLogs: [{name: a, filePath: /a, colour: red}]", "colour"),
    ] {
        let error = ExporterSpec::parse_file(file).unwrap_err().to_string();
        assert!(error.contains(says), "{file}: {error}");
    }
    assert!(parse_filters("{\"verdict\":").is_err());
    assert!(parse_filters(" , ").unwrap().is_empty());
}
