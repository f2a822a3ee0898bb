//! Who has which identity, as the store and this node's endpoints say.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::store::{CiliumEndpoint, CiliumIdentity, Contents};

/// What the last pass took up, so that the next one looks only at what is other.
#[derive(Debug, Default)]
pub(super) struct ClusterView {
    contents: Arc<Contents>,
    /// Pods of other nodes by identity, as the store names them.
    holders: HashMap<u32, BTreeSet<String>>,
    /// Identities of this node's pods.
    local: BTreeSet<u32>,
}

impl ClusterView {
    /// Takes up what the store has, and the identities of this node's pods. Returns the identities that this is about.
    pub(super) fn follow(
        &mut self,
        contents: &Arc<Contents>,
        local: BTreeSet<u32>,
        is_own: impl Fn(&CiliumEndpoint) -> bool,
    ) -> BTreeSet<u32> {
        let mut concerned: BTreeSet<u32> = std::mem::replace(&mut self.local, local);
        concerned.extend(&self.local);
        for (_, old, new) in self.contents.identities.changes(&contents.identities) {
            concerned.extend([old, new].into_iter().flatten().filter_map(CiliumIdentity::number));
        }
        for (key, old, new) in self.contents.endpoints.changes(&contents.endpoints) {
            if let Some(old) = old.filter(|endpoint| !is_own(endpoint)) {
                let identity = old.status.identity.id;
                concerned.insert(identity);
                if let Some(holders) = self.holders.get_mut(&identity) {
                    holders.remove(key);
                    if holders.is_empty() {
                        self.holders.remove(&identity);
                    }
                }
            }
            if let Some(new) = new.filter(|endpoint| !is_own(endpoint)) {
                let identity = new.status.identity.id;
                concerned.insert(identity);
                self.holders.entry(identity).or_default().insert(key.to_owned());
            }
        }
        self.contents = Arc::clone(contents);
        concerned
    }

    /// The object of an identity.
    pub(super) fn identity(&self, number: u32) -> Option<&CiliumIdentity> {
        self.contents.identities.get(&number.to_string())
    }

    /// Pods of other nodes that have an identity.
    pub(super) fn holders(&self, number: u32) -> impl Iterator<Item = &CiliumEndpoint> {
        let keys = self.holders.get(&number).into_iter().flatten();
        keys.filter_map(|key| self.contents.endpoints.get(key))
    }
}
