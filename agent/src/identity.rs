//! Identities of address prefixes and of other nodes' labels, which are this node's own matter.
//!
//! Cluster identities come from the [store](crate::store); the numbers here have the local scope and never leave the
//! node.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use specola_labels::{LabelSet, NumericIdentity};

use crate::persist::{self, PersistError};

/// Why a prefix got no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalIdentityError {
    #[error(transparent)]
    File(#[from] PersistError),
    #[error("no local identity is free; name fewer address prefixes in policies")]
    Exhausted,
    #[error("no identity for the labels of another node is free; give nodes fewer different labels")]
    NodesExhausted,
}

/// Numbers of the prefixes that policies name; they survive a restart.
#[derive(Debug)]
pub(crate) struct LocalIdentities {
    path: PathBuf,
    state: State,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct State {
    next: u32,
    prefixes: BTreeMap<IpNet, u32>,
    #[serde(default)]
    next_node: u32,
    /// By the labels as text.
    #[serde(default)]
    nodes: BTreeMap<String, u32>,
}

impl LocalIdentities {
    /// Takes up the persisted numbers.
    pub(crate) fn open(path: &Path) -> Result<Self, LocalIdentityError> {
        let state = persist::load_json(path)?.unwrap_or_default();
        Ok(Self { path: path.to_owned(), state })
    }

    /// The persisted numbers, for others than the agent: nothing is changed, not even a corrupt file.
    pub(crate) fn peek(path: &Path) -> Result<BTreeMap<IpNet, u32>, PersistError> {
        Ok(persist::peek_json::<State>(path)?.unwrap_or_default().prefixes)
    }

    /// Gives every prefix a number, on disk when this returns. Returns those that had none.
    pub(crate) fn ensure(
        &mut self,
        prefixes: &BTreeSet<IpNet>,
    ) -> Result<Vec<(IpNet, NumericIdentity)>, LocalIdentityError> {
        let missing: Vec<IpNet> =
            prefixes.iter().filter(|prefix| !self.state.prefixes.contains_key(prefix)).copied().collect();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let mut next = self.state.clone();
        let mut used: BTreeSet<u32> = next.prefixes.values().copied().collect();
        let mut given = Vec::new();
        for prefix in missing {
            let number = next.free_number(&used)?;
            used.insert(number);
            next.prefixes.insert(prefix, number);
            given.push((prefix, NumericIdentity(number)));
        }
        persist::save_json(&self.path, &next)?;
        self.state = next;
        Ok(given)
    }

    /// Forgets prefixes, and returns their numbers.
    pub(crate) fn remove(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<Vec<u32>, LocalIdentityError> {
        let mut next = self.state.clone();
        let gone: Vec<u32> = prefixes.iter().filter_map(|prefix| next.prefixes.remove(prefix)).collect();
        if !gone.is_empty() {
            persist::save_json(&self.path, &next)?;
            self.state = next;
        }
        Ok(gone)
    }

    /// How many prefixes have a number.
    pub(crate) fn len(&self) -> usize {
        self.state.prefixes.len()
    }

    /// Gives every label set of another node a number, on disk when this returns, and forgets all that are in neither
    /// list. Returns the numbers.
    pub(crate) fn set_nodes(
        &mut self,
        wanted: &BTreeSet<LabelSet>,
        kept: &BTreeSet<NumericIdentity>,
    ) -> Result<BTreeMap<LabelSet, NumericIdentity>, LocalIdentityError> {
        let by_text: BTreeMap<String, &LabelSet> =
            wanted.iter().map(|labels| (labels.to_string(), labels)).collect();
        let is_needed = |text: &String, number: &u32| {
            by_text.contains_key(text) || kept.contains(&NumericIdentity(*number))
        };
        let all_known = by_text.keys().all(|text| self.state.nodes.contains_key(text));
        if !all_known || !self.state.nodes.iter().all(|(text, number)| is_needed(text, number)) {
            let mut next = self.state.clone();
            next.nodes.retain(|text, number| is_needed(text, number));
            for text in by_text.keys().filter(|text| !self.state.nodes.contains_key(*text)) {
                let number = next.free_node_number()?;
                next.nodes.insert(text.clone(), number);
            }
            persist::save_json(&self.path, &next)?;
            self.state = next;
        }
        let number = |(text, labels): (String, &LabelSet)| {
            Some((labels.clone(), NumericIdentity(*self.state.nodes.get(&text)?)))
        };
        Ok(by_text.into_iter().filter_map(number).collect())
    }

    /// The numbers of label sets of other nodes.
    #[cfg(test)]
    pub(crate) fn nodes(&self) -> BTreeMap<u32, String> {
        self.state.nodes.iter().map(|(text, number)| (*number, text.clone())).collect()
    }

    /// Every prefix with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpNet, NumericIdentity)> + '_ {
        self.state.prefixes.iter().map(|(prefix, number)| (*prefix, NumericIdentity(*number)))
    }
}

impl State {
    /// The next number in turn, so that a released one is not taken again soon.
    fn free_number(&mut self, used: &BTreeSet<u32>) -> Result<u32, LocalIdentityError> {
        let scope = NumericIdentity::LOCAL_MIN.0..=NumericIdentity::LOCAL_MAX.0;
        let number = free_number(&scope, self.next, used).ok_or(LocalIdentityError::Exhausted)?;
        self.next = number + 1;
        Ok(number)
    }

