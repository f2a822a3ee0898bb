//! Finds the selectors that may match a set of labels without asking all of them.
//!
//! Each selector hangs on one of its requirements that needs a label: one of the values of `In`, a key, or a prefix.
//! A set of labels that lacks it cannot match. Requirements that need the absence of something point at nothing;
//! selectors that have no other are asked always.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use ipnet::IpNet;
use specola_labels::{Label, LabelSet, Operator, Requirement, Selector, parse_cidr_key, source};

/// Hash of what a requirement needs, or a label offers. Two things with one hash only cost a question more.
pub(crate) type Pivot = u64;

/// Selectors by what they need.
#[derive(Debug, Default)]
pub(crate) struct SelectorIndex {
    hasher: RandomState,
    by_pivot: HashMap<Pivot, Vec<u32>>,
    always: Vec<u32>,
    /// On what each selector hangs.
    pivots: HashMap<u32, Vec<Pivot>>,
}

impl SelectorIndex {
    /// Adds a selector under a number of the caller's choice.
    pub(crate) fn insert(&mut self, id: u32, selector: &Selector) {
        let choices = selector.requirements().iter().filter_map(|r| requirement_pivots(r, &self.hasher));
        let load = |pivots: &Vec<Pivot>| -> usize {
            pivots.iter().map(|pivot| self.by_pivot.get(pivot).map_or(0, Vec::len)).sum()
        };
        // The least crowded one: labels that everybody has fill up first and are avoided from then on.
        match choices.min_by_key(load) {
            Some(pivots) => {
                for pivot in &pivots {
                    self.by_pivot.entry(*pivot).or_default().push(id);
                }
                self.pivots.insert(id, pivots);
            }
            None => self.always.push(id),
        }
    }

    /// Removes a selector.
    pub(crate) fn remove(&mut self, id: u32) {
        let Some(pivots) = self.pivots.remove(&id) else {
            self.always.retain(|known| *known != id);
            return;
        };
        for pivot in pivots {
            if let Some(ids) = self.by_pivot.get_mut(&pivot) {
                ids.retain(|known| *known != id);
                if ids.is_empty() {
                    self.by_pivot.remove(&pivot);
                }
            }
        }
    }

    /// Adds the selectors that may match; no other does. Some may come twice.
    pub(crate) fn candidates(&self, labels: &LabelSet, found: &mut Vec<u32>) {
        found.extend_from_slice(&self.always);
        for pivot in labels.iter().flat_map(|label| label_pivots(label, &self.hasher)) {
            found.extend(self.by_pivot.get(&pivot).into_iter().flatten());
        }
    }
}

/// What a requirement needs of a label: one of these. None when it asks for the absence of one.
pub(crate) fn requirement_pivots(requirement: &Requirement, hasher: &RandomState) -> Option<Vec<Pivot>> {
    let key = requirement.key();
    let prefix = (key.source() == source::CIDR).then(|| parse_cidr_key(key.key())).flatten();
    match (requirement.operator(), prefix) {
        (Operator::In(_) | Operator::Exists, Some(prefix)) => Some(vec![of_prefix(&prefix, hasher)]),
        (Operator::In(values), None) => {
            Some(values.iter().map(|value| of_value(key.key(), value, hasher)).collect())
        }
        (Operator::Exists, None) => Some(vec![of_key(key.key(), hasher)]),
        (Operator::NotIn(_) | Operator::DoesNotExist, _) => None,
    }
}

/// Everything that a label offers.
pub(crate) fn label_pivots(label: &Label, hasher: &RandomState) -> Vec<Pivot> {
    let mut pivots = vec![of_key(label.key(), hasher), of_value(label.key(), label.value(), hasher)];
    if label.source() == source::CIDR
        && let Some(mut prefix) = parse_cidr_key(label.key())
    {
        pivots.push(of_prefix(&prefix, hasher));
        while let Some(wider) = prefix.supernet() {
            pivots.push(of_prefix(&wider, hasher));
            prefix = wider;
        }
    }
    pivots
}

fn of_value(key: &str, value: &str, hasher: &RandomState) -> Pivot {
    hasher.hash_one((0_u8, key, value))
}

fn of_key(key: &str, hasher: &RandomState) -> Pivot {
    hasher.hash_one((1_u8, key))
}

fn of_prefix(prefix: &IpNet, hasher: &RandomState) -> Pivot {
    hasher.hash_one((2_u8, prefix.trunc()))
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use proptest::sample::select;
    use specola_labels::SelectorKey;

    use super::*;

    fn label() -> impl Strategy<Value = Label> {
        let texts =
            ["k8s:a=1", "k8s:a=2", "k8s:b=1", "any:b=2", "cidr:10.0.0.0/8", "cidr:10.1.2.3/32", "x:a=1"];
        select(texts.to_vec()).prop_map(|text| text.parse().unwrap())
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let keys = ["k8s:a", "a", "b", "any:b", "cidr:10.0.0.0/8", "cidr:10.1.0.0/16", "cidr:0.0.0.0/0"];
        let values = btree_set(select(vec!["1".to_owned(), "2".to_owned(), String::new()]), 1..3);
        (select(keys.to_vec()), values, 0..4).prop_map(|(key, values, operator)| {
            let key = SelectorKey::parse(key).unwrap();
            let operator = match operator {
                0 => Operator::In(values),
                1 => Operator::NotIn(values),
                2 => Operator::Exists,
                _ => Operator::DoesNotExist,
            };
            Requirement::new(key, operator)
        })
    }

    proptest! {
        #[test]
        fn every_selector_that_matches_is_found(
            selectors in vec(vec(requirement(), 0..4), 0..12),
            labels in vec(label(), 0..4),
            removed in vec(any::<bool>(), 12),
        ) {
            let selectors: Vec<Selector> = selectors.into_iter().map(Selector::new).collect();
            let labels: LabelSet = labels.into_iter().collect();
            let mut index = SelectorIndex::default();
            for (id, selector) in (0..).zip(&selectors) {
                index.insert(id, selector);
            }
            for id in (0..).zip(&removed).filter(|(_, removed)| **removed).map(|(id, _)| id) {
                index.remove(id);
            }
            let mut found = Vec::new();
            index.candidates(&labels, &mut found);
            for ((id, selector), removed) in (0..).zip(&selectors).zip(&removed) {
                if *removed {
                    prop_assert!(!found.contains(&id));
                } else if selector.matches(&labels) {
                    prop_assert!(found.contains(&id), "{selector} matches {labels:?}");
                }
            }
        }
    }
}
