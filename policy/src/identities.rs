//! The identities that selectors are resolved against.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::RandomState;

use specola_labels::{LabelSet, NumericIdentity, Selector};

use crate::selectors::{Pivot, label_pivots, requirement_pivots};

/// Container ports: (name in lower case, IANA protocol number) to port numbers.
pub type NamedPorts = BTreeMap<(String, u8), BTreeSet<u16>>;

/// All identities that a node knows, with their labels and the named ports of their pods.
///
/// Identities are found by their labels, so that a selector costs what it may select, not what there is.
#[derive(Clone, Default)]
pub struct IdentityTable {
    labels: BTreeMap<NumericIdentity, LabelSet>,
    named_ports: BTreeMap<NumericIdentity, NamedPorts>,
    hasher: RandomState,
    /// Identities that offer what a requirement may need, sorted.
    by_pivot: HashMap<Pivot, Vec<NumericIdentity>>,
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
        self.unlabel(identity);
        for pivot in labels.iter().flat_map(|label| label_pivots(label, &self.hasher)) {
            let identities = self.by_pivot.entry(pivot).or_default();
            if let Err(at) = identities.binary_search(&identity) {
                identities.insert(at, identity);
            }
        }
        self.labels.insert(identity, labels);
        true
    }

    /// Removes an identity. Returns whether it was there.
    pub fn remove(&mut self, identity: NumericIdentity) -> bool {
        self.named_ports.remove(&identity);
        self.unlabel(identity)
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

    /// The same from a number on.
    pub fn iter_from(&self, first: NumericIdentity) -> impl Iterator<Item = (NumericIdentity, &LabelSet)> {
        self.labels.range(first..).map(|(identity, labels)| (*identity, labels))
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

    /// Every named port of the identity's pods: name, IANA protocol number, number.
    pub fn named_ports(&self, identity: NumericIdentity) -> impl Iterator<Item = (&str, u8, u16)> {
        let ports = self.named_ports.get(&identity).into_iter().flatten();
        ports.flat_map(|((name, proto), numbers)| {
            numbers.iter().map(move |number| (name.as_str(), *proto, *number))
        })
    }

    /// Identities with named ports.
    pub(crate) fn with_named_ports(&self) -> impl Iterator<Item = NumericIdentity> {
        self.named_ports.keys().copied()
    }

    /// Identities that the selector matches, sorted.
    pub(crate) fn select(&self, selector: &Selector) -> Vec<NumericIdentity> {
        let requirements = selector.requirements().iter();
        let choices = requirements.filter_map(|requirement| requirement_pivots(requirement, &self.hasher));
        let offered = |pivot: &Pivot| self.by_pivot.get(pivot).map_or(&[][..], Vec::as_slice);
        let count = |pivots: &Vec<Pivot>| pivots.iter().map(|pivot| offered(pivot).len()).sum::<usize>();
        let Some(pivots) = choices.min_by_key(count) else {
            let matching = self.iter().filter(|(_, labels)| selector.matches(labels));
            return matching.map(|(identity, _)| identity).collect();
        };
        let mut selected: Vec<NumericIdentity> = pivots.iter().flat_map(offered).copied().collect();
        if pivots.len() > 1 {
            selected.sort_unstable();
            selected.dedup();
        }
        selected.retain(|identity| self.labels(*identity).is_some_and(|labels| selector.matches(labels)));
        selected
    }

    /// Takes the labels of an identity. Returns whether it had any.
    fn unlabel(&mut self, identity: NumericIdentity) -> bool {
        let Some(labels) = self.labels.remove(&identity) else { return false };
        for pivot in labels.iter().flat_map(|label| label_pivots(label, &self.hasher)) {
            if let Some(identities) = self.by_pivot.get_mut(&pivot)
                && let Ok(at) = identities.binary_search(&identity)
            {
                identities.remove(at);
                if identities.is_empty() {
                    self.by_pivot.remove(&pivot);
                }
            }
        }
        true
    }
}

impl fmt::Debug for IdentityTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.labels).finish()
    }
}

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
        assert_eq!(table.select(&selector), [NumericIdentity(300)]);
        table.insert(NumericIdentity(300), LabelSet::empty());
        assert!(table.select(&selector).is_empty());
        table.insert(NumericIdentity(300), web());
        assert!(table.remove(NumericIdentity(300)));
        assert!(table.select(&selector).is_empty());
        assert!(!table.remove(NumericIdentity(300)));
    }
}
