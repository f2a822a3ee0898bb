//! From what the rules say, one by one, to a map in which two lookups are enough.
//!
//! The kernel finds the longest prefix per identity, so an entry must already hold what every broader entry says.
//! Each key gets the highest precedence among all entries that cover it, and the origins of all that decide alike.
//! Whatever order rules come in, the map is the same.

//!
//! Where rules pass packets on to later tiers, or deny for the record only, the highest precedence is not the whole
//! answer: then every identity gets a key of its own wherever a narrower key of anybody meets it, and the entry ranks
//! as high as the highest of those behind it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Key, MapState, byte, mask};
use crate::origin::OriginSet;
use crate::rule::{AuthMode, Tier};

/// What a rule says of a key.
#[derive(Clone, Debug)]
pub(crate) struct Saying {
    /// What happens; `auth` is not set yet.
    pub(crate) entry: Entry,
    /// Tier of the rule; none for "nothing else matched".
    pub(crate) tier: Option<Tier>,
    /// Later tiers decide.
    pub(crate) pass: bool,
    /// Authentication that the rule itself asks for.
    pub(crate) auth: Option<AuthMode>,
}

/// Collects entries of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct MapBuilder {
    /// Per key, what is said with each precedence, merged; what is only audited apart from the rest.
    raw: BTreeMap<Key, BTreeMap<(u32, bool), Saying>>,
    /// Port prefix lengths in use, to look for covering keys only where some can be.
    port_bits: BTreeSet<u8>,
    /// Per direction: whether some rule passes packets on or is only audited.
    layered: [bool; 2],
    /// Per direction: what closes it where nothing matches.
    closed_by: [OriginSet; 2],
}

type Covering<'a> = Vec<(Key, &'a Saying)>;

impl MapBuilder {
    /// Adds what one rule says of a key.
    pub(crate) fn add(&mut self, key: Key, saying: Saying) {
        self.port_bits.insert(key.port_bits);
        if saying.pass || saying.entry.audit {
            self.layered[usize::from(key.egress)] = true;
        }
        self.raw
            .entry(key)
            .or_default()
            .entry((saying.entry.precedence, saying.entry.audit))
            .and_modify(|known| {
                known.entry.origins = known.entry.origins.union(&saying.entry.origins);
                known.auth = known.auth.max(saying.auth);
            })
            .or_insert(saying);
    }

    /// Names what closes a direction where nothing matches.
    pub(crate) fn close(&mut self, egress: bool, origins: OriginSet) {
        self.closed_by[usize::from(egress)] = origins;
    }

