//! The table of filter flags and what each does to a filter.

use std::net::IpAddr;
use std::num::NonZeroU64;

use specola_flow::DropReason;
use specola_labels::NumericIdentity;
use specola_proto::flow::{
    EventTypeFilter, FlowFilter, HttpHeader, IpVersion, NetworkInterface, TcpFlags, TrafficDirection,
    Verdict, Workload,
};

use super::Flag;
use crate::observe::filter::{End, FilterBuilder, InvalidValue, Side};

type Outcome = Result<(), InvalidValue>;

const fn flag(
    name: &'static str,
    side: Side,
    value: &'static str,
    set: fn(&mut FilterBuilder, Side, &str) -> Outcome,
    help: &'static str,
) -> Flag {
    Flag { name, short: None, value: Some(value), help, side, set }
}

const fn switch(
    name: &'static str,
    side: Side,
    set: fn(&mut FilterBuilder, Side, &str) -> Outcome,
    help: &'static str,
) -> Flag {
    Flag { name, short: None, value: None, help, side, set }
}

const fn short(flag: Flag, short: char) -> Flag {
    Flag { short: Some(short), ..flag }
}

/// Every filter flag, in the order of the help.
#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    flag("verdict", Side::Any, "VERDICT", verdict, "Verdict: FORWARDED, DROPPED, AUDIT, REDIRECTED, ERROR, TRACED, TRANSLATED"),
    flag("drop-reason-desc", Side::Any, "REASON", drop_reason, "Drop reason, such as POLICY_DENIED"),
    short(flag("type", Side::Any, "TYPE[:SUB]", event_type, "Event type: drop, trace, policy-verdict, capture, l7, trace-sock, agent, debug or a number; a trace takes an observation point: trace:to-endpoint"), 't'),
    flag("pod", Side::Any, "[NS/]POD", pod, "Pod name prefix, at either end"),
    flag("from-pod", Side::From, "[NS/]POD", pod, "Pod name prefix of the source"),
    flag("to-pod", Side::To, "[NS/]POD", pod, "Pod name prefix of the destination"),
    short(flag("namespace", Side::Any, "NAMESPACE", namespace, "Namespace, at either end"), 'n'),
    flag("from-namespace", Side::From, "NAMESPACE", namespace, "Namespace of the source"),
    flag("to-namespace", Side::To, "NAMESPACE", namespace, "Namespace of the destination"),
    short(switch("all-namespaces", Side::Any, all_namespaces, "Pods of any namespace, at either end"), 'A'),
    switch("from-all-namespaces", Side::From, all_namespaces, "Source is a pod of any namespace"),
    switch("to-all-namespaces", Side::To, all_namespaces, "Destination is a pod of any namespace"),
    flag("ip", Side::Any, "IP|CIDR", ip, "Address or prefix, at either end"),
    flag("from-ip", Side::From, "IP|CIDR", ip, "Address or prefix of the source"),
    flag("to-ip", Side::To, "IP|CIDR", ip, "Address or prefix of the destination"),
    flag("snat-ip", Side::Any, "IP|CIDR", snat_ip, "Source address after translation"),
    short(switch("ipv4", Side::Any, ipv4, "IPv4 only"), '4'),
    short(switch("ipv6", Side::Any, ipv6, "IPv6 only"), '6'),
    flag("ip-version", Side::Any, "none|v4|v6", ip_version, "IP version"),
    flag("port", Side::Any, "PORT", port, "Port, at either end"),
    flag("from-port", Side::From, "PORT", port, "Source port"),
    flag("to-port", Side::To, "PORT", port, "Destination port"),
    flag("protocol", Side::Any, "PROTOCOL", protocol, "Protocol: tcp, udp, sctp, icmp, icmpv4, icmpv6, vrrp, igmp, dns, http"),
    flag("tcp-flags", Side::Any, "FLAGS", tcp_flags, "TCP flags that must all be set, such as SYN,ACK"),
    short(flag("label", Side::Any, "SELECTOR", label, "Label selector, at either end"), 'l'),
    flag("from-label", Side::From, "SELECTOR", label, "Label selector of the source"),
    flag("to-label", Side::To, "SELECTOR", label, "Label selector of the destination"),
    flag("identity", Side::Any, "ID", identity, "Security identity (number or reserved name), at either end"),
    flag("from-identity", Side::From, "ID", identity, "Security identity of the source"),
    flag("to-identity", Side::To, "ID", identity, "Security identity of the destination"),
    flag("workload", Side::Any, "[KIND/]NAME", workload, "Workload, at either end"),
    flag("from-workload", Side::From, "[KIND/]NAME", workload, "Workload of the source"),
    flag("to-workload", Side::To, "[KIND/]NAME", workload, "Workload of the destination"),
    flag("service", Side::Any, "[NS/]SERVICE", service, "Service name prefix, at either end"),
    flag("from-service", Side::From, "[NS/]SERVICE", service, "Service name prefix of the source"),
    flag("to-service", Side::To, "[NS/]SERVICE", service, "Service name prefix of the destination"),
    flag("fqdn", Side::Any, "PATTERN", fqdn, "DNS name, at either end"),
    flag("from-fqdn", Side::From, "PATTERN", fqdn, "DNS name of the source"),
    flag("to-fqdn", Side::To, "PATTERN", fqdn, "DNS name of the destination"),
    flag("cluster", Side::Any, "CLUSTER", cluster, "Cluster name, at either end"),
    flag("from-cluster", Side::From, "CLUSTER", cluster, "Cluster name of the source"),
    flag("to-cluster", Side::To, "CLUSTER", cluster, "Cluster name of the destination"),
    flag("traffic-direction", Side::Any, "ingress|egress", traffic_direction, "Direction, seen from the endpoint"),
    flag("node-name", Side::Any, "[CLUSTER/]NODE", node_name, "Node that saw the flow"),
    flag("node-label", Side::Any, "SELECTOR", node_label, "Label selector of the node that saw the flow"),
    flag("uuid", Side::Any, "UUID", uuid, "Id of a flow"),
    flag("interface", Side::Any, "NAME", interface, "Network interface that saw the flow"),
    switch("encrypted", Side::Any, encrypted, "Packets that were encrypted on the wire"),
    switch("unencrypted", Side::Any, unencrypted, "Packets that were not encrypted on the wire"),
    flag("http-status", Side::Any, "CODE", http_status, "HTTP status, such as 404 or 5+"),
    flag("http-method", Side::Any, "METHOD", http_method, "HTTP method"),
    flag("http-path", Side::Any, "REGEX", http_path, "HTTP path"),
    flag("http-url", Side::Any, "REGEX", http_url, "HTTP URL"),
    flag("http-header", Side::Any, "KEY:VALUE", http_header, "HTTP header"),
    flag("trace-id", Side::Any, "ID", trace_id, "W3C trace id"),
    flag("ip-trace-id", Side::Any, "ID", ip_trace_id, "Trace id of an IP option"),
    flag("cel-expression", Side::Any, "CEL", cel_expression, "CEL expression over the flow, `_flow`"),
];

