//! The policy map of one endpoint: what the kernel looks up.

mod blocks;
mod build;
mod column;
mod saying;

use std::collections::BTreeMap;
use std::fmt;

pub(crate) use self::blocks::port_blocks;
pub(crate) use self::build::MapBuilder;
pub(crate) use self::saying::Saying;
use crate::origin::OriginSet;

/// Precedence of a plain allow.
pub const PRECEDENCE_ALLOW: u32 = 0xffff_ff01;
/// Precedence of a redirect without a priority of its own.
pub const PRECEDENCE_REDIRECT: u32 = 0xffff_ff02;
/// Precedence of what the local node may always do: more than any redirect, less than a deny.
pub const PRECEDENCE_LOCALHOST: u32 = 0xffff_fffe;
/// Precedence of a deny.
pub const PRECEDENCE_DENY: u32 = 0xffff_ffff;
/// Precedence of "nothing else matched, and that is fine".
pub(crate) const PRECEDENCE_ALLOW_ANY: u32 = 1;

/// Low bytes of precedences: they weigh entries of one level.
pub(crate) mod byte {
    /// Drops.
    pub(crate) const DENY: u8 = 255;
    /// What the local node may always do.
    pub(crate) const LOCALHOST: u8 = 254;
    /// Lets pass as it is. A redirect is [`DENY`] less the priority of its parser.
    pub(crate) const ALLOW: u8 = 1;
    /// Leaves it to later tiers.
    pub(crate) const PASS: u8 = 0;
}

/// What an entry is for. Orders by identity, direction, protocol, then port.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// Peer identity; 0 = any.
    pub identity: u32,
    /// Outgoing.
    pub egress: bool,
    /// IANA protocol number; 0 = any, then `port_bits` is 0.
    pub proto: u8,
    /// First port of the block, or ICMP type; bits beyond `port_bits` are 0.
    pub port: u16,
    /// Leading bits of the port that count: 0 (all ports) to 16 (one port).
    pub port_bits: u8,
}

/// What happens to packets that an entry decides.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Entry {
    /// Drop.
    pub deny: bool,
    /// A drop by this entry is only reported: the packet passes.
    pub audit: bool,
    /// A drop by this entry is for want of an allow, not because of a deny.
    pub by_default: bool,
    /// Through the L7 proxy.
    pub redirect: bool,
    /// Authentication type that packets need, 0 = none. Broader entries are taken into account.
    pub auth: u8,
    /// Higher wins between a hit with the peer's identity and one with identity 0.
    pub precedence: u32,
    /// Rules that decide like this for every packet of the key.
    pub origins: OriginSet,
}

/// A sorted map of keys to entries in which the most specific key already knows what broader keys say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MapState {
    entries: BTreeMap<Key, Entry>,
}

/// What turns one map into another.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Diff {
    /// Entries that are new or changed, by key.
    pub upserts: Vec<(Key, Entry)>,
    /// Keys that are gone.
    pub deletes: Vec<Key>,
}

impl MapState {
    /// A map of these entries, taken as they are. For maps that were stored.
    pub fn from_entries(entries: impl IntoIterator<Item = (Key, Entry)>) -> Self {
        Self { entries: entries.into_iter().collect() }
    }

    /// Entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// Entry of exactly this key.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the kernel finds for a packet: two longest-prefix lookups, the higher precedence wins, then the longer
    /// prefix, then the hit with the identity.
    pub fn lookup(&self, identity: u32, egress: bool, proto: u8, port: u16) -> Option<(&Key, &Entry)> {
        let specific = self.longest(identity, egress, proto, port);
        if identity == 0 {
            return specific;
        }
        better(specific, self.longest(0, egress, proto, port))
    }

    /// What turns `old` into `new`.
    pub fn diff(old: &Self, new: &Self) -> Diff {
        let upserts = new
            .iter()
            .filter(|(key, entry)| old.get(key) != Some(entry))
            .map(|(key, entry)| (*key, entry.clone()))
            .collect();
        let deletes = old.entries.keys().filter(|key| !new.entries.contains_key(key)).copied().collect();
        Diff { upserts, deletes }
    }

    fn longest(&self, identity: u32, egress: bool, proto: u8, port: u16) -> Option<(&Key, &Entry)> {
        let with_proto = (0..=16).rev().map(|bits| (proto, bits));
        with_proto.chain([(0, 0)]).find_map(|(proto, bits)| {
            let key = Key {
                identity,
                egress,
                proto,
                port: if proto == 0 { 0 } else { port & mask(bits) },
                port_bits: bits,
            };
            self.entries.get_key_value(&key)
        })
    }
}

impl Key {
    /// Key for all protocols and ports of a peer.
    pub const fn all(identity: u32, egress: bool) -> Self {
        Self { identity, egress, proto: 0, port: 0, port_bits: 0 }
    }

    /// Specified bits of protocol and port: 0, 8, or 9 to 24.
    pub const fn l4_prefix(&self) -> u8 {
        if self.proto == 0 { 0 } else { 8 + self.port_bits }
    }

