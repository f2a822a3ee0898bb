//! The record in the ring.

use std::net::{IpAddr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    Direction, DropReason, EventType, MatchType, ObservationPoint, TraceReason, Verdict, meta::MetaHandle,
    protocol,
};

/// [`Flow::flags`] bits.
pub mod flags {
    /// Counters of the connection are filled.
    pub const COUNTERS: u16 = 1 << 0;
    /// The connection ended; the counters are final.
    pub const CLOSED: u16 = 1 << 1;
    /// The connection was first seen in its middle.
    pub const MID_STREAM: u16 = 1 << 2;
    /// A later fragment.
    pub const FRAGMENT: u16 = 1 << 3;
    /// No policy entry matched.
    pub const DEFAULT_DENY: u16 = 1 << 4;
    /// Written by the agent, not by a kernel program.
    pub const BY_AGENT: u16 = 1 << 5;
    /// `is_reply` is known.
    pub const REPLY_KNOWN: u16 = 1 << 6;
    /// `is_reply` is true.
    pub const REPLY: u16 = 1 << 7;
    /// The record belongs to a policy decision: its cookie may be resolved.
    pub const ATTRIBUTED: u16 = 1 << 8;
}

/// One flow: 184 bytes of plain integers, so that a ring slot with its state word takes three cache lines.
///
/// Any bit pattern is a valid record: what is not known reads as unknown. Addresses are 16 bytes, IPv4 as
/// `::ffff:a.b.c.d`; ports are in host byte order; 0 in a counter or id means "none".
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Flow {
    /// Wall clock, ns since 1970.
    pub time_ns: u64,
    /// From the connection's first packet to this event, ns.
    pub duration_ns: u64,
    /// Packets of the connection, initiator to responder.
    pub packets_forward: u64,
    /// Packets of the connection, responder to initiator.
    pub packets_reverse: u64,
    /// Bytes of the connection, initiator to responder; in a record with `folded`, of all packets it stands for.
    pub bytes_forward: u64,
    /// Bytes of the connection, responder to initiator.
    pub bytes_reverse: u64,
    /// Source address.
    pub source_addr: [u8; 16],
    /// Destination address.
    pub destination_addr: [u8; 16],
    /// Who the source was at the time of the event.
    pub source_meta: MetaHandle,
    /// Who the destination was.
    pub destination_meta: MetaHandle,
    /// Security identity of the source.
    pub source_identity: u32,
    /// Security identity of the destination.
    pub destination_identity: u32,
    /// Interface that the event was seen on.
    pub ifindex: u32,
    /// Length of the packet with its link header, bytes.
    pub length: u32,
    /// Origin set that decided.
    pub cookie: u32,
    /// Policy revision that the endpoint had realized.
    pub revision: u32,
    /// Packets that this record stands for beyond the first one; `bytes_forward` are the bytes of all of them.
    pub folded: u32,
    /// Endpoint id of the source when it is local.
    pub source_endpoint: u16,
    /// Endpoint id of the destination when it is local.
    pub destination_endpoint: u16,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Proxy port.
    pub proxy_port: u16,
    /// CPU that saw the event.
    pub cpu: u16,
    /// Source MAC.
    pub source_mac: [u8; 6],
    /// Destination MAC.
    pub destination_mac: [u8; 6],
    /// See [`flags`].
    pub flags: u16,
    /// 4, 6 or 0.
    pub ip_version: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// TCP flags as in the header.
    pub tcp_flags: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// See [`Flow::verdict`].
    pub verdict: u8,
    /// See [`Flow::drop_reason`].
    pub drop_reason: u8,
    /// See [`Flow::event_type`].
    pub event_type: u8,
    /// Sub type: the observation point of a trace, the reason of a drop.
    pub sub_type: u8,
    /// See [`Flow::trace_reason`].
    pub trace_reason: u8,
    /// See [`Flow::match_type`].
    pub match_type: u8,
    /// See [`Flow::direction`].
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// Kept for the number of the process. Zero.
    pub reserved_process: u32,
    /// Number of the details that belong to the record, such as an HTTP request; 0 = there are none.
    pub detail: u64,
    /// Kept for the smoothed round-trip time, in us, and the number of retransmitted segments. Zero.
    pub reserved_tcp: [u32; 2],
    /// Kept for the socket cookie. Zero.
    pub reserved_socket: u64,
}

