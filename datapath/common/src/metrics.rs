//! Per-CPU counters.

/// Packets and bytes by verdict.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct PacketCount {
    /// Packets.
    pub packets: u64,
    /// Bytes, with link headers.
    pub bytes: u64,
}

/// Index of the metrics array: `direction * 256 + reason`, reason 0 = forwarded.
#[inline(always)]
pub const fn metric_index(direction: u8, reason: u8) -> u32 {
    (direction as u32 & 3) * 256 + reason as u32
}

/// Entries in the metrics array.
pub const METRIC_ENTRIES: u32 = 3 * 256;

/// What happened to the events of one lane on one CPU: attempts = submitted + reserve_failed + folded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct LaneCount {
    /// Records that a program wanted to write. Less `folded`, this is the last one's [`crate::event::Event::lane_seq`].
    pub attempts: u64,
    /// Records handed to the ring buffer.
    pub submitted: u64,
    /// Records lost because the ring buffer was full.
    pub reserve_failed: u64,
    /// Records that were not written because their packets were counted ([`crate::fold`]).
    pub folded: u64,
}

/// Numbers in the books that the agent keeps in a pinned map; what each means is the agent's affair.
pub const BOOK_WORDS: usize = 32;

/// Drop reasons that the programs give (Hubble's numbers).
pub mod drop {
    /// Source MAC is not the endpoint's (deprecated upstream, kept because it says what happened).
    pub const INVALID_SOURCE_MAC: u8 = 130;
    /// Source address is not the endpoint's, or a local one comes from outside.
    pub const INVALID_SOURCE_IP: u8 = 132;
    /// No entry allows it.
    pub const POLICY_DENIED: u8 = 133;
    /// The packet's own lengths contradict each other.
    pub const INVALID_PACKET: u8 = 134;
    /// Header cut off.
    pub const CT_INVALID_HEADER: u8 = 135;
    /// The protocol cannot be tracked.
    pub const CT_UNKNOWN_L4: u8 = 137;
    /// Neither IPv4, IPv6 nor ARP.
    pub const UNSUPPORTED_L3: u8 = 139;
    /// A tail call found no program.
    pub const MISSED_TAIL_CALL: u8 = 140;
    /// Writing to the packet failed.
    pub const WRITE_ERROR: u8 = 141;
    /// The conntrack entry could not be made.
    pub const CT_INSERT_FAILED: u8 = 155;
    /// Extension headers are malformed or too many.
    pub const INVALID_EXTHDR: u8 = 156;
    /// A later fragment whose first one is unknown.
    pub const FRAG_NOT_SUPPORTED: u8 = 157;
    /// A later fragment came before, or without, the first one.
    pub const FRAG_NOT_FOUND: u8 = 175;
    /// A pod sent what only a router may: an advertisement or a redirect.
    pub const FORBIDDEN_ICMPV6_MESSAGE: u8 = 176;
    /// The policy redirects to a proxy that does not run.
    pub const PROXY_NOT_SUPPORTED: u8 = 180;
    /// An entry denies it.
    pub const POLICY_DENY: u8 = 181;
    /// The entry asks for authentication that has not taken place.
    pub const AUTH_REQUIRED: u8 = 189;
    /// The endpoint has no realized policy yet.
    pub const EP_NOT_READY: u8 = 203;
}

const _: () = assert!(size_of::<PacketCount>() == 16);
const _: () = assert!(size_of::<LaneCount>() == 32);
