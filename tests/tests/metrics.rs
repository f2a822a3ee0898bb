//! Metrics and exported flows of agents under real traffic, read by programs that are not Specola's.

#[path = "common/fixtures.rs"]
mod fixtures;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use fixtures::{CLUSTER, yaml};
use specola_testkit::{eventually, netns};
use specola_tests::Sandbox;
use specola_tests::inside::{send_to_ports, udp_socket};
use specola_tests::sandbox::PATIENCE;

/// As it stands in guides to Hubble's Helm chart.
const HELM: &str = "{dns,drop,tcp,flow,port-distribution,icmp,httpV2:exemplars=true;\
    labelsContext=source_ip\\,source_namespace\\,source_workload\\,destination_ip\\,destination_namespace\\,\
    destination_workload\\,traffic_direction}";

/// Only the client may reach the server.
const POLICY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: clients, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: client}}]
    toPorts: [{ports: [{port: '9000', protocol: UDP}, {port: '9001', protocol: TCP}]}]
  - fromEndpoints: [{matchLabels: {role: client}}]
    icmps: [{fields: [{family: IPv4, type: 8}]}]
";

#[test]
fn a_scrape_is_openmetrics_and_holds_what_traffic_must_make() {
    let exported = tempfile::tempdir().expect("a directory");
    let file = exported.path().join("flows.log");
    let variables = [
        ("SPECOLA_HUBBLE_METRICS", HELM),
        ("SPECOLA_HUBBLE_EXPORT_FILE_PATH", file.to_str().expect("a path of text")),
    ];
    let sandbox = Sandbox::up_in("metrics", &yaml(&[CLUSTER, POLICY]), &[], &variables);
    let server: std::net::IpAddr = sandbox.pod_ip("shop/server", false).parse().expect("an address");
    let near = udp_socket(&sandbox.netns("shop/near"), 0);
    send_to_ports(&near, server, [9000, 9999].into_iter());
    let ping = sandbox.exec("shop/near", &["ping", "-c", "1", "-W", "5", &server.to_string()]);
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
    // Nobody listens: the packet arrives and is answered with a reset.
    let refused = sandbox.http("shop/near", &format!("http://{server}:9001/"));
    assert!(refused.is_err(), "{refused:?}");

    let wanted: &[&[&str]] = &[
        &["hubble_drop_total", "protocol=UDP", "reason=POLICY_DENIED"],
        &["hubble_flows_processed_total", "protocol=UDP", "subtype=", "type=Drop", "verdict=DROPPED"],
        &[
            "hubble_flows_processed_total",
            "protocol=UDP",
            "subtype=",
            "type=PolicyVerdict",
            "verdict=FORWARDED",
        ],
        &[
            "hubble_flows_processed_total",
            "protocol=TCP",
            "subtype=to-endpoint",
            "type=Trace",
            "verdict=FORWARDED",
        ],
        &["hubble_tcp_flags_total", "family=IPv4", "flag=SYN"],
        &["hubble_tcp_flags_total", "family=IPv4", "flag=RST"],
        &["hubble_icmp_total", "family=IPv4", "type=EchoRequest"],
        &["hubble_icmp_total", "family=IPv4", "type=EchoReply"],
        &["hubble_port_distribution_total", "port=9000", "protocol=UDP"],
        &["hubble_port_distribution_total", "port=9001", "protocol=TCP"],
        &["hubble_port_distribution_total", "port=0", "protocol=ICMPv4"],
        &["hubble_lost_events_total", "source=perf_event_ring_buffer"],
        &["specola_consumer_lost_total", "consumer=metrics"],
        &["specola_ledger_balanced", "equation=flows"],
    ];
    let missing = |found: &BTreeSet<Vec<String>>| -> Vec<&&[&str]> {
        let has =
            |sample: &&&[&str]| found.contains(&sample.iter().map(ToString::to_string).collect::<Vec<_>>());
        wanted.iter().filter(|sample| !has(sample)).collect()
    };
    eventually("the samples", PATIENCE, || {
        let found = parse(&scrape(&sandbox, "n1"));
        let missing = missing(&found);
        missing.is_empty().then_some(()).ok_or_else(|| format!("missing {missing:?} in {found:#?}"))
    });
    let families = parse_families(&scrape(&sandbox, "n1"));
    for family in ["hubble_dns_queries", "hubble_http_requests", "hubble_http_request_duration_seconds"] {
        assert!(families.contains(family), "{family} in {families:?}");
    }

    let output =
        sandbox.specola(&["metrics", "cardinality", "--name", sandbox.name()]).output().expect("starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("hubble_tcp_flags_total"), "{text}");

    // Every line is an event of Hubble's exporter, and the denied packet is among them.
    eventually("the exported packet", PATIENCE, || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let events: Vec<serde_json::Value> = whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        let is_denied = |event: &serde_json::Value| {
            event["flow"]["verdict"] == "DROPPED" && event["flow"]["l4"]["UDP"]["destination_port"] == 9999
        };
        events
            .iter()
            .any(is_denied)
            .then_some(())
            .ok_or_else(|| format!("no denied packet in {} events", events.len()))
    });
}

/// What a node's agent serves.
fn scrape(sandbox: &Sandbox, node: &str) -> String {
    let agent = sandbox.agent_pid(node).expect("the agent runs");
    let namespace = PathBuf::from(format!("/proc/{agent}/ns/net"));
    let mut stream = netns::enter(&namespace, || TcpStream::connect("127.0.0.1:9965")).expect("an open port");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    body.to_owned()
}

/// Name and labels of every sample.
fn parse(text: &str) -> BTreeSet<Vec<String>> {
    let output = python(text);
    let samples = output.lines().filter_map(|line| line.strip_prefix("sample\t"));
    samples
        .map(|line| {
            let (labels, _value) = line.rsplit_once('\t').expect("a value");
            labels.split('\t').filter(|part| !part.is_empty()).map(str::to_owned).collect()
        })
        .collect()
}

/// Names of families.
fn parse_families(text: &str) -> BTreeSet<String> {
    let output = python(text);
    let families = output.lines().filter_map(|line| line.strip_prefix("family\t"));
    families.filter_map(|line| Some(line.split_once('\t')?.0.to_owned())).collect()
}

/// Lets Python parse a scrape, in the virtual environment of `xtask/setup.sh`.
fn python(text: &str) -> String {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let python = cache.expect("HOME is set").join("specola/venv/bin/python");
    assert!(python.exists(), "{} is missing: run xtask/setup.sh test", python.display());
    let mut child = Command::new(&python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/openmetrics.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut input = child.stdin.take().expect("a pipe");
    let text = text.to_owned();
    // It reads all before it writes; a broken pipe is told by its exit.
    let feeder = std::thread::spawn(move || drop(input.write_all(text.as_bytes())));
    let output = child.wait_with_output().expect("Python ends");
    feeder.join().expect("no panic");
    assert!(output.status.success(), "no OpenMetrics: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
