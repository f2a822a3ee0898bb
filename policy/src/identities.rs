//! The identities that selectors are resolved against.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use specola_labels::{LabelSet, NumericIdentity, Selector};

/// Container ports: (name in lower case, IANA protocol number) to port numbers.
pub type NamedPorts = BTreeMap<(String, u8), BTreeSet<u16>>;

/// All identities that a node knows, with their labels and the named ports of their pods.
///
/// What a selector selects is remembered and kept up to date: a new identity costs one match per known selector,
/// not one per identity.
#[derive(Default)]
pub struct IdentityTable {
    labels: BTreeMap<NumericIdentity, LabelSet>,
    named_ports: BTreeMap<NumericIdentity, NamedPorts>,
    selections: Mutex<HashMap<Selector, Arc<BTreeSet<NumericIdentity>>>>,
}

impl IdentityTable {
    /// A table without identities.
    pub fn new() -> Self {
        Self::default()
    }

    /// A table with the reserved identities.
    pub fn with_reserved() -> Self {
        let mut table = Self::new();
        for identity in NumericIdentity::all_reserved() {
            if let Some(labels) = identity.reserved_labels() {
                table.insert(identity, labels);
            }
        }
        table
    }

    /// Adds an identity or replaces its labels. Returns whether that changed anything.
    pub fn insert(&mut self, identity: NumericIdentity, labels: LabelSet) -> bool {
        if self.labels.get(&identity) == Some(&labels) {
            return false;
        }
        for (selector, selected) in self.selections_mut() {
            let matches = selector.matches(&labels);
            if matches != selected.contains(&identity) {
                toggle(selected, identity, matches);
            }
        }
        self.labels.insert(identity, labels);
        true
    }

    /// Removes an identity. Returns whether it was there.
    pub fn remove(&mut self, identity: NumericIdentity) -> bool {
        self.named_ports.remove(&identity);
        for selected in self.selections_mut().values_mut() {
            if selected.contains(&identity) {
                toggle(selected, identity, false);
            }
        }
        self.labels.remove(&identity).is_some()
    }

    /// Sets the named ports of the identity's pods, for egress rules that name ports. Returns whether that changed
    /// anything. Where pods of one identity disagree, every number is allowed.
    pub fn set_named_ports(&mut self, identity: NumericIdentity, ports: NamedPorts) -> bool {
        if ports.is_empty() {
            return self.named_ports.remove(&identity).is_some();
        }
        self.named_ports.insert(identity, ports.clone()) != Some(ports)
    }

    /// Labels of an identity.
    pub fn labels(&self, identity: NumericIdentity) -> Option<&LabelSet> {
        self.labels.get(&identity)
    }

    /// Every identity with its labels, in order.
    pub fn iter(&self) -> impl Iterator<Item = (NumericIdentity, &LabelSet)> {
        self.labels.iter().map(|(identity, labels)| (*identity, labels))
    }

    /// Number of identities.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no identity.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Port numbers of this name and protocol among the identity's pods.
    pub fn ports_named(&self, identity: NumericIdentity, name: &str, proto: u8) -> Vec<u16> {
        self.named_ports
            .get(&identity)
            .and_then(|ports| ports.get(&(name.to_owned(), proto)))
            .map(|ports| ports.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Identities with named ports.
    pub(crate) fn with_named_ports(&self) -> impl Iterator<Item = NumericIdentity> {
        self.named_ports.keys().copied()
    }

    /// Identities that the selector matches.
    pub(crate) fn select(&self, selector: &Selector) -> Arc<BTreeSet<NumericIdentity>> {
        let mut selections = self.selections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(selected) = selections.get(selector) {
            return Arc::clone(selected);
        }
        if selections.len() >= MAX_SELECTIONS {
            selections.clear();
        }
        let selected: Arc<BTreeSet<NumericIdentity>> = Arc::new(
            self.iter()
                .filter(|(_, labels)| selector.matches(labels))
                .map(|(identity, _)| identity)
                .collect(),
        );
        selections.insert(selector.clone(), Arc::clone(&selected));
        selected
    }

    fn selections_mut(&mut self) -> &mut HashMap<Selector, Arc<BTreeSet<NumericIdentity>>> {
        self.selections.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for IdentityTable {
    fn clone(&self) -> Self {
        Self {
            labels: self.labels.clone(),
            named_ports: self.named_ports.clone(),
            selections: Mutex::default(),
        }
    }
}

impl fmt::Debug for IdentityTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.labels).finish()
    }
}

fn toggle(selected: &mut Arc<BTreeSet<NumericIdentity>>, identity: NumericIdentity, present: bool) {
    let selected = Arc::make_mut(selected);
    if present {
        selected.insert(identity);
    } else {
        selected.remove(&identity);
    }
}

/// Selectors whose result is remembered; past it the memory starts anew.
const MAX_SELECTIONS: usize = 4096;

#[cfg(test)]
mod tests {
    use specola_labels::SelectorKey;

    use super::*;

    fn web() -> LabelSet {
        ["k8s:app=web".parse().unwrap()].into_iter().collect()
    }

    #[test]
    fn selections_follow_identities() {
        let mut table = IdentityTable::with_reserved();
        let selector = Selector::equals(SelectorKey::k8s("app"), "web");
        assert!(table.select(&selector).is_empty());
        assert!(table.insert(NumericIdentity(300), web()));
        assert!(!table.insert(NumericIdentity(300), web()));
        assert_eq!(*table.select(&selector), BTreeSet::from([NumericIdentity(300)]));
        table.insert(NumericIdentity(300), LabelSet::empty());
        assert!(table.select(&selector).is_empty());
        table.insert(NumericIdentity(300), web());
        assert!(table.remove(NumericIdentity(300)));
        assert!(table.select(&selector).is_empty());
        assert!(!table.remove(NumericIdentity(300)));
    }

    #[test]
    fn memory_of_selections_is_bounded() {
        let table = IdentityTable::with_reserved();
        for index in 0..MAX_SELECTIONS + 10 {
            table.select(&Selector::equals(SelectorKey::k8s("n"), &index.to_string()));
        }
        assert!(table.selections.lock().unwrap().len() <= MAX_SELECTIONS);
    }
}
