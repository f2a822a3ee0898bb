//! The line of a flow, written without a message in between: the same bytes that the message gives as JSON.
//!
//! Not every flow and not every mask: where [`LineWriter::write`] says no, the message is the way.

use std::{fmt, io::Write as _, net::IpAddr};

use specola_flow::{
    Direction, EndpointMeta, EventType, Flow, FlowView, MessageContext, PolicyOrigin, Summary, Verdict,
    flags, protocol,
};
use specola_proto::flow as pb;

use super::text;

/// Writes lines with the fields of one mask.
#[derive(Debug)]
pub(super) struct LineWriter {
    wants: Wants,
    clock: text::Clock,
}

/// Which fields are wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Wants {
    /// A bit for each of [`FIELDS`].
    fields: u32,
    /// Bits of [`ENDPOINT_FIELDS`], when only parts of the endpoint are wanted.
    source: Option<u8>,
    destination: Option<u8>,
}

/// Fields that are made of a record, in their order in a line.
const FIELDS: [&str; 29] = [
    "time",
    "uuid",
    "emitter",
    "verdict",
    "drop_reason",
    "ethernet",
    "IP",
    "l4",
    "source",
    "destination",
    "Type",
    "node_name",
    "node_labels",
    "reply",
    "event_type",
    "traffic_direction",
    "policy_match_type",
    "trace_observation_point",
    "trace_reason",
    "drop_reason_desc",
    "is_reply",
    "interface",
    "proxy_port",
    "Summary",
    "egress_allowed_by",
    "ingress_allowed_by",
    "egress_denied_by",
    "ingress_denied_by",
    "policy_log",
];

const ENDPOINT_FIELDS: [&str; 7] =
    ["ID", "identity", "namespace", "labels", "pod_name", "workloads", "cluster_name"];
const ALL_OF_ENDPOINT: u8 = (1 << ENDPOINT_FIELDS.len()) - 1;

impl Wants {
    /// `None` for masks that take parts of other messages.
    fn new(paths: &[String]) -> Option<Self> {
        if paths.is_empty() {
            return Some(Self { fields: (1 << FIELDS.len()) - 1, ..Self::default() });
        }
        let mut wants = Self::default();
        for path in paths {
            let (head, part) =
                path.split_once('.').map_or((path.as_str(), None), |(head, part)| (head, Some(part)));
            let Some(part) = part else {
                // Fields that records do not have are never written.
                wants.fields |= FIELDS.iter().position(|field| *field == head).map_or(0, |bit| 1 << bit);
                continue;
            };
            let bit = ENDPOINT_FIELDS.iter().position(|field| *field == part)?;
            let side = match head {
                "source" => &mut wants.source,
                "destination" => &mut wants.destination,
                _ => return None,
            };
            *side = Some(side.unwrap_or(0) | 1 << bit);
        }
        Some(wants)
    }

    const fn has(self, bit: u32) -> bool {
        self.fields & bit != 0
    }
}

/// The bit of a field, found by the compiler.
macro_rules! bit {
    ($name:literal) => {
        const { 1 << position(&FIELDS, $name) }
    };
    ($name:literal of endpoint) => {
        const { 1_u8 << position(&ENDPOINT_FIELDS, $name) }
    };
}

const fn position(names: &[&str], name: &str) -> usize {
    let mut at = 0;
    while !is_same(names[at].as_bytes(), name.as_bytes()) {
        at += 1;
    }
    at
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

impl LineWriter {
    /// A writer of lines with these fields, all without paths; `None` when the mask needs the message.
    pub(super) fn new(paths: &[String]) -> Option<Self> {
        Some(Self { wants: Wants::new(paths)?, clock: text::Clock::default() })
    }

    /// Appends the line; returns whether it could, and appends nothing when not.
    pub(super) fn write(
        &mut self,
        view: &FlowView<'_>,
        context: &MessageContext<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        if view.detail.is_some() || context.extension || view.flow.event_type() == EventType::L7 {
            return false;
        }
        let (flow, wants) = (view.flow, self.wants);
        let time = self.clock.text(flow.time_ns);
        out.extend_from_slice(b"{\"flow\":{");
        let line = Line { view, flow, context, wants };
        if wants.has(bit!("time")) {
            key(out, "time");
            quoted(out, time);
        }
        line.identify(out);
        line.packet(out);
        line.endpoints(out);
        line.observer(out);
        line.event(out);
        line.policies(out);
        close(out);
        out.push(b',');
        if wants.has(bit!("node_name")) {
            text_field(out, "node_name", context.node_name);
        }
        if wants.has(bit!("time")) {
            key(out, "time");
            quoted(out, time);
        }
        close(out);
        out.push(b'\n');
        true
    }
}

/// A line in the making.
#[derive(Clone, Copy)]
struct Line<'a> {
    view: &'a FlowView<'a>,
    flow: &'a Flow,
    context: &'a MessageContext<'a>,
    wants: Wants,
}

