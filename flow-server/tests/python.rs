//! The whole API, asked by a client in another language that shares no code and no field numbers with the server.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering},
};

use specola_datapath_common::{
    direction,
    event::{Event, ct_state, kind, point},
    proto, v4_mapped,
};
use specola_directory::{Change, directory};
use specola_flow::{
    Direction, EndpointMeta, FlowDetail, InstanceId, NodeInfo, PolicyOrigin, Verdict, Workload,
};
use specola_flow_server::{
    AccessRecord, Clock, Config, FlowServer, ListenConfig, Listeners, Peer, Pipeline, Transport, flow_server,
};
use specola_labels::{Label, NumericIdentity};
use specola_lifecycle::drain;
use specola_proto::{
    flow::{
        AgentEvent, AgentEventType, Dns, EndpointRegenNotification, EndpointUpdateNotification, Http,
        HttpHeader, IpCacheNotification, IpTraceId, Kafka, Layer7, PolicyUpdateNotification, Service,
        TimeNotification, agent_event::Notification, layer7::Record,
    },
    google::Timestamp,
};

const SECOND: u64 = 1_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_python_reads_everything() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("observer.sock");
    let listen =
        ListenConfig { unix: Some(socket.clone()), tcp: Some("127.0.0.1:0".parse().unwrap()), tls: None };
    let listeners = Listeners::bind(&listen).await.unwrap();
    let address = listeners.tcp_address().unwrap().to_string();
    let (_pipeline, server) = sample_server();
    let (trigger, watcher) = drain();
    let serving = tokio::spawn(async move { server.serve(listeners, watcher).await });
    let targets = [format!("unix:{}", socket.display()), address];
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || run_python("hubble_client.py", &targets)).await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{said}");
    assert_eq!(said.matches(" ok\n").count(), 8, "{said}");
    trigger.signal();
    serving.await.unwrap().unwrap();
}

/// Runs a script of `tests/python` in the virtual environment of `xtask/setup.sh`.
fn run_python(script: &str, arguments: &[String]) -> Output {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let python = cache.expect("HOME is set").join("specola/venv/bin/python");
    assert!(python.exists(), "{} is missing: run xtask/setup.sh test", python.display());
    let mut command = Command::new(&python);
    command.arg(root.join("tests/python").join(script)).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    command.output().unwrap_or_else(|error| panic!("{}: {error}", python.display()))
}

/// A node with pods shop/web and shop/db, and one flow of each kind.
fn sample_server() -> (Pipeline, FlowServer) {
    let node = NodeInfo { name: "n1".into(), cluster_name: "default".into(), labels: vec!["zone=a".into()] };
    let (mut directory, reader) = directory(node);
    let origin = PolicyOrigin {
        kind: "NetworkPolicy".into(),
        namespace: "shop".into(),
        name: "deny-all".into(),
        revision: 3,
        ..PolicyOrigin::default()
    };
    directory
        .apply([
            pod(7, 300, "web", "10.0.0.1"),
            pod(8, 301, "db", "10.0.0.2"),
            Change::UpsertOrigins { cookie: 9, origins: vec![origin].into() },
            Change::UpsertInterface { ifindex: 7, name: "eth0".into() },
        ])
        .unwrap();
    // A clock near the samples' times that never stands still.
    let now = AtomicU64::new(10 * SECOND);
    let clock = Clock::from_fn(move || now.fetch_add(1_000, Ordering::Relaxed));
    let config = Config { capacity: 64, clock, ..Config::new(InstanceId::new(1), "1.2.3") };
    let (mut pipeline, server) = flow_server(config, reader).unwrap();
    pipeline.ingest(&sample_events(), 0);
    sample_requests().into_iter().for_each(|record| server.access_log().send(record).unwrap());
    pipeline.ingest(&[], 0);
    sample_agent_events().into_iter().for_each(|event| server.agent_log().push(event));
    let peer = Peer { address: "10.0.0.254:4244".into(), server_name: None };
    server.set_peers([("n1".to_owned(), peer)].into());
    (pipeline, server)
}

fn pod(id: u16, identity: u32, name: &str, address: &str) -> Change {
    let meta = EndpointMeta {
        id,
        identity: NumericIdentity(identity),
        namespace: "shop".into(),
        pod_name: name.into(),
        labels: [Label::k8s("app", name)].into_iter().collect(),
        workloads: vec![Workload { name: name.into(), kind: "Deployment".into() }],
        cluster_name: "default".into(),
    };
    Change::UpsertEndpoint { meta, addresses: vec![address.parse().unwrap()] }
}

/// A TCP connection, a denied one, a DNS query over IPv6 from elsewhere, a ping.
fn sample_events() -> [Event; 4] {
    let tcp = Event {
        kind: kind::TRACE,
        boot_ns: SECOND,
        ip_version: 4,
        proto: proto::TCP,
        src_addr: v4_mapped([10, 0, 0, 1]),
        dst_addr: v4_mapped([10, 0, 0, 2]),
        src_identity: 300,
        dst_identity: 301,
        src_port: 40_001,
        dst_port: 5432,
        tcp_flags: 0x02,
        endpoint_id: 8,
        ifindex: 7,
        direction: direction::INGRESS,
        ct_state: ct_state::NEW,
        obs_point: point::TO_ENDPOINT,
        ..Event::zeroed()
    };
    let mut from = [0; 16];
    (from[0], from[15]) = (0xfd, 1);
    [
        tcp,
        Event {
            kind: kind::POLICY_VERDICT,
            boot_ns: 2 * SECOND,
            src_port: 40_002,
            verdict: -133,
            cookie: 9,
            ..tcp
        },
        Event {
            boot_ns: 3 * SECOND,
            ip_version: 6,
            proto: proto::UDP,
            src_addr: from,
            dst_addr: {
                from[15] = 2;
                from
            },
            src_identity: 2,
            dst_identity: 2,
            dst_port: 53,
            tcp_flags: 0,
            ..tcp
        },
        Event {
            boot_ns: 4 * SECOND,
            proto: proto::ICMP,
            src_port: 0,
            dst_port: 0,
            icmp_type: 8,
            tcp_flags: 0,
            ..tcp
        },
    ]
}

