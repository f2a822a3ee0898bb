//! Filters by what is true of a flow as a whole.

use std::num::NonZeroU64;

use specola_flow::DropReason;
use specola_proto::flow::{
    EventTypeFilter, HttpHeader, IpVersion, NetworkInterface, TcpFlags, TrafficDirection, Verdict,
};

use crate::observe::filter::{FilterBuilder, InvalidValue, Outcome, Side};
use crate::printer::TRACE_POINTS;

pub(super) fn verdict(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let verdict = Verdict::from_str_name(&value.to_ascii_uppercase()).ok_or_else(|| {
        InvalidValue::new(
            "is no verdict; use FORWARDED, DROPPED, AUDIT, REDIRECTED, ERROR, TRACED or TRANSLATED",
        )
    })?;
    builder.both(|filter| filter.verdict.push(verdict.into()));
    Ok(())
}

pub(super) fn drop_reason(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let reason = DropReason::from_name(&value.to_ascii_uppercase().replace('-', "_")).ok_or_else(|| {
        InvalidValue::new("is no drop reason; use a name such as POLICY_DENIED or POLICY_DENY")
    })?;
    builder.both(|filter| filter.drop_reason_desc.push(i32::from(reason.0)));
    Ok(())
}

pub(super) fn event_type(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
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

pub(super) fn ipv4(builder: &mut FilterBuilder, side: Side, _: &str) -> Outcome {
    ip_version(builder, side, "v4")
}

pub(super) fn ipv6(builder: &mut FilterBuilder, side: Side, _: &str) -> Outcome {
    ip_version(builder, side, "v6")
}

pub(super) fn ip_version(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let version = match value.to_ascii_lowercase().as_str() {
        "none" => IpVersion::IpNotUsed,
        "4" | "v4" | "ipv4" => IpVersion::IPv4,
        "6" | "v6" | "ipv6" => IpVersion::IPv6,
        _ => return Err(InvalidValue::new("is no IP version; use none, v4 or v6")),
    };
    builder.both(|filter| filter.ip_version.push(version.into()));
    Ok(())
}

pub(super) fn protocol(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let value = value.to_ascii_lowercase();
    if !PROTOCOLS.contains(&value.as_str()) {
        return Err(InvalidValue::new(format!("is no protocol; use one of {}", PROTOCOLS.join(", "))));
    }
    builder.both(|filter| filter.protocol.push(value.clone()));
    Ok(())
}

pub(super) fn tcp_flags(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
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

pub(super) fn traffic_direction(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let direction = match value.to_ascii_lowercase().as_str() {
        "ingress" => TrafficDirection::Ingress,
        "egress" => TrafficDirection::Egress,
        _ => return Err(InvalidValue::new("is no direction; use ingress or egress")),
    };
    builder.both(|filter| filter.traffic_direction.push(direction.into()));
    Ok(())
}

pub(super) fn node_name(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.node_name.push(value.to_owned()));
    Ok(())
}

pub(super) fn node_label(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.node_labels.push(value.to_owned()));
    Ok(())
}

pub(super) fn uuid(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.uuid.push(value.to_owned()));
    Ok(())
}

pub(super) fn interface(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let interface = NetworkInterface { index: 0, name: value.to_owned() };
    builder.both(|filter| filter.interface.push(interface.clone()));
    Ok(())
}

pub(super) fn encrypted(builder: &mut FilterBuilder, _: Side, _: &str) -> Outcome {
    builder.both(|filter| filter.encrypted.push(true));
    Ok(())
}

pub(super) fn unencrypted(builder: &mut FilterBuilder, _: Side, _: &str) -> Outcome {
    builder.both(|filter| filter.encrypted.push(false));
    Ok(())
}

pub(super) fn trace_id(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.trace_id.push(value.to_owned()));
    Ok(())
}

pub(super) fn ip_trace_id(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let id: NonZeroU64 =
        value.parse().ok().ok_or_else(|| InvalidValue::new("is no trace id, a number above 0"))?;
    builder.both(|filter| filter.ip_trace_id.push(id.get()));
    Ok(())
}

pub(super) fn cel_expression(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| {
        filter.experimental.get_or_insert_default().cel_expression.push(value.to_owned());
    });
    Ok(())
}

pub(super) fn http_status(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.http_status_code.push(value.to_owned()));
    Ok(())
}

pub(super) fn http_method(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.http_method.push(value.to_owned()));
    Ok(())
}

pub(super) fn http_path(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.http_path.push(value.to_owned()));
    Ok(())
}

pub(super) fn http_url(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    builder.both(|filter| filter.http_url.push(value.to_owned()));
    Ok(())
}

pub(super) fn http_header(builder: &mut FilterBuilder, _: Side, value: &str) -> Outcome {
    let (key, value) =
        value.split_once(':').ok_or_else(|| InvalidValue::new("is no header; use KEY:VALUE"))?;
    let header = HttpHeader { key: key.to_owned(), value: value.trim_start().to_owned() };
    builder.both(|filter| filter.http_header.push(header.clone()));
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
