//! The table of filter flags.

use super::{Flag, Setter, ends, facts};
use crate::observe::filter::Side;

/// Every filter flag, in the order of the help.
#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    flag("verdict", Side::Any, "VERDICT", facts::verdict, "Verdict: FORWARDED, DROPPED, AUDIT, REDIRECTED, ERROR, TRACED, TRANSLATED"),
    flag("drop-reason-desc", Side::Any, "REASON", facts::drop_reason, "Drop reason, such as POLICY_DENIED"),
    short(flag("type", Side::Any, "TYPE[:SUB]", facts::event_type, "Event type: drop, trace, policy-verdict, capture, l7, trace-sock, agent, debug or a number; a trace takes an observation point: trace:to-endpoint"), 't'),
    flag("pod", Side::Any, "[NS/]POD", ends::pod, "Pod name prefix, at either end"),
    flag("from-pod", Side::From, "[NS/]POD", ends::pod, "Pod name prefix of the source"),
    flag("to-pod", Side::To, "[NS/]POD", ends::pod, "Pod name prefix of the destination"),
    short(flag("namespace", Side::Any, "NAMESPACE", ends::namespace, "Namespace, at either end"), 'n'),
    flag("from-namespace", Side::From, "NAMESPACE", ends::namespace, "Namespace of the source"),
    flag("to-namespace", Side::To, "NAMESPACE", ends::namespace, "Namespace of the destination"),
    short(switch("all-namespaces", Side::Any, ends::all_namespaces, "Pods of any namespace, at either end"), 'A'),
    switch("from-all-namespaces", Side::From, ends::all_namespaces, "Source is a pod of any namespace"),
    switch("to-all-namespaces", Side::To, ends::all_namespaces, "Destination is a pod of any namespace"),
    flag("ip", Side::Any, "IP|CIDR", ends::ip, "Address or prefix, at either end"),
    flag("from-ip", Side::From, "IP|CIDR", ends::ip, "Address or prefix of the source"),
    flag("to-ip", Side::To, "IP|CIDR", ends::ip, "Address or prefix of the destination"),
    flag("snat-ip", Side::Any, "IP|CIDR", ends::snat_ip, "Source address after translation"),
    short(switch("ipv4", Side::Any, facts::ipv4, "IPv4 only"), '4'),
    short(switch("ipv6", Side::Any, facts::ipv6, "IPv6 only"), '6'),
    flag("ip-version", Side::Any, "none|v4|v6", facts::ip_version, "IP version"),
    flag("port", Side::Any, "PORT", ends::port, "Port, at either end"),
    flag("from-port", Side::From, "PORT", ends::port, "Source port"),
    flag("to-port", Side::To, "PORT", ends::port, "Destination port"),
    flag("protocol", Side::Any, "PROTOCOL", facts::protocol, "Protocol: tcp, udp, sctp, icmp, icmpv4, icmpv6, vrrp, igmp, dns, http"),
    flag("tcp-flags", Side::Any, "FLAGS", facts::tcp_flags, "TCP flags that must all be set, such as SYN,ACK"),
    short(flag("label", Side::Any, "SELECTOR", ends::label, "Label selector, at either end"), 'l'),
    flag("from-label", Side::From, "SELECTOR", ends::label, "Label selector of the source"),
    flag("to-label", Side::To, "SELECTOR", ends::label, "Label selector of the destination"),
    flag("identity", Side::Any, "ID", ends::identity, "Security identity (number or reserved name), at either end"),
    flag("from-identity", Side::From, "ID", ends::identity, "Security identity of the source"),
    flag("to-identity", Side::To, "ID", ends::identity, "Security identity of the destination"),
    flag("workload", Side::Any, "[KIND/]NAME", ends::workload, "Workload, at either end"),
    flag("from-workload", Side::From, "[KIND/]NAME", ends::workload, "Workload of the source"),
    flag("to-workload", Side::To, "[KIND/]NAME", ends::workload, "Workload of the destination"),
    flag("service", Side::Any, "[NS/]SERVICE", ends::service, "Service name prefix, at either end"),
    flag("from-service", Side::From, "[NS/]SERVICE", ends::service, "Service name prefix of the source"),
    flag("to-service", Side::To, "[NS/]SERVICE", ends::service, "Service name prefix of the destination"),
    flag("fqdn", Side::Any, "PATTERN", ends::fqdn, "DNS name, at either end"),
    flag("from-fqdn", Side::From, "PATTERN", ends::fqdn, "DNS name of the source"),
    flag("to-fqdn", Side::To, "PATTERN", ends::fqdn, "DNS name of the destination"),
    flag("cluster", Side::Any, "CLUSTER", ends::cluster, "Cluster name, at either end"),
    flag("from-cluster", Side::From, "CLUSTER", ends::cluster, "Cluster name of the source"),
    flag("to-cluster", Side::To, "CLUSTER", ends::cluster, "Cluster name of the destination"),
    flag("traffic-direction", Side::Any, "ingress|egress", facts::traffic_direction, "Direction, seen from the endpoint"),
    flag("node-name", Side::Any, "[CLUSTER/]NODE", facts::node_name, "Node that saw the flow"),
    flag("node-label", Side::Any, "SELECTOR", facts::node_label, "Label selector of the node that saw the flow"),
    flag("uuid", Side::Any, "UUID", facts::uuid, "Id of a flow"),
    flag("interface", Side::Any, "NAME", facts::interface, "Network interface that saw the flow"),
    switch("encrypted", Side::Any, facts::encrypted, "Packets that were encrypted on the wire"),
    switch("unencrypted", Side::Any, facts::unencrypted, "Packets that were not encrypted on the wire"),
    flag("http-status", Side::Any, "CODE", facts::http_status, "HTTP status, such as 404 or 5+"),
    flag("http-method", Side::Any, "METHOD", facts::http_method, "HTTP method"),
    flag("http-path", Side::Any, "REGEX", facts::http_path, "HTTP path"),
    flag("http-url", Side::Any, "REGEX", facts::http_url, "HTTP URL"),
    flag("http-header", Side::Any, "KEY:VALUE", facts::http_header, "HTTP header"),
    flag("trace-id", Side::Any, "ID", facts::trace_id, "W3C trace id"),
    flag("ip-trace-id", Side::Any, "ID", facts::ip_trace_id, "Trace id of an IP option"),
    flag("cel-expression", Side::Any, "CEL", facts::cel_expression, "CEL expression over the flow, `_flow`"),
];

const fn flag(name: &'static str, side: Side, value: &'static str, set: Setter, help: &'static str) -> Flag {
    Flag { name, short: None, value: Some(value), help, side, set }
}

const fn switch(name: &'static str, side: Side, set: Setter, help: &'static str) -> Flag {
    Flag { name, short: None, value: None, help, side, set }
}

const fn short(flag: Flag, short: char) -> Flag {
    Flag { short: Some(short), ..flag }
}
