//! From messages to clauses.

use specola_proto::flow as pb;

use super::{
    MAX_FILTERS, MAX_PATTERNS,
    app::{AppClause, StatusMatch, pattern},
    cel::Expression,
    clause::{Clause, EventTypeMatch, InterfaceMatch, IpMatch, NumberSet, ProtocolMatch},
    name::NamePattern,
    node::{NodeLabelsClause, NodePattern},
    pattern::{PodPattern, label_selector},
    peer::{PeerClause, PeerTest},
};
use crate::{EventType, Side, Workload, protocol};

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

/// The list of filters is too long.
pub(super) fn too_many() -> Fault {
    Fault::new("*", format!("a list may have {MAX_FILTERS} filters at most"))
}

/// Clauses of one filter, cheap and selective ones first.
pub(super) fn clauses(filter: &pb::FlowFilter) -> Result<Vec<Clause>, Fault> {
    refuse_many_patterns(filter)?;
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
    add(&mut clauses, &filter.node_labels, |texts| {
        Ok(Clause::NodeLabels(NodeLabelsClause::new(selectors("node_labels", texts)?)))
    })?;
    add(&mut clauses, &filter.interface, |wanted| {
        let interface =
            |wanted: &pb::NetworkInterface| InterfaceMatch { index: wanted.index, name: wanted.name.clone() };
        Ok(Clause::Interface(wanted.iter().map(interface).collect()))
    })?;
    app_clauses(filter, &mut clauses)?;
    let experimental = filter.experimental.as_ref();
    add(&mut clauses, experimental.map_or(&[], |more| &more.cel_expression), |texts| {
        let expressions: Result<_, _> = texts.iter().map(|text| Expression::compile(text)).collect();
        let refused = |cause| Fault::new("experimental.cel_expression", format!("{cause}"));
        Ok(Clause::Cel(expressions.map_err(refused)?))
    })?;
    Ok(clauses)
}

/// Patterns take memory once compiled, so their number has a bound.
fn refuse_many_patterns(filter: &pb::FlowFilter) -> Result<(), Fault> {
    let cel = filter.experimental.as_ref().map_or(0, |more| more.cel_expression.len());
    let fields = [
        ("dns_query", filter.dns_query.len()),
        ("http_path", filter.http_path.len()),
        ("http_url", filter.http_url.len()),
        ("experimental.cel_expression", cel),
    ];
    match fields.iter().find(|(_, count)| *count > MAX_PATTERNS) {
        Some((field, _)) => Err(Fault::new(field, format!("at most {MAX_PATTERNS} patterns are allowed"))),
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
    add(clauses, &filter.encrypted, |values| {
        Ok(Clause::Encrypted { yes: values.contains(&true), no: values.contains(&false) })
    })?;
    add(clauses, &filter.ip_trace_id, |values| Ok(Clause::IpTraceId(values.to_vec())))?;
    add(clauses, &filter.source_ip_xlated, |texts| {
        let ips: Result<_, _> = texts.iter().map(|text| parse_ip("source_ip_xlated", text)).collect();
        Ok(Clause::IpXlated(ips?))
    })?;
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

/// Fields about application data.
fn app_clauses(filter: &pb::FlowFilter, clauses: &mut Vec<Clause>) -> Result<(), Fault> {
    add(clauses, &filter.dns_query, |texts| {
        let invalid = |cause| Fault::new("dns_query", format!("invalid DNS query filter: {cause}"));
        Ok(Clause::App(AppClause::DnsQuery(patterns(texts).map_err(invalid)?)))
    })?;
    add(clauses, &filter.trace_id, |ids| Ok(Clause::App(AppClause::TraceId(ids.to_vec()))))?;
    add_http(clauses, filter, "http_status_code", &filter.http_status_code, |codes| {
        let parse = |text: &String| {
            StatusMatch::parse(text).ok_or_else(|| {
                format!("invalid http status code filter: invalid status code prefix: \"{text}\"")
            })
        };
        Ok(AppClause::HttpStatus(codes.iter().map(parse).collect::<Result<_, _>>()?))
    })?;
    add_http(clauses, filter, "http_method", &filter.http_method, |methods| {
        Ok(AppClause::HttpMethod(methods.to_vec()))
    })?;
    add_http(clauses, filter, "http_path", &filter.http_path, |texts| {
        Ok(AppClause::HttpPath(patterns(texts)?))
    })?;
    add_http(clauses, filter, "http_url", &filter.http_url, |texts| {
        Ok(AppClause::HttpUrl(patterns(texts)?))
    })?;
    add_http(clauses, filter, "http_header", &filter.http_header, |headers| {
        Ok(AppClause::HttpHeader(headers.to_vec()))
    })
}

/// As [`add`], for fields that only flows of the application layer can match.
fn add_http<T>(
    clauses: &mut Vec<Clause>,
    filter: &pb::FlowFilter,
    field: &'static str,
    values: &[T],
    make: impl FnOnce(&[T]) -> Result<AppClause, String>,
) -> Result<(), Fault> {
    add(clauses, values, |values| {
        let kinds = &filter.event_type;
        if !kinds.is_empty() && !kinds.iter().any(|kind| kind.r#type == i32::from(EventType::L7.0)) {
            let words = field.replace('_', " ");
            let cause =
                format!("filtering by {words} requires the event type filter to only match 'l7' events");
            return Err(Fault::new(field, cause));
        }
        Ok(Clause::App(make(values).map_err(|cause| Fault::new(field, cause))?))
    })
}

fn patterns(texts: &[String]) -> Result<Vec<regex::Regex>, String> {
    texts.iter().map(|text| pattern(text)).collect()
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
        "dns" => ProtocolMatch::Dns,
        "http" => ProtocolMatch::Http,
        "kafka" => ProtocolMatch::Kafka,
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
    fqdn: (&'static str, &'a [String]),
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
                fqdn: ("source_fqdn", &filter.source_fqdn),
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
                fqdn: ("destination_fqdn", &filter.destination_fqdn),
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
        let peer = |test| Ok(Clause::Peer(PeerClause::new(side, test)));
        let (field, values) = self.pod;
        add(clauses, values, |texts| peer(PeerTest::Pod(pods(field, texts)?)))?;
        add(clauses, self.workload, |values| {
            peer(PeerTest::Workload(values.iter().map(workload).collect()))
        })?;
        let (field, values) = self.service;
        add(clauses, values, |texts| Ok(Clause::App(AppClause::Service(side, pods(field, texts)?))))?;
        let (field, values) = self.fqdn;
        add(clauses, values, |texts| Ok(Clause::App(AppClause::Fqdn(side, names(field, texts)?))))?;
        let (field, values) = self.cluster;
        add(clauses, values, |names| match names.iter().any(String::is_empty) {
            true => Err(Fault::new(field, "a cluster name must not be empty")),
            false => peer(PeerTest::Cluster(names.to_vec())),
        })?;
        let (field, values) = self.label;
        add(clauses, values, |texts| peer(PeerTest::Labels(selectors(field, texts)?)))
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

fn names(field: &'static str, texts: &[String]) -> Result<Vec<NamePattern>, Fault> {
    let parse = |text: &String| {
        let pattern = NamePattern::parse(text).map_err(|cause| Fault::new(field, cause))?;
        pattern.ok_or_else(|| Fault::new(field, "empty pattern"))
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