impl Line<'_> {
    fn identify(self, out: &mut Vec<u8>) {
        let flow = self.flow;
        if self.wants.has(bit!("uuid")) {
            key(out, "uuid");
            text::print_quoted(out, self.view.uuid);
            out.push(b',');
        }
        if self.wants.has(bit!("emitter")) {
            key(out, "emitter");
            out.push(b'{');
            text_field(out, "name", "Hubble");
            text_field(out, "version", self.context.version);
            close(out);
            out.push(b',');
        }
        if self.wants.has(bit!("verdict")) {
            let name = pb::Verdict::try_from(i32::from(flow.verdict)).map(|verdict| verdict.as_str_name());
            enumeration(out, "verdict", flow.verdict.into(), name.ok());
        }
        if self.wants.has(bit!("drop_reason")) {
            number_field(out, "drop_reason", self.drop_reason().into());
        }
    }

    fn drop_reason(self) -> u8 {
        if self.flow.verdict() == Verdict::DROPPED { self.flow.drop_reason } else { 0 }
    }

    fn packet(self, out: &mut Vec<u8>) {
        let flow = self.flow;
        let has_link = flow.source_mac != [0; 6] || flow.destination_mac != [0; 6];
        if has_link && self.wants.has(bit!("ethernet")) {
            out.extend_from_slice(b"\"ethernet\":{\"source\":\"");
            text::mac(out, flow.source_mac);
            out.extend_from_slice(b"\",\"destination\":\"");
            text::mac(out, flow.destination_mac);
            out.extend_from_slice(b"\"},");
        }
        let (Some(source), Some(destination)) = (flow.source_ip(), flow.destination_ip()) else {
            return;
        };
        if self.wants.has(bit!("IP")) {
            out.extend_from_slice(b"\"IP\":{\"source\":");
            text::print_quoted(out, source);
            out.extend_from_slice(b",\"destination\":");
            text::print_quoted(out, destination);
            let version = if matches!(source, IpAddr::V4(_)) { "IPv4" } else { "IPv6" };
            out.extend_from_slice(b",\"ipVersion\":\"");
            out.extend_from_slice(version.as_bytes());
            out.extend_from_slice(b"\"},");
        }
        if self.wants.has(bit!("l4")) {
            self.layer4(out);
        }
    }

    fn layer4(self, out: &mut Vec<u8>) {
        let flow = self.flow;
        let name = match flow.protocol {
            protocol::TCP => "TCP",
            protocol::UDP => "UDP",
            protocol::SCTP => "SCTP",
            protocol::ICMP => "ICMPv4",
            protocol::ICMPV6 => "ICMPv6",
            _ => return,
        };
        key(out, "l4");
        out.push(b'{');
        key(out, name);
        out.push(b'{');
        if matches!(name, "ICMPv4" | "ICMPv6") {
            number_field(out, "type", flow.icmp_type.into());
            number_field(out, "code", flow.icmp_code.into());
        } else {
            number_field(out, "source_port", flow.source_port.into());
            number_field(out, "destination_port", flow.destination_port.into());
        }
        if name == "TCP" {
            key(out, "flags");
            out.push(b'{');
            let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
            for (bit, name) in names.iter().enumerate().filter(|(bit, _)| flow.tcp_flags & 1 << bit != 0) {
                debug_assert!(bit < 8);
                key(out, name);
                out.extend_from_slice(b"true,");
            }
            close(out);
        }
        close(out);
        close(out);
        out.push(b',');
    }

    fn endpoints(self, out: &mut Vec<u8>) {
        let Self { view, flow, wants, .. } = self;
        for (name, whole, part, id, identity, meta, labels) in [
            (
                "source",
                bit!("source"),
                wants.source,
                flow.source_endpoint,
                flow.source_identity,
                view.source,
                view.source_labels,
            ),
            (
                "destination",
                bit!("destination"),
                wants.destination,
                flow.destination_endpoint,
                flow.destination_identity,
                view.destination,
                view.destination_labels,
            ),
        ] {
            let fields = if wants.has(whole) { Some(ALL_OF_ENDPOINT) } else { part };
            if let Some(fields) = fields {
                key(out, name);
                endpoint(out, fields, (id, identity), meta, labels);
                out.push(b',');
            }
        }
    }

    fn observer(self, out: &mut Vec<u8>) {
        if self.wants.has(bit!("Type")) {
            out.extend_from_slice(b"\"Type\":\"L3_L4\",");
        }
        if self.wants.has(bit!("node_name")) {
            text_field(out, "node_name", self.context.node_name);
        }
        if self.wants.has(bit!("node_labels")) {
            list(out, "node_labels", &self.view.node.labels);
        }
    }

    fn event(self, out: &mut Vec<u8>) {
        let Self { flow, wants, .. } = self;
        let reply = flow.is_reply();
        if reply == Some(true) && wants.has(bit!("reply")) {
            out.extend_from_slice(b"\"reply\":true,");
        }
        if wants.has(bit!("event_type")) {
            key(out, "event_type");
            out.push(b'{');
            number_field(out, "type", flow.event_type.into());
            number_field(out, "sub_type", flow.sub_type.into());
            close(out);
            out.push(b',');
        }
        if wants.has(bit!("traffic_direction")) {
            let name = pb::TrafficDirection::try_from(i32::from(flow.direction));
            let name = name.map(|direction| direction.as_str_name());
            enumeration(out, "traffic_direction", flow.direction.into(), name.ok());
        }
        if flow.event_type() == EventType::POLICY_VERDICT && wants.has(bit!("policy_match_type")) {
            number_field(out, "policy_match_type", flow.match_type.into());
        }
        if let Some(point) = flow.observation_point() {
            if wants.has(bit!("trace_observation_point")) {
                let number = point.api_number();
                let name = pb::TraceObservationPoint::try_from(number).map(|point| point.as_str_name());
                enumeration(out, "trace_observation_point", number, name.ok());
            }
            if wants.has(bit!("trace_reason")) {
                let name = pb::TraceReason::try_from(i32::from(flow.trace_reason));
                enumeration(
                    out,
                    "trace_reason",
                    flow.trace_reason.into(),
                    name.map(|name| name.as_str_name()).ok(),
                );
            }
        }
        if wants.has(bit!("drop_reason_desc")) {
            let reason = i32::from(self.drop_reason());
            let name = pb::DropReason::try_from(reason).map(|reason| reason.as_str_name());
            enumeration(out, "drop_reason_desc", reason, name.ok());
        }
        if let Some(is_reply) = reply.filter(|_| wants.has(bit!("is_reply"))) {
            key(out, "is_reply");
            out.extend_from_slice(if is_reply { b"true," } else { b"false," });
        }
        if flow.observation_point().is_some() {
            self.trace(out);
        }
        if wants.has(bit!("Summary")) {
            key(out, "Summary");
            text::print_quoted(out, Summary(flow));
            out.push(b',');
        }
    }

    fn trace(self, out: &mut Vec<u8>) {
        if self.flow.ifindex != 0 && self.wants.has(bit!("interface")) {
            key(out, "interface");
            out.push(b'{');
            number_field(out, "index", self.flow.ifindex.into());
            text_field(out, "name", self.context.interface.unwrap_or_default());
            close(out);
            out.push(b',');
        }
        if self.wants.has(bit!("proxy_port")) {
            number_field(out, "proxy_port", self.flow.proxy_port.into());
        }
    }

    fn policies(self, out: &mut Vec<u8>) {
        let (flow, origins) = (self.flow, self.context.origins);
        if !flow.has(flags::ATTRIBUTED) {
            return;
        }
        let is_denied = matches!(flow.verdict(), Verdict::DROPPED | Verdict::AUDIT);
        let (name, bit) = match (flow.direction(), is_denied) {
            (Direction::EGRESS, false) => ("egress_allowed_by", bit!("egress_allowed_by")),
            (Direction::INGRESS, false) => ("ingress_allowed_by", bit!("ingress_allowed_by")),
            (Direction::EGRESS, true) => ("egress_denied_by", bit!("egress_denied_by")),
            (Direction::INGRESS, true) => ("ingress_denied_by", bit!("ingress_denied_by")),
            _ => return,
        };
        if self.wants.has(bit) {
            policy_list(out, name, origins);
        }
        let is_first = |index: usize| !origins[..index].iter().any(|before| before.log == origins[index].log);
        let logs =
            origins.iter().enumerate().filter(|(index, origin)| !origin.log.is_empty() && is_first(*index));
        let logs: Vec<&str> = logs.map(|(_, origin)| origin.log.as_str()).collect();
        if self.wants.has(bit!("policy_log")) {
            list(out, "policy_log", &logs);
        }
    }
}

