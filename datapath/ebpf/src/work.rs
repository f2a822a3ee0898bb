//! What a program knows of the packet in its hands: one record per CPU, because the stack has 512 bytes.

use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
    macros::btf_map,
    programs::TcContext,
};
use specola_datapath_common::{
    conntrack::CtValue,
    event::{EVENT_ABI, Event},
    policy::PolicyKey,
};

use crate::{
    address::{Address, Mac},
    fragment::FragmentKey,
    keys::{Ct4, Ct6, Prefix},
    skb,
};

/// [`Work::class`]: facts about the packet that decide its way.
pub(crate) mod class {
    /// Neighbour discovery or multicast listener traffic of the link.
    pub(crate) const NEIGHBOR: u16 = 1 << 0;
    /// Opens a connection: TCP SYN, ICMP echo request.
    pub(crate) const OPENS: u16 = 1 << 1;
    /// Has no connection to belong to.
    pub(crate) const UNTRACKED: u16 = 1 << 2;
    /// A later fragment whose ports nobody knows.
    pub(crate) const NO_PORTS: u16 = 1 << 3;
    /// An ICMP error about another packet.
    pub(crate) const ICMP_ERROR: u16 = 1 << 4;
    /// Source and destination are the same address.
    pub(crate) const SELF: u16 = 1 << 5;
    /// A later fragment.
    pub(crate) const LATER_FRAGMENT: u16 = 1 << 6;
    /// The sender is a pod of this node, as its interface proves.
    pub(crate) const FROM_POD: u16 = 1 << 7;
    /// The packet was counted at an earlier hook.
    pub(crate) const COUNTED: u16 = 1 << 8;
}

/// The record. `event` is the draft of whatever record the packet will yield; parsing writes straight into it.
#[repr(C)]
pub(crate) struct Work {
    pub(crate) event: Event,
    /// Value for a new conntrack entry.
    pub(crate) fresh: CtValue,
    pub(crate) src: Address,
    pub(crate) dst: Address,
    pub(crate) key6: Ct6,
    pub(crate) key4: Ct4,
    pub(crate) fragment: FragmentKey,
    pub(crate) prefix: Prefix,
    pub(crate) policy: PolicyKey,
    /// Where the transport header begins.
    pub(crate) l4_offset: u32,
    /// See [`class`].
    pub(crate) class: u16,
    /// Ports of the conntrack key: the transport's, or the ICMP echo id twice.
    pub(crate) ct_src_port: u16,
    pub(crate) ct_dst_port: u16,
    /// Destination port of the policy key: the transport's, or the ICMP type. Host byte order.
    pub(crate) policy_port: u16,
    /// The source is the lower half of the conntrack key.
    pub(crate) src_is_lo: u8,
    pub(crate) hop_limit: u8,
    pub(crate) pad: [u8; 6],
}

#[btf_map]
static SP_WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

impl Work {
    /// This CPU's record, ready for a new packet.
    #[inline(always)]
    pub(crate) fn begin(ctx: &TcContext) -> Option<&'static mut Self> {
        let work = SP_WORK.get_ptr_mut(0)?;
        // SAFETY: the slot is this CPU's; programs of one CPU do not nest (tc runs with bottom halves off), so nobody
        // else holds a reference to it.
        let work = unsafe { &mut *work };
        work.class = 0;
        work.ct_src_port = 0;
        work.ct_dst_port = 0;
        work.policy_port = 0;
        let event = &mut work.event;
        event.abi = EVENT_ABI;
        event.flags = 0;
        // SAFETY: neither helper has a precondition.
        event.boot_ns = unsafe { bpf_ktime_get_boot_ns() };
        event.cpu = unsafe { bpf_get_smp_processor_id() } as u16;
        event.endpoint_slot = 0;
        event.endpoint_id = 0;
        event.ip_version = 0;
        event.proto = 0;
        event.ifindex = skb::ifindex(ctx);
        event.length = ctx.len();
        event.src_identity = 0;
        event.dst_identity = 0;
        event.src_port = 0;
        event.dst_port = 0;
        event.tcp_flags = 0;
        event.direction = 0;
        event.cookie = 0;
        event.revision = 0;
        event.epoch = 0;
        event.icmp_type = 0;
        event.icmp_code = 0;
        work.set_addresses(Address::ZERO, Address::ZERO);
        work.set_macs([0; 3], [0; 3]);
        Some(work)
    }

    /// Sets both addresses, here and in the record.
    #[inline(always)]
    pub(crate) fn set_addresses(&mut self, src: Address, dst: Address) {
        self.src = src;
        self.dst = dst;
        // SAFETY: both fields have 16 bytes on 8-byte boundaries (`keys` asserts it).
        unsafe {
            *(&raw mut self.event.src_addr).cast() = src;
            *(&raw mut self.event.dst_addr).cast() = dst;
        }
    }

    /// Sets both link addresses of the record.
    #[inline(always)]
    pub(crate) fn set_macs(&mut self, src: Mac, dst: Mac) {
        // SAFETY: both fields have 6 bytes on 2-byte boundaries (`keys` asserts it).
        unsafe {
            *(&raw mut self.event.src_mac).cast() = src;
            *(&raw mut self.event.dst_mac).cast() = dst;
        }
    }

    /// The packet's source link address.
    #[inline(always)]
    pub(crate) fn src_mac(&self) -> Mac {
        // SAFETY: as above.
        unsafe { *(&raw const self.event.src_mac).cast() }
    }

    /// Whether any of `bits` of [`class`] is set.
    #[inline(always)]
    pub(crate) fn is(&self, bits: u16) -> bool {
        self.class & bits != 0
    }
}
