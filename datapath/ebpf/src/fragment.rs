//! Ports of fragmented datagrams: the first fragment leaves them here, later ones take them.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};

use specola_datapath_common::proto;

use crate::{
    address::Address,
    work::{Work, class},
};

/// What fragments of one datagram have in common.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct FragmentKey {
    src: Address,
    dst: Address,
    id: u32,
    proto: u32,
}

/// Ports that the fields of [`Work`] get; for ICMP the echo id, and the type as the policy's port.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ports {
    ct_src: u16,
    ct_dst: u16,
    policy: u16,
    class: u16,
    src: u16,
    dst: u16,
}

#[btf_map]
static SP_FRAGMENTS: LruHashMap<FragmentKey, Ports, 8192> = LruHashMap::new();

/// What of [`class`] later fragments share with the first one.
const SHARED: u16 = class::UNTRACKED;

/// Where a packet stands in a fragmented datagram.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Fragment {
    /// Not fragmented.
    No,
    /// Begins with the transport header.
    First(u32),
    /// Has no transport header.
    Later(u32),
}

/// Keeps the ports of a first fragment.
#[inline(always)]
pub(crate) fn remember(work: &mut Work, id: u32) {
    set_key(work, id);
    let ports = Ports {
        ct_src: work.ct_src_port,
        ct_dst: work.ct_dst_port,
        policy: work.policy_port,
        class: work.class & SHARED,
        src: work.event.src_port,
        dst: work.event.dst_port,
    };
    // A full map evicts the oldest datagram; if even that fails the later fragments count as unknown.
    SP_FRAGMENTS.insert(&work.fragment, ports, 0).ok();
}

/// Gives a later fragment the ports of its first one, or says that nobody knows them.
#[inline(always)]
pub(crate) fn recall(work: &mut Work, id: u32) {
    set_key(work, id);
    // SAFETY: the value is copied at once; an entry that is recycled meanwhile gives another datagram's ports, which
    // the policy then judges as such.
    if let Some(ports) = unsafe { SP_FRAGMENTS.get(&work.fragment) } {
        let ports = *ports;
        work.ct_src_port = ports.ct_src;
        work.ct_dst_port = ports.ct_dst;
        work.policy_port = ports.policy;
        work.class |= ports.class;
        work.event.src_port = ports.src;
        work.event.dst_port = ports.dst;
        if matches!(work.event.proto, proto::ICMP | proto::ICMPV6) {
            work.event.icmp_type = ports.policy as u8;
        }
    } else {
        work.class |= class::NO_PORTS | class::UNTRACKED;
    }
}

fn set_key(work: &mut Work, id: u32) {
    let key = &mut work.fragment;
    key.src = work.src;
    key.dst = work.dst;
    key.id = id;
    key.proto = u32::from(work.event.proto);
}
