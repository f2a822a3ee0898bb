//! The map keys of the ABI, with words where the ABI has bytes: the same layout, but copied in words.

use core::mem::{offset_of, size_of};

use specola_datapath_common::{
    conntrack::{CtKey4, CtKey6},
    endpoint::EndpointRecord,
    event::Event,
    ipcache::{IpKey, IpPrefixKey},
};

use crate::address::{Address, Quads};

/// [`CtKey4`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ct4 {
    pub(crate) lo_addr: u32,
    pub(crate) hi_addr: u32,
    pub(crate) lo_port: u16,
    pub(crate) hi_port: u16,
    pub(crate) proto: u8,
    pub(crate) pad: u8,
    pub(crate) zone: u16,
}

/// [`CtKey6`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ct6 {
    pub(crate) lo_addr: Address,
    pub(crate) hi_addr: Address,
    pub(crate) lo_port: u16,
    pub(crate) hi_port: u16,
    pub(crate) proto: u8,
    pub(crate) pad: u8,
    pub(crate) zone: u16,
}

/// [`IpPrefixKey`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Prefix {
    pub(crate) prefix_len: u32,
    pub(crate) addr: Quads,
}

const _: () = assert!(size_of::<Ct4>() == size_of::<CtKey4>());
const _: () = assert!(offset_of!(Ct4, hi_addr) == offset_of!(CtKey4, hi_addr));
const _: () = assert!(offset_of!(Ct4, lo_port) == offset_of!(CtKey4, lo_port));
const _: () = assert!(offset_of!(Ct4, zone) == offset_of!(CtKey4, zone));
const _: () = assert!(size_of::<Ct6>() == size_of::<CtKey6>());
const _: () = assert!(offset_of!(Ct6, hi_addr) == offset_of!(CtKey6, hi_addr));
const _: () = assert!(offset_of!(Ct6, lo_port) == offset_of!(CtKey6, lo_port));
const _: () = assert!(offset_of!(Ct6, zone) == offset_of!(CtKey6, zone));
const _: () = assert!(size_of::<Address>() == size_of::<IpKey>());
const _: () = assert!(size_of::<Prefix>() == size_of::<IpPrefixKey>());
// What is read and written in words must lie on them.
const _: () = assert!(offset_of!(Event, src_addr) % 8 == 0 && offset_of!(Event, dst_addr) % 8 == 0);
const _: () = assert!(offset_of!(Event, src_mac) % 2 == 0 && offset_of!(Event, dst_mac) % 2 == 0);
const _: () =
    assert!(offset_of!(EndpointRecord, mac) % 2 == 0 && offset_of!(EndpointRecord, host_mac) % 2 == 0);
const _: () = assert!(offset_of!(EndpointRecord, ipv4) % 4 == 0 && offset_of!(EndpointRecord, ipv6) % 4 == 0);
