//! Hubble's messages made of flows.

use std::net::IpAddr;

use pb::layer4::Protocol;
use specola_proto::{
    flow as pb,
    google::{Any, Timestamp},
    specola::v1 as ext,
};

use crate::{
    EndpointMeta, EventType, Flow, FlowView, PolicyOrigin, Side, Summary, Verdict, flags, protocol,
    record::direction_is_egress,
};

/// What a message says beyond the flow itself.
#[derive(Clone, Copy, Debug)]
pub struct MessageContext<'a> {
    /// Version of the program, `emitter.version`.
    pub version: &'a str,
    /// [`crate::NodeInfo::absolute_name`] of the view's node.
    pub node_name: &'a str,
    /// Rules behind the flow's cookie.
    pub origins: &'a [PolicyOrigin],
    /// Name of the flow's interface.
    pub interface: Option<&'a str>,
    /// Whether to add [`ext::FlowExtension`].
    pub extension: bool,
}

/// Makes Hubble's message.
pub fn flow_message(view: &FlowView<'_>, context: &MessageContext<'_>) -> pb::Flow {
    let flow = view.flow;
    let mut message = pb::Flow {
        time: Some(timestamp(flow.time_ns)),
        uuid: view.uuid.to_string(),
        emitter: Some(pb::Emitter { name: EMITTER.to_owned(), version: context.version.to_owned() }),
        verdict: flow.verdict.into(),
        ethernet: ethernet(flow),
        ip: ip(flow),
        l4: layer4(flow),
        source: Some(endpoint(view, Side::Source)),
        destination: Some(endpoint(view, Side::Destination)),
        r#type: kind(flow).into(),
        node_name: context.node_name.to_owned(),
        node_labels: view.node.labels.clone(),
        reply: flow.is_reply().unwrap_or(false),
        is_reply: flow.is_reply(),
        event_type: Some(pb::CiliumEventType {
            r#type: flow.event_type.into(),
            sub_type: flow.sub_type.into(),
        }),
        traffic_direction: flow.direction.into(),
        summary: Summary(flow).to_string(),
        extensions: context.extension.then(|| Any::pack(&extension(flow, context.origins))),
        ..pb::Flow::default()
    };
    if flow.verdict() == Verdict::DROPPED {
        message.drop_reason = flow.drop_reason.into();
        message.drop_reason_desc = flow.drop_reason.into();
    }
    if let Some(point) = flow.observation_point() {
        message.trace_observation_point = point.api_number();
        message.trace_reason = flow.trace_reason.into();
        message.proxy_port = flow.proxy_port.into();
        message.interface = interface(flow, context.interface);
    }
    if flow.event_type() == EventType::POLICY_VERDICT {
        message.policy_match_type = flow.match_type.into();
    }
    attribute(&mut message, flow, context.origins);
    if let Some(detail) = view.detail {
        detail.fill(&mut message);
    }
    message
}

/// Time as a message, from ns since 1970.
pub fn timestamp(time_ns: u64) -> Timestamp {
    Timestamp::from_unix_nanos(i64::try_from(time_ns).unwrap_or(i64::MAX))
}

/// `emitter.name` of every flow, as Hubble's clients know it.
pub(crate) const EMITTER: &str = "Hubble";

/// What kind of flow an event gives, whether its details are known or not.
pub(crate) fn kind(flow: &Flow) -> pb::FlowType {
    if flow.event_type() == EventType::L7 { pb::FlowType::L7 } else { pb::FlowType::L3L4 }
}

fn endpoint(view: &FlowView<'_>, side: Side) -> pb::Endpoint {
    let (id, identity, labels) = match side {
        Side::Source => (view.flow.source_endpoint, view.flow.source_identity, view.source_labels),
        Side::Destination => {
            (view.flow.destination_endpoint, view.flow.destination_identity, view.destination_labels)
        }
    };
    let mut endpoint = view.meta(side).map(names).unwrap_or_default();
    endpoint.id = id.into();
    endpoint.identity = identity;
    endpoint.labels = labels.to_vec();
    endpoint
}

/// What an entry alone says: all but id, identity and labels.
pub(crate) fn names(meta: &EndpointMeta) -> pb::Endpoint {
    let workload =
        |owner: &crate::Workload| pb::Workload { name: owner.name.clone(), kind: owner.kind.clone() };
    pb::Endpoint {
        namespace: meta.namespace.clone(),
        pod_name: meta.pod_name.clone(),
        workloads: meta.workloads.iter().map(workload).collect(),
        cluster_name: meta.cluster_name.clone(),
        ..pb::Endpoint::default()
    }
}

fn ethernet(flow: &Flow) -> Option<pb::Ethernet> {
    let is_known = flow.source_mac != [0; 6] || flow.destination_mac != [0; 6];
    is_known.then(|| pb::Ethernet {
        source: mac_text(flow.source_mac),
        destination: mac_text(flow.destination_mac),
    })
}

/// Lower-case hex with colons. By hand rather than by `format!`, because two of them are in every flow.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    let mut text = String::with_capacity(17);
    for (index, byte) in mac.into_iter().enumerate() {
        if index > 0 {
            text.push(':');
        }
        for digit in [byte >> 4, byte & 0xf] {
            text.push(char::from(HEX[usize::from(digit)]));
        }
    }
    text
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn ip(flow: &Flow) -> Option<pb::Ip> {
    let (source, destination) = (flow.source_ip()?, flow.destination_ip()?);
    let version = if matches!(source, IpAddr::V4(_)) { pb::IpVersion::IPv4 } else { pb::IpVersion::IPv6 };
    Some(pb::Ip {
        source: source.to_string(),
        destination: destination.to_string(),
        ip_version: version.into(),
        ..pb::Ip::default()
    })
}

