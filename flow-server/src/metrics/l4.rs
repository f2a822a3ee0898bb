//! Metrics of packets and connections.

use specola_flow::{Direction, DropReason, EventType, FlowView, Side, Summary, Verdict, protocol};
use specola_proto::flow::L7FlowType;

use super::{
    config::{MetricName, MetricSpec},
    context::labels,
    handler::{Handler, few, layer7, layer7_name, protocol_name, write_type},
    table::{Key, Kind, Label, Table},
};

/// The family of a metric of this kind.
pub(super) fn tables(spec: &MetricSpec) -> Vec<Table> {
    let (name, help, labels) = match spec.name {
        MetricName::Drop => ("drop", "Dropped packets", few(["reason", "protocol"])),
        MetricName::Flow => ("flows_processed", "Flows", few(["protocol", "type", "subtype", "verdict"])),
        MetricName::FlowsToWorld => {
            let mut labels = few(["protocol", "verdict"]);
            labels.extend(spec.options.port.then_some(Label::many("port")));
            ("flows_to_world", "Flows to the outside of the cluster", labels)
        }
        MetricName::Icmp => ("icmp", "ICMP messages", few(["family", "type"])),
        MetricName::Policy => {
            ("policy_verdicts", "Verdicts of policies", few(["direction", "match", "action"]))
        }
        MetricName::PortDistribution => (
            "port_distribution",
            "Packets by destination port",
            vec![Label::few("protocol"), Label::many("port")],
        ),
        MetricName::Tcp => ("tcp_flags", "Packets by TCP flag", few(["flag", "family"])),
        MetricName::Dns | MetricName::Http | MetricName::HttpV2 | MetricName::Kafka => return Vec::new(),
    };
    vec![Table::new((name, help, Kind::Counter), labels, false)]
}

pub(super) fn drop(handler: &mut Handler, view: &FlowView<'_>) {
    if view.flow.verdict() != Verdict::DROPPED {
        return;
    }
    handler.count(0, view, |key| {
        let reason = view.flow.drop_reason();
        match reason.name() {
            Some(name) => key.value(name),
            None => key.print(reason.0),
        }
        key.value(protocol_name(view));
    });
}

pub(super) fn flow(handler: &mut Handler, view: &FlowView<'_>) {
    handler.count(0, view, |key| {
        key.value(protocol_name(view));
        write_type(view, key);
        key.print(view.flow.verdict());
    });
}

/// Text of the labels that say: not in the cluster.
const WORLD: [&str; 3] = ["reserved:world", "reserved:world-ipv4", "reserved:world-ipv6"];

pub(super) fn flows_to_world(handler: &mut Handler, view: &FlowView<'_>) {
    let (flow, options) = (view.flow, handler.spec.options);
    let is_world = labels(view, Side::Destination).iter().any(|label| WORLD.contains(&label.as_str()));
    if !is_world || flow.ip_version == 0 {
        return;
    }
    let is_dropped = flow.verdict() == Verdict::DROPPED;
    let is_reply = flow.is_reply() == Some(true);
    if is_dropped && !options.any_drop && flow.drop_reason() != DropReason::POLICY_DENIED {
        return;
    }
    if !is_dropped && is_reply {
        return;
    }
    let opens = flow.tcp_flags & SYN != 0 && !is_reply;
    if options.syn_only && flow.protocol == protocol::TCP && !opens {
        return;
    }
    handler.count(0, view, |key| {
        key.value(protocol_name(view));
        key.print(flow.verdict());
        if options.port {
            if flow.has_ports() { key.print(flow.destination_port) } else { key.value("") }
        }
    });
}

pub(super) fn icmp(handler: &mut Handler, view: &FlowView<'_>) {
    let flow = view.flow;
    let prefix = match (flow.ip_version, flow.protocol) {
        (4 | 6, protocol::ICMP) => "ICMPv4 ",
        (4 | 6, protocol::ICMPV6) => "ICMPv6 ",
        _ => return,
    };
    handler.count(0, view, |key| {
        key.value(if flow.protocol == protocol::ICMP { "IPv4" } else { "IPv6" });
        // The summary of such a packet is its protocol and the name of its type.
        key.print_without(prefix, Summary(flow));
    });
}

pub(super) fn policy(handler: &mut Handler, view: &FlowView<'_>) {
    const HOST: u32 = 1;
    let flow = view.flow;
    let is_request = || layer7(view).is_some_and(|l7| l7.r#type() != L7FlowType::Sample);
    let l7_match = match flow.event_type() {
        EventType::POLICY_VERDICT => None,
        EventType::L7 if is_request() => layer7_name(view),
        _ => return,
    };
    if flow.source_identity == HOST {
        return;
    }
    handler.count(0, view, |key| {
        key.value(match flow.direction() {
            Direction::INGRESS => "ingress",
            Direction::EGRESS => "egress",
            _ => "traffic_direction_unknown",
        });
        match l7_match {
            Some("DNS") => key.value("l7/dns"),
            Some("HTTP") => key.value("l7/http"),
            Some(_) => key.value("l7/kafka"),
            None => lower(key, flow.match_type().name()),
        }
        lower(key, flow.verdict().name());
    });
}

fn lower(key: &mut Key, name: Option<&str>) {
    for letter in name.unwrap_or("unknown").bytes() {
        key.push(char::from(letter.to_ascii_lowercase()).encode_utf8(&mut [0; 4]));
    }
    key.end();
}

pub(super) fn port_distribution(handler: &mut Handler, view: &FlowView<'_>) {
    let flow = view.flow;
    if !has_passed(view) || flow.is_reply() != Some(false) {
        return;
    }
    let port = match flow.protocol {
        _ if flow.has_ports() => flow.destination_port,
        protocol::ICMP | protocol::ICMPV6 if flow.ip_version != 0 => 0,
        _ => return,
    };
    handler.count(0, view, |key| {
        key.value(protocol_name(view));
        key.print(port);
    });
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

pub(super) fn tcp(handler: &mut Handler, view: &FlowView<'_>) {
    let flow = view.flow;
    let is_tcp = matches!(flow.ip_version, 4 | 6) && flow.protocol == protocol::TCP;
    if !is_tcp || !has_passed(view) {
        return;
    }
    let syn = if flow.tcp_flags & ACK != 0 { "SYN-ACK" } else { "SYN" };
    for (bit, name) in [(FIN, "FIN"), (SYN, syn), (RST, "RST")] {
        if flow.tcp_flags & bit != 0 {
            handler.count(0, view, |key| {
                key.value(name);
                key.value(if flow.ip_version == 4 { "IPv4" } else { "IPv6" });
            });
        }
    }
}

fn has_passed(view: &FlowView<'_>) -> bool {
    matches!(view.flow.verdict(), Verdict::FORWARDED | Verdict::REDIRECTED)
}
