//! What a program knows of the packet in its hands: one record per CPU, because the stack has 512 bytes.

use core::{arch::asm, mem::offset_of, ptr};

use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns},
    macros::btf_map,
    programs::TcContext,
};
use specola_datapath_common::{
    conntrack::CtValue,
    event::{EVENT_ABI, Event},
    fold::{FoldCount, FoldKey},
    policy::{PolicyKey, PolicyValue},
};

use crate::{
    address::{Address, Mac},
    fragment::FragmentKey,
    keys::{Ct4, Ct6, Prefix},
    maps::SP_NODE,
    parse::Quoted,
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
    /// The sender is a pod of this node, as its interface proves.
    pub(crate) const FROM_POD: u16 = 1 << 6;
    /// The packet was counted at an earlier hook.
    pub(crate) const COUNTED: u16 = 1 << 7;
    /// Traffic of the node itself, which has connections of its own.
    pub(crate) const OF_HOST: u16 = 1 << 8;
    /// With [`OF_HOST`]: the other end is a pod of this node, whose own connection is reported.
    pub(crate) const BESIDE: u16 = 1 << 9;
}

/// The record. `event` is the draft of whatever record the packet will yield; parsing writes straight into it.
#[repr(C)]
pub(crate) struct Work {
    pub(crate) event: Event,
    /// Value for a new conntrack entry.
    pub(crate) fresh: CtValue,
    /// Value for a new fold entry, and the key of the packet's entry.
    pub(crate) fold_count: FoldCount,
    pub(crate) fold_key: FoldKey,
    pub(crate) src: Address,
    pub(crate) dst: Address,
    pub(crate) key6: Ct6,
    pub(crate) key4: Ct4,
    pub(crate) fragment: FragmentKey,
    pub(crate) prefix: Prefix,
    pub(crate) policy: PolicyKey,
    /// The policy entry that decides.
    pub(crate) answer: PolicyValue,
    /// What an ICMP error quotes.
    pub(crate) quoted: Quoted,
    /// `bpf_ktime_get_coarse_ns` at the packet's arrival.
    pub(crate) now_ns: u64,
    /// The node's epoch, read before anything that it stands for.
    pub(crate) node_epoch: u32,
    /// Where the transport header begins.
    pub(crate) l4_offset: u32,
    /// Where the network packet ends by its own length; what follows in the frame is padding.
    pub(crate) end: u32,
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
    /// IPv4: flags and offset, host byte order.
    pub(crate) fragment_field: u16,
    /// IPv4: identification.
    pub(crate) fragment_id: u32,
}

#[btf_map]
static SP_WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

impl Work {
    /// This CPU's record, ready for a new packet.
    #[inline(always)]
    pub(crate) fn begin(ctx: &TcContext) -> Option<&'static mut Self> {
        let work = Self::current()?;
        work.class = 0;
        work.ct_src_port = 0;
        work.ct_dst_port = 0;
        work.policy_port = 0;
        // SAFETY: the helper has no precondition.
        work.now_ns = unsafe { bpf_ktime_get_coarse_ns() };
        work.node_epoch = SP_NODE.get(0).map_or(0, |epoch| {
            // SAFETY: the reference is valid; user space stores the word while we read it, by one aligned store.
            unsafe { ptr::read_volatile(epoch) as u32 }
        });
        let event = &mut work.event;
        clear_draft(event);
        event.abi = EVENT_ABI;
        event.ifindex = skb::ifindex(ctx);
        event.length = ctx.len();
        Some(work)
    }

    /// The packet's time stamp. The exact clock is read when the first record needs it.
    #[inline(always)]
    pub(crate) fn boot_ns(&mut self) -> u64 {
        if self.event.boot_ns == 0 {
            // SAFETY: the helper has no precondition.
            self.event.boot_ns = unsafe { bpf_ktime_get_boot_ns() };
        }
        self.event.boot_ns
    }

    /// This CPU's record as it is.
    #[inline(always)]
    pub(crate) fn current() -> Option<&'static mut Self> {
        let work = SP_WORK.get_ptr_mut(0)?;
        // SAFETY: the slot is this CPU's; programs of one CPU do not nest (tc runs with bottom halves off). A global
        // function uses its own reference while its caller lends the record (`lend`).
        Some(unsafe { &mut *work })
    }

    /// Runs a global function, which works on the record through a reference of its own.
    ///
    /// The compiler may assume that nobody but the holder of `&mut self` touches the record; the two assembler
    /// blocks take that back: what is written before is in memory, what is read after comes from memory.
    #[inline(always)]
    pub(crate) fn lend<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let record = ptr::from_mut(self);
        // SAFETY: moves a register to itself; the operand says which memory is meant. (Not empty: the kernel wants at
        // most one source line for an instruction.)
        unsafe { asm!("{0} = {0}", inout(reg) record => _, options(nostack)) };
        let result = call();
        // SAFETY: as above.
        unsafe { asm!("{0} = {0}", inout(reg) record => _, options(nostack)) };
        result
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

/// Words of the draft that parsing does not write for every packet. What is missing: interface and length, which
/// [`Work::begin`] writes; the addresses, which [`forget_addresses`] clears where there are none; the counters, which
/// [`crate::event`] clears where they do not belong; the reserved words, which are always zero.
const DRAFT: [usize; 10] = [
    0,
    offset_of!(Event, boot_ns) / 8,
    offset_of!(Event, cpu) / 8,
    offset_of!(Event, src_identity) / 8,
    offset_of!(Event, src_port) / 8,
    offset_of!(Event, verdict) / 8,
    offset_of!(Event, revision) / 8,
    offset_of!(Event, src_mac) / 8,
    offset_of!(Event, dst_mac) / 8 + 1,
    offset_of!(Event, fold) / 8,
];
const _: () = assert!(offset_of!(Event, cpu) == 16 && offset_of!(Event, ifindex) == 24);
const _: () = assert!(offset_of!(Event, src_identity) == 32 && offset_of!(Event, src_addr) == 40);
const _: () = assert!(offset_of!(Event, src_port) == 72 && offset_of!(Event, verdict) == 80);
const _: () = assert!(offset_of!(Event, revision) == 88 && offset_of!(Event, src_mac) == 96);
const _: () = assert!(offset_of!(Event, dst_mac) == 102 && offset_of!(Event, fold) == 112);
const _: () = assert!(offset_of!(Event, packets_fwd) == 120);

/// Readies the draft for a new packet.
#[inline(always)]
fn clear_draft(event: &mut Event) {
    let words = ptr::from_mut(event).cast::<u64>();
    for index in DRAFT {
        // SAFETY: the offsets are those of fields, and the record is integers only, on 8-byte boundaries.
        unsafe { words.add(index).write_volatile(0) };
    }
}

/// Clears the addresses of a draft whose packet has none.
#[inline(always)]
pub(crate) fn forget_addresses(work: &mut Work) {
    work.set_addresses(Address([0; 2]), Address([0; 2]));
}

/// Zeroes a record word by word. Plain stores of zero would become a call of `memset`, which here is a loop over bytes.
#[inline(always)]
pub(crate) fn clear_words<T>(record: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() >= 8) };
    let words = ptr::from_mut(record).cast::<u64>();
    for index in 0..size_of::<T>() / 8 {
        // SAFETY: inside of the record, and aligned as just asserted; all callers' records are integers only.
        unsafe { words.add(index).write_volatile(0) };
    }
}
