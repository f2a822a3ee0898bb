//! What the driver does to the packet before each run. The benchmark and the driver share this file.

/// One row of the driver's array; row 0 is the only one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct Plan {
    /// Number of the next tuple.
    pub(crate) next: u32,
    /// Number of tuples less one; the number of tuples is a power of two.
    pub(crate) mask: u32,
    /// Index in the array of programs.
    pub(crate) program: u32,
    /// Mark of the packet.
    pub(crate) mark: u32,
    /// Link addresses, destination first, as the packet has them when it arrives.
    pub(crate) macs: [u16; 6],
    /// See the constants below.
    pub(crate) flags: u32,
}

/// [`Plan::flags`]: the tuple's address is the destination's, not the source's.
pub(crate) const PEER_IS_DESTINATION: u32 = 1 << 0;
/// [`Plan::flags`]: the tuple's ports are those of the other direction.
pub(crate) const SWAP_PORTS: u32 = 1 << 1;
/// [`Plan::flags`]: IPv6, the tuple's address is the last four bytes.
pub(crate) const IS_IPV6: u32 = 1 << 2;

/// A connection: who is at the other end, and the ports.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct Tuple {
    /// Last four bytes of the peer's address, as on the wire.
    pub(crate) peer: u32,
    /// Source port of the first packet, as on the wire.
    pub(crate) src_port: u16,
    /// Destination port of the first packet, as on the wire.
    pub(crate) dst_port: u16,
}

/// Room for tuples.
pub(crate) const MAX_TUPLES: u32 = 65_536;
/// Room for programs.
pub(crate) const MAX_PROGRAMS: u32 = 32;
