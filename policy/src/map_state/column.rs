//! What the rules say of one identity, and what the map needs of that.
//!
//! The kernel finds the longest prefix per identity, so an entry must already hold what every broader entry says.
//! Each key gets the highest precedence among all entries that cover it, and the origins of all that decide alike.
//! What covers a key is in the column of its identity or in that of identity 0, so a column needs no other than these.
//!
//! Where rules pass packets on to later tiers, or deny for the record only, the highest precedence is not the whole
//! answer: then every identity gets a key of its own wherever a narrower key of anybody meets it, and the entry ranks
//! as high as the highest of those behind it.

use std::collections::BTreeMap;

use super::saying::{Covering, Saying, deciding, named};
use super::{Entry, Key, better, mask};
use crate::origin::OriginSet;

/// All that rules say of one identity.
#[derive(Clone, Debug, Default)]
pub(crate) struct Column {
    /// Per key, what is said with each precedence, merged; what is only audited apart from the rest.
    raw: BTreeMap<Key, Vec<Saying>>,
    /// Port prefix lengths in use, a bit for each.
    port_bits: u32,
    /// Per direction: whether some rule passes packets on or is only audited.
    pub(super) layered: [bool; 2],
}

/// What all columns of a map have in common, by direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Common {
    /// Whether some rule passes packets on or is only audited.
    pub(super) layered: [bool; 2],
    /// Whether keys that only complete the names of an entry are made.
    pub(super) names_crossed: [bool; 2],
    /// What closes the direction where nothing matches.
    pub(super) closed_by: [OriginSet; 2],
}

impl Column {
    /// Adds what one rule says of a key. Returns whether the key is new.
    pub(crate) fn add(&mut self, key: Key, saying: Saying) -> bool {
        self.port_bits |= 1 << key.port_bits;
        self.layered[usize::from(key.egress)] |= saying.is_layered();
        let said = self.raw.entry(key).or_default();
        let is_new = said.is_empty();
        match said.iter_mut().find(|known| known.place() == saying.place()) {
            Some(known) => {
                known.entry.origins = known.entry.origins.union(&saying.entry.origins);
                known.auth = known.auth.max(saying.auth);
            }
            None => {
                let at = said.partition_point(|known| known.place() < saying.place());
                said.insert(at, saying);
            }
        }
        is_new
    }

    /// Number of keys.
    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// What rules say, one by one.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.raw.values().flatten().map(|saying| &saying.entry)
    }

    /// Keys where a broad entry of this identity meets a narrower one of any identity. Without an entry of its own
    /// such a packet has the right verdict, but one of the two goes unnamed; see the module for where it does not.
    pub(super) fn crossed<'a>(&'a self, any: &'a Self, identity: u32) -> impl Iterator<Item = Key> + 'a {
        let narrow = any.raw.keys().filter(|key| key.proto != 0);
        narrow.map(move |key| Key { identity, ..*key }).filter(move |key| {
            !self.raw.contains_key(key)
                && covering(self.port_bits, identity, *key).any(|broader| self.raw.contains_key(&broader))
        })
    }

    /// The entries that the map needs for this identity, when those of identity 0 are in `any_state`.
    pub(super) fn state(
        &self,
        identity: u32,
        any: &Self,
        any_state: &BTreeMap<Key, Entry>,
        common: &Common,
    ) -> BTreeMap<Key, Entry> {
        let mut keys: Vec<Key> = self.raw.keys().copied().collect();
        if identity != 0 {
            let crossed = self.crossed(any, identity);
            keys.extend(crossed.filter(|key| common.names_crossed[usize::from(key.egress)]));
        }
        // Broad before narrow: what makes an entry redundant is there already.
        keys.sort_by_key(|key| (key.l4_prefix(), *key));
        let bits = self.port_bits | any.port_bits;
        let mut state = BTreeMap::new();
        for key in keys {
            let Some(entry) = self.effective(any, &key, common) else { continue };
            let own = longest(&state, bits, identity, key);
            let broader = if identity == 0 { own } else { better(own, longest(any_state, bits, 0, key)) };
            if broader.map(|(_, entry)| entry) != Some(&entry) {
                state.insert(key, entry);
            }
        }
        state
    }

    /// What happens to packets of the key, by all that is said of it.
    fn effective(&self, any: &Self, key: &Key, common: &Common) -> Option<Entry> {
        let own = self.covering(key.identity, key);
        let any = (key.identity != 0).then(|| any.covering(0, key)).into_iter().flatten();
        let covering: Covering<'_> = own.chain(any).collect();
        if !common.layered[usize::from(key.egress)] {
            return deciding(&covering).map(|best| named(&covering, best));
        }
        let highest = covering.iter().map(|(_, saying)| saying.entry.precedence).max()?;
        let enforced = covering.iter().filter(|(_, saying)| !saying.entry.audit || saying.tier.is_none());
        let enforced: Covering<'_> = enforced.copied().collect();
        let real = match deciding(&enforced) {
            Some(best) => named(&enforced, best),
            None => default_entry(&common.closed_by[usize::from(key.egress)])?,
        };
        let entry = match deciding(&covering) {
            // What is only audited counts where the packet would pass, and as it is.
            Some(audited) if audited.1.entry.audit && real.would_pass() => named(&covering, audited),
            _ => real,
        };
        Some(Entry { precedence: highest, ..entry })
    }

    fn covering<'a>(&'a self, identity: u32, key: &Key) -> impl Iterator<Item = (Key, &'a Saying)> {
        let said = covering(self.port_bits, identity, *key);
        said.filter_map(|key| Some((key, self.raw.get(&key)?)))
            .flat_map(|(key, said)| said.iter().map(move |saying| (key, saying)))
    }
}

/// What a direction does with packets that all rules pass on.
fn default_entry(closed_by: &OriginSet) -> Option<Entry> {
    let deny = Entry { deny: true, by_default: true, ..Entry::plain_allow(0, closed_by.clone()) };
    (!closed_by.is_empty()).then_some(deny)
}

/// The hit of the longest prefix that covers the key, itself left out.
fn longest(state: &BTreeMap<Key, Entry>, bits: u32, identity: u32, key: Key) -> Option<(&Key, &Entry)> {
    covering(bits, identity, key)
        .filter(|broader| *broader != key)
        .filter_map(|broader| state.get_key_value(&broader))
        .max_by_key(|(key, _)| key.l4_prefix())
}

/// Every key of the identity that covers this one, the same ports included, where one can be.
fn covering(bits: u32, identity: u32, key: Key) -> impl Iterator<Item = Key> {
    let lengths = (0..=key.port_bits).filter(move |length| key.proto != 0 && bits & (1 << length) != 0);
    let with_port = lengths.map(move |port_bits| (key.proto, port_bits));
    with_port.chain([(0, 0)]).map(move |(proto, port_bits)| Key {
        identity,
        egress: key.egress,
        proto,
        port: if proto == 0 { 0 } else { key.port & mask(port_bits) },
        port_bits,
    })
}
