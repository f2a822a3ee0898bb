//! The flows of synthetic nodes: which flow a node has when, and its bytes. Each flow can be told from all others by its
//! node and its time, so that a client knows what it lacks.

use prost::Message as _;
use specola_proto::flow::{Endpoint, Flow, FlowType, Ip, IpVersion, Layer4, Tcp, TcpFlags, Workload, layer4};
use specola_proto::google::Timestamp;
use specola_proto::observer::{GetFlowsResponse, get_flows_response::ResponseTypes};

/// When nodes have flows: the nodes take turns, one flow each.
#[derive(Clone, Copy, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct Times {
    /// Time of the first flow of the first node, ns since 1970.
    pub(crate) begin_ns: u64,
    /// From one flow to the next one, of another node, ns.
    pub(crate) step_ns: u64,
    /// Number of nodes.
    pub(crate) nodes: u64,
}

impl Times {
    /// Time of a node's flow.
    pub(crate) const fn at(&self, node: u64, flow: u64) -> u64 {
        self.begin_ns + (flow * self.nodes + node) * self.step_ns
    }

    /// The first flow of a node that is not older.
    pub(crate) const fn first_since(&self, node: u64, time_ns: u64) -> u64 {
        let own_ns = time_ns.saturating_sub(self.begin_ns + node * self.step_ns);
        own_ns.div_ceil(self.nodes * self.step_ns)
    }

    /// Which flow of its node this time belongs to.
    pub(crate) const fn number(&self, node: u64, time_ns: u64) -> u64 {
        (time_ns - self.begin_ns - node * self.step_ns) / (self.nodes * self.step_ns)
    }
}

/// An encoded flow of a node, but for its id and its time.
#[derive(Debug)]
pub(crate) struct Template {
    message: Vec<u8>,
    uuid_at: usize,
}

const UUID: &str = "00000000-5eed-8000-8000-";
const DIGITS: &str = "XXXXXXXXXXXX";

impl Template {
    pub(crate) fn new(node: u64) -> Self {
        let flow = Flow {
            uuid: format!("{UUID}{DIGITS}"),
            node_name: name(node),
            ip: Some(Ip {
                source: "10.1.2.3".into(),
                destination: "10.1.4.5".into(),
                ip_version: IpVersion::IPv4.into(),
                ..Ip::default()
            }),
            l4: Some(Layer4 {
                protocol: Some(layer4::Protocol::Tcp(Tcp {
                    source_port: 40_000,
                    destination_port: 8080,
                    flags: Some(TcpFlags { syn: true, ..TcpFlags::default() }),
                })),
            }),
            source: Some(endpoint("frontend", 1)),
            destination: Some(endpoint("backend", 2)),
            r#type: FlowType::L3L4.into(),
            summary: "TCP Flags: SYN".into(),
            ..Flow::default()
        };
        let answer = GetFlowsResponse {
            node_name: name(node),
            time: None,
            response_types: Some(ResponseTypes::Flow(flow)),
        };
        let message = answer.encode_to_vec();
        let uuid_at = message
            .windows(DIGITS.len())
            .position(|window| window == DIGITS.as_bytes())
            .expect("the id is in the message");
        Self { message, uuid_at }
    }

    /// Size of a flow's message, bytes.
    pub(crate) fn size(&self) -> usize {
        let mut frame = Vec::new();
        self.push(0, 1_790_000_000_123_456_789, &mut frame);
        frame.len() - 5
    }

    /// Appends a flow, with the prefix that gRPC wants.
    pub(crate) fn push(&self, number: u64, time_ns: u64, out: &mut Vec<u8>) {
        let time = Timestamp::from_unix_nanos(i64::try_from(time_ns).expect("a time of this century"));
        let time = GetFlowsResponse { time: Some(time), ..GetFlowsResponse::default() }.encode_to_vec();
        let length = u32::try_from(self.message.len() + time.len()).expect("a flow is small");
        out.push(0);
        out.extend_from_slice(&length.to_be_bytes());
        let start = out.len();
        out.extend_from_slice(&self.message);
        let mut rest = number;
        for digit in out[start + self.uuid_at..][..DIGITS.len()].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(rest % 16) as usize];
            rest /= 16;
        }
        out.extend_from_slice(&time);
    }
}

pub(crate) fn name(node: u64) -> String {
    format!("node-{node:04}")
}

/// The node of that name.
pub(crate) fn index(name: &str) -> Option<u64> {
    name.strip_prefix("node-")?.parse().ok()
}

fn endpoint(app: &str, id: u32) -> Endpoint {
    let labels = [
        ("k8s", "app.kubernetes.io/name", app),
        ("k8s", "app.kubernetes.io/part-of", "shop"),
        ("k8s", "app.kubernetes.io/version", "1.24.3"),
        ("k8s", "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", "shop"),
        ("k8s", "io.cilium.k8s.policy.cluster", "default"),
        ("k8s", "io.cilium.k8s.policy.serviceaccount", app),
        ("k8s", "io.kubernetes.pod.namespace", "shop"),
        ("k8s", "pod-template-hash", "5d4f9c7b6d"),
    ];
    Endpoint {
        id,
        identity: 10_000 + id,
        cluster_name: "default".into(),
        namespace: "shop".into(),
        labels: labels.map(|(source, key, value)| format!("{source}:{key}={value}")).into(),
        pod_name: format!("{app}-5d4f9c7b6d-x7k2p"),
        workloads: vec![Workload { name: app.into(), kind: "Deployment".into() }],
    }
}
