//! From messages to clauses.

use specola_proto::flow as pb;

use super::{
    clause::{Clause, EventTypeMatch, IpMatch, NumberSet, ProtocolMatch},
    pattern::{NodePattern, PodPattern, label_selector},
};
use crate::{Side, Workload, protocol};

/// Why a filter cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{list}[{index}].{}: {}", .fault.field, .fault.cause)]
pub struct InvalidFilter {
    list: &'static str,
    index: usize,
    fault: Fault,
}

/// What is wrong with a field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Fault {
    field: &'static str,
    cause: String,
}

impl Fault {
    fn new(field: &'static str, cause: impl Into<String>) -> Self {
        Self { field, cause: cause.into() }
    }

    pub(super) const fn at(self, list: &'static str, index: usize) -> InvalidFilter {
        InvalidFilter { list, index, fault: self }
    }
}

/// Clauses of one filter, cheap and selective ones first.
pub(super) fn clauses(filter: &pb::FlowFilter) -> Result<Vec<Clause>, Fault> {
    refuse_unsupported(filter)?;
    let mut clauses = Vec::new();
    scalar_clauses(filter, &mut clauses)?;
    for side in [Side::Source, Side::Destination] {
        let fields = SideFields::of(filter, side);
        fields.cheap_clauses(&mut clauses)?;
    }
    for side in [Side::Source, Side::Destination] {
        let fields = SideFields::of(filter, side);
        fields.name_clauses(&mut clauses)?;
    }
    add(&mut clauses, &filter.node_name, |names| {
        let patterns: Result<_, _> = names.iter().map(|name| NodePattern::parse(name)).collect();
        Ok(Clause::NodeName(patterns.map_err(|cause| Fault::new("node_name", cause))?))
    })?;
    add(&mut clauses, &filter.node_labels, |texts| Ok(Clause::NodeLabels(selectors("node_labels", texts)?)))?;
    Ok(clauses)
}

/// Fields for which a silent "no match" would mislead.
fn refuse_unsupported(filter: &pb::FlowFilter) -> Result<(), Fault> {
    let has_cel = filter.experimental.as_ref().is_some_and(|more| !more.cel_expression.is_empty());
    let unsupported = [
        ("source_fqdn", !filter.source_fqdn.is_empty()),
        ("destination_fqdn", !filter.destination_fqdn.is_empty()),
        ("source_ip_xlated", !filter.source_ip_xlated.is_empty()),
        ("dns_query", !filter.dns_query.is_empty()),
        ("http_status_code", !filter.http_status_code.is_empty()),
        ("http_method", !filter.http_method.is_empty()),
        ("http_path", !filter.http_path.is_empty()),
        ("http_url", !filter.http_url.is_empty()),
        ("http_header", !filter.http_header.is_empty()),
        ("trace_id", !filter.trace_id.is_empty()),
        ("ip_trace_id", !filter.ip_trace_id.is_empty()),
        ("interface", !filter.interface.is_empty()),
        ("experimental.cel_expression", has_cel),
    ];
    match unsupported.iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => {
            Err(Fault::new(field, "this server does not support the field yet: leave it out"))
        }
        None => Ok(()),
    }
}

/// Calls `make` when the field has values.
fn add<T>(
    clauses: &mut Vec<Clause>,
    values: &[T],
    make: impl FnOnce(&[T]) -> Result<Clause, Fault>,
) -> Result<(), Fault> {
    if !values.is_empty() {
        clauses.push(make(values)?);
    }
    Ok(())
}

