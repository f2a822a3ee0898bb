//! Where the fields of `_flow` come from. A field that is not listed has no source on this server: it is absent.

use std::{net::IpAddr, sync::Arc};

use specola_proto::flow::{self as pb, layer7::Record};

use super::value::{List, Value};
use crate::{
    Direction, EventType, Flow, FlowDetail, FlowView, PolicyOrigin, Side, Summary, Verdict, flags, message,
    protocol,
};

/// Reads a field.
pub(super) type Getter = for<'a> fn(&FlowView<'a>) -> Value<'a>;

/// Tells whether a message is there.
pub(super) type Presence = for<'a> fn(&FlowView<'a>) -> bool;

/// How to read the field at a path such as `source.namespace`, unless it is a message.
pub(super) fn getter(path: &str) -> Option<Getter> {
    if let Some(rest) = path.strip_prefix("source.") {
        return source(rest);
    }
    if let Some(rest) = path.strip_prefix("destination.") {
        return destination(rest);
    }
    if let Some(rest) = path.strip_prefix("l4.") {
        return layer4(rest);
    }
    if let Some(rest) = path.strip_prefix("l7.") {
        return layer7(rest);
    }
    plain(path).or_else(|| named(path))
}

/// How to find out whether the message at a path is there.
pub(super) fn presence(path: &str) -> Option<Presence> {
    Some(match path {
        "source" | "destination" | "emitter" | "event_type" | "time" => |_| true,
        "is_reply" => |v| v.flow.is_reply().is_some(),
        "ethernet" => |v| v.flow.source_mac != [0; 6] || v.flow.destination_mac != [0; 6],
        "IP" => |v| v.flow.source_ip().is_some(),
        "l4" => |v| is_tcp(v) || is_udp(v) || is_sctp(v) || is_icmp4(v) || is_icmp6(v),
        "l4.TCP" | "l4.TCP.flags" => is_tcp,
        "l4.UDP" => is_udp,
        "l4.SCTP" => is_sctp,
        "l4.ICMPv4" => is_icmp4,
        "l4.ICMPv6" => is_icmp6,
        "l7" => |v| v.detail.is_some_and(|detail| detail.l7.is_some()),
        "l7.dns" => |v| dns(v).is_some(),
        "l7.http" => |v| http(v).is_some(),
        "interface" => |v| v.flow.observation_point().is_some() && v.flow.ifindex != 0,
        "source_service" => |v| v.detail.is_some_and(|detail| detail.source_service.is_some()),
        "destination_service" => |v| v.detail.is_some_and(|detail| detail.destination_service.is_some()),
        "trace_context" | "trace_context.parent" => |v| v.detail.is_some_and(|d| !d.trace_id.is_empty()),
        "ip_trace_id" => |v| v.detail.is_some_and(|detail| detail.ip_trace_id.is_some()),
        _ => return None,
    })
}

