//! From what the rules say, one by one, to a map in which two lookups are enough.
//!
//! The kernel finds the longest prefix per identity, so an entry must already hold what every broader entry says.
//! Each key gets the highest precedence among all entries that cover it, and the origins of all that decide alike.
//! Whatever order rules come in, the map is the same.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Key, MapState, mask};
use crate::origin::OriginSet;

/// Collects entries of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct MapBuilder {
    /// Per key, the entries of each precedence, merged.
    raw: BTreeMap<Key, BTreeMap<u32, Entry>>,
    /// Port prefix lengths in use, to look for covering keys only where some can be.
    port_bits: BTreeSet<u8>,
}

impl MapBuilder {
    /// Adds what one rule says of a key.
    pub(crate) fn add(&mut self, key: Key, entry: Entry) {
        self.port_bits.insert(key.port_bits);
        self.raw
            .entry(key)
            .or_default()
            .entry(entry.precedence)
            .and_modify(|known| {
                known.origins = known.origins.union(&entry.origins);
                known.auth = known.auth.max(entry.auth);
            })
            .or_insert(entry);
    }

    /// Number of keys so far.
    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// What the rules said so far.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.raw.values().flat_map(BTreeMap::values)
    }

    /// Makes the map. It has more than `named_in_full` entries only if the rules need them for their verdicts.
    pub(crate) fn finish(&self, named_in_full: usize) -> MapState {
        let mut state = MapState::default();
        let mut keys: Vec<Key> = self.raw.keys().copied().collect();
        keys.extend(self.crossed_keys(named_in_full.saturating_sub(keys.len())));
        // Broad before narrow, and identity 0 before all: what makes an entry redundant is there already.
        keys.sort_by_key(|key| (key.identity != 0, key.l4_prefix(), *key));
        for key in keys {
            let Some(entry) = self.effective(&key) else {
                continue;
            };
            if self.nearest(&state, &key) != Some(&entry) {
                state.entries.insert(key, entry);
            }
        }
        state
    }

    /// Keys where a broad entry of one identity meets a narrower one of any identity. Without an entry of its own
    /// such a packet has the right verdict, but one of the two goes unnamed. None at all when there are more than
    /// `limit`.
    fn crossed_keys(&self, limit: usize) -> Vec<Key> {
        let narrow: Vec<&Key> =
            self.raw.range(..Key::all(1, false)).map(|(key, _)| key).filter(|key| key.proto != 0).collect();
        let identities: BTreeSet<u32> =
            self.raw.keys().map(|key| key.identity).filter(|identity| *identity != 0).collect();
        let mut crossed = Vec::new();
        for identity in identities {
            for any in &narrow {
                let key = Key { identity, ..**any };
                let meets = || self.covering_keys(&key).any(|k| k.identity != 0 && self.raw.contains_key(&k));
                if self.raw.contains_key(&key) || !meets() {
                    continue;
                }
                if crossed.len() == limit {
                    return Vec::new();
                }
                crossed.push(key);
            }
        }
        crossed
    }

    /// Highest precedence of all entries that cover the key, with the origins of those that decide alike.
    fn effective(&self, key: &Key) -> Option<Entry> {
        let covering =
            || self.covering_keys(key).filter_map(|key| self.raw.get(&key)).flat_map(BTreeMap::values);
        let mut best = covering().max_by_key(|entry| entry.precedence)?.clone();
        let alike = covering().filter(|entry| entry.deny == best.deny && same_tier(entry, &best));
        best.origins = alike.fold(OriginSet::empty(), |all, entry| all.union(&entry.origins));
        Some(best)
    }

    /// The entry that the lookups would find for packets of the key if it had no entry of its own.
    fn nearest<'a>(&self, state: &'a MapState, key: &Key) -> Option<&'a Entry> {
        let broader = || self.covering_keys(key).filter(|broader| broader != key);
        let longest = |identity| {
            let hits = broader()
                .filter(|broader| broader.identity == identity)
                .filter_map(|broader| state.entries.get_key_value(&broader));
            hits.max_by_key(|(key, _)| key.l4_prefix())
        };
        let own = if key.identity == 0 { None } else { longest(key.identity) };
        super::better(own, longest(0)).map(|(_, entry)| entry)
    }

    /// Every key that covers this one, itself included, where one can be in the map.
    fn covering_keys(&self, key: &Key) -> impl Iterator<Item = Key> {
        let key = *key;
        let identities = [Some(key.identity), (key.identity != 0).then_some(0)];
        let with_port = self
            .port_bits
            .range(..=key.port_bits)
            .filter(move |_| key.proto != 0)
            .map(move |bits| (key.proto, *bits));
        let blocks: Vec<(u8, u8)> = with_port.chain([(0, 0)]).collect();
        identities.into_iter().flatten().flat_map(move |identity| {
            blocks.clone().into_iter().map(move |(proto, port_bits)| Key {
                identity,
                egress: key.egress,
                proto,
                port: if proto == 0 { 0 } else { key.port & mask(port_bits) },
                port_bits,
            })
        })
    }
}

/// Entries of one tier are weighed by what they do; the built-in "allow any" has a tier of its own.
fn same_tier(a: &Entry, b: &Entry) -> bool {
    a.precedence >> 8 == b.precedence >> 8
}