/// Fields that compare numbers of the flow itself.
fn scalar_clauses(filter: &pb::FlowFilter, clauses: &mut Vec<Clause>) -> Result<(), Fault> {
    // Text that is no id of ours equals no flow's id.
    add(clauses, &filter.uuid, |ids| {
        Ok(Clause::Uuid(ids.iter().filter_map(|id| id.parse().ok()).collect()))
    })?;
    add(clauses, &filter.event_type, |kinds| Ok(Clause::EventType(kinds.iter().map(event_type).collect())))?;
    add(clauses, &filter.verdict, |values| Ok(Clause::Verdict(numbers("verdict", values)?)))?;
    add(clauses, &filter.drop_reason_desc, |values| {
        Ok(Clause::DropReason(numbers("drop_reason_desc", values)?))
    })?;
    add(clauses, &filter.reply, |values| {
        Ok(Clause::Reply { yes: values.contains(&true), no: values.contains(&false) })
    })?;
    add(clauses, &filter.encrypted, |values| Ok(Clause::Encrypted { wants_plain: values.contains(&false) }))?;
    add(clauses, &filter.traffic_direction, |values| {
        Ok(Clause::Direction(numbers("traffic_direction", values)?))
    })?;
    add(clauses, &filter.ip_version, |values| Ok(Clause::IpVersion(numbers("ip_version", values)?)))?;
    add(clauses, &filter.protocol, |names| {
        let protocols: Result<_, _> = names.iter().map(|name| protocol_match(name)).collect();
        Ok(Clause::Protocol(protocols?))
    })?;
    add(clauses, &filter.tcp_flags, |flags| Ok(Clause::TcpFlags(flags.iter().filter_map(tcp_mask).collect())))
}

const fn event_type(wanted: &pb::EventTypeFilter) -> EventTypeMatch {
    EventTypeMatch {
        kind: wanted.r#type,
        sub_type: if wanted.match_sub_type { Some(wanted.sub_type) } else { None },
    }
}

/// A set of enum numbers.
fn numbers(field: &'static str, values: &[i32]) -> Result<NumberSet, Fault> {
    let mut set = NumberSet::default();
    for value in values {
        let number = u8::try_from(*value)
            .map_err(|_out_of_range| Fault::new(field, format!("{value} is no value of this enum")))?;
        set.insert(number);
    }
    Ok(set)
}

fn protocol_match(name: &str) -> Result<ProtocolMatch, Fault> {
    Ok(match name.to_lowercase().as_str() {
        "icmp" => ProtocolMatch::Icmp,
        "icmpv4" => ProtocolMatch::Number(protocol::ICMP),
        "icmpv6" => ProtocolMatch::Number(protocol::ICMPV6),
        "tcp" => ProtocolMatch::Number(protocol::TCP),
        "udp" => ProtocolMatch::Number(protocol::UDP),
        "sctp" => ProtocolMatch::Number(protocol::SCTP),
        "vrrp" => ProtocolMatch::Number(protocol::VRRP),
        "igmp" => ProtocolMatch::Number(protocol::IGMP),
        "dns" | "http" | "kafka" => ProtocolMatch::Application,
        _ => return Err(Fault::new("protocol", format!("unknown protocol: \"{name}\""))),
    })
}

/// The flags that must be set; `None` when NS is among them, which is not part of the flags byte.
fn tcp_mask(flags: &pb::TcpFlags) -> Option<u8> {
    let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    let mask = bit(flags.fin, 0x01)
        | bit(flags.syn, 0x02)
        | bit(flags.rst, 0x04)
        | bit(flags.psh, 0x08)
        | bit(flags.ack, 0x10)
        | bit(flags.urg, 0x20)
        | bit(flags.ece, 0x40)
        | bit(flags.cwr, 0x80);
    (!flags.ns).then_some(mask)
}

/// The fields of one side, with their names for errors.
struct SideFields<'a> {
    side: Side,
    ip: (&'static str, &'a [String]),
    pod: (&'static str, &'a [String]),
    port: (&'static str, &'a [String]),
    label: (&'static str, &'a [String]),
    service: (&'static str, &'a [String]),
    cluster: (&'static str, &'a [String]),
    workload: &'a [pb::Workload],
    identity: &'a [u32],
}

