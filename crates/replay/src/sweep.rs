//! Connections that end without a packet that says so.

use specola_datapath_common::{
    IPV4, IPV6,
    conntrack::{CtKey6, CtValue, NO_SLOT, SIDE_INITIATOR, SIDE_RESPONDER, ZONE_HOST, state},
    direction,
    event::{Event, ct_state, flags, kind, lane, point},
    proto,
};

use crate::datapath::Datapath;

/// Time between two sweeps, ns of the packets' time.
const PERIOD_NS: u64 = 10_000_000_000;

/// When connections were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sweeps {
    /// When the next sweep is due; 0 = no packet came yet.
    next_ns: u64,
}

impl Datapath {
    /// Takes the time of a packet, and reports the connections that ended by it.
    pub(crate) fn tick(&mut self, time_ns: u64, out: &mut Vec<Event>) {
        self.now_ns = self.now_ns.max(time_ns);
        let due = self.sweeps.next_ns;
        if due == 0 {
            self.sweeps.next_ns = self.now_ns.saturating_add(PERIOD_NS);
        } else if self.now_ns >= due {
            // Of several that are due after a pause the last says all.
            let at = self.now_ns - (self.now_ns - due) % PERIOD_NS;
            self.sweeps.next_ns = at.saturating_add(PERIOD_NS);
            self.sweep(at, out);
        }
    }

    /// Ends the replay: appends records of what connections that are still open have not reported yet.
    pub fn finish(&mut self, out: &mut Vec<Event>) {
        let open = self
            .connections
            .iter()
            .filter(|(_, value)| value.state != state::CLOSED && value.bytes != value.reported_bytes);
        let first = out.len();
        out.extend(open.map(|(key, value)| last_record(key, value, self.now_ns, 0)));
        self.number(out, first);
    }

    fn sweep(&mut self, at_ns: u64, out: &mut Vec<Event>) {
        let first = out.len();
        self.connections.sweep(at_ns, |key, value| {
            if value.state != state::CLOSED {
                out.push(last_record(key, value, at_ns, flags::CLOSE));
            }
        });
        self.number(out, first);
    }

    /// Numbers records that were not made by a packet.
    fn number(&mut self, out: &mut [Event], first: usize) {
        for event in &mut out[first..] {
            let seq = &mut self.lane_seq[usize::from(lane::TRACE)];
            *seq = seq.wrapping_add(1);
            event.lane_seq = *seq;
        }
    }
}

/// The record of a connection's counters that no packet gave occasion to. Identities are 0 and endpoint ids are 0: they
/// follow from the addresses.
fn last_record(key: &CtKey6, value: &CtValue, time_ns: u64, bits: u8) -> Event {
    let (low, high) = ((key.lo_addr, key.lo_port), (key.hi_addr, key.hi_port));
    let (initiator, responder) = if value.initiator == 0 { (low, high) } else { (high, low) };
    let slot = |side: usize| match value.sides[side] {
        side if side.stamp != 0 && side.slot != 0 => side.slot,
        _ => NO_SLOT,
    };
    let (slot, direction, obs_point) = match (slot(SIDE_INITIATOR), slot(SIDE_RESPONDER)) {
        _ if key.zone == ZONE_HOST => (0, direction::UNKNOWN, point::FROM_NETWORK),
        (NO_SLOT, NO_SLOT) => (0, direction::INGRESS, point::TO_ENDPOINT),
        (slot, NO_SLOT) => (slot, direction::EGRESS, point::TO_STACK),
        (_, slot) => (slot, direction::INGRESS, point::TO_ENDPOINT),
    };
    let has_ports = matches!(key.proto, proto::TCP | proto::UDP | proto::SCTP);
    let port = |port| if has_ports { port } else { 0 };
    let is_v4 = key.lo_addr.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    Event {
        kind: kind::TRACE,
        lane: lane::TRACE,
        obs_point,
        flags: bits | flags::COUNTERS | flags::BY_AGENT,
        boot_ns: time_ns,
        endpoint_slot: slot,
        ip_version: if is_v4 { IPV4 } else { IPV6 },
        proto: key.proto,
        src_addr: initiator.0,
        dst_addr: responder.0,
        src_port: port(initiator.1),
        dst_port: port(responder.1),
        ct_state: ct_state::ESTABLISHED,
        direction,
        packets_fwd: value.packets[SIDE_INITIATOR],
        packets_rev: value.packets[SIDE_RESPONDER],
        bytes_fwd: value.bytes[SIDE_INITIATOR],
        bytes_rev: value.bytes[SIDE_RESPONDER],
        created_ns: value.created_ns,
        ..Event::zeroed()
    }
}
