//! A pod sends from its own addresses only, and nobody else from a pod's.

use aya_ebpf::programs::TcContext;
use specola_datapath_common::{IPV4, ipcache::ip_flags, metrics::drop};

use crate::{
    conntrack::{self, Track},
    endpoint::Endpoint,
    ipcache,
    skb::{self, mark},
    verdict::Drop,
    work::{Work, class},
};

/// Checks the link address.
///
/// # Errors
/// It is not the pod's.
#[inline(always)]
pub(crate) fn check_mac(work: &Work, sender: &Endpoint) -> Result<(), Drop> {
    if work.src_mac() == sender.mac() { Ok(()) } else { Err(Drop::new(drop::INVALID_SOURCE_MAC)) }
}

/// Checks the network address. `true` = right only for neighbour discovery: link-local, or none yet.
///
/// # Errors
/// It is not the pod's.
#[inline(always)]
pub(crate) fn check_address(work: &Work, sender: &Endpoint) -> Result<bool, Drop> {
    let src = &work.src;
    if work.event.ip_version == IPV4 {
        let own = sender.ipv4();
        return if own != 0 && src.v4() == own { Ok(false) } else { Err(Drop::new(drop::INVALID_SOURCE_IP)) };
    }
    if src.is_unspecified() || src.is_link_local() {
        return Ok(true);
    }
    if src.quads().0 == sender.ipv6().0 { Ok(false) } else { Err(Drop::new(drop::INVALID_SOURCE_IP)) }
}

/// Whether a packet that the host's stack sends to a pod came from a pod of this node: then its source was checked, and
/// it was counted.
#[inline(always)]
pub(crate) fn is_of_pod(ctx: &TcContext, work: &mut Work) -> bool {
    let is_pods = skb::marks(ctx) & mark::FROM_POD != 0;
    if is_pods {
        work.class |= class::COUNTED;
    }
    is_pods
}

/// Finds out who sent a packet that the host's stack sends to a pod. Only pods themselves have pods' addresses: a device
/// that no program watches may bring forged ones.
///
/// # Errors
/// The source is a pod of this node, but no pod sent the packet.
#[inline(always)]
pub(crate) fn check_routed(work: &mut Work, track: &Track, is_pods: bool) -> Result<(), Drop> {
    let src = ipcache::find(&work.src, work.event.ip_version, &mut work.prefix);
    work.event.src_identity = src.identity;
    if is_pods {
        return Ok(());
    }
    if src.slot != 0 {
        return Err(Drop::new(drop::INVALID_SOURCE_IP));
    }
    let is_node = src.flags & ip_flags::LOCAL_NODE != 0;
    conntrack::set_elsewhere(work, track, usize::from(track.dir), is_node);
    Ok(())
}