    /// Number of keys so far.
    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// What the rules said so far.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.raw.values().flat_map(BTreeMap::values).map(|saying| &saying.entry)
    }

    /// Makes the map. It has more than `named_in_full` entries only if the rules need them for their verdicts. None
    /// when it would take more than `limit` keys to find out.
    pub(crate) fn finish(&self, named_in_full: usize, limit: usize) -> Option<MapState> {
        let mut state = MapState::default();
        let mut keys: Vec<Key> = self.raw.keys().copied().collect();
        for egress in [false, true] {
            if self.layered[usize::from(egress)] {
                keys.extend(self.crossed_keys(egress, limit)?);
            } else {
                let room = named_in_full.saturating_sub(keys.len());
                keys.extend(self.crossed_keys(egress, room).unwrap_or_default());
            }
        }
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
        Some(state)
    }

    /// Keys where a broad entry of one identity meets a narrower one of any identity. Without an entry of its own
    /// such a packet has the right verdict, but one of the two goes unnamed; see the module for where it does not.
    /// None when there are more than `limit`.
    fn crossed_keys(&self, egress: bool, limit: usize) -> Option<Vec<Key>> {
        let narrow: Vec<&Key> = self
            .raw
            .range(..Key::all(1, false))
            .map(|(key, _)| key)
            .filter(|key| key.proto != 0 && key.egress == egress)
            .collect();
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
                    return None;
                }
                crossed.push(key);
            }
        }
        Some(crossed)
    }

    /// What happens to packets of the key, by all that is said of it.
    fn effective(&self, key: &Key) -> Option<Entry> {
        let covering: Covering<'_> = self
            .covering_keys(key)
            .filter_map(|key| self.raw.get(&key).map(|said| (key, said)))
            .flat_map(|(key, said)| said.values().map(move |saying| (key, saying)))
            .collect();
        if !self.layered[usize::from(key.egress)] {
            return deciding(&covering).map(|best| named(&covering, best));
        }
        let highest = covering.iter().map(|(_, saying)| saying.entry.precedence).max()?;
        let enforced = covering.iter().filter(|(_, saying)| !saying.entry.audit || saying.tier.is_none());
        let enforced: Covering<'_> = enforced.copied().collect();
        let real = match deciding(&enforced) {
            Some(best) => named(&enforced, best),
            None => self.default_entry(key.egress)?,
        };
        let entry = match deciding(&covering) {
            // What is only audited counts where the packet would pass, and as it is.
            Some(audited) if audited.1.entry.audit && real.would_pass() => named(&covering, audited),
            _ => real,
        };
        Some(Entry { precedence: highest, ..entry })
    }

    /// What a direction does with packets that all rules pass on.
    fn default_entry(&self, egress: bool) -> Option<Entry> {
        let origins = self.closed_by[usize::from(egress)].clone();
        (!origins.is_empty()).then_some(Entry {
            deny: true,
            audit: false,
            by_default: true,
            redirect: false,
            auth: 0,
            precedence: 0,
            origins,
        })
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

impl Entry {
    fn would_pass(&self) -> bool {
        (!self.deny && !self.redirect && self.auth == 0) || self.audit
    }
}

/// The saying of the highest precedence, in the first tier that does not pass the packet on.
fn deciding<'a>(covering: &Covering<'a>) -> Option<(Key, &'a Saying)> {
    // Where nothing else matched is after every tier.
    let place = |saying: &Saying| saying.tier.map_or(u8::MAX, |tier| tier as u8);
    let mut passed = None;
    loop {
        let open = covering.iter().filter(|(_, saying)| passed.is_none_or(|tier| place(saying) > tier));
        // Of equal ones the more specific decides on authentication.
        let best = open.max_by_key(|(key, saying)| {
            (saying.entry.precedence, !saying.entry.audit, key.l4_prefix(), key.identity != 0)
        })?;
        if !best.1.pass {
            return Some(*best);
        }
        passed = Some(place(best.1));
    }
}

/// The entry with the names of all that decide alike, and the authentication that it needs.
fn named(covering: &Covering<'_>, (key, best): (Key, &Saying)) -> Entry {
    let alike = covering.iter().map(|(_, saying)| saying).filter(|saying| {
        saying.entry.deny == best.entry.deny
            && saying.entry.audit == best.entry.audit
            && !saying.pass
            && same_level(&saying.entry, &best.entry)
    });
    let origins = alike.fold(OriginSet::empty(), |all, saying| all.union(&saying.entry.origins));
    let auth = if best.entry.deny { None } else { auth_of(covering, key, best) };
    Entry { origins, auth: auth.map_or(0, AuthMode::number), ..best.entry.clone() }
}

/// What the saying itself asks for, or the most specific broader one of the same peer and level. The local node needs
/// none.
fn auth_of(covering: &Covering<'_>, key: Key, best: &Saying) -> Option<AuthMode> {
    if best.entry.precedence & 0xff == u32::from(byte::LOCALHOST) {
        return None;
    }
    let broader = covering.iter().filter(|(own, saying)| {
        own.identity == key.identity
            && own.l4_prefix() <= key.l4_prefix()
            && saying.auth.is_some()
            && !saying.entry.deny
            && same_level(&saying.entry, &best.entry)
    });
    broader.max_by_key(|(own, saying)| (own.l4_prefix(), saying.auth)).and_then(|(_, saying)| saying.auth)
}

/// Entries of one level are weighed by what they do.
fn same_level(a: &Entry, b: &Entry) -> bool {
    a.precedence >> 8 == b.precedence >> 8
}
