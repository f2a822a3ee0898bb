//! Conntrack: one entry per connection per node, canonical key, both cached verdicts.

/// Zone of pod traffic.
pub const ZONE_POD: u16 = 0;
/// Zone of host traffic.
pub const ZONE_HOST: u16 = 1;

/// IPv4 key: the pair (address, port) that compares lower comes first. ICMP echo: the id is both ports.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct CtKey4 {
    /// Lower address, as on the wire.
    pub lo_addr: [u8; 4],
    /// Higher address, as on the wire.
    pub hi_addr: [u8; 4],
    /// Port of `lo_addr`, host byte order.
    pub lo_port: u16,
    /// Port of `hi_addr`, host byte order.
    pub hi_port: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// See [`ZONE_POD`].
    pub zone: u16,
}

/// IPv6 key; see [`CtKey4`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct CtKey6 {
    /// Lower address, as on the wire.
    pub lo_addr: [u8; 16],
    /// Higher address, as on the wire.
    pub hi_addr: [u8; 16],
    /// Port of `lo_addr`, host byte order.
    pub lo_port: u16,
    /// Port of `hi_addr`, host byte order.
    pub hi_port: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// See [`ZONE_POD`].
    pub zone: u16,
}

/// The verdict that one side of a connection got, valid while its stamp is the current one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C, align(8))]
pub struct CtSide {
    /// When the verdict was made, and whether it denies: [`CtSide::stamp_of`]. Written last, by one 8-byte store, so
    /// that two CPUs can never leave a verdict under the wrong epoch. 0 = not decided. Of a side without a slot:
    /// [`CtSide::elsewhere`].
    pub stamp: u64,
    /// Origin set that decided.
    pub cookie: u32,
    /// 0 allowed, negative = minus the drop reason, positive = redirect.
    pub verdict: i32,
    /// Endpoint slot; [`NO_SLOT`] = this side is no local endpoint.
    pub slot: u16,
    /// Proxy port, host byte order.
    pub proxy_port: u16,
    /// See [`crate::event::match_type`].
    pub match_type: u8,
    /// [`SIDE_AUDIT`], [`SIDE_NODE`], [`SIDE_SEEDED`].
    pub flags: u8,
    /// TCP flags from this side since its last trace record.
    pub unreported_tcp_flags: u8,
    /// Zero.
    pub pad: u8,
}

/// [`CtSide::flags`] bit: allowed by audit mode only.
pub const SIDE_AUDIT: u8 = 1 << 0;
/// [`CtSide::flags`] bit of a side without a slot: it is the node itself.
pub const SIDE_NODE: u8 = 1 << 1;
/// [`CtSide::flags`] bit: the connection is older than the programs. Nothing but a deny entry whose cookie is above the
/// side's ends it; the side's cookie stays the highest one that was given when the connection was entered.
pub const SIDE_SEEDED: u8 = 1 << 2;

impl CtSide {
    /// Node epoch (bits 32-63), endpoint epoch without its highest bit (bits 1-31), denied (bit 0).
    #[inline(always)]
    pub const fn stamp_of(node_epoch: u32, epoch: u32, denied: bool) -> u64 {
        ((node_epoch as u64) << 32) | ((epoch << 1) as u64) | denied as u64
    }

    /// Stamp of a side that is no pod of this node, found out under this node epoch. It is no verdict.
    #[inline(always)]
    pub const fn elsewhere(node_epoch: u32) -> u64 {
        Self::stamp_of(node_epoch, 0, false)
    }

    /// A stamp that is current under no epoch, and tells a deny from the rest as the one given does.
    pub const fn expired(stamp: u64) -> u64 {
        if stamp == 0 { 0 } else { Self::stamp_of(u32::MAX, 0, stamp & 1 != 0) }
    }

    /// Whether the verdict was made under these epochs.
    #[inline(always)]
    pub const fn is_current(stamp: u64, node_epoch: u32, epoch: u32) -> bool {
        stamp != 0 && stamp | 1 == Self::stamp_of(node_epoch, epoch, true)
    }
}

/// [`CtSide::slot`] of a peer that is no local endpoint.
pub const NO_SLOT: u16 = 0xffff;

/// Index of the initiator's side (its egress policy).
pub const SIDE_INITIATOR: usize = 0;
/// Index of the responder's side (its ingress policy).
pub const SIDE_RESPONDER: usize = 1;

/// [`CtValue::state`] values.
pub mod state {
    /// Packets from the initiator only.
    pub const NEW: u8 = 0;
    /// Packets from both.
    pub const ESTABLISHED: u8 = 1;
    /// One side sent FIN.
    pub const CLOSING: u8 = 2;
    /// RST, or FIN from both: the close record went out.
    pub const CLOSED: u8 = 3;
}

