//! Endpoint table: array by slot, one record per local endpoint.

/// Number of endpoint slots on a node; slot 0 is never used by an endpoint.
pub const MAX_SLOTS: u32 = 1024;

/// Entries of the array that gives an interface's slot without a search; a power of two.
pub const IFINDEX_HINTS: u32 = 4096;
/// Entries of the array that gives an address's slot without a search; a power of two.
pub const ADDRESS_HINTS: u32 = 4096;

/// Where an address (IPv4 as `::ffff:a.b.c.d`) has its hint: its last bits, in which the addresses of a node's pods
/// differ.
#[inline]
#[must_use]
pub const fn address_hint(last_half: u64) -> u32 {
    last_half as u32 & (ADDRESS_HINTS - 1)
}

/// Slot of the node itself, where programs on node devices work for it (host mode).
pub const HOST_SLOT: u16 = (MAX_SLOTS - 1) as u16;
/// Last slot of a pod.
pub const LAST_POD_SLOT: u16 = HOST_SLOT - 1;

/// [`PolicyState::flags`] bits.
pub mod policy_flags {
    /// A policy revision was realized. Without it every packet of the endpoint drops with reason 203.
    pub const READY: u32 = 1 << 0;
    /// Would-be denies pass and are marked as audited.
    pub const AUDIT: u32 = 1 << 1;
    /// Host endpoint only: its policy is asked. Without it traffic of the node is reported and nothing else.
    pub const ENFORCED: u32 = 1 << 2;
}

/// The word of the host map.
pub mod host_word {
    /// The host endpoint's policy is not asked, whatever its record says (`specola host-policy panic-off`).
    pub const SUSPENDED: u64 = 1 << 0;
}

/// What must change together with the active trie.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct PolicyState {
    /// Cookie of a packet that no ingress entry matched.
    pub default_cookie_ingress: u32,
    /// Cookie of a packet that no egress entry matched.
    pub default_cookie_egress: u32,
    /// Realized policy revision.
    pub revision: u32,
    /// See [`policy_flags`].
    pub flags: u32,
}

/// One local endpoint.
///
/// `word` is the only field that changes while traffic runs, by one aligned 8-byte store: bit 0 = active trie (its
/// index in the outer array is `2 * slot + active`), bits 32-63 = policy epoch (never 0 for a live endpoint).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C, align(8))]
pub struct EndpointRecord {
    /// Active trie and epoch.
    pub word: u64,
    /// State that belongs to trie 0 and trie 1.
    pub policy: [PolicyState; 2],
    /// Host-side interface.
    pub ifindex: u32,
    /// Security identity; 0 = slot is free.
    pub identity: u32,
    /// Endpoint id.
    pub id: u16,
    /// MAC of the pod's interface.
    pub mac: [u8; 6],
    /// MAC of the host-side interface.
    pub host_mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
    /// Pod's IPv4 address as on the wire; zero = none.
    pub ipv4: [u8; 4],
    /// Pod's IPv6 address; zero = none.
    pub ipv6: [u8; 16],
    /// Zero.
    pub reserved: [u8; 12],
}

impl EndpointRecord {
    /// Index of the active trie: 0 or 1.
    #[inline(always)]
    pub const fn active(word: u64) -> u32 {
        (word & 1) as u32
    }

    /// Policy epoch.
    #[inline(always)]
    pub const fn epoch(word: u64) -> u32 {
        (word >> 32) as u32
    }

    /// Puts a word together.
    #[inline(always)]
    pub const fn word_of(active: u32, epoch: u32) -> u64 {
        ((epoch as u64) << 32) | (active as u64 & 1)
    }
}

const _: () = assert!(size_of::<PolicyState>() == 16);
const _: () = assert!(size_of::<EndpointRecord>() == 96);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_holds_side_and_epoch() {
        for (side, epoch) in [(0, 1), (1, 1), (1, u32::MAX)] {
            let word = EndpointRecord::word_of(side, epoch);
            assert_eq!((EndpointRecord::active(word), EndpointRecord::epoch(word)), (side, epoch));
        }
    }
}