/// Numbers and texts of the record itself.
fn plain(path: &str) -> Option<Getter> {
    Some(match path {
        "time" => |v| Value::Time(i64::try_from(v.flow.time_ns).unwrap_or(i64::MAX)),
        "uuid" => |v| owned(v.uuid.to_string()),
        "emitter.name" => |_| Value::text(message::EMITTER),
        "verdict" => |v| int(v.flow.verdict),
        "drop_reason" => |v| uint(drop_reason(v.flow)),
        "drop_reason_desc" => |v| int(drop_reason(v.flow)),
        "ethernet.source" => |v| mac(v.flow.source_mac, v),
        "ethernet.destination" => |v| mac(v.flow.destination_mac, v),
        "IP.source" => |v| ip(v.flow.source_ip()),
        "IP.destination" => |v| ip(v.flow.destination_ip()),
        "IP.ipVersion" => |v| {
            int(match v.flow.source_ip() {
                None => 0,
                Some(IpAddr::V4(_)) => 1,
                Some(IpAddr::V6(_)) => 2,
            })
        },
        "IP.encrypted" => |v| Value::Bool(v.detail.is_some_and(|detail| detail.encrypted)),
        "IP.source_xlated" => |v| Value::text(v.detail.map_or("", |detail| &detail.source_ip_xlated)),
        "Type" => |v| match v.detail {
            Some(FlowDetail { l7: Some(_), .. }) => Value::Int(pb::FlowType::L7 as i64),
            _ => Value::Int(message::kind(v.flow) as i64),
        },
        "reply" => |v| Value::Bool(v.flow.is_reply().unwrap_or(false)),
        "is_reply" => |v| v.flow.is_reply().map_or(Value::Null, Value::Bool),
        "event_type.type" => |v| int(v.flow.event_type),
        "event_type.sub_type" => |v| int(v.flow.sub_type),
        "traffic_direction" => |v| int(v.flow.direction),
        "policy_match_type" => {
            |v| uint(if v.flow.event_type() == EventType::POLICY_VERDICT { v.flow.match_type } else { 0 })
        }
        "trace_observation_point" => {
            |v| Value::Int(v.flow.observation_point().map_or(0, |point| point.api_number()).into())
        }
        "trace_reason" => |v| int(if is_trace(v) { v.flow.trace_reason } else { 0 }),
        "proxy_port" => |v| uint(if is_trace(v) { v.flow.proxy_port } else { 0 }),
        "interface.index" => |v| uint(if is_trace(v) { v.flow.ifindex } else { 0 }),
        "Summary" => |v| match v.detail.and_then(|detail| detail.l7.as_ref()) {
            Some(l7) => owned(crate::detail::summary(l7)),
            None => owned(Summary(v.flow).to_string()),
        },
        _ => return None,
    })
}

/// Names.
fn named(path: &str) -> Option<Getter> {
    Some(match path {
        "node_name" => |v| owned(v.node.absolute_name()),
        "node_labels" => |v| Value::texts(&v.node.labels),
        "interface.name" => |v| {
            let name = v.names.filter(|_| is_trace(v)).and_then(|names| names.interface_name(v.flow.ifindex));
            Value::text(name.unwrap_or_default())
        },
        "source_names" => |v| Value::texts(v.detail.map_or(&[], |detail| &detail.source_names)),
        "destination_names" => |v| Value::texts(v.detail.map_or(&[], |detail| &detail.destination_names)),
        "source_service.name" => |v| Value::text(service(v, Side::Source).map_or("", |s| &s.name)),
        "source_service.namespace" => |v| Value::text(service(v, Side::Source).map_or("", |s| &s.namespace)),
        "destination_service.name" => |v| Value::text(service(v, Side::Destination).map_or("", |s| &s.name)),
        "destination_service.namespace" => {
            |v| Value::text(service(v, Side::Destination).map_or("", |s| &s.namespace))
        }
        "trace_context.parent.trace_id" => |v| Value::text(v.detail.map_or("", |detail| &detail.trace_id)),
        "ip_trace_id.trace_id" => {
            |v| Value::Uint(v.detail.and_then(|d| d.ip_trace_id.as_ref()).map_or(0, |id| id.trace_id))
        }
        "egress_allowed_by" => |v| policies(v, Direction::EGRESS, false),
        "ingress_allowed_by" => |v| policies(v, Direction::INGRESS, false),
        "egress_denied_by" => |v| policies(v, Direction::EGRESS, true),
        "ingress_denied_by" => |v| policies(v, Direction::INGRESS, true),
        "policy_log" => policy_log,
        _ => return None,
    })
}

/// The same for both sides: a function pointer cannot know which side it is for.
macro_rules! endpoint_fields {
    ($name:ident, $side:expr, $labels:ident, $identity:ident, $id:ident) => {
        fn $name(field: &str) -> Option<Getter> {
            Some(match field {
                "ID" => |v| uint(v.flow.$id),
                "identity" => |v| uint(v.flow.$identity),
                "labels" => |v| Value::texts(v.$labels),
                "namespace" => |v| Value::text(v.meta($side).map_or("", |meta| &meta.namespace)),
                "pod_name" => |v| Value::text(v.meta($side).map_or("", |meta| &meta.pod_name)),
                "cluster_name" => |v| Value::text(v.meta($side).map_or("", |meta| &meta.cluster_name)),
                "workloads" => |v| Value::List(List::Workloads(v.meta($side).map_or(&[], |m| &m.workloads))),
                _ => return None,
            })
        }
    };
}

