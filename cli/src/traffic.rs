//! Who talks to whom: flows as pairs of peers with what passed between them.

use std::collections::HashMap;

use clap::ValueEnum;
use specola_labels::NumericIdentity;
use specola_proto::flow::{Endpoint, Flow, Service, Verdict, layer4};
use specola_proto::specola::v1::FlowExtension;

use crate::printer::escape;

/// What peers are told apart by.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum By {
    /// The workload of a pod, such as its deployment; else the pod.
    Workload,
    /// The pod.
    Pod,
    /// The namespace of a pod.
    Namespace,
}

/// Who opens connections to whom, and to which port.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Pair {
    /// Who opens.
    pub(crate) from: String,
    /// Who accepts.
    pub(crate) to: String,
    /// Transport protocol, empty when there is none.
    pub(crate) protocol: &'static str,
    /// Port of the one who accepts.
    pub(crate) port: Option<u32>,
}

impl Pair {
    /// The pair of a flow.
    pub(crate) fn of(flow: &Flow, by: By) -> Self {
        let (protocol, source_port, destination_port) = transport(flow);
        let ip = flow.ip.as_ref();
        let source = peer(
            flow.source.as_ref(),
            flow.source_service.as_ref(),
            &flow.source_names,
            ip.map_or("", |ip| &ip.source),
            by,
        );
        let destination = peer(
            flow.destination.as_ref(),
            flow.destination_service.as_ref(),
            &flow.destination_names,
            ip.map_or("", |ip| &ip.destination),
            by,
        );
        if flow.is_reply == Some(true) {
            Self { from: destination, to: source, protocol, port: source_port }
        } else {
            Self { from: source, to: destination, protocol, port: destination_port }
        }
    }

    /// `tcp/80`, `icmpv4`, `-`.
    pub(crate) fn service(&self) -> String {
        match (self.protocol, self.port) {
            ("", _) => "-".to_owned(),
            (protocol, Some(port)) => format!("{protocol}/{port}"),
            (protocol, None) => protocol.to_owned(),
        }
    }
}

/// Pod or workload, else service, else DNS name, else what the identity stands for, else the address.
fn peer(
    endpoint: Option<&Endpoint>,
    service: Option<&Service>,
    names: &[String],
    ip: &str,
    by: By,
) -> String {
    let name = endpoint
        .and_then(|endpoint| within_cluster(endpoint, by))
        .or_else(|| {
            service.filter(|service| !service.name.is_empty()).map(|one| qualified(&one.namespace, &one.name))
        })
        .or_else(|| names.first().cloned())
        .or_else(|| endpoint.and_then(|endpoint| reserved(endpoint.identity)))
        .or_else(|| (!ip.is_empty()).then(|| ip.to_owned()));
    escape(&name.unwrap_or_else(|| "unknown".to_owned()))
}

fn within_cluster(endpoint: &Endpoint, by: By) -> Option<String> {
    if by == By::Namespace {
        return (!endpoint.namespace.is_empty()).then(|| endpoint.namespace.clone());
    }
    let workload = endpoint.workloads.first().filter(|_| by == By::Workload);
    let name = workload.map_or(&endpoint.pod_name, |workload| &workload.name);
    (!name.is_empty()).then(|| qualified(&endpoint.namespace, name))
}

fn qualified(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

fn reserved(identity: u32) -> Option<String> {
    NumericIdentity(identity).reserved_name().filter(|_| identity != 0).map(str::to_owned)
}

/// Protocol and ports.
pub(crate) fn transport(flow: &Flow) -> (&'static str, Option<u32>, Option<u32>) {
    use layer4::Protocol;
    match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(Protocol::Tcp(tcp)) => ("tcp", Some(tcp.source_port), Some(tcp.destination_port)),
        Some(Protocol::Udp(udp)) => ("udp", Some(udp.source_port), Some(udp.destination_port)),
        Some(Protocol::Sctp(sctp)) => ("sctp", Some(sctp.source_port), Some(sctp.destination_port)),
        Some(Protocol::IcmPv4(_)) => ("icmpv4", None, None),
        Some(Protocol::IcmPv6(_)) => ("icmpv6", None, None),
        Some(Protocol::Vrrp(_)) => ("vrrp", None, None),
        Some(Protocol::Igmp(_)) => ("igmp", None, None),
        None => ("", None, None),
    }
}