    /// First and last port of the block.
    pub const fn ports(&self) -> (u16, u16) {
        (self.port, self.port | !mask(self.port_bits))
    }

    /// Whether every packet of `other` is one of this key.
    pub const fn covers(&self, other: &Self) -> bool {
        let identity = self.identity == 0 || self.identity == other.identity;
        let l4 = self.proto == 0
            || (self.proto == other.proto
                && self.port_bits <= other.port_bits
                && other.port & mask(self.port_bits) == self.port);
        identity && self.egress == other.egress && l4
    }
}

impl Diff {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.egress { "egress" } else { "ingress" };
        let (first, last) = self.ports();
        write!(f, "{direction} {} {}", self.identity, self.proto)?;
        if self.port_bits == 16 { write!(f, ":{first}") } else { write!(f, ":{first}-{last}") }
    }
}

/// Which of two hits decides: that with the identity, or that with identity 0.
fn better<'a>(
    specific: Option<(&'a Key, &'a Entry)>,
    any: Option<(&'a Key, &'a Entry)>,
) -> Option<(&'a Key, &'a Entry)> {
    match (specific, any) {
        (Some(specific), _) if specific.1.precedence == PRECEDENCE_DENY => Some(specific),
        (Some(specific), Some(any)) => {
            let rank = |hit: (&Key, &Entry)| (hit.1.precedence, hit.0.l4_prefix());
            Some(if rank(any) > rank(specific) { any } else { specific })
        }
        (specific, any) => specific.or(any),
    }
}

/// The leading `bits` bits.
pub(crate) const fn mask(bits: u8) -> u16 {
    if bits == 0 { 0 } else { u16::MAX << (16 - bits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(precedence: u32) -> Entry {
        Entry {
            deny: precedence == PRECEDENCE_DENY,
            audit: false,
            by_default: false,
            redirect: false,
            auth: 0,
            precedence,
            origins: OriginSet::empty(),
        }
    }

    fn key(identity: u32, proto: u8, port: u16, port_bits: u8) -> Key {
        Key { identity, egress: false, proto, port, port_bits }
    }

    #[test]
    fn the_longest_prefix_of_each_identity_counts() {
        let map = MapState::from_entries([
            (key(300, 0, 0, 0), entry(PRECEDENCE_ALLOW)),
            (key(300, 6, 64, 10), entry(PRECEDENCE_REDIRECT)),
            (key(0, 6, 80, 16), entry(PRECEDENCE_DENY)),
            (key(0, 17, 0, 0), entry(PRECEDENCE_ALLOW)),
        ]);
        for (identity, proto, port, expect) in [
            (300, 6, 80, Some(PRECEDENCE_DENY)),
            (300, 6, 81, Some(PRECEDENCE_REDIRECT)),
            (300, 6, 128, Some(PRECEDENCE_ALLOW)),
            (301, 6, 81, None),
            (301, 17, 81, Some(PRECEDENCE_ALLOW)),
            (0, 6, 80, Some(PRECEDENCE_DENY)),
        ] {
            let hit = map.lookup(identity, false, proto, port);
            assert_eq!(hit.map(|(_, e)| e.precedence), expect, "{identity} {proto} {port}");
            assert!(map.lookup(identity, true, proto, port).is_none());
        }
        assert_eq!(map.lookup(300, false, 17, 9).unwrap().0.proto, 17, "longer prefix");
    }

    #[test]
    fn a_diff_turns_the_old_map_into_the_new_one() {
        let old = MapState::from_entries([
            (key(1, 0, 0, 0), entry(PRECEDENCE_ALLOW)),
            (key(2, 0, 0, 0), entry(PRECEDENCE_ALLOW)),
            (key(3, 0, 0, 0), entry(PRECEDENCE_ALLOW)),
        ]);
        let new = MapState::from_entries([
            (key(2, 0, 0, 0), entry(PRECEDENCE_DENY)),
            (key(3, 0, 0, 0), entry(PRECEDENCE_ALLOW)),
            (key(4, 0, 0, 0), entry(PRECEDENCE_ALLOW)),
        ]);
        let diff = MapState::diff(&old, &new);
        assert_eq!(diff.deletes, [key(1, 0, 0, 0)]);
        let keys: Vec<Key> = diff.upserts.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, [key(2, 0, 0, 0), key(4, 0, 0, 0)]);
        assert!(MapState::diff(&new, &new).is_empty());
    }

    #[test]
    fn covering() {
        let range = key(0, 6, 64, 10);
        assert_eq!(range.ports(), (64, 127));
        assert!(range.covers(&key(300, 6, 80, 16)));
        assert!(!range.covers(&key(300, 6, 128, 16)));
        assert!(!range.covers(&key(300, 17, 80, 16)));
        assert!(!key(300, 0, 0, 0).covers(&range));
        assert_eq!(range.to_string(), "ingress 0 6:64-127");
    }
}
