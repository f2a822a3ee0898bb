use std::{net::IpAddr, sync::Arc};

use specola_directory::directory;
use specola_flow::{
    Direction, DropReason, EndpointMeta, EventType, Flow, FlowDetail, FlowView, InstanceId, MatchType,
    MetaInterner, NodeInfo, Verdict, Workload, flags, protocol,
};
use specola_labels::Label;
use specola_proto::flow as pb;
use specola_telemetry::Metrics;

use super::{FlowMetrics, MetricSpec, MetricsSettings};
use crate::{Clock, Config, flow_server};

/// Metrics with this configuration that see flows from pod `shop/web-1-a` to the world.
struct Bench {
    metrics: FlowMetrics,
    registry: Metrics,
    interner: MetaInterner,
    node: NodeInfo,
}

impl Bench {
    fn new(config: &str, settings: MetricsSettings) -> Self {
        let (_pipeline, server) =
            flow_server(Config::new(InstanceId::new(1), "1"), directory(NodeInfo::default()).1).unwrap();
        let metrics = server.flow_metrics(settings);
        let (specs, warnings) = MetricSpec::parse_list(config).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        metrics.apply(specs).unwrap();
        let registry = Metrics::new();
        registry.register_as("hubble", |registry| metrics.register(registry));
        Self { metrics, registry, interner: MetaInterner::new(), node: NodeInfo::default() }
    }

    fn of(config: &str) -> Self {
        Self::new(config, MetricsSettings::default())
    }

    fn see(&mut self, flow: &Flow, detail: Option<&FlowDetail>) {
        self.see_from("web-1-a", flow, detail);
    }

    fn see_from(&mut self, pod: &str, flow: &Flow, detail: Option<&FlowDetail>) {
        let source = EndpointMeta {
            namespace: "shop".into(),
            pod_name: pod.into(),
            labels: ["k8s:app=web", "k8s:tier=front"].iter().map(|text| label(text)).collect(),
            workloads: vec![Workload { name: "web".into(), kind: "Deployment".into() }],
            ..EndpointMeta::default()
        };
        let world = EndpointMeta {
            labels: ["reserved:world"].iter().map(|text| label(text)).collect(),
            ..EndpointMeta::default()
        };
        let mut flow = *flow;
        flow.source_meta = self.interner.intern(source).unwrap();
        flow.destination_meta = self.interner.intern(world).unwrap();
        let metas = self.interner.table().load();
        let mut view = FlowView::new(&flow, 0, InstanceId::new(1), &metas, &self.node);
        if let Some(detail) = detail {
            view = view.with_detail(detail);
        }
        self.metrics.observe(&view);
    }

    fn text(&self) -> String {
        self.registry.encode().unwrap()
    }

