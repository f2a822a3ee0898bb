//! The kind of a flow as text.

use specola_flow::DropReason;
use specola_proto::flow::{
    CiliumEventType, DebugCapturePoint, Flow, FlowType, L7FlowType, SocketTranslationPoint, TrafficDirection,
    layer7,
};

/// Text of the TYPE column.
pub(super) fn text(flow: &Flow) -> String {
    if flow.r#type == i32::from(FlowType::L7) {
        return application(flow);
    }
    let Some(CiliumEventType { r#type, sub_type }) = flow.event_type else { return UNKNOWN.to_owned() };
    match r#type {
        DROP => drop_text(sub_type),
        CAPTURE => DebugCapturePoint::try_from(flow.debug_capture_point)
            .map_or_else(|_unknown| UNKNOWN.to_owned(), |point| point.as_str_name().to_owned()),
        TRACE => usize::try_from(sub_type)
            .ok()
            .and_then(|at| TRACE_POINTS.get(at))
            .map_or(sub_type.to_string(), |point| (*point).to_owned()),
        POLICY_VERDICT => {
            let direction = TrafficDirection::try_from(flow.traffic_direction)
                .map_or(TrafficDirection::Unknown.as_str_name(), |direction| direction.as_str_name());
            format!("policy-verdict:{} {direction}", match_text(flow.policy_match_type))
        }
        TRACE_SOCK => socket_text(flow.sock_xlate_point).to_owned(),
        _ => UNKNOWN.to_owned(),
    }
}

/// Whether the flow is a policy verdict.
pub(super) fn is_policy_verdict(flow: &Flow) -> bool {
    flow.event_type.is_some_and(|event| event.r#type == POLICY_VERDICT)
}

fn application(flow: &Flow) -> String {
    let Some(l7) = &flow.l7 else { return UNKNOWN.to_owned() };
    let suffix = match L7FlowType::try_from(l7.r#type) {
        Ok(L7FlowType::Request) => "request",
        Ok(L7FlowType::Response) => "response",
        Ok(L7FlowType::Sample) => "sample",
        _ => "unknown",
    };
    match &l7.record {
        Some(layer7::Record::Http(_)) => format!("http-{suffix}"),
        Some(layer7::Record::Kafka(_)) => format!("kafka-{suffix}"),
        Some(layer7::Record::Dns(dns)) if dns.observation_source.is_empty() => format!("dns-{suffix}"),
        Some(layer7::Record::Dns(dns)) => format!("dns-{suffix} {}", dns.observation_source),
        None => format!("l7-{suffix}"),
    }
}

fn drop_text(reason: i32) -> String {
    u8::try_from(reason).map_or_else(|_error| format!("{reason}, 0"), |reason| DropReason(reason).to_string())
}

const fn match_text(match_type: u32) -> &'static str {
    match match_type {
        0 => "none",
        1 => "L3-Only",
        2 => "L3-L4",
        3 => "L4-Only",
        4 => "all",
        5 => "L3-Proto",
        6 => "Proto-Only",
        _ => "unknown",
    }
}

fn socket_text(point: i32) -> &'static str {
    match SocketTranslationPoint::try_from(point) {
        Ok(SocketTranslationPoint::SockXlatePointPreDirectionFwd) => "pre-xlate-fwd",
        Ok(SocketTranslationPoint::SockXlatePointPostDirectionFwd) => "post-xlate-fwd",
        Ok(SocketTranslationPoint::SockXlatePointPreDirectionRev) => "pre-xlate-rev",
        Ok(SocketTranslationPoint::SockXlatePointPostDirectionRev) => "post-xlate-rev",
        Ok(unknown) => unknown.as_str_name(),
        Err(_) => UNKNOWN,
    }
}

const UNKNOWN: &str = "UNKNOWN";
const DROP: i32 = 1;
const CAPTURE: i32 = 3;
const TRACE: i32 = 4;
const POLICY_VERDICT: i32 = 5;
const TRACE_SOCK: i32 = 7;

/// Observation points by their number.
pub(crate) const TRACE_POINTS: [&str; 14] = [
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
