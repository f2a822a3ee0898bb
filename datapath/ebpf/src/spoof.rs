//! A pod sends from its own addresses only.

use specola_datapath_common::{IPV4, metrics::drop};

use crate::{endpoint::Endpoint, verdict::Drop, work::Work};

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