endpoint_fields!(source, Side::Source, source_labels, source_identity, source_endpoint);
endpoint_fields!(
    destination,
    Side::Destination,
    destination_labels,
    destination_identity,
    destination_endpoint
);

fn layer4(field: &str) -> Option<Getter> {
    Some(match field {
        "TCP.source_port" => |v| uint(if is_tcp(v) { v.flow.source_port } else { 0 }),
        "TCP.destination_port" => |v| uint(if is_tcp(v) { v.flow.destination_port } else { 0 }),
        "TCP.flags.FIN" => |v| tcp_flag(v, 0x01),
        "TCP.flags.SYN" => |v| tcp_flag(v, 0x02),
        "TCP.flags.RST" => |v| tcp_flag(v, 0x04),
        "TCP.flags.PSH" => |v| tcp_flag(v, 0x08),
        "TCP.flags.ACK" => |v| tcp_flag(v, 0x10),
        "TCP.flags.URG" => |v| tcp_flag(v, 0x20),
        "TCP.flags.ECE" => |v| tcp_flag(v, 0x40),
        "TCP.flags.CWR" => |v| tcp_flag(v, 0x80),
        "UDP.source_port" => |v| uint(if is_udp(v) { v.flow.source_port } else { 0 }),
        "UDP.destination_port" => |v| uint(if is_udp(v) { v.flow.destination_port } else { 0 }),
        "SCTP.source_port" => |v| uint(if is_sctp(v) { v.flow.source_port } else { 0 }),
        "SCTP.destination_port" => |v| uint(if is_sctp(v) { v.flow.destination_port } else { 0 }),
        "ICMPv4.type" => |v| uint(if is_icmp4(v) { v.flow.icmp_type } else { 0 }),
        "ICMPv4.code" => |v| uint(if is_icmp4(v) { v.flow.icmp_code } else { 0 }),
        "ICMPv6.type" => |v| uint(if is_icmp6(v) { v.flow.icmp_type } else { 0 }),
        "ICMPv6.code" => |v| uint(if is_icmp6(v) { v.flow.icmp_code } else { 0 }),
        _ => return None,
    })
}

fn layer7(field: &str) -> Option<Getter> {
    Some(match field {
        "type" => |v| Value::Int(v.detail.and_then(|d| d.l7.as_ref()).map_or(0, |l7| l7.r#type.into())),
        "latency_ns" => |v| Value::Uint(v.detail.and_then(|d| d.l7.as_ref()).map_or(0, |l7| l7.latency_ns)),
        "dns.query" => |v| Value::text(dns(v).map_or("", |dns| &dns.query)),
        "dns.ips" => |v| Value::texts(dns(v).map_or(&[], |dns| &dns.ips)),
        "dns.ttl" => |v| uint(dns(v).map_or(0, |dns| dns.ttl)),
        "dns.cnames" => |v| Value::texts(dns(v).map_or(&[], |dns| &dns.cnames)),
        "dns.observation_source" => |v| Value::text(dns(v).map_or("", |dns| &dns.observation_source)),
        "dns.rcode" => |v| uint(dns(v).map_or(0, |dns| dns.rcode)),
        "dns.qtypes" => |v| Value::texts(dns(v).map_or(&[], |dns| &dns.qtypes)),
        "dns.rrtypes" => |v| Value::texts(dns(v).map_or(&[], |dns| &dns.rrtypes)),
        "http.code" => |v| uint(http(v).map_or(0, |http| http.code)),
        "http.method" => |v| Value::text(http(v).map_or("", |http| &http.method)),
        "http.url" => |v| Value::text(http(v).map_or("", |http| &http.url)),
        "http.protocol" => |v| Value::text(http(v).map_or("", |http| &http.protocol)),
        "http.headers" => |v| Value::List(List::Headers(http(v).map_or(&[], |http| &http.headers))),
        _ => return None,
    })
}

fn int<'a>(number: u8) -> Value<'a> {
    Value::Int(number.into())
}

fn uint<'a>(number: impl Into<u64>) -> Value<'a> {
    Value::Uint(number.into())
}

fn owned<'a>(text: String) -> Value<'a> {
    Value::Text(text.into())
}

fn ip<'a>(address: Option<IpAddr>) -> Value<'a> {
    address.map_or(Value::text(""), |address| owned(address.to_string()))
}

fn mac<'a>(address: [u8; 6], view: &FlowView<'a>) -> Value<'a> {
    let is_known = view.flow.source_mac != [0; 6] || view.flow.destination_mac != [0; 6];
    if is_known { owned(message::mac_text(address)) } else { Value::text("") }
}