fn endpoint(
    out: &mut Vec<u8>,
    fields: u8,
    (id, identity): (u16, u32),
    meta: Option<&EndpointMeta>,
    labels: &[String],
) {
    let wants = |bit: u8| fields & bit != 0;
    out.push(b'{');
    if wants(bit!("ID" of endpoint)) {
        number_field(out, "ID", id.into());
    }
    if wants(bit!("identity" of endpoint)) {
        number_field(out, "identity", identity.into());
    }
    if let Some(meta) = meta.filter(|_| wants(bit!("namespace" of endpoint))) {
        text_field(out, "namespace", &meta.namespace);
    }
    if wants(bit!("labels" of endpoint)) {
        list(out, "labels", labels);
    }
    if let Some(meta) = meta {
        if wants(bit!("pod_name" of endpoint)) {
            text_field(out, "pod_name", &meta.pod_name);
        }
        if wants(bit!("workloads" of endpoint)) && !meta.workloads.is_empty() {
            key(out, "workloads");
            out.push(b'[');
            for owner in &meta.workloads {
                out.push(b'{');
                text_field(out, "name", &owner.name);
                text_field(out, "kind", &owner.kind);
                close(out);
                out.push(b',');
            }
            text::end_list(out);
        }
        if wants(bit!("cluster_name" of endpoint)) {
            text_field(out, "cluster_name", &meta.cluster_name);
        }
    }
    close(out);
}