/// Adds a value to a repeated text field of the source or the destination.
fn add(
    builder: &mut FilterBuilder,
    side: Side,
    value: &str,
    field: fn(&mut FlowFilter, End) -> &mut Vec<String>,
) -> Outcome {
    builder.each(side, |filter, end| field(filter, end).push(value.to_owned()));
    Ok(())
}

fn verdict(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let verdict = Verdict::from_str_name(&value.to_ascii_uppercase()).ok_or_else(|| {
        InvalidValue::new(
            "is no verdict; use FORWARDED, DROPPED, AUDIT, REDIRECTED, ERROR, TRACED or TRANSLATED",
        )
    })?;
    builder.both(|filter| filter.verdict.push(verdict.into()));
    Ok(())
}

fn drop_reason(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let reason = DropReason::from_name(&value.to_ascii_uppercase().replace('-', "_")).ok_or_else(|| {
        InvalidValue::new("is no drop reason; use a name such as POLICY_DENIED or POLICY_DENY")
    })?;
    builder.both(|filter| filter.drop_reason_desc.push(i32::from(reason.0)));
    Ok(())
}

fn event_type(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let (kind, sub) = value.split_once(':').map_or((value, None), |(kind, sub)| (kind, Some(sub)));
    let number = EVENT_TYPES.iter().find(|(name, _)| *name == kind).map(|(_, number)| *number);
    let number = number.or_else(|| kind.parse().ok()).ok_or_else(|| {
        InvalidValue::new("is no event type; use drop, trace, policy-verdict, capture, l7, trace-sock, agent, debug or a number")
    })?;
    let sub_type = sub.map(|sub| sub_type(number, sub)).transpose()?;
    let filter = EventTypeFilter {
        r#type: number,
        match_sub_type: sub_type.is_some(),
        sub_type: sub_type.unwrap_or_default(),
    };
    builder.both(|flows| flows.event_type.push(filter));
    Ok(())
}