fn drop_reason(flow: &Flow) -> u8 {
    if flow.verdict() == Verdict::DROPPED { flow.drop_reason } else { 0 }
}

fn is_trace(view: &FlowView<'_>) -> bool {
    view.flow.observation_point().is_some()
}

const fn is(view: &FlowView<'_>, protocol: u8) -> bool {
    view.flow.ip_version != 0 && view.flow.protocol == protocol
}

const fn is_tcp(view: &FlowView<'_>) -> bool {
    is(view, protocol::TCP)
}

const fn is_udp(view: &FlowView<'_>) -> bool {
    is(view, protocol::UDP)
}

const fn is_sctp(view: &FlowView<'_>) -> bool {
    is(view, protocol::SCTP)
}

const fn is_icmp4(view: &FlowView<'_>) -> bool {
    is(view, protocol::ICMP)
}

const fn is_icmp6(view: &FlowView<'_>) -> bool {
    is(view, protocol::ICMPV6)
}

fn tcp_flag<'a>(view: &FlowView<'a>, bit: u8) -> Value<'a> {
    Value::Bool(is_tcp(view) && view.flow.tcp_flags & bit != 0)
}

fn record<'a>(view: &FlowView<'a>) -> Option<&'a Record> {
    view.detail?.l7.as_ref()?.record.as_ref()
}

fn dns<'a>(view: &FlowView<'a>) -> Option<&'a pb::Dns> {
    match record(view)? {
        Record::Dns(dns) => Some(dns),
        _ => None,
    }
}

fn http<'a>(view: &FlowView<'a>) -> Option<&'a pb::Http> {
    match record(view)? {
        Record::Http(http) => Some(http),
        _ => None,
    }
}

fn service<'a>(view: &FlowView<'a>, side: Side) -> Option<&'a pb::Service> {
    match side {
        Side::Source => view.detail?.source_service.as_ref(),
        Side::Destination => view.detail?.destination_service.as_ref(),
    }
}

/// Rules that the flow is attributed to.
fn origins<'a>(view: &FlowView<'a>) -> &'a [PolicyOrigin] {
    let names = view.names.filter(|_| view.flow.has(flags::ATTRIBUTED));
    names.map_or(&[], |names| names.policy_origins(view.flow.cookie))
}

/// Policies that allowed or denied in this direction, each once.
fn policies<'a>(view: &FlowView<'a>, direction: Direction, denied: bool) -> Value<'a> {
    let flow = view.flow;
    let is_denied = matches!(flow.verdict(), Verdict::DROPPED | Verdict::AUDIT);
    let mut found: Vec<&PolicyOrigin> = Vec::new();
    if flow.direction() == direction && is_denied == denied {
        for origin in origins(view).iter().filter(|origin| !origin.kind.is_empty()) {
            let key = |o: &PolicyOrigin| (o.kind.clone(), o.namespace.clone(), o.name.clone());
            if !found.iter().any(|other| key(other) == key(origin)) {
                found.push(origin);
            }
        }
    }
    Value::List(List::Values(found.into_iter().map(Value::Policy).collect::<Arc<[_]>>()))
}

fn policy_log<'a>(view: &FlowView<'a>) -> Value<'a> {
    let mut texts: Vec<&str> =
        origins(view).iter().map(|origin| origin.log.as_str()).filter(|log| !log.is_empty()).collect();
    texts.dedup();
    Value::List(List::Values(texts.into_iter().map(Value::text).collect()))
}