/// One entry per policy object, with its highest revision.
fn policy_list(out: &mut Vec<u8>, name: &str, origins: &[PolicyOrigin]) {
    let of = |origin: &PolicyOrigin, other: &PolicyOrigin| {
        (&origin.kind, &origin.namespace, &origin.name) == (&other.kind, &other.namespace, &other.name)
    };
    let start = out.len();
    key(out, name);
    out.push(b'[');
    let empty = out.len();
    for (index, origin) in origins.iter().enumerate() {
        if origin.kind.is_empty() || origins[..index].iter().any(|before| of(origin, before)) {
            continue;
        }
        let revision =
            origins[index..].iter().filter(|other| of(origin, other)).map(|other| other.revision).max();
        out.push(b'{');
        text_field(out, "name", &origin.name);
        text_field(out, "namespace", &origin.namespace);
        list(out, "labels", &origin.labels);
        if let Some(revision) = revision.filter(|revision| *revision != 0) {
            key(out, "revision");
            text::print_quoted(out, revision);
            out.push(b',');
        }
        text_field(out, "kind", &origin.kind);
        close(out);
        out.push(b',');
    }
    if out.len() == empty { out.truncate(start) } else { text::end_list(out) }
}

/// `"name":`
fn key(out: &mut Vec<u8>, name: &str) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn quoted(out: &mut Vec<u8>, plain: impl fmt::Display) {
    out.push(b'"');
    write!(out, "{plain}").expect("a vector takes all that is written");
    out.extend_from_slice(b"\",");
}

/// A field, unless it has the value that is left out.
fn text_field(out: &mut Vec<u8>, name: &str, text: &str) {
    if !text.is_empty() {
        key(out, name);
        text::string(out, text);
        out.push(b',');
    }
}

fn number_field(out: &mut Vec<u8>, name: &str, number: u64) {
    if number != 0 {
        key(out, name);
        text::number(out, number);
        out.push(b',');
    }
}

fn enumeration(out: &mut Vec<u8>, name: &str, number: i32, text: Option<&str>) {
    if number == 0 {
        return;
    }
    key(out, name);
    match text {
        Some(text) => text::string(out, text),
        None => text::number(out, number.unsigned_abs().into()),
    }
    out.push(b',');
}

fn list(out: &mut Vec<u8>, name: &str, texts: &[impl AsRef<str>]) {
    if texts.is_empty() {
        return;
    }
    key(out, name);
    out.push(b'[');
    for text in texts {
        text::string(out, text.as_ref());
        out.push(b',');
    }
    text::end_list(out);
}

/// Ends an object whose fields have commas behind.
fn close(out: &mut Vec<u8>) {
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests;