fn sub_type(kind: i32, text: &str) -> Result<i32, InvalidValue> {
    let names: &[&str] = match kind {
        TRACE => &TRACE_POINTS,
        AGENT => &AGENT_NOTIFICATIONS,
        _ => &[],
    };
    let named = names.iter().position(|name| *name == text).and_then(|at| i32::try_from(at).ok());
    named.or_else(|| text.parse().ok()).ok_or_else(|| {
        let known =
            if names.is_empty() { "a number".to_owned() } else { format!("one of {}", names.join(", ")) };
        InvalidValue::new(format!("has an unknown sub type; use {known}"))
    })
}

fn pod(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    builder.names(side, |names| names.pods.push(value.to_owned()));
    Ok(())
}

fn service(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    builder.names(side, |names| names.services.push(value.to_owned()));
    Ok(())
}

fn namespace(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    if value.is_empty() || value.contains('/') {
        return Err(InvalidValue::new("is no namespace"));
    }
    builder.names(side, |names| names.namespaces.push(value.to_owned()));
    Ok(())
}

fn all_namespaces(builder: &mut FilterBuilder, side: Side, _: &str) -> Outcome {
    builder.names(side, |names| names.namespaces.push(String::new()));
    Ok(())
}

fn ip(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    let value = address(value)?;
    add(builder, side, &value, |filter, end| match end {
        End::Source => &mut filter.source_ip,
        End::Destination => &mut filter.destination_ip,
    })
}

fn snat_ip(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let value = address(value)?;
    builder.both(|filter| filter.source_ip_xlated.push(value.clone()));
    Ok(())
}

/// The address or prefix in its canonical text: a server compares addresses as text.
fn address(text: &str) -> Result<String, InvalidValue> {
    let canonical = match text.split_once('/') {
        None => text.parse::<IpAddr>().ok().map(|ip| ip.to_string()),
        Some((ip, length)) => prefix(ip, length),
    };
    canonical.ok_or_else(|| InvalidValue::new("is no IP address or prefix, such as 10.0.0.1 or 10.0.0.0/8"))
}

fn prefix(ip: &str, length: &str) -> Option<String> {
    let ip: IpAddr = ip.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    (length <= longest).then(|| format!("{ip}/{length}"))
}

fn ipv4(builder: &mut FilterBuilder, side: Side, _: &str) -> Outcome {
    ip_version(builder, side, "v4")
}

fn ipv6(builder: &mut FilterBuilder, side: Side, _: &str) -> Outcome {
    ip_version(builder, side, "v6")
}

fn ip_version(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let version = match value.to_ascii_lowercase().as_str() {
        "none" => IpVersion::IpNotUsed,
        "4" | "v4" | "ipv4" => IpVersion::IPv4,
        "6" | "v6" | "ipv6" => IpVersion::IPv6,
        _ => return Err(InvalidValue::new("is no IP version; use none, v4 or v6")),
    };
    builder.both(|filter| filter.ip_version.push(version.into()));
    Ok(())
}

fn port(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    let port: u16 = value.parse().ok().ok_or_else(|| InvalidValue::new("is no port, 0 to 65535"))?;
    add(builder, side, &port.to_string(), |filter, end| match end {
        End::Source => &mut filter.source_port,
        End::Destination => &mut filter.destination_port,
    })
}

fn protocol(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let value = value.to_ascii_lowercase();
    if !PROTOCOLS.contains(&value.as_str()) {
        return Err(InvalidValue::new(format!("is no protocol; use one of {}", PROTOCOLS.join(", "))));
    }
    builder.both(|filter| filter.protocol.push(value.clone()));
    Ok(())
}

fn tcp_flags(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let mut flags = TcpFlags::default();
    for name in value.split(',') {
        let flag = match name.trim().to_ascii_uppercase().as_str() {
            "FIN" => &mut flags.fin,
            "SYN" => &mut flags.syn,
            "RST" => &mut flags.rst,
            "PSH" => &mut flags.psh,
            "ACK" => &mut flags.ack,
            "URG" => &mut flags.urg,
            "ECE" => &mut flags.ece,
            "CWR" => &mut flags.cwr,
            "NS" => &mut flags.ns,
            _ => {
                return Err(InvalidValue::new(
                    "names an unknown flag; use FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, NS",
                ));
            }
        };
        *flag = true;
    }
    builder.both(|filter| filter.tcp_flags.push(flags));
    Ok(())
}

fn label(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    add(builder, side, value, |filter, end| match end {
        End::Source => &mut filter.source_label,
        End::Destination => &mut filter.destination_label,
    })
}

fn identity(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    let named = NumericIdentity::from_reserved_name(value).map(|identity| identity.0);
    let number = named.or_else(|| value.parse().ok()).ok_or_else(|| {
        InvalidValue::new("is no identity; use a number or a reserved name such as host, world, remote-node")
    })?;
    builder.each(side, |filter, end| match end {
        End::Source => filter.source_identity.push(number),
        End::Destination => filter.destination_identity.push(number),
    });
    Ok(())
}

