//! One event and one directory snapshot give one flow, or two. Pure.

use specola_datapath_common::event::{Event, ct_state, flags as event_flags, kind, match_type, point};
use specola_directory::{Directory, Found};
use specola_flow::{Direction, DropReason, EventType, Flow, TraceReason, Verdict, flags};

/// The flows of one event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Flows {
    /// Always there.
    pub(crate) first: Flow,
    /// The drop that belongs to a denying policy verdict.
    pub(crate) drop: Option<Flow>,
}

/// Why an event gives no flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadRecord {
    /// The kind is not known.
    #[error("unknown event kind {0}")]
    Kind(u8),
    /// A drop without a reason, or a reason beyond 255.
    #[error("verdict {0} is no drop reason")]
    Verdict(i32),
}

impl BadRecord {
    /// A stable, low-cardinality metric label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Kind(_) => "kind",
            Self::Verdict(_) => "verdict",
        }
    }
}

/// Turns an event into flows. `clock_offset_ns` is wall clock less boot clock.
pub(crate) fn convert(
    event: &Event,
    clock_offset_ns: i64,
    directory: &Directory,
) -> Result<Flows, BadRecord> {
    let source = directory.find(event.src_addr, event.src_identity);
    let destination = directory.find(event.dst_addr, event.dst_identity);
    let base = common(event, clock_offset_ns, source, destination);
    match event.kind {
        kind::TRACE => Ok(Flows { first: trace(event, base, source, destination), drop: None }),
        kind::POLICY_VERDICT => policy_verdict(event, base),
        kind::DROP => {
            let reason = drop_reason(event.verdict)?;
            Ok(Flows { first: drop_flow(base, reason), drop: None })
        }
        other => Err(BadRecord::Kind(other)),
    }
}

/// What every kind of event says in the same way.
fn common(event: &Event, clock_offset_ns: i64, source: Found, destination: Found) -> Flow {
    let mut flow = Flow {
        time_ns: event.boot_ns.saturating_add_signed(clock_offset_ns),
        source_addr: event.src_addr,
        destination_addr: event.dst_addr,
        source_meta: source.meta,
        destination_meta: destination.meta,
        source_identity: source.identity,
        destination_identity: destination.identity,
        ifindex: event.ifindex,
        length: event.length,
        cookie: event.cookie,
        revision: event.revision,
        // A fold record stands for this many packets, any other for one.
        folded: event.fold.saturating_sub(1),
        source_endpoint: source.endpoint,
        destination_endpoint: destination.endpoint,
        source_port: event.src_port,
        destination_port: event.dst_port,
        proxy_port: event.proxy_port,
        cpu: event.cpu,
        source_mac: event.src_mac,
        destination_mac: event.dst_mac,
        flags: common_flags(event.flags),
        ip_version: event.ip_version,
        protocol: event.proto,
        tcp_flags: event.tcp_flags,
        icmp_type: event.icmp_type,
        icmp_code: event.icmp_code,
        direction: event.direction,
        ..Flow::default()
    };
    if event.flags & event_flags::COUNTERS != 0 {
        flow.packets_forward = event.packets_fwd;
        flow.packets_reverse = event.packets_rev;
        flow.bytes_forward = event.bytes_fwd;
        flow.bytes_reverse = event.bytes_rev;
        flow.duration_ns = event.boot_ns.saturating_sub(event.created_ns);
    } else if event.fold > 0 {
        flow.bytes_forward = event.bytes_fwd;
    }
    flow
}

fn common_flags(set: u8) -> u16 {
    const PAIRS: [(u8, u16); 5] = [
        (event_flags::COUNTERS, flags::COUNTERS),
        (event_flags::CLOSE, flags::CLOSED),
        (event_flags::MID_STREAM, flags::MID_STREAM),
        (event_flags::FRAGMENT, flags::FRAGMENT),
        (event_flags::BY_AGENT, flags::BY_AGENT),
    ];
    PAIRS.iter().filter(|(bit, _)| set & bit != 0).fold(0, |all, (_, flag)| all | flag)
}

fn trace(event: &Event, base: Flow, source: Found, destination: Found) -> Flow {
    let reason = match event.ct_state {
        ct_state::UNKNOWN => TraceReason::UNKNOWN,
        state @ 0..ct_state::UNKNOWN => TraceReason(state + 1),
        other => TraceReason(other),
    };
    let reply = (event.ct_state < ct_state::UNKNOWN).then_some(event.ct_state == ct_state::REPLY);
    // The sweep of user space knows a connection's addresses only.
    let endpoint =
        match (event.endpoint_id, event.direction) {
            (0, direction) if event.flags & event_flags::BY_AGENT != 0 => {
                if direction == Direction::INGRESS.0 { destination.endpoint } else { source.endpoint }
            }
            (id, _) => id,
        };
    let mut flow = Flow {
        verdict: Verdict::FORWARDED.0,
        event_type: EventType::TRACE.0,
        sub_type: event.obs_point,
        trace_reason: reason.0,
        direction: connection_direction(endpoint, source.endpoint, reply).0,
        proxy_port: if event.obs_point == point::TO_PROXY { event.proxy_port } else { 0 },
        ..base
    };
    flow.set_reply(reply);
    flow
}

/// Direction of the connection relative to the local endpoint, which is how Hubble states it for traces.
fn connection_direction(endpoint: u16, source_endpoint: u16, reply: Option<bool>) -> Direction {
    match reply {
        Some(is_reply) if endpoint != 0 => {
            let is_source = endpoint == source_endpoint;
            if is_source == is_reply { Direction::INGRESS } else { Direction::EGRESS }
        }
        _ => Direction::UNKNOWN,
    }
}

fn policy_verdict(event: &Event, base: Flow) -> Result<Flows, BadRecord> {
    let is_audit = event.flags & event_flags::AUDIT != 0;
    let base = Flow { flags: base.flags | flags::ATTRIBUTED, ..base };
    let mut first =
        Flow { event_type: EventType::POLICY_VERDICT.0, match_type: event.match_type, sub_type: 0, ..base };
    let is_unmatched = event.match_type == match_type::NONE;
    if is_audit && is_unmatched {
        first.flags |= flags::DEFAULT_DENY;
    }
    if event.verdict < 0 && !is_audit {
        let reason = drop_reason(event.verdict)?;
        if reason == DropReason::POLICY_DENIED && is_unmatched {
            first.flags |= flags::DEFAULT_DENY;
        }
        first.verdict = Verdict::DROPPED.0;
        first.drop_reason = reason.0;
        let drop = drop_flow(Flow { flags: first.flags, ..base }, reason);
        return Ok(Flows { first, drop: Some(drop) });
    }
    first.verdict = match event.verdict {
        _ if is_audit => Verdict::AUDIT.0,
        1.. => Verdict::REDIRECTED.0,
        _ => Verdict::FORWARDED.0,
    };
    first.set_reply(Some(false));
    Ok(Flows { first, drop: None })
}

fn drop_flow(base: Flow, reason: DropReason) -> Flow {
    Flow {
        verdict: Verdict::DROPPED.0,
        event_type: EventType::DROP.0,
        sub_type: reason.0,
        drop_reason: reason.0,
        ..base
    }
}

/// Minus a verdict, which must be a number that a reason can have.
fn drop_reason(verdict: i32) -> Result<DropReason, BadRecord> {
    match verdict.checked_neg().map(u8::try_from) {
        Some(Ok(reason)) if reason > 0 => Ok(DropReason(reason)),
        _ => Err(BadRecord::Verdict(verdict)),
    }
}

#[cfg(test)]
mod tests;