    /// The same for the labels of another node.
    fn free_node_number(&mut self) -> Result<u32, LocalIdentityError> {
        let scope = NumericIdentity::REMOTE_NODE_MIN.0..=NumericIdentity::REMOTE_NODE_MAX.0;
        let used: BTreeSet<u32> = self.nodes.values().copied().collect();
        let number = free_number(&scope, self.next_node, &used).ok_or(LocalIdentityError::NodesExhausted)?;
        self.next_node = number + 1;
        Ok(number)
    }
}

fn free_number(scope: &RangeInclusive<u32>, next: u32, used: &BTreeSet<u32>) -> Option<u32> {
    let start = if scope.contains(&next) { next } else { *scope.start() };
    (start..=*scope.end()).chain(*scope.start()..start).find(|number| !used.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    fn numbers(identities: &LocalIdentities) -> Vec<(String, u32)> {
        identities.iter().map(|(prefix, number)| (prefix.to_string(), number.0)).collect()
    }

    #[test]
    fn numbers_have_the_local_scope_and_survive_a_restart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("identities.json");
        let mut identities = LocalIdentities::open(&path).expect("opens");
        assert_eq!(identities.ensure(&prefixes(&["10.0.0.0/8", "fd00::/8"])).expect("allocates").len(), 2);
        assert!(identities.ensure(&prefixes(&["10.0.0.0/8"])).expect("known").is_empty());
        let before = numbers(&identities);
        assert_eq!(before[0], ("10.0.0.0/8".to_owned(), (1 << 24) + 1));
        assert_eq!(numbers(&LocalIdentities::open(&path).expect("opens again")), before);
    }

    #[test]
    fn labels_of_other_nodes_have_numbers_of_their_scope() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("identities.json");
        let labels = |text: &str| -> LabelSet {
            text.split(',').map(|label| label.parse().expect("a label")).collect()
        };
        let (one, two) = (labels("node:role=edge,reserved:remote-node"), labels("reserved:remote-node"));
        let mut identities = LocalIdentities::open(&path).expect("opens");
        let both = BTreeSet::from([one.clone(), two.clone()]);
        let numbers = identities.set_nodes(&both, &BTreeSet::new()).expect("allocates");
        assert_eq!(numbers.values().map(|number| number.0 >> 24).collect::<Vec<_>>(), [2, 2]);
        let mut again = LocalIdentities::open(&path).expect("opens again");
        assert_eq!(again.set_nodes(&both, &BTreeSet::new()).expect("known"), numbers);
        // One that packets may still have keeps its number.
        let (kept, only_two) = (BTreeSet::from([numbers[&one]]), BTreeSet::from([two]));
        assert_eq!(again.set_nodes(&only_two, &kept).expect("keeps").len(), 1);
        assert_eq!(again.set_nodes(&both, &kept).expect("known"), numbers);
        again.set_nodes(&only_two, &BTreeSet::new()).expect("forgets");
        let anew = again.set_nodes(&both, &BTreeSet::new()).expect("allocates")[&one];
        assert_ne!(anew, numbers[&one], "not reused at once");
    }

    #[test]
    fn a_released_number_is_not_reused_at_once() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut identities = LocalIdentities::open(&dir.path().join("identities.json")).expect("opens");
        identities.ensure(&prefixes(&["10.0.0.0/8"])).expect("allocates");
        let gone = identities.remove(&prefixes(&["10.0.0.0/8", "192.0.2.0/24"])).expect("releases");
        assert_eq!(gone, [(1 << 24) + 1]);
        identities.ensure(&prefixes(&["10.0.0.0/8"])).expect("allocates");
        assert_eq!(numbers(&identities)[0].1, (1 << 24) + 2);
    }
}