const _: () = assert!(size_of::<Flow>() == 184, "with its state word, a ring slot is three cache lines");

impl Flow {
    /// A record that tells of lost events: `count` of them on this CPU, missed between these times, ns since 1970.
    pub fn lost(count: u64, cpu: u16, first_ns: u64, last_ns: u64) -> Self {
        Self {
            time_ns: last_ns,
            duration_ns: last_ns.saturating_sub(first_ns),
            packets_forward: count,
            cpu,
            event_type: EventType::LOST.0,
            ..Self::default()
        }
    }

    /// How many events a record of [`Flow::lost`] tells of; `None` for any other.
    pub fn lost_count(&self) -> Option<u64> {
        (self.event_type() == EventType::LOST).then_some(self.packets_forward)
    }

    /// What happened to the packet.
    pub const fn verdict(&self) -> Verdict {
        Verdict(self.verdict)
    }

    /// Why it was dropped.
    pub const fn drop_reason(&self) -> DropReason {
        DropReason(self.drop_reason)
    }

    /// What kind of event this is.
    pub const fn event_type(&self) -> EventType {
        EventType(self.event_type)
    }

    /// Where a traced packet was seen; `None` for other events.
    pub fn observation_point(&self) -> Option<ObservationPoint> {
        (self.event_type() == EventType::TRACE).then_some(ObservationPoint(self.sub_type))
    }

    /// Why a trace was made.
    pub const fn trace_reason(&self) -> TraceReason {
        TraceReason(self.trace_reason)
    }

    /// What of the policy key matched.
    pub const fn match_type(&self) -> MatchType {
        MatchType(self.match_type)
    }

    /// Direction relative to the endpoint that the event is about.
    pub const fn direction(&self) -> Direction {
        Direction(self.direction)
    }

    /// Whether the packet belongs to the responder's side; `None` when unknown.
    pub const fn is_reply(&self) -> Option<bool> {
        if self.has(flags::REPLY_KNOWN) { Some(self.has(flags::REPLY)) } else { None }
    }

    /// Sets what [`Flow::is_reply`] answers.
    pub const fn set_reply(&mut self, reply: Option<bool>) {
        self.flags &= !(flags::REPLY_KNOWN | flags::REPLY);
        match reply {
            Some(true) => self.flags |= flags::REPLY_KNOWN | flags::REPLY,
            Some(false) => self.flags |= flags::REPLY_KNOWN,
            None => {}
        }
    }

    /// Whether all of these flag bits are set.
    pub const fn has(&self, bits: u16) -> bool {
        self.flags & bits == bits
    }

    /// Source address; `None` when the packet had no IP header.
    pub fn source_ip(&self) -> Option<IpAddr> {
        address(self.ip_version, self.source_addr)
    }

    /// Destination address; `None` when the packet had no IP header.
    pub fn destination_ip(&self) -> Option<IpAddr> {
        address(self.ip_version, self.destination_addr)
    }

    /// Whether the protocol has ports.
    pub const fn has_ports(&self) -> bool {
        self.ip_version != 0 && matches!(self.protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
    }
}

/// Whether a direction is egress; `None` when it is not known.
#[cfg(feature = "proto")]
pub(crate) fn direction_is_egress(direction: Direction) -> Option<bool> {
    match direction {
        Direction::EGRESS => Some(true),
        Direction::INGRESS => Some(false),
        _ => None,
    }
}

/// The address in the form of the IP version; `None` for version 0 and for versions that do not exist.
fn address(ip_version: u8, octets: [u8; 16]) -> Option<IpAddr> {
    match ip_version {
        4 => {
            let [.., a, b, c, d] = octets;
            Some(IpAddr::from([a, b, c, d]))
        }
        6 => Some(Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_version() {
        let mut flow =
            Flow { source_addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1], ..Flow::default() };
        for (version, text) in [(4, Some("10.0.0.1")), (6, Some("::ffff:10.0.0.1")), (0, None), (9, None)] {
            flow.ip_version = version;
            assert_eq!(flow.source_ip().map(|ip| ip.to_string()).as_deref(), text, "{version}");
        }
    }

    #[test]
    fn reply_has_three_states() {
        let mut flow = Flow { flags: flags::COUNTERS, ..Flow::default() };
        for reply in [None, Some(true), Some(false), None] {
            flow.set_reply(reply);
            assert_eq!(flow.is_reply(), reply);
            assert!(flow.has(flags::COUNTERS));
        }
    }
}
