//! Conntrack: one entry per connection per node, canonical key, both cached verdicts.

/// Zone of pod traffic.
pub const ZONE_POD: u16 = 0;
/// Zone of host traffic.
pub const ZONE_HOST: u16 = 1;

/// IPv4 key: the pair (address, port) that compares lower comes first. ICMP echo: the id is both ports.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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

/// The verdict that one side of a connection got, valid while both epochs hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct CtSide {
    /// Endpoint slot; [`NO_SLOT`] = this side is no local endpoint.
    pub slot: u16,
    /// Proxy port, host byte order.
    pub proxy_port: u16,
    /// Policy epoch of the endpoint at the decision; 0 = not decided.
    pub epoch: u32,
    /// Node-wide ipcache epoch at the decision.
    pub node_epoch: u32,
    /// Origin set that decided.
    pub cookie: u32,
    /// 0 allowed, negative = minus the drop reason, positive = redirect.
    pub verdict: i32,
    /// See [`crate::event::match_type`].
    pub match_type: u8,
    /// Bit 0: allowed by audit mode only.
    pub flags: u8,
    /// Zero.
    pub pad: u16,
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
}

/// A connection. Index 0 of every pair = initiator to responder, index 1 = the other way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C, align(8))]
pub struct CtValue {
    /// `bpf_ktime_get_boot_ns` of the first packet.
    pub created_ns: u64,
    /// `bpf_ktime_get_boot_ns` of the latest packet (jiffies cannot be read from user space exactly).
    pub last_seen_ns: u64,
    /// Packets per direction.
    pub packets: [u64; 2],
    /// Bytes per direction, with link headers.
    pub bytes: [u64; 2],
    /// Bytes per direction at the last trace record.
    pub reported_bytes: [u64; 2],
    /// `bpf_ktime_get_boot_ns` of the last trace record per direction, in units of 2^20 ns (about 1 ms), truncated.
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

const _: () = assert!(size_of::<CtKey4>() == 16);
const _: () = assert!(size_of::<CtKey6>() == 40);
const _: () = assert!(size_of::<CtSide>() == 24);
const _: () = assert!(size_of::<CtValue>() == 128);