/// HTTP, DNS and Kafka: a request from web to db, and its response.
fn sample_requests() -> Vec<AccessRecord> {
    let mut records = Vec::new();
    for (number, (transport, port, request, response, latency_ns)) in (0..).zip([
        (Transport::Tcp, 80, http(0), http(200), 5_900_000),
        (Transport::Udp, 53, dns(false), dns(true), 0),
        (Transport::Tcp, 9092, kafka(0), kafka(-1), 9),
    ]) {
        let is_http = port == 80;
        let mut record = AccessRecord {
            time_ns: (5 + u64::from(number)) * SECOND,
            verdict: Verdict::FORWARDED,
            direction: Direction::EGRESS,
            transport,
            source: SocketAddr::from(([10, 0, 0, 1], 40_010 + number)),
            destination: SocketAddr::from(([10, 0, 0, 2], port)),
            source_identity: 0,
            destination_identity: 301,
            cookie: 0,
            detail: FlowDetail {
                l7: Some(Layer7 { r#type: 1, latency_ns: 0, record: Some(request) }),
                trace_id: if is_http { "4bf92f3577b34da6a3ce929d0e0e4736".into() } else { String::new() },
                ..FlowDetail::default()
            },
        };
        let detail = record.detail.clone();
        let mut answer = AccessRecord {
            source: record.destination,
            destination: record.source,
            destination_identity: 0,
            detail: FlowDetail {
                l7: Some(Layer7 { r#type: 2, latency_ns, record: Some(response) }),
                ..detail
            },
            ..record.clone()
        };
        if is_http {
            record.detail = named_ends(record.detail);
            answer.detail.source_names = record.detail.destination_names.clone();
            answer.detail.source_service = record.detail.destination_service.clone();
        }
        if port == 9092 {
            (record.verdict, record.cookie) = (Verdict::REDIRECTED, 9);
        }
        records.extend([record, answer]);
    }
    records
}

/// What is known of the ends of a request besides.
fn named_ends(detail: FlowDetail) -> FlowDetail {
    FlowDetail {
        destination_names: vec!["db.shop.svc".into()],
        destination_service: Some(Service { name: "db".into(), namespace: "shop".into() }),
        source_ip_xlated: "192.0.2.9".into(),
        encrypted: true,
        ip_trace_id: Some(IpTraceId { trace_id: 7, ip_option_type: 68 }),
        ..detail
    }
}

fn http(code: u32) -> Record {
    let header = |key: &str, value: &str| HttpHeader { key: key.into(), value: value.into() };
    let headers = match code {
        0 => vec![header("Accept", "*/*"), header("Host", "db.shop")],
        _ => vec![header("Server", "x")],
    };
    Record::Http(Http {
        code,
        method: "GET".into(),
        url: "http://db.shop/api/v1?page=7".into(),
        protocol: "HTTP/1.1".into(),
        headers,
    })
}

fn dns(is_answer: bool) -> Record {
    let query = Dns {
        query: "db.shop.".into(),
        observation_source: "proxy".into(),
        qtypes: vec!["A".into()],
        ..Dns::default()
    };
    if !is_answer {
        return Record::Dns(query);
    }
    Record::Dns(Dns {
        ips: vec!["10.0.0.2".into()],
        ttl: 30,
        cnames: vec!["db-0.shop.".into()],
        rrtypes: vec!["CNAME".into(), "A".into()],
        ..query
    })
}

fn kafka(error_code: i32) -> Record {
    let topic = "orders".into();
    Record::Kafka(Kafka { error_code, api_version: 7, api_key: "produce".into(), correlation_id: 5, topic })
}

fn sample_agent_events() -> Vec<AgentEvent> {
    let event = |kind: AgentEventType, notification| AgentEvent {
        r#type: kind.into(),
        notification: Some(notification),
    };
    vec![
        event(
            AgentEventType::AgentStarted,
            Notification::AgentStart(TimeNotification { time: Some(Timestamp { seconds: 1, nanos: 0 }) }),
        ),
        event(
            AgentEventType::PolicyUpdated,
            Notification::PolicyUpdate(PolicyUpdateNotification {
                labels: vec!["k8s:a=b".into()],
                revision: 7,
                rule_count: 2,
            }),
        ),
        event(
            AgentEventType::EndpointRegenerateSuccess,
            Notification::EndpointRegenerate(EndpointRegenNotification {
                id: 8,
                labels: vec!["k8s:app=db".into()],
                error: String::new(),
            }),
        ),
        event(
            AgentEventType::EndpointCreated,
            Notification::EndpointUpdate(EndpointUpdateNotification {
                id: 8,
                pod_name: "db".into(),
                namespace: "shop".into(),
                ..EndpointUpdateNotification::default()
            }),
        ),
        event(
            AgentEventType::IpcacheUpserted,
            Notification::IpcacheUpdate(IpCacheNotification {
                cidr: "10.0.0.1/32".into(),
                identity: 300,
                old_identity: Some(5),
                namespace: "shop".into(),
                pod_name: "web".into(),
                ..IpCacheNotification::default()
            }),
        ),
    ]
}