impl<'a> SideFields<'a> {
    fn of(filter: &'a pb::FlowFilter, side: Side) -> Self {
        match side {
            Side::Source => Self {
                side,
                ip: ("source_ip", &filter.source_ip),
                pod: ("source_pod", &filter.source_pod),
                port: ("source_port", &filter.source_port),
                label: ("source_label", &filter.source_label),
                service: ("source_service", &filter.source_service),
                cluster: ("source_cluster_name", &filter.source_cluster_name),
                workload: &filter.source_workload,
                identity: &filter.source_identity,
            },
            Side::Destination => Self {
                side,
                ip: ("destination_ip", &filter.destination_ip),
                pod: ("destination_pod", &filter.destination_pod),
                port: ("destination_port", &filter.destination_port),
                label: ("destination_label", &filter.destination_label),
                service: ("destination_service", &filter.destination_service),
                cluster: ("destination_cluster_name", &filter.destination_cluster_name),
                workload: &filter.destination_workload,
                identity: &filter.destination_identity,
            },
        }
    }

    /// Numbers and addresses.
    fn cheap_clauses(&self, clauses: &mut Vec<Clause>) -> Result<(), Fault> {
        let side = self.side;
        add(clauses, self.identity, |values| Ok(Clause::Identity(side, values.to_vec())))?;
        let (field, values) = self.port;
        add(clauses, values, |texts| {
            let ports: Result<_, _> = texts.iter().map(|text| parse_port(field, text)).collect();
            Ok(Clause::Port(side, ports?))
        })?;
        let (field, values) = self.ip;
        add(clauses, values, |texts| {
            let ips: Result<_, _> = texts.iter().map(|text| parse_ip(field, text)).collect();
            Ok(Clause::Ip(side, ips?))
        })
    }

    /// Names and labels.
    fn name_clauses(&self, clauses: &mut Vec<Clause>) -> Result<(), Fault> {
        let side = self.side;
        let (field, values) = self.pod;
        add(clauses, values, |texts| Ok(Clause::Pod(side, pods(field, texts)?)))?;
        let (field, values) = self.service;
        // Checked like any other field, but flows carry no service names yet.
        add(clauses, values, |texts| pods(field, texts).map(|_checked| Clause::Never))?;
        add(clauses, self.workload, |values| {
            Ok(Clause::Workload(side, values.iter().map(workload).collect()))
        })?;
        let (field, values) = self.cluster;
        add(clauses, values, |names| match names.iter().any(String::is_empty) {
            true => Err(Fault::new(field, "a cluster name must not be empty")),
            false => Ok(Clause::Cluster(side, names.to_vec())),
        })?;
        let (field, values) = self.label;
        add(clauses, values, |texts| Ok(Clause::Labels(side, selectors(field, texts)?)))
    }
}

fn parse_port(field: &'static str, text: &str) -> Result<u16, Fault> {
    text.parse().map_err(|cause| Fault::new(field, format!("invalid port \"{text}\": {cause}")))
}

fn parse_ip(field: &'static str, text: &str) -> Result<IpMatch, Fault> {
    if text.contains('/') {
        let prefix = text.parse();
        return prefix
            .map(IpMatch::Prefix)
            .map_err(|cause| Fault::new(field, format!("invalid IP prefix \"{text}\" in filter: {cause}")));
    }
    text.parse()
        .map(IpMatch::Address)
        .map_err(|cause| Fault::new(field, format!("invalid IP address \"{text}\" in filter: {cause}")))
}

fn pods(field: &'static str, texts: &[String]) -> Result<Vec<PodPattern>, Fault> {
    let parse = |text: &String| {
        PodPattern::parse(text).ok_or_else(|| Fault::new(field, "invalid filter, name must not be empty"))
    };
    texts.iter().map(parse).collect()
}

fn selectors(field: &'static str, texts: &[String]) -> Result<Vec<specola_labels::Selector>, Fault> {
    let parse = |text: &String| {
        label_selector(text).map_err(|cause| Fault::new(field, format!("invalid selector: {cause}")))
    };
    texts.iter().map(parse).collect()
}

fn workload(wanted: &pb::Workload) -> Workload {
    Workload { name: wanted.name.clone(), kind: wanted.kind.clone() }
}
