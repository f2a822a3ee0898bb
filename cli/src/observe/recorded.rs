//! Flows that were written down, as filters see them.

use std::net::IpAddr;

use specola_flow::{
    EndpointMeta, FilterSet, Flow, FlowDetail, FlowNames, FlowUuid, FlowView, InstanceId, InvalidFilter,
    NodeInfo, PolicyOrigin, Workload, flags, protocol,
};
use specola_labels::{LabelSet, NumericIdentity};
use specola_proto::flow::{self as pb, layer4};

use super::filter::Filters;

/// Filters that run here, not at a server.
#[derive(Debug)]
pub(super) struct LocalFilters {
    allow: Vec<LocalFilter>,
    deny: Vec<LocalFilter>,
}

/// One filter. Ids are compared as text: recorded flows may have ids of any kind.
#[derive(Debug)]
struct LocalFilter {
    uuids: Vec<String>,
    rest: FilterSet,
}

impl LocalFilters {
    /// Compiles the filters.
    ///
    /// # Errors
    /// A filter cannot be compiled.
    pub(super) fn compile(filters: &Filters) -> Result<Self, InvalidFilter> {
        let list = |filters: &[pb::FlowFilter]| {
            filters.iter().map(LocalFilter::compile).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { allow: list(&filters.allow)?, deny: list(&filters.deny)? })
    }

    /// Whether everything passes.
    pub(super) const fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether the flow passes.
    pub(super) fn passes(&self, flow: &pb::Flow) -> bool {
        if self.is_empty() {
            return true;
        }
        let recorded = Recorded::new(flow);
        let view = recorded.view();
        let matches = |filter: &LocalFilter| filter.matches(flow, &view);
        (self.allow.is_empty() || self.allow.iter().any(matches)) && !self.deny.iter().any(matches)
    }
}

impl LocalFilter {
    fn compile(filter: &pb::FlowFilter) -> Result<Self, InvalidFilter> {
        let mut filter = filter.clone();
        let uuids = std::mem::take(&mut filter.uuid);
        Ok(Self { uuids, rest: FilterSet::compile(&[filter], &[])? })
    }

    fn matches(&self, flow: &pb::Flow, view: &FlowView<'_>) -> bool {
        (self.uuids.is_empty() || self.uuids.contains(&flow.uuid)) && self.rest.passes(view)
    }
}

/// A message taken apart.
struct Recorded {
    flow: Flow,
    source: EndpointMeta,
    destination: EndpointMeta,
    source_labels: Vec<String>,
    destination_labels: Vec<String>,
    node: NodeInfo,
    names: Names,
    detail: FlowDetail,
}

/// Names that the message itself carries.
#[derive(Debug)]
struct Names {
    interface: Option<String>,
    origins: Vec<PolicyOrigin>,
}

impl FlowNames for Names {
    fn interface_name(&self, _ifindex: u32) -> Option<&str> {
        self.interface.as_deref()
    }

    fn policy_origins(&self, _cookie: u32) -> &[PolicyOrigin] {
        &self.origins
    }
}

impl Recorded {
    fn new(message: &pb::Flow) -> Self {
        let (source, source_labels) = endpoint(message.source.as_ref());
        let (destination, destination_labels) = endpoint(message.destination.as_ref());
        let origins = origins(message);
        let mut flow = record(message);
        if !origins.is_empty() {
            flow.flags |= flags::ATTRIBUTED;
            flow.cookie = 1;
        }
        let interface = message.interface.as_ref().map(|interface| interface.name.clone());
        Self {
            flow,
            source,
            destination,
            source_labels,
            destination_labels,
            node: node(message),
            names: Names { interface: interface.filter(|name| !name.is_empty()), origins },
            detail: detail(message),
        }
    }

    fn view(&self) -> FlowView<'_> {
        FlowView {
            flow: &self.flow,
            uuid: FlowUuid { instance: InstanceId::default(), seq: 0 },
            source: Some(&self.source),
            destination: Some(&self.destination),
            source_labels: &self.source_labels,
            destination_labels: &self.destination_labels,
            node: &self.node,
            names: Some(&self.names),
            detail: Some(&self.detail),
        }
    }
}

/// Numbers that fit no place of the record count as absent.
fn small<T: TryFrom<I> + Default, I>(number: I) -> T {
    T::try_from(number).unwrap_or_default()
}