fn layer4(flow: &Flow) -> Option<pb::Layer4> {
    flow.source_ip()?;
    let (source_port, destination_port) = (flow.source_port.into(), flow.destination_port.into());
    let (kind, code) = (flow.icmp_type.into(), flow.icmp_code.into());
    let protocol = match flow.protocol {
        protocol::TCP => {
            // What an application said has ports, but no flags.
            let flags = (flow.event_type() != EventType::L7).then(|| tcp_flags(flow.tcp_flags));
            Protocol::Tcp(pb::Tcp { source_port, destination_port, flags })
        }
        protocol::UDP => Protocol::Udp(pb::Udp { source_port, destination_port }),
        protocol::SCTP => Protocol::Sctp(pb::Sctp { source_port, destination_port }),
        protocol::ICMP => Protocol::IcmPv4(pb::IcmPv4 { r#type: kind, code }),
        protocol::ICMPV6 => Protocol::IcmPv6(pb::IcmPv6 { r#type: kind, code }),
        _ => return None,
    };
    Some(pb::Layer4 { protocol: Some(protocol) })
}

fn tcp_flags(set: u8) -> pb::TcpFlags {
    let has = |bit: u8| set & bit != 0;
    pb::TcpFlags {
        fin: has(0x01),
        syn: has(0x02),
        rst: has(0x04),
        psh: has(0x08),
        ack: has(0x10),
        urg: has(0x20),
        ece: has(0x40),
        cwr: has(0x80),
        ns: false,
    }
}

fn interface(flow: &Flow, name: Option<&str>) -> Option<pb::NetworkInterface> {
    (flow.ifindex != 0)
        .then(|| pb::NetworkInterface { index: flow.ifindex, name: name.unwrap_or_default().to_owned() })
}

/// Fills the policies that decided, and their log texts.
fn attribute(message: &mut pb::Flow, flow: &Flow, origins: &[PolicyOrigin]) {
    if !flow.has(flags::ATTRIBUTED) {
        return;
    }
    let policies = policies(origins);
    let is_denied = matches!(flow.verdict(), Verdict::DROPPED | Verdict::AUDIT);
    let list = match (direction_is_egress(flow.direction()), is_denied) {
        (Some(true), false) => &mut message.egress_allowed_by,
        (Some(false), false) => &mut message.ingress_allowed_by,
        (Some(true), true) => &mut message.egress_denied_by,
        (Some(false), true) => &mut message.ingress_denied_by,
        (None, _) => return,
    };
    *list = policies;
    message.policy_log = logs(origins);
}

/// Log texts without repeats.
pub(crate) fn logs(origins: &[PolicyOrigin]) -> Vec<String> {
    let mut logs: Vec<String> = Vec::new();
    for origin in origins {
        if !origin.log.is_empty() && !logs.contains(&origin.log) {
            logs.push(origin.log.clone());
        }
    }
    logs
}

/// One entry per policy object. Origins that are none (nothing is enforced, so all is allowed) have no kind.
pub(crate) fn policies(origins: &[PolicyOrigin]) -> Vec<pb::Policy> {
    let mut policies: Vec<pb::Policy> = Vec::with_capacity(origins.len());
    for origin in origins.iter().filter(|origin| !origin.kind.is_empty()) {
        let is_same = |policy: &pb::Policy| {
            (&policy.kind, &policy.namespace, &policy.name) == (&origin.kind, &origin.namespace, &origin.name)
        };
        match policies.iter_mut().find(|policy| is_same(policy)) {
            Some(policy) => policy.revision = policy.revision.max(origin.revision),
            None => policies.push(pb::Policy {
                name: origin.name.clone(),
                namespace: origin.namespace.clone(),
                labels: origin.labels.clone(),
                revision: origin.revision,
                kind: origin.kind.clone(),
            }),
        }
    }
    policies
}

fn extension(flow: &Flow, origins: &[PolicyOrigin]) -> ext::FlowExtension {
    let is_attributed = flow.has(flags::ATTRIBUTED);
    ext::FlowExtension {
        has_counters: flow.has(flags::COUNTERS),
        packets_forward: flow.packets_forward,
        packets_reverse: flow.packets_reverse,
        bytes_forward: flow.bytes_forward,
        bytes_reverse: flow.bytes_reverse,
        duration_ns: flow.duration_ns,
        closed: flow.has(flags::CLOSED),
        mid_stream: flow.has(flags::MID_STREAM),
        fragment: flow.has(flags::FRAGMENT),
        packet_length: flow.length,
        folded: flow.folded,
        policy_revision: flow.revision.into(),
        default_deny: flow.has(flags::DEFAULT_DENY),
        origins: if is_attributed { origins.iter().map(origin_message).collect() } else { Vec::new() },
        cookie: if is_attributed { flow.cookie } else { 0 },
        by_agent: flow.has(flags::BY_AGENT),
    }
}

pub(crate) fn origin_message(origin: &PolicyOrigin) -> ext::PolicyOrigin {
    ext::PolicyOrigin {
        kind: origin.kind.clone(),
        namespace: origin.namespace.clone(),
        name: origin.name.clone(),
        uid: origin.uid.clone(),
        rule_index: origin.rule_index,
        section: origin.section.clone(),
        labels: origin.labels.clone(),
        revision: origin.revision,
        log: origin.log.clone(),
    }
}

#[cfg(test)]
mod tests;
