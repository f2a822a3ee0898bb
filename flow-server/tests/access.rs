//! Requests and responses on every way out: the API, the exporter, metrics; what is redacted leaves on none of them.

use std::{collections::BTreeSet, net::SocketAddr};

use specola_directory::directory;
use specola_flow::{Direction, FlowDetail, InstanceId, NodeInfo, Verdict};
use specola_flow_server::{
    AccessRecord, Config, ExporterSpec, FlowServer, ListenConfig, Listeners, MetricSpec, MetricsSettings,
    Output, Pipeline, Redaction, Transport, flow_server,
};
use specola_lifecycle::drain;
use specola_proto::{
    flow::{Flow, FlowFilter, Http, HttpHeader, Kafka, Layer7, layer7::Record},
    observer::{GetFlowsRequest, get_flows_response::ResponseTypes, observer_client::ObserverClient},
};
use specola_telemetry::Metrics;
use tonic::transport::Endpoint;

const SECRETS: [&str; 4] = ["hunter2", "page=7", "s3cr3t", "produce-key"];

fn server(config: Config) -> (Pipeline, FlowServer) {
    flow_server(config, directory(NodeInfo { name: "n1".into(), ..NodeInfo::default() }).1).unwrap()
}

fn config() -> Config {
    Config::new(InstanceId::new(1), "1")
}

fn access(l7: Layer7) -> AccessRecord {
    AccessRecord {
        time_ns: 1_000_000_000,
        verdict: Verdict::FORWARDED,
        direction: Direction::EGRESS,
        transport: Transport::Tcp,
        source: SocketAddr::from(([10, 0, 0, 2], 80)),
        destination: SocketAddr::from(([10, 0, 0, 1], 40_000)),
        source_identity: 0,
        destination_identity: 0,
        cookie: 0,
        detail: FlowDetail { l7: Some(l7), trace_id: "abc".into(), ..FlowDetail::default() },
    }
}

fn response(record: Record) -> Layer7 {
    Layer7 { r#type: 2, latency_ns: 1_000_000, record: Some(record) }
}

fn http(url: &str) -> Layer7 {
    let header = |key: &str, value: &str| HttpHeader { key: key.into(), value: value.into() };
    response(Record::Http(Http {
        code: 200,
        method: "GET".into(),
        url: url.into(),
        protocol: "HTTP/1.1".into(),
        headers: vec![header("Cookie", "s3cr3t"), header("Host", "db.shop")],
    }))
}

fn secret_records() -> [AccessRecord; 2] {
    let kafka = Kafka { api_key: "produce-key".into(), topic: "orders".into(), ..Kafka::default() };
    [access(http("http://me:hunter2@db.shop/a?page=7#top")), access(response(Record::Kafka(kafka)))]
}

/// The flows of the API, by a filter.
async fn flows(server: &FlowServer, filter: Option<FlowFilter>) -> Vec<Flow> {
    let listen = ListenConfig { tcp: Some("127.0.0.1:0".parse().unwrap()), ..ListenConfig::default() };
    let listeners = Listeners::bind(&listen).await.unwrap();
    let address = listeners.tcp_address().unwrap();
    let (trigger, watcher) = drain();
    let served = server.clone();
    let serving = tokio::spawn(async move { served.serve(listeners, watcher).await });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let request = GetFlowsRequest { whitelist: filter.into_iter().collect(), ..GetFlowsRequest::default() };
    let mut answers = ObserverClient::new(channel).get_flows(request).await.unwrap().into_inner();
    let mut flows = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let Some(ResponseTypes::Flow(flow)) = answer.response_types else { panic!("{answer:?}") };
        flows.push(flow);
    }
    trigger.signal();
    serving.await.unwrap().unwrap();
    flows
}