/// What passed between two peers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Totals {
    /// Flows of packets that passed.
    pub(crate) passed: u64,
    /// Packets that were dropped.
    pub(crate) dropped: u64,
    /// Packets that a policy would have dropped.
    pub(crate) audited: u64,
    /// Packets of connections, both directions.
    pub(crate) packets: u64,
    /// Bytes of connections, both directions.
    pub(crate) bytes: u64,
}

impl Totals {
    /// Adds other totals.
    pub(crate) const fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.dropped += other.dropped;
        self.audited += other.audited;
        self.packets += other.packets;
        self.bytes += other.bytes;
    }

    /// Flows and packets of any verdict.
    pub(crate) const fn events(&self) -> u64 {
        self.passed + self.dropped + self.audited
    }
}

/// Makes totals of flows. The counters of a connection grow from flow to flow: what was counted before is remembered.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    young: HashMap<Connection, Counters>,
    old: HashMap<Connection, Counters>,
}

type Connection = (String, String, &'static str, Option<u32>, Option<u32>);
type Counters = (u64, u64);

/// Connections that are remembered: the latest ones, between this many and twice as many.
const REMEMBERED: usize = 32_768;

impl Meter {
    /// What a flow adds. The verdict of a denied packet adds nothing: the drop is a flow of its own.
    pub(crate) fn measure(&mut self, flow: &Flow, extension: Option<&FlowExtension>) -> Totals {
        let mut totals = Totals::default();
        let is_verdict = flow.event_type.is_some_and(|event| event.r#type == POLICY_VERDICT);
        let weight = 1 + extension.map_or(0, |extension| u64::from(extension.folded));
        match Verdict::try_from(flow.verdict) {
            Ok(Verdict::Dropped | Verdict::Error) if is_verdict => return totals,
            Ok(Verdict::Dropped | Verdict::Error) => totals.dropped = weight,
            Ok(Verdict::Audit) => totals.audited = weight,
            _ => totals.passed = 1,
        }
        if let Some(extension) = extension.filter(|extension| extension.has_counters) {
            let packets = extension.packets_forward.saturating_add(extension.packets_reverse);
            let bytes = extension.bytes_forward.saturating_add(extension.bytes_reverse);
            (totals.packets, totals.bytes) = self.advance(connection(flow), (packets, bytes));
        }
        totals
    }

    /// By how much the counters of a connection grew. Smaller ones are those of a new connection with the same ends,
    /// or of another node that saw less of this one.
    fn advance(&mut self, connection: Connection, now: Counters) -> Counters {
        let before = self.young.get(&connection).copied().or_else(|| self.old.remove(&connection));
        if self.young.len() >= REMEMBERED && !self.young.contains_key(&connection) {
            self.old = std::mem::take(&mut self.young);
        }
        let before = before.unwrap_or_default();
        // A first packet alone begins anew.
        let is_new = now.0 <= 1 && before.0 > 1;
        let known = if is_new { now } else { (now.0.max(before.0), now.1.max(before.1)) };
        self.young.insert(connection, known);
        if is_new { now } else { (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1)) }
    }
}

/// Both ends in one order, whichever sent the packet.
fn connection(flow: &Flow) -> Connection {
    let (protocol, source_port, destination_port) = transport(flow);
    let (source, destination) =
        flow.ip.as_ref().map_or(("", ""), |ip| (ip.source.as_str(), ip.destination.as_str()));
    if (source, source_port) <= (destination, destination_port) {
        (source.to_owned(), destination.to_owned(), protocol, source_port, destination_port)
    } else {
        (destination.to_owned(), source.to_owned(), protocol, destination_port, source_port)
    }
}

/// `event_type.type` of a policy verdict.
const POLICY_VERDICT: i32 = 5;

#[cfg(test)]
pub(crate) mod tests {
    use specola_proto::flow::{CiliumEventType, Ip, Layer4, Tcp, Workload};

    use super::*;

    /// A flow over TCP from `10.0.0.1:5000` in `shop/web` to `10.0.0.2:80` outside.
    pub(crate) fn flow(verdict: Verdict, event: i32) -> Flow {
        let tcp = layer4::Protocol::Tcp(Tcp { source_port: 5000, destination_port: 80, flags: None });
        let source = Endpoint {
            namespace: "shop".to_owned(),
            pod_name: "web-7d4-x".to_owned(),
            identity: 256,
            workloads: vec![Workload { name: "web".to_owned(), kind: "Deployment".to_owned() }],
            ..Endpoint::default()
        };
        Flow {
            verdict: verdict.into(),
            event_type: Some(CiliumEventType { r#type: event, sub_type: 0 }),
            ip: Some(Ip {
                source: "10.0.0.1".to_owned(),
                destination: "10.0.0.2".to_owned(),
                ..Ip::default()
            }),
            l4: Some(Layer4 { protocol: Some(tcp) }),
            source: Some(source),
            destination: Some(Endpoint { identity: 2, ..Endpoint::default() }),
            is_reply: Some(false),
            ..Flow::default()
        }
    }

    fn counters(packets: u64, bytes: u64) -> FlowExtension {
        FlowExtension {
            has_counters: true,
            packets_forward: packets,
            bytes_forward: bytes,
            ..FlowExtension::default()
        }
    }

    #[test]
    fn peers_have_the_best_name_that_is_known() {
        let named = |by| {
            let pair = Pair::of(&flow(Verdict::Forwarded, 4), by);
            (pair.from.clone(), pair.to.clone(), pair.service())
        };
        let texts = |from: &str| (from.to_owned(), "world".to_owned(), "tcp/80".to_owned());
        assert_eq!(named(By::Workload), texts("shop/web"));
        assert_eq!(named(By::Pod), texts("shop/web-7d4-x"));
        assert_eq!(named(By::Namespace), texts("shop"));
        let mut outside = flow(Verdict::Forwarded, 4);
        outside.destination_names = vec!["api.example".to_owned(), "other".to_owned()];
        assert_eq!(Pair::of(&outside, By::Pod).to, "api.example");
        outside.destination_service = Some(Service { name: "api".to_owned(), namespace: "prod".to_owned() });
        assert_eq!(Pair::of(&outside, By::Pod).to, "prod/api");
        let nothing = Pair::of(&Flow::default(), By::Pod);
        assert_eq!((nothing.from.as_str(), nothing.service().as_str()), ("unknown", "-"));
        outside.destination_service =
            Some(Service { name: "a\u{1b}[m".to_owned(), namespace: String::new() });
        assert_eq!(Pair::of(&outside, By::Pod).to, "a^[[m");
    }

    #[test]
    fn replies_belong_to_the_pair_that_was_opened() {
        let request = flow(Verdict::Forwarded, 4);
        let ip = request.ip.clone().unwrap();
        let reply = Flow {
            source: request.destination.clone(),
            destination: request.source.clone(),
            ip: Some(Ip { source: ip.destination.clone(), destination: ip.source.clone(), ..ip }),
            l4: Some(Layer4 {
                protocol: Some(layer4::Protocol::Tcp(Tcp {
                    source_port: 80,
                    destination_port: 5000,
                    flags: None,
                })),
            }),
            is_reply: Some(true),
            ..request.clone()
        };
        assert_eq!(Pair::of(&request, By::Pod), Pair::of(&reply, By::Pod));
        assert_eq!(connection(&request), connection(&reply));
    }

    #[test]
    fn growing_counters_are_counted_once() {
        let mut meter = Meter::default();
        let trace = flow(Verdict::Forwarded, 4);
        let mut sum = Totals::default();
        // The last ones: an echo of another node, and a new connection with the same ends.
        for (packets, bytes) in [(1, 60), (10, 1_000), (12, 1_500), (11, 1_400), (1, 60), (3, 200)] {
            sum.add(&meter.measure(&trace, Some(&counters(packets, bytes))));
        }
        assert_eq!((sum.passed, sum.packets, sum.bytes), (6, 15, 1_700));
    }

    #[test]
    fn a_denied_packet_counts_once() {
        let mut meter = Meter::default();
        let folded = FlowExtension { folded: 9, ..FlowExtension::default() };
        for (verdict, event, passed, dropped, audited) in [
            (Verdict::Dropped, 5, 0, 0, 0),
            (Verdict::Dropped, 1, 0, 10, 0),
            (Verdict::Audit, 5, 0, 0, 10),
            (Verdict::Forwarded, 5, 1, 0, 0),
        ] {
            let totals = meter.measure(&flow(verdict, event), Some(&folded));
            assert_eq!((totals.passed, totals.dropped, totals.audited), (passed, dropped, audited));
        }
    }

    #[test]
    fn memory_has_a_bound() {
        let mut meter = Meter::default();
        for number in 0..3 * REMEMBERED {
            let ends = (number.to_string(), String::new(), "tcp", None, None);
            meter.advance(ends, (1, 1));
        }
        assert!(meter.young.len() <= REMEMBERED && meter.old.len() <= REMEMBERED);
    }
}