    #[track_caller]
    fn has(&self, lines: &[&str]) {
        let text = self.text();
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} in\n{text}");
        }
    }

    #[track_caller]
    fn has_no(&self, start: &str) {
        let text = self.text();
        assert!(!text.lines().any(|line| line.starts_with(start)), "{start} in\n{text}");
    }
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn octets(text: &str) -> [u8; 16] {
    match text.parse::<IpAddr>().unwrap() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A SYN that went out.
fn syn() -> Flow {
    let mut flow = Flow {
        ip_version: 4,
        protocol: protocol::TCP,
        tcp_flags: 0x02,
        source_addr: octets("10.0.0.1"),
        destination_addr: octets("1.2.3.4"),
        source_port: 40_000,
        destination_port: 443,
        verdict: Verdict::FORWARDED.0,
        event_type: EventType::TRACE.0,
        sub_type: 3,
        direction: Direction::EGRESS.0,
        ..Flow::default()
    };
    flow.set_reply(Some(false));
    flow
}

fn denied() -> Flow {
    Flow {
        verdict: Verdict::DROPPED.0,
        drop_reason: DropReason::POLICY_DENIED.0,
        event_type: EventType::DROP.0,
        sub_type: DropReason::POLICY_DENIED.0,
        ..syn()
    }
}

fn verdict() -> Flow {
    Flow { event_type: EventType::POLICY_VERDICT.0, match_type: MatchType::L3_L4.0, ..syn() }
}

#[test]
fn packets() {
    let mut bench = Bench::of("drop flow tcp port-distribution policy flows-to-world:port");
    bench.see(&syn(), None);
    bench.see(&Flow { tcp_flags: 0x12, ..syn() }, None);
    bench.see(&Flow { tcp_flags: 0x11, ..syn() }, None);
    bench.see(&denied(), None);
    bench.see(&verdict(), None);
    bench.see(&Flow { event_type: EventType::TRACE_SOCK.0, ..syn() }, None);
    bench.has(&[
        "hubble_drop_total{reason=\"POLICY_DENIED\",protocol=\"TCP\"} 1",
        "hubble_flows_processed_total{protocol=\"TCP\",type=\"Trace\",subtype=\"to-stack\",verdict=\"FORWARDED\"} 3",
        "hubble_flows_processed_total{protocol=\"TCP\",type=\"Drop\",subtype=\"\",verdict=\"DROPPED\"} 1",
        "hubble_flows_processed_total{protocol=\"TCP\",type=\"PolicyVerdict\",subtype=\"\",verdict=\"FORWARDED\"} 1",
        "hubble_flows_processed_total{protocol=\"Unknown flow\",type=\"Unknown\",subtype=\"7\",verdict=\"FORWARDED\"} 1",
        "hubble_tcp_flags_total{flag=\"SYN\",family=\"IPv4\"} 3",
        "hubble_tcp_flags_total{flag=\"SYN-ACK\",family=\"IPv4\"} 1",
        "hubble_tcp_flags_total{flag=\"FIN\",family=\"IPv4\"} 1",
        "hubble_port_distribution_total{protocol=\"TCP\",port=\"443\"} 4",
        "hubble_policy_verdicts_total{direction=\"egress\",match=\"l3-l4\",action=\"forwarded\"} 1",
        "hubble_flows_to_world_total{protocol=\"TCP\",verdict=\"DROPPED\",port=\"443\"} 1",
        "hubble_flows_to_world_total{protocol=\"TCP\",verdict=\"FORWARDED\",port=\"443\"} 4",
        "hubble_lost_events_total{source=\"hubble_ring_buffer\"} 0",
    ]);
}

#[test]
fn what_does_not_count() {
    let mut bench = Bench::of("drop tcp port-distribution policy icmp dns flows-to-world:syn-only");
    let mut reply = Flow { tcp_flags: 0x10, ..syn() };
    reply.set_reply(Some(true));
    bench.see(&reply, None);
    bench.see(&Flow { flags: flags::COUNTERS, tcp_flags: 0, ..syn() }, None);
    bench.see(&Flow { drop_reason: 132, tcp_flags: 0, event_type: 0, ..denied() }, None);
    for family in ["tcp_flags", "port_distribution", "icmp", "dns_", "flows_to_world", "policy"] {
        bench.has_no(&format!("hubble_{family}"));
    }
    let mut bench = Bench::of("policy");
    bench.see(&Flow { source_identity: 1, ..verdict() }, None);
    bench.has_no("hubble_policy_verdicts");
}

#[test]
fn icmp() {
    let mut bench = Bench::of("icmp port-distribution");
    let ping = Flow { protocol: protocol::ICMP, icmp_type: 8, tcp_flags: 0, ..syn() };
    bench.see(&ping, None);
    bench.see(&Flow { icmp_type: 3, icmp_code: 3, ..ping }, None);
    bench.see(&Flow { ip_version: 6, protocol: protocol::ICMPV6, icmp_type: 128, ..ping }, None);
    bench.has(&[
        "hubble_icmp_total{family=\"IPv4\",type=\"EchoRequest\"} 1",
        "hubble_icmp_total{family=\"IPv4\",type=\"DestinationUnreachable(Port)\"} 1",
        "hubble_icmp_total{family=\"IPv6\",type=\"EchoRequest\"} 1",
        "hubble_port_distribution_total{protocol=\"ICMPv4\",port=\"0\"} 2",
    ]);
}

#[test]
fn contexts() {
    for (options, labels) in [
        (
            "sourceContext=pod;destinationContext=reserved-identity",
            "source=\"shop/web-1-a\",destination=\"reserved:world\"",
        ),
        ("sourceContext=pod-short", "source=\"shop/web\""),
        ("sourceContext=pod-name;destinationContext=ip", "source=\"web-1-a\",destination=\"1.2.3.4\""),
        ("sourceContext=identity", "source=\"k8s:app=web,k8s:tier=front\""),
        (
            "sourceContext=namespace;destinationContext=namespace|dns|ip",
            "source=\"shop\",destination=\"example.org,www.example.org\"",
        ),
        ("sourceContext=workload-name", "source=\"web\""),
        ("sourceContext=app;destinationContext=app", "source=\"web\",destination=\"\""),
        ("sourceContext=ip;sourceEgressContext=pod", "source=\"shop/web-1-a\""),
        ("sourceContext=ip;sourceIngressContext=pod", "source=\"10.0.0.1\""),
        ("destinationIngressContext=pod", "destination=\"\""),
        (
            "labelsContext=traffic_direction,destination_ip,source_workload_kind,source_pod,source_namespace",
            "source_pod=\"web-1-a\",source_namespace=\"shop\",source_workload_kind=\"Deployment\",destination_ip=\"1.2.3.4\",\
             traffic_direction=\"egress\"",
        ),
    ] {
        let mut bench = Bench::of(&format!("tcp:{options}"));
        let detail = FlowDetail {
            destination_names: vec!["example.org".into(), "www.example.org".into()],
            ..FlowDetail::default()
        };
        bench.see(&syn(), Some(&detail));
        bench.has(&[&format!("hubble_tcp_flags_total{{flag=\"SYN\",family=\"IPv4\",{labels}}} 1")]);
    }
}

fn l7(kind: pb::L7FlowType, record: pb::layer7::Record) -> FlowDetail {
    FlowDetail {
        l7: Some(pb::Layer7 { r#type: kind.into(), latency_ns: 30_000_000, record: Some(record) }),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        ..FlowDetail::default()
    }
}

fn l7_flow(is_reply: bool) -> Flow {
    let mut flow = Flow { event_type: EventType::L7.0, ..syn() };
    flow.set_reply(Some(is_reply));
    flow
}

#[test]
fn dns() {
    let mut bench = Bench::of("dns:query flow policy");
    let record = |rcode, kinds: &[&str]| {
        let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
        pb::layer7::Record::Dns(pb::Dns {
            query: "example.org.".into(),
            ips: vec!["1.2.3.4".into(); kinds.len()],
            qtypes: vec!["A".into(), "AAAA".into()],
            rcode,
            rrtypes: kinds,
            ..pb::Dns::default()
        })
    };
    let asked = l7(pb::L7FlowType::Request, record(0, &[]));
    bench.see(&l7_flow(false), Some(&asked));
    bench.see(&Flow { verdict: Verdict::DROPPED.0, ..l7_flow(false) }, Some(&asked));
    bench.see(&l7_flow(true), Some(&l7(pb::L7FlowType::Response, record(0, &["A", "AAAA"]))));
    bench.see(&l7_flow(true), Some(&l7(pb::L7FlowType::Response, record(3, &[]))));
    let rest = "qtypes=\"A,AAAA\",ips_returned=\"0\",query=\"example.org.\"} 1";
    bench.has(&[
        &format!("hubble_dns_queries_total{{rcode=\"\",{rest}"),
        &format!("hubble_dns_queries_total{{rcode=\"Policy denied\",{rest}"),
        &format!("hubble_dns_responses_total{{rcode=\"Non-Existent Domain\",{rest}"),
        "hubble_dns_responses_total{rcode=\"No Error\",qtypes=\"A,AAAA\",ips_returned=\"2\",query=\"example.org.\"} 1",
        "hubble_dns_response_types_total{type=\"A\",qtypes=\"A,AAAA\",query=\"example.org.\"} 1",
        "hubble_flows_processed_total{protocol=\"DNS\",type=\"L7\",subtype=\"DNS\",verdict=\"FORWARDED\"} 3",
        "hubble_policy_verdicts_total{direction=\"egress\",match=\"l7/dns\",action=\"forwarded\"} 3",
    ]);
    let mut bench = Bench::of("dns:ignoreAAAA");
    let mut only = asked;
    if let Some(pb::Layer7 { record: Some(pb::layer7::Record::Dns(dns)), .. }) = &mut only.l7 {
        dns.qtypes = vec!["AAAA".into()];
    }
    bench.see(&l7_flow(false), Some(&only));
    bench.has_no("hubble_dns");
}

#[test]
fn http() {
    let record = |code| {
        pb::layer7::Record::Http(pb::Http {
            code,
            method: "GET".into(),
            protocol: "HTTP/1.1".into(),
            url: "http://web/".into(),
            ..pb::Http::default()
        })
    };
    let (asked, answered) =
        (l7(pb::L7FlowType::Request, record(0)), l7(pb::L7FlowType::Response, record(200)));
    let mut bench = Bench::of("http");
    bench.see(&l7_flow(false), Some(&asked));
    bench.see(&l7_flow(true), Some(&answered));
    bench.has(&[
        "hubble_http_requests_total{method=\"GET\",protocol=\"HTTP/1.1\",reporter=\"client\"} 1",
        "hubble_http_responses_total{method=\"GET\",protocol=\"HTTP/1.1\",status=\"200\",reporter=\"client\"} 1",
        "hubble_http_request_duration_seconds_bucket{le=\"0.05\",method=\"GET\",reporter=\"client\"} 1",
        "hubble_http_request_duration_seconds_bucket{le=\"0.025\",method=\"GET\",reporter=\"client\"} 0",
    ]);
    // The source of a response is the server: contexts are those of the request.
    let mut bench = Bench::of("httpV2:exemplars=true;labelsContext=source_namespace,destination_namespace");
    bench.see(&l7_flow(false), Some(&asked));
    bench.see(&l7_flow(true), Some(&answered));
    let text = bench.text();
    let line = "hubble_http_requests_total{method=\"GET\",protocol=\"HTTP/1.1\",status=\"200\",reporter=\"client\",\
                source_namespace=\"\",destination_namespace=\"shop\"} 1 # \
                {traceID=\"4bf92f3577b34da6a3ce929d0e0e4736\"} 1";
    assert!(text.lines().any(|found| found.starts_with(line)), "{line} in\n{text}");
    let is_traced = |line: &&str| {
        line.starts_with("hubble_http_request_duration_seconds_bucket") && line.contains("traceID")
    };
    assert_eq!(text.lines().filter(is_traced).count(), 1, "{text}");
}

#[test]
fn kafka() {
    let mut bench = Bench::of("kafka");
    let record = pb::layer7::Record::Kafka(pb::Kafka {
        error_code: 3,
        api_key: "produce".into(),
        topic: "orders".into(),
        ..pb::Kafka::default()
    });
    bench.see(&l7_flow(true), Some(&l7(pb::L7FlowType::Response, record)));
    bench.has(&[
        "hubble_kafka_requests_total{topic=\"orders\",api_key=\"produce\",error_code=\"3\",reporter=\"client\"} 1",
        "hubble_kafka_request_duration_seconds_count{topic=\"orders\",api_key=\"produce\",reporter=\"client\"} 1",
    ]);
}

#[test]
fn a_full_family_counts_the_rest_as_other() {
    let settings = MetricsSettings { budget: 3, ..MetricsSettings::default() };
    let mut bench = Bench::new("port-distribution:sourceContext=pod", settings);
    for port in 1..=10 {
        bench.see(&Flow { destination_port: port, ..syn() }, None);
    }
    // A known one goes on.
    bench.see(&Flow { destination_port: 2, ..syn() }, None);
    bench.has(&[
        "hubble_port_distribution_total{protocol=\"TCP\",port=\"2\",source=\"shop/web-1-a\"} 2",
        "hubble_port_distribution_total{protocol=\"TCP\",port=\"other\",source=\"other\"} 7",
        "hubble_metric_limited_total{family=\"hubble_port_distribution_total\"} 7",
    ]);
    let cardinality = bench.metrics.cardinality();
    assert_eq!((cardinality[0].series, cardinality[0].budget, cardinality[0].limited), (3, 3, 7));
}

#[test]
fn series_of_gone_pods_go() {
    let clock = Arc::new(std::sync::atomic::AtomicU64::new(1_000_000_000_000));
    let now = Arc::clone(&clock);
    let config = Config {
        clock: Clock::from_fn(move || now.load(std::sync::atomic::Ordering::Relaxed)),
        ..Config::new(InstanceId::new(1), "1")
    };
    let (_pipeline, server) = flow_server(config, directory(NodeInfo::default()).1).unwrap();
    let mut bench = Bench::of("tcp:sourceContext=pod drop:sourceContext=namespace");
    bench.metrics = server.flow_metrics(MetricsSettings::default());
    bench
        .metrics
        .apply(MetricSpec::parse_list("tcp:sourceContext=pod drop:sourceContext=namespace").unwrap().0)
        .unwrap();
    bench.registry = Metrics::new();
    bench.registry.register_as("hubble", |registry| bench.metrics.register(registry));
    bench.see(&syn(), None);
    bench.see(&denied(), None);
    let later = |seconds: u64| clock.fetch_add(seconds * 1_000_000_000, std::sync::atomic::Ordering::Relaxed);
    bench.metrics.sweep_now();
    later(59);
    bench.metrics.sweep_now();
    bench.has(&["hubble_tcp_flags_total{flag=\"SYN\",family=\"IPv4\",source=\"shop/web-1-a\"} 1"]);
    later(2);
    bench.metrics.sweep_now();
    bench.has_no("hubble_tcp_flags_total{");
    // It names no pod.
    bench.has(&["hubble_drop_total{reason=\"POLICY_DENIED\",protocol=\"TCP\",source=\"shop\"} 1"]);
}

#[test]
fn a_new_configuration_keeps_counts() {
    let mut bench = Bench::of("tcp drop");
    bench.see(&syn(), None);
    bench.see(&denied(), None);
    let file = "metrics:\n- name: tcp\n  includeFilters:\n  - destination_port: ['80']\n- name: flow\n";
    bench.metrics.apply(MetricSpec::parse_file(file).unwrap().0).unwrap();
    bench.see(&syn(), None);
    bench.see(&Flow { destination_port: 80, ..syn() }, None);
    bench.has(&["hubble_tcp_flags_total{flag=\"SYN\",family=\"IPv4\"} 2"]);
    bench.has_no("hubble_drop");
    let other =
        "metrics: [{name: tcp, contextOptions: [{name: labelsContext, values: [source_ip, source_pod]}]}]";
    let error = bench.metrics.apply(MetricSpec::parse_file(other).unwrap().0).unwrap_err().to_string();
    assert!(error.contains("contextOptions changed"), "{error}");
    bench.has(&["hubble_tcp_flags_total{flag=\"SYN\",family=\"IPv4\"} 2"]);
}

#[test]
fn wrong_files_are_refused() {
    for (file, says) in [
        ("metrics: [{contextOptions: []}]", "metrics[0]: an entry needs a name"),
        ("metrics: [{name: tcp}, {name: tcp}]", "configured twice"),
        ("metrics: [{name: tcp, includeFilters: [{source_port: ['x']}]}]", "invalid port"),
        ("metrics: [{name: tcp, contextOptions: [{name: sourceContext, values: [x]}]}]", "unknown context"),
        ("metrics: [{name: tcp, colour: red}]", "colour"),
        ("- 1", "read the metrics configuration"),
    ] {
        let error = MetricSpec::parse_file(file).unwrap_err().to_string();
        assert!(error.contains(says), "{file}: {error}");
    }
}
