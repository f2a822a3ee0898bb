//! One policy trie.

use std::collections::{HashMap, HashSet};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use specola_datapath_common::names;
use specola_datapath_common::policy::{PolicyKey, PolicyValue};

use super::super::MapsError;
use super::super::endpoints::is_not_found;
use super::super::plain::{Plain, PolicyBits};
use super::PolicyUpdate;

/// A trie of [`PolicyKey`] and [`PolicyValue`].
#[derive(Debug)]
pub(crate) struct Trie(LpmTrie<MapData, Plain<PolicyBits>, Plain<PolicyValue>>);

impl Trie {
    pub(crate) fn new(data: MapData) -> Result<Self, MapsError> {
        let trie = LpmTrie::try_from(Map::LpmTrie(data));
        trie.map(Self).map_err(MapsError::kernel(names::POLICY, "open a trie"))
    }

    /// Everything in it.
    pub(crate) fn entries(&self) -> Result<HashMap<PolicyKey, PolicyValue>, MapsError> {
        let read = |entry| {
            let (key, Plain(value)): (Key<Plain<PolicyBits>>, _) = entry?;
            Ok((abi_key(&key), value))
        };
        self.0
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map_err(MapsError::kernel(names::POLICY, "list a trie"))
    }

    /// Makes a change. `known` is what the trie holds, when that is certain: entries that would not change are skipped.
    pub(super) fn apply(
        &mut self,
        update: &PolicyUpdate,
        known: Option<&HashMap<PolicyKey, PolicyValue>>,
    ) -> Result<(), MapsError> {
        let upserts: HashSet<&PolicyKey> = update.upserts.iter().map(|(key, _)| key).collect();
        for key in update.deletes.iter().filter(|key| !upserts.contains(key)) {
            if known.is_none_or(|known| known.contains_key(key)) {
                self.remove(key)?;
            }
        }
        for (key, value) in &update.upserts {
            if known.is_none_or(|known| known.get(key) != Some(value)) {
                self.insert(key, value)?;
            }
        }
        Ok(())
    }

    /// Makes some keys say what a content says of them.
    pub(super) fn follow(
        &mut self,
        keys: &HashSet<PolicyKey>,
        content: &HashMap<PolicyKey, PolicyValue>,
    ) -> Result<(), MapsError> {
        for key in keys.iter().filter(|key| !content.contains_key(key)) {
            self.remove(key)?;
        }
        for (key, value) in keys.iter().filter_map(|key| Some((key, content.get(key)?))) {
            self.insert(key, value)?;
        }
        Ok(())
    }

    /// Makes the content equal to another one.
    pub(super) fn become_equal_to(
        &mut self,
        target: &HashMap<PolicyKey, PolicyValue>,
    ) -> Result<(), MapsError> {
        let have = self.entries()?;
        for key in have.keys().filter(|key| !target.contains_key(key)) {
            self.remove(key)?;
        }
        for (key, value) in target.iter().filter(|(key, value)| have.get(key) != Some(value)) {
            self.insert(key, value)?;
        }
        Ok(())
    }

    fn insert(&mut self, key: &PolicyKey, value: &PolicyValue) -> Result<(), MapsError> {
        self.0
            .insert(&trie_key(key), Plain(*value), 0)
            .map_err(MapsError::kernel(names::POLICY, "write an entry"))
    }

    fn remove(&mut self, key: &PolicyKey) -> Result<(), MapsError> {
        match self.0.remove(&trie_key(key)) {
            Err(error) if !is_not_found(&error) => {
                Err(MapsError::kernel(names::POLICY, "remove an entry")(error))
            }
            _ => Ok(()),
        }
    }
}

fn trie_key(key: &PolicyKey) -> Key<Plain<PolicyBits>> {
    let PolicyKey { prefix_len, identity, egress, proto, dport_be } = *key;
    Key::new(prefix_len, Plain(PolicyBits { identity, egress, proto, dport_be }))
}

fn abi_key(key: &Key<Plain<PolicyBits>>) -> PolicyKey {
    let PolicyBits { identity, egress, proto, dport_be } = key.data().0;
    PolicyKey { prefix_len: key.prefix_len(), identity, egress, proto, dport_be }
}
