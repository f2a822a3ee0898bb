//! Lets the ABI's types go to and come from the kernel as bytes.

use aya::Pod;
use specola_datapath_common::conntrack::{CtCount, CtKey4, CtKey6, CtValue};
use specola_datapath_common::endpoint::EndpointRecord;
use specola_datapath_common::event::Event;
use specola_datapath_common::fold::{FoldCount, FoldKey, FoldSeen};
use specola_datapath_common::ipcache::{IpInfo, IpKey};
use specola_datapath_common::metrics::{LaneCount, PacketCount};
use specola_datapath_common::policy::{PolicyKey, PolicyValue};

/// A value whose bytes are what the kernel reads and writes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

/// A `repr(C)` type without padding for which every bit pattern is a value.
///
/// # Safety
/// The implementor is exactly that.
pub(crate) unsafe trait Abi: Copy + 'static {}

// SAFETY: `Plain` is transparent over a type without padding that accepts every bit pattern.
unsafe impl<T: Abi> Pod for Plain<T> {}

/// A [`PolicyKey`] without its prefix length: what the trie compares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct PolicyBits {
    pub(crate) identity: u32,
    pub(crate) egress: u8,
    pub(crate) proto: u8,
    pub(crate) dport_be: u16,
}

// SAFETY: `repr(C)` with explicit padding fields, integers and arrays of integers only; the ABI crate asserts the size
// as the sum of the fields.
unsafe impl Abi for IpKey {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for IpInfo {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for CtKey4 {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for CtKey6 {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for CtValue {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for CtCount {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for EndpointRecord {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for PacketCount {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for LaneCount {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for PolicyValue {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for FoldKey {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for FoldCount {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for FoldSeen {}
// SAFETY: as for `IpKey`.
unsafe impl Abi for Event {}
// SAFETY: 4 + 1 + 1 + 2 bytes, asserted below.
unsafe impl Abi for PolicyBits {}

const _: () = assert!(size_of::<PolicyBits>() == 8);
const _: () = assert!(size_of::<PolicyKey>() == 4 + size_of::<PolicyBits>());