fn record(message: &pb::Flow) -> Flow {
    let event = message.event_type.unwrap_or_default();
    let mut flow = Flow {
        time_ns: message.time.map_or(0, |time| {
            let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
            small(nanos)
        }),
        source_identity: message.source.as_ref().map_or(0, |endpoint| endpoint.identity),
        destination_identity: message.destination.as_ref().map_or(0, |endpoint| endpoint.identity),
        source_endpoint: message.source.as_ref().map_or(0, |endpoint| small(endpoint.id)),
        destination_endpoint: message.destination.as_ref().map_or(0, |endpoint| small(endpoint.id)),
        verdict: small(message.verdict),
        drop_reason: small(message.drop_reason_desc),
        event_type: small(event.r#type),
        sub_type: small(event.sub_type),
        trace_reason: small(message.trace_reason),
        match_type: small(message.policy_match_type),
        direction: small(message.traffic_direction),
        proxy_port: small(message.proxy_port),
        // A name without a number is a name still.
        ifindex: message.interface.as_ref().map_or(0, |interface| interface.index.max(1)),
        ..Flow::default()
    };
    flow.set_reply(message.is_reply);
    if let Some(ip) = &message.ip {
        let (source, source_version) = address(&ip.source);
        let (destination, version) = address(&ip.destination);
        (flow.source_addr, flow.destination_addr) = (source, destination);
        flow.ip_version = source_version.max(version);
    }
    transport(&mut flow, message);
    flow
}

fn address(text: &str) -> ([u8; 16], u8) {
    match text.parse() {
        Ok(IpAddr::V4(ip)) => (ip.to_ipv6_mapped().octets(), 4),
        Ok(IpAddr::V6(ip)) => (ip.octets(), 6),
        Err(_) => ([0; 16], 0),
    }
}

fn transport(flow: &mut Flow, message: &pb::Flow) {
    use layer4::Protocol;
    let Some(protocol) = message.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) else { return };
    let (number, source_port, destination_port) = match protocol {
        Protocol::Tcp(tcp) => {
            flow.tcp_flags = tcp.flags.as_ref().map_or(0, tcp_flags);
            (protocol::TCP, tcp.source_port, tcp.destination_port)
        }
        Protocol::Udp(udp) => (protocol::UDP, udp.source_port, udp.destination_port),
        Protocol::Sctp(sctp) => (protocol::SCTP, sctp.source_port, sctp.destination_port),
        Protocol::IcmPv4(icmp) => {
            (flow.icmp_type, flow.icmp_code) = (small(icmp.r#type), small(icmp.code));
            (protocol::ICMP, 0, 0)
        }
        Protocol::IcmPv6(icmp) => {
            (flow.icmp_type, flow.icmp_code) = (small(icmp.r#type), small(icmp.code));
            (protocol::ICMPV6, 0, 0)
        }
        Protocol::Vrrp(_) => (protocol::VRRP, 0, 0),
        Protocol::Igmp(_) => (protocol::IGMP, 0, 0),
    };
    flow.protocol = number;
    (flow.source_port, flow.destination_port) = (small(source_port), small(destination_port));
}

/// The flags as in the header; the ninth, NS, has no place there.
fn tcp_flags(flags: &pb::TcpFlags) -> u8 {
    let pb::TcpFlags { fin, syn, rst, psh, ack, urg, ece, cwr, ns: _ } = *flags;
    let bits = [fin, syn, rst, psh, ack, urg, ece, cwr];
    bits.iter().enumerate().fold(0, |all, (bit, set)| all | u8::from(*set) << bit)
}

fn endpoint(endpoint: Option<&pb::Endpoint>) -> (EndpointMeta, Vec<String>) {
    let Some(endpoint) = endpoint else { return (EndpointMeta::default(), Vec::new()) };
    let workload = |one: &pb::Workload| Workload { name: one.name.clone(), kind: one.kind.clone() };
    // A label that is none can match no selector.
    let labels: LabelSet = endpoint.labels.iter().filter_map(|label| label.parse().ok()).collect();
    let meta = EndpointMeta {
        id: small(endpoint.id),
        identity: NumericIdentity(endpoint.identity),
        namespace: endpoint.namespace.clone(),
        pod_name: endpoint.pod_name.clone(),
        labels,
        workloads: endpoint.workloads.iter().map(workload).collect(),
        cluster_name: endpoint.cluster_name.clone(),
    };
    (meta, endpoint.labels.clone())
}

fn node(message: &pb::Flow) -> NodeInfo {
    let (cluster, name) = message.node_name.split_once('/').unwrap_or(("", &message.node_name));
    NodeInfo { name: name.to_owned(), cluster_name: cluster.to_owned(), labels: message.node_labels.clone() }
}

fn detail(message: &pb::Flow) -> FlowDetail {
    let trace = message.trace_context.as_ref().and_then(|context| context.parent.as_ref());
    FlowDetail {
        l7: message.l7.clone(),
        source_names: message.source_names.clone(),
        destination_names: message.destination_names.clone(),
        source_service: message.source_service.clone(),
        destination_service: message.destination_service.clone(),
        source_ip_xlated: message.ip.as_ref().map_or_else(String::new, |ip| ip.source_xlated.clone()),
        encrypted: message.ip.as_ref().is_some_and(|ip| ip.encrypted),
        trace_id: trace.map_or_else(String::new, |parent| parent.trace_id.clone()),
        ip_trace_id: message.ip_trace_id,
    }
}

fn origins(message: &pb::Flow) -> Vec<PolicyOrigin> {
    let lists = [
        ("ingress", &message.ingress_allowed_by),
        ("egress", &message.egress_allowed_by),
        ("ingressDeny", &message.ingress_denied_by),
        ("egressDeny", &message.egress_denied_by),
    ];
    let origin = |section: &str, policy: &pb::Policy| PolicyOrigin {
        kind: policy.kind.clone(),
        namespace: policy.namespace.clone(),
        name: policy.name.clone(),
        section: section.to_owned(),
        labels: policy.labels.clone(),
        revision: policy.revision,
        ..PolicyOrigin::default()
    };
    let all = lists.into_iter().flat_map(|(section, list)| list.iter().map(move |one| origin(section, one)));
    all.collect()
}

#[cfg(test)]
mod tests;