/// [`CtValue::flags`] bits.
pub mod flags {
    /// First seen in its middle.
    pub const MID_STREAM: u8 = 1 << 0;
    /// FIN seen from the initiator.
    pub const FIN_INITIATOR: u8 = 1 << 1;
    /// FIN seen from the responder.
    pub const FIN_RESPONDER: u8 = 1 << 2;
    /// RST seen from either.
    pub const RST: u8 = 1 << 3;
    /// Entered by the agent: it was open before the programs were attached.
    pub const SEEDED: u8 = 1 << 4;
    /// Between the node and a pod of it: the pod's entry of the same connection is the one that is reported.
    pub const BESIDE: u8 = 1 << 5;
}

/// A connection. Index 0 of every pair = initiator to responder, index 1 = the other way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C, align(8))]
pub struct CtValue {
    /// `bpf_ktime_get_boot_ns` of the first packet.
    pub created_ns: u64,
    /// When the latest packet came: `bpf_ktime_get_coarse_ns`, that is `CLOCK_MONOTONIC` to a few milliseconds. A
    /// connection does not age while the machine is suspended.
    pub last_seen_ns: u64,
    /// Packets per direction.
    pub packets: [u64; 2],
    /// Bytes per direction, with link headers.
    pub bytes: [u64; 2],
    /// Bytes per direction at the last trace record.
    pub reported_bytes: [u64; 2],
    /// Time of the last trace record per direction, on the clock of `last_seen_ns`, in units of 2^20 ns (about 1 ms),
    /// truncated.
    pub last_report: [u32; 2],
    /// TCP flags seen per direction.
    pub tcp_flags: [u8; 2],
    /// 0: the lower address of the key began, 1: the higher one.
    pub initiator: u8,
    /// See [`state`].
    pub state: u8,
    /// See [`flags`].
    pub flags: u8,
    /// Zero.
    pub pad: u8,
    /// Reverse NAT id; 0 = none.
    pub rev_nat: u16,
    /// Cached verdicts: [`SIDE_INITIATOR`], [`SIDE_RESPONDER`].
    pub sides: [CtSide; 2],
}

/// Changes of the connection tables that the programs made. Per CPU; never reset while the map is pinned.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct CtCount {
    /// Entries made where there was none of their key.
    pub created: u64,
}

/// After how long without a packet a connection is over, milliseconds. The programs treat an older entry as none; the
/// sweep of user space removes it.
pub mod lifetime_ms {
    /// TCP, packets from both sides.
    pub const TCP: u64 = 8_000_000;
    /// TCP, packets from the initiator only.
    pub const TCP_NEW: u64 = 60_000;
    /// TCP, a side sent FIN or RST.
    pub const TCP_CLOSING: u64 = 10_000;
    /// Everything else.
    pub const OTHER: u64 = 60_000;
}

/// How long an entry in this [`CtValue::state`] lives without a packet, milliseconds.
#[inline(always)]
pub const fn lifetime_of(proto: u8, connection_state: u8) -> u64 {
    if proto != crate::proto::TCP {
        return lifetime_ms::OTHER;
    }
    match connection_state {
        state::NEW => lifetime_ms::TCP_NEW,
        state::ESTABLISHED => lifetime_ms::TCP,
        _ => lifetime_ms::TCP_CLOSING,
    }
}

const _: () = assert!(size_of::<CtKey4>() == 16);
const _: () = assert!(size_of::<CtKey6>() == 40);
const _: () = assert!(size_of::<CtSide>() == 24);
const _: () = assert!(size_of::<CtValue>() == 128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_current_under_its_own_epochs_only() {
        for denied in [false, true] {
            let stamp = CtSide::stamp_of(3, 5, denied);
            assert_eq!(stamp & 1, u64::from(denied));
            assert!(CtSide::is_current(stamp, 3, 5));
            for (node_epoch, epoch) in [(3, 4), (3, 6), (2, 5), (4, 5), (5, 3), (0, 0)] {
                assert!(!CtSide::is_current(stamp, node_epoch, epoch), "{node_epoch} {epoch}");
            }
        }
        assert!(!CtSide::is_current(0, 0, 0), "nothing was decided");
        for (stamp, expired) in [(0, 0), (2, u64::MAX << 32), (3, (u64::MAX << 32) | 1)] {
            assert_eq!(CtSide::expired(stamp), expired);
            assert!(!CtSide::is_current(expired, 0, 1));
        }
    }

    #[test]
    fn lifetimes_follow_protocol_and_state() {
        use crate::proto::{ICMP, TCP, UDP};
        for (proto, state, seconds) in [
            (TCP, state::NEW, 60),
            (TCP, state::ESTABLISHED, 8_000),
            (TCP, state::CLOSING, 10),
            (TCP, state::CLOSED, 10),
            (UDP, state::ESTABLISHED, 60),
            (ICMP, state::NEW, 60),
        ] {
            assert_eq!(lifetime_of(proto, state), seconds * 1_000, "{proto} {state}");
        }
    }
}