/// All that a node with these settings says of the secret records: the API, exported lines, metrics.
async fn all_ways_out(config: Config) -> [String; 3] {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.log");
    let (mut pipeline, server) = server(config);
    let exporters = server.exporters();
    exporters.apply(vec![ExporterSpec::new("test", Output::File(path.clone()))]).unwrap();
    let metrics = server.flow_metrics(MetricsSettings::default());
    let list = "httpV2:exemplars=true kafka flow dns:query";
    metrics.apply(MetricSpec::parse_list(list).unwrap().0).unwrap();
    let registry = Metrics::new();
    registry.register_as("hubble", |registry| metrics.register(registry));
    let (trigger, watcher) = drain();
    let counting = tokio::spawn({
        let (metrics, watcher) = (metrics.clone(), watcher.clone());
        async move { metrics.run(watcher).await }
    });
    while server.consumers().len() < 2 {
        tokio::task::yield_now().await;
    }
    secret_records().into_iter().for_each(|record| server.access_log().send(record).unwrap());
    pipeline.ingest(&[], 0);
    let told = format!("{:?}", flows(&server, None).await);
    drop(pipeline);
    trigger.signal();
    exporters.run(watcher).await;
    counting.await.unwrap();
    [told, std::fs::read_to_string(&path).unwrap(), registry.encode().unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_redacted_leaves_nowhere() {
    let [told, exported, counted] = all_ways_out(config()).await;
    for (text, count) in [(&told, 4), (&exported, 4)] {
        assert_eq!(SECRETS.iter().filter(|secret| text.contains(*secret)).count(), count, "{text}");
    }
    assert!(counted.contains("api_key=\"produce-key\""), "{counted}");
    assert!(counted.contains("hubble_http_requests_total{method=\"GET\""), "{counted}");
    assert!(counted.contains("traceID=\"abc\""), "{counted}");

    let redaction =
        Redaction::new(&["host".into()], &[]).unwrap().with_url_query(true).with_kafka_api_key(true);
    let ways = all_ways_out(Config { redaction: Some(redaction), ..config() }).await;
    for text in &ways {
        let seen: BTreeSet<_> = SECRETS.iter().filter(|secret| text.contains(*secret)).collect();
        assert_eq!(seen, BTreeSet::new(), "{text}");
        assert!(text.contains("HUBBLE_REDACTED"), "{text}");
    }
    for text in &ways[..2] {
        // In the URL and in the summary.
        assert_eq!(text.matches("http://me:HUBBLE_REDACTED@db.shop/a").count(), 2, "{text}");
        assert!(text.contains("db.shop"), "an allowed header stays: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_see_what_is_left() {
    let redaction = Redaction::new(&[], &[]).unwrap().with_url_query(true);
    let (mut pipeline, server) = server(Config { redaction: Some(redaction), ..config() });
    secret_records().into_iter().for_each(|record| server.access_log().send(record).unwrap());
    pipeline.ingest(&[], 0);
    for (pattern, count) in [("hunter2", 0), ("page", 0), ("HUBBLE_REDACTED@", 1)] {
        let filter = FlowFilter { http_url: vec![pattern.into()], ..FlowFilter::default() };
        assert_eq!(flows(&server, Some(filter)).await.len(), count, "{pattern}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_counted_and_its_flow_stays() {
    let (mut pipeline, server) = server(Config { detail_bytes: 100 << 10, capacity: 64, ..config() });
    let long = format!("http://db.shop/{}", "x".repeat(100_000));
    for _ in 0..8 {
        server.access_log().send(access(http(&long))).unwrap();
    }
    pipeline.ingest(&[], 0);
    let status = server.status();
    assert!(status.details.bytes <= 100 << 10, "{status:?}");
    assert_eq!((status.details.kept, status.details.clipped, status.seen), (8, 8, 8));
    assert!(status.details.lost >= 5 && status.ledger.is_balanced(), "{status:?}");
    let flows = flows(&server, None).await;
    let without: Vec<_> = flows.iter().filter(|flow| flow.l7.is_none()).collect();
    assert_eq!(without.len() as u64, status.details.lost);
    for flow in without {
        assert_eq!((flow.r#type, flow.event_type.unwrap().r#type), (2, 129));
        assert_eq!(flow.summary, "L7 (details no longer held)");
    }
}

#[test]
fn a_full_queue_refuses_and_counts() {
    let (mut pipeline, server) = server(config());
    let log = server.access_log();
    let mut sent = 0;
    while log.send(access(http("/"))).is_ok() {
        sent += 1;
    }
    assert!(log.send(access(http("/"))).is_err());
    pipeline.ingest(&[], 0);
    let status = server.status();
    assert_eq!((status.seen, status.details.kept, status.details.refused), (sent, sent, 2));
    drop(pipeline);
    assert!(log.send(access(http("/"))).is_err());
    assert_eq!(server.status().details.refused, 3);
}
