//! Identities of address prefixes, which are this node's own matter.
//!
//! Cluster identities come from the [store](crate::store); the numbers here have the local scope and never leave the
//! node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use specola_labels::NumericIdentity;

use crate::persist::{self, PersistError};

/// Why a prefix got no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalIdentityError {
    #[error(transparent)]
    File(#[from] PersistError),
    #[error("no local identity is free; name fewer address prefixes in policies")]
    Exhausted,
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

    /// Every prefix with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpNet, NumericIdentity)> + '_ {
        self.state.prefixes.iter().map(|(prefix, number)| (*prefix, NumericIdentity(*number)))
    }
}

impl State {
    /// The next number in turn, so that a released one is not taken again soon.
    fn free_number(&mut self, used: &BTreeSet<u32>) -> Result<u32, LocalIdentityError> {
        let (first, last) = (NumericIdentity::LOCAL_MIN.0, NumericIdentity::LOCAL_MAX.0);
        let start = if (first..=last).contains(&self.next) { self.next } else { first };
        let number = (start..=last)
            .chain(first..start)
            .find(|number| !used.contains(number))
            .ok_or(LocalIdentityError::Exhausted)?;
        self.next = number + 1;
        Ok(number)
    }
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
