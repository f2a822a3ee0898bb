//! Requests and responses of the made-up node: HTTP with trace ids, DNS, Kafka.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use specola_flow::{Direction, FlowDetail, Verdict};
use specola_proto::flow::{Dns, Http, HttpHeader, Kafka, L7FlowType, Layer7, Service, layer7::Record};

use super::{
    Random,
    world::{self, Pod},
};
use crate::access::{AccessRecord, Transport};

/// Requests whose response is still to come, at most.
const OPEN: usize = 32;

/// Makes requests, and the responses to them.
#[derive(Debug)]
pub(super) struct Requests {
    random: Random,
    open: VecDeque<Exchange>,
}

/// A request that was sent.
#[derive(Debug)]
struct Exchange {
    client: SocketAddr,
    client_identity: u32,
    server: Pod,
    port: u16,
    /// Whose proxy sees it: the client's or the server's.
    direction: Direction,
    is_denied: bool,
    cookie: u32,
    transport: Transport,
    trace_id: String,
    latency_ns: u64,
    request: Record,
    response: Record,
}

impl Requests {
    pub(super) const fn new(seed: u64) -> Self {
        Self { random: Random(seed), open: VecDeque::new() }
    }

    /// The next request or response, stamped with this wall time, ns.
    pub(super) fn next(&mut self, time_ns: u64) -> AccessRecord {
        if self.open.len() >= OPEN || !self.open.is_empty() && self.random.percent(50) {
            let exchange = self.open.pop_front().expect("it is not empty");
            return exchange.record(time_ns, true);
        }
        let exchange = Exchange::new(&mut self.random);
        let record = exchange.record(time_ns, false);
        self.open.push_back(exchange);
        record
    }
}

impl Exchange {
    fn new(random: &mut Random) -> Self {
        let client = world::local(random.below(usize::MAX));
        let latency_ns = 200_000 + random.below(80_000_000) as u64;
        let (server, port, transport, request, response) = match random.below(100) {
            0..60 => http(random),
            60..90 => dns(random),
            _ => kafka(random),
        };
        let is_denied = matches!(response, Record::Http(Http { code: 403, .. }));
        let (is_http, port_of_client) = (matches!(request, Record::Http(_)), 32_768 + random.below(28_000));
        let direction =
            if server.is_local() && random.percent(50) { Direction::INGRESS } else { Direction::EGRESS };
        let judge = if direction == Direction::INGRESS { server } else { client };
        Self {
            client: SocketAddr::new(ip(client), port_of_client as u16),
            client_identity: client.identity(),
            server,
            port,
            direction,
            is_denied,
            cookie: world::allow_cookie(judge, direction.0),
            transport,
            trace_id: if is_http { hex(random, 2) } else { String::new() },
            latency_ns,
            request,
            response,
        }
    }

    fn record(&self, time_ns: u64, is_response: bool) -> AccessRecord {
        let server = SocketAddr::new(ip(self.server), self.port);
        let (names, service) = self.server_names();
        let (record, kind) = if is_response {
            (self.response.clone(), L7FlowType::Response)
        } else {
            (self.request.clone(), L7FlowType::Request)
        };
        let has_latency = is_response && !matches!(record, Record::Dns(_));
        let mut detail = FlowDetail {
            l7: Some(Layer7 {
                r#type: kind.into(),
                latency_ns: if has_latency { self.latency_ns } else { 0 },
                record: Some(record),
            }),
            trace_id: self.trace_id.clone(),
            ..FlowDetail::default()
        };
        let client = (self.client, self.client_identity);
        let server = (server, self.server.identity());
        let ((source, source_identity), (destination, destination_identity)) = if is_response {
            (detail.source_names, detail.source_service) = (names, service);
            (server, client)
        } else {
            (detail.destination_names, detail.destination_service) = (names, service);
            (client, server)
        };
        AccessRecord {
            time_ns,
            verdict: if self.is_denied && !is_response { Verdict::DROPPED } else { Verdict::FORWARDED },
            direction: self.direction,
            transport: self.transport,
            source,
            destination,
            source_identity,
            destination_identity,
            cookie: self.cookie,
            detail,
        }
    }

