//! Reading and writing the packet and its metadata.

use core::mem::{MaybeUninit, size_of};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::{bpf_redirect, bpf_redirect_peer, bpf_skb_load_bytes},
    programs::TcContext,
};
use specola_datapath_common::metrics::drop;

use crate::{address::Mac, verdict::Drop};

/// Bits of the packet mark that belong to the programs. The stack clears the mark when a packet changes its network
/// namespace, and `from_container` and `from_netdev` clear these bits, so that nobody outside can set them.
pub(crate) mod mark {
    /// All of them.
    pub(crate) const MASK: u32 = 0x0f00;
    /// The ingress policy of the receiver was asked.
    pub(crate) const INGRESS_DONE: u32 = 0x0100;
    /// A local pod sent it, and it was counted.
    pub(crate) const FROM_POD: u32 = 0x0400;
    /// The next observation point shall report it.
    pub(crate) const TRACE: u32 = 0x0800;
}

#[inline(always)]
fn raw(ctx: &TcContext) -> *mut __sk_buff {
    ctx.as_ptr().cast()
}

/// Interface that the program runs on.
#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*raw(ctx)).ifindex }
}

/// Whether the frame carried a VLAN tag, which the kernel took off already.
#[inline(always)]
pub(crate) fn has_vlan(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*raw(ctx)).vlan_present != 0 }
}

/// Whether the frame belongs to another link: its tag names a VLAN. VLAN 0 is none, such a tag says only a priority
/// (IEEE 802.1Q), and the stack takes the frame as one without a tag.
#[inline(always)]
pub(crate) fn is_of_vlan(ctx: &TcContext) -> bool {
    const ID: u32 = 0x0fff;
    // SAFETY: as above.
    has_vlan(ctx) && unsafe { (*raw(ctx)).vlan_tci } & ID != 0
}

/// Whether a tag follows the one that the kernel took off.
#[inline(always)]
pub(crate) fn has_second_vlan(ctx: &TcContext) -> bool {
    const C_TAG: u16 = 0x8100;
    const S_TAG: u16 = 0x88a8;
    // SAFETY: as above.
    let ethertype = u16::from_be(unsafe { (*raw(ctx)).protocol } as u16);
    has_vlan(ctx) && (ethertype == C_TAG || ethertype == S_TAG)
}

/// Our bits of the mark.
#[inline(always)]
pub(crate) fn marks(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*raw(ctx)).mark & mark::MASK }
}

/// Replaces our bits of the mark.
#[inline(always)]
pub(crate) fn set_marks(ctx: &TcContext, bits: u32) {
    // SAFETY: as above.
    unsafe { (*raw(ctx)).mark = ((*raw(ctx)).mark & !mark::MASK) | bits };
}

/// Replaces the whole mark.
#[cfg(feature = "bench")]
#[inline(always)]
pub(crate) fn set_all_marks(ctx: &TcContext, mark: u32) {
    // SAFETY: as above.
    unsafe { (*raw(ctx)).mark = mark };
}

/// Greatest offset that is read at.
const MAX_OFFSET: u32 = 0x0fff;

/// Reads a `T` at `offset`; `None` when the packet ends before.
///
/// `T` is plain bytes and integers in network order. Parts of the packet that are not in its linear area are copied.
#[inline(always)]
pub(crate) fn load<T: Copy>(ctx: &TcContext, offset: u32) -> Option<T> {
    let offset = offset & MAX_OFFSET;
    let at = ctx.data() + offset as usize;
    if at + size_of::<T>() <= ctx.data_end() {
        // SAFETY: the range is inside of the packet, as just compared (the verifier checks it too). The machine reads
        // packet memory at any alignment, and no code is derived from the type's.
        return Some(unsafe { *(at as *const T) });
    }
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the buffer has the size that is passed; the helper writes all of it or fails.
    let result =
        unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32) };
    if result != 0 {
        return None;
    }
    // SAFETY: the helper wrote it.
    Some(unsafe { value.assume_init() })
}

/// Writes both link addresses.
#[inline(always)]
pub(crate) fn set_macs(ctx: &TcContext, dst: Mac, src: Mac) -> Result<(), Drop> {
    let [a, b, c] = dst;
    let [d, e, f] = src;
    ctx.store(0, &[a, b, c, d, e, f], 0).map_err(|_| Drop::new(drop::WRITE_ERROR))
}

/// Hands the packet to the other end of the veth pair `ifindex`, in the other end's namespace. tc ingress only.
#[inline(always)]
pub(crate) fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: the helper checks its arguments.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Sends the packet out of `ifindex`.
#[inline(always)]
pub(crate) fn redirect_egress(ifindex: u32) -> i32 {
    // SAFETY: the helper checks its arguments.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Lets `ifindex` receive the packet.
#[inline(always)]
pub(crate) fn redirect_ingress(ifindex: u32) -> i32 {
    // SAFETY: the helper checks its arguments.
    unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}
