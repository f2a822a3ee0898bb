//! Address to identity.

use core::ptr;

use specola_datapath_common::{IPV4, identity, ipcache::IpInfo};

use crate::{
    address::Address,
    config::CFG_DUAL_STACK,
    keys::Prefix,
    maps::{SP_IPCACHE, SP_IPCACHE_LPM},
    work::Work,
};

/// What is known of an address; an unknown one belongs to the world.
#[inline(always)]
pub(crate) fn find(addr: &Address, version: u8, prefix: &mut Prefix) -> IpInfo {
    // SAFETY: only user space writes the map; a value that is replaced meanwhile stays readable until this program ends.
    if let Some(info) = unsafe { SP_IPCACHE.get(addr) } {
        return *info;
    }
    prefix.prefix_len = 128;
    prefix.addr = addr.quads();
    // SAFETY: a prefix length and what it counts in: the same layout.
    if let Some(info) = SP_IPCACHE_LPM.get(unsafe { &*ptr::from_ref(prefix).cast() }) {
        return *info;
    }
    IpInfo { identity: world(version), ..IpInfo::default() }
}

/// Fills the identities of a record's packet that nobody needed until now.
#[inline(always)]
pub(crate) fn identify(work: &mut Work) {
    let version = work.event.ip_version;
    if work.event.src_identity == identity::UNKNOWN {
        work.event.src_identity = find(&work.src, version, &mut work.prefix).identity;
    }
    if work.event.dst_identity == identity::UNKNOWN {
        work.event.dst_identity = find(&work.dst, version, &mut work.prefix).identity;
    }
}

fn world(version: u8) -> u32 {
    if CFG_DUAL_STACK.load() == 0 {
        identity::WORLD
    } else if version == IPV4 {
        identity::WORLD_IPV4
    } else {
        identity::WORLD_IPV6
    }
}