    /// Names of the server's address, and the service that it belongs to.
    fn server_names(&self) -> (Vec<String>, Option<Service>) {
        let Some((name, namespace)) = self.server.app_name() else {
            return (vec!["api.example.com".into()], None);
        };
        let service = Service { name: name.into(), namespace: namespace.into() };
        (vec![format!("{name}.{namespace}.svc.cluster.local")], Some(service))
    }
}

type Parts = (Pod, u16, Transport, Record, Record);

fn http(random: &mut Random) -> Parts {
    let server = match random.below(10) {
        0..5 => world::local(random.below(usize::MAX)),
        5..9 => world::remote(random.below(usize::MAX)),
        _ => world::outside(random.below(usize::MAX)),
    };
    let host = server
        .app_name()
        .map_or("api.example.com".to_owned(), |(name, namespace)| format!("{name}.{namespace}"));
    let (method, path) = HTTP_REQUESTS[random.below(HTTP_REQUESTS.len())];
    let item = random.below(1_000);
    let url = format!("http://{host}:{port}{path}/{item}?session={}", hex(random, 1), port = server.port());
    let code = match random.below(100) {
        0..90 => 200,
        90..94 => 404,
        94..97 => 503,
        _ => 403,
    };
    let header = |key: &str, value: String| HttpHeader { key: key.into(), value };
    let headers = vec![
        header("Authorization", format!("Bearer {}", hex(random, 2))),
        header("Host", host),
        header("User-Agent", "curl/8.5.0".into()),
        header("X-Request-Id", hex(random, 2)),
    ];
    let request = Http { code: 0, method: method.into(), url, protocol: "HTTP/1.1".into(), headers };
    let answered = vec![header("Content-Type", "application/json".into()), request.headers[3].clone()];
    let response = Http { code, headers: answered, ..request.clone() };
    (server, server.port(), Transport::Tcp, Record::Http(request), Record::Http(response))
}

const HTTP_REQUESTS: [(&str, &str); 6] = [
    ("GET", "/api/v1/items"),
    ("GET", "/api/v1/users"),
    ("GET", "/static/img"),
    ("POST", "/api/v1/orders"),
    ("PUT", "/api/v1/cart"),
    ("DELETE", "/api/v1/cart"),
];

fn dns(random: &mut Random) -> Parts {
    let wanted = world::local(random.below(usize::MAX));
    let (name, namespace) = wanted.app_name().unwrap_or(("www", "example"));
    let is_known = !random.percent(10);
    let suffix = if is_known { "svc.cluster.local." } else { "example.com." };
    let is_v6 = random.percent(25);
    let kind = if is_v6 { "AAAA" } else { "A" };
    let query = Dns {
        query: format!("{name}.{namespace}.{suffix}"),
        observation_source: "proxy".into(),
        qtypes: vec![kind.into()],
        ..Dns::default()
    };
    let address = Ipv6Addr::from(wanted.address(is_v6)).to_canonical().to_string();
    let answer = if is_known {
        Dns { ips: vec![address], ttl: 30, rrtypes: vec![kind.into()], ..query.clone() }
    } else {
        Dns { rcode: 3, ..query.clone() }
    };
    (world::resolver(random.below(usize::MAX)), 53, Transport::Udp, Record::Dns(query), Record::Dns(answer))
}

fn kafka(random: &mut Random) -> Parts {
    let server = world::remote(random.below(usize::MAX));
    let request = Kafka {
        api_version: 7,
        api_key: if random.percent(60) { "produce" } else { "fetch" }.into(),
        correlation_id: random.below(100_000) as i32,
        topic: ["orders", "payments", "clicks"][random.below(3)].into(),
        error_code: 0,
    };
    let error_code = if random.percent(5) { 6 } else { 0 };
    let response = Kafka { error_code, ..request.clone() };
    (server, 9092, Transport::Tcp, Record::Kafka(request), Record::Kafka(response))
}

/// The pod's IPv4 address.
fn ip(pod: Pod) -> IpAddr {
    Ipv6Addr::from(pod.address(false)).to_canonical()
}

/// So many random words in hex.
fn hex(random: &mut Random, words: usize) -> String {
    (0..words).map(|_| format!("{:016x}", random.next())).collect()
}