fn workload(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    let (kind, name) = value.split_once('/').unwrap_or(("", value));
    if kind.is_empty() && name.is_empty() {
        return Err(InvalidValue::new("names no workload; use NAME or KIND/NAME"));
    }
    let workload = Workload { name: name.to_owned(), kind: kind.to_owned() };
    builder.each(side, |filter, end| match end {
        End::Source => filter.source_workload.push(workload.clone()),
        End::Destination => filter.destination_workload.push(workload.clone()),
    });
    Ok(())
}

fn fqdn(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    add(builder, side, value, |filter, end| match end {
        End::Source => &mut filter.source_fqdn,
        End::Destination => &mut filter.destination_fqdn,
    })
}

fn cluster(builder: &mut FilterBuilder, side: Side, value: &str) -> Outcome {
    add(builder, side, value, |filter, end| match end {
        End::Source => &mut filter.source_cluster_name,
        End::Destination => &mut filter.destination_cluster_name,
    })
}

fn traffic_direction(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let direction = match value.to_ascii_lowercase().as_str() {
        "ingress" => TrafficDirection::Ingress,
        "egress" => TrafficDirection::Egress,
        _ => return Err(InvalidValue::new("is no direction; use ingress or egress")),
    };
    builder.both(|filter| filter.traffic_direction.push(direction.into()));
    Ok(())
}

fn node_name(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.node_name.push(value.to_owned()));
    Ok(())
}

fn node_label(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.node_labels.push(value.to_owned()));
    Ok(())
}

fn uuid(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.uuid.push(value.to_owned()));
    Ok(())
}

fn interface(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let interface = NetworkInterface { index: 0, name: value.to_owned() };
    builder.both(|filter| filter.interface.push(interface.clone()));
    Ok(())
}

fn encrypted(builder: &mut FilterBuilder, _: Side, _: &str) -> Outcome {
    builder.both(|filter| filter.encrypted.push(true));
    Ok(())
}

fn unencrypted(builder: &mut FilterBuilder, _: Side, _: &str) -> Outcome {
    builder.both(|filter| filter.encrypted.push(false));
    Ok(())
}

fn http_status(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.http_status_code.push(value.to_owned()));
    Ok(())
}

fn http_method(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.http_method.push(value.to_owned()));
    Ok(())
}

fn http_path(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.http_path.push(value.to_owned()));
    Ok(())
}

fn http_url(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.http_url.push(value.to_owned()));
    Ok(())
}

fn http_header(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let (key, value) =
        value.split_once(':').ok_or_else(|| InvalidValue::new("is no header; use KEY:VALUE"))?;
    let header = HttpHeader { key: key.to_owned(), value: value.trim_start().to_owned() };
    builder.both(|filter| filter.http_header.push(header.clone()));
    Ok(())
}

fn trace_id(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.trace_id.push(value.to_owned()));
    Ok(())
}

fn ip_trace_id(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let id: NonZeroU64 =
        value.parse().ok().ok_or_else(|| InvalidValue::new("is no trace id, a number above 0"))?;
    builder.both(|filter| filter.ip_trace_id.push(id.get()));
    Ok(())
}

fn cel_expression(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| {
        filter.experimental.get_or_insert_default().cel_expression.push(value.to_owned());
    });
    Ok(())
}

const TRACE: i32 = 4;
const AGENT: i32 = 130;

const EVENT_TYPES: [(&str, i32); 8] = [
    ("drop", 1),
    ("debug", 2),
    ("capture", 3),
    ("trace", TRACE),
    ("policy-verdict", 5),
    ("trace-sock", 7),
    ("l7", 129),
    ("agent", AGENT),
];

const TRACE_POINTS: [&str; 14] = [
    "to-endpoint",
    "to-proxy",
    "to-host",
    "to-stack",
    "to-overlay",
    "from-endpoint",
    "from-proxy",
    "from-host",
    "from-stack",
    "from-overlay",
    "from-network",
    "to-network",
    "from-crypto",
    "to-crypto",
];

const AGENT_NOTIFICATIONS: [&str; 11] = [
    "unspecified",
    "message",
    "agent-started",
    "endpoint-regenerate-success",
    "endpoint-regenerate-failure",
    "policy-updated",
    "policy-deleted",
    "endpoint-created",
    "endpoint-deleted",
    "ipcache-upserted",
    "ipcache-deleted",
];

const PROTOCOLS: [&str; 11] =
    ["tcp", "udp", "sctp", "icmp", "icmpv4", "icmpv6", "vrrp", "igmp", "dns", "http", "kafka"];
