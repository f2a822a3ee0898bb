//! A bounded table that gives the place of its least recently used entry to a new one.

use std::collections::HashMap;
use std::hash::Hash;

/// No entry.
const NONE: u32 = u32::MAX;

/// Place of an entry, valid until the entry is removed or displaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place(u32);

/// Entries by key, linked in the order of their last use.
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    places: HashMap<K, u32>,
    nodes: Vec<Node<K, V>>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
    capacity: usize,
}

#[derive(Debug)]
struct Node<K, V> {
    key: K,
    value: V,
    older: u32,
    newer: u32,
}

impl<K: Copy + Eq + Hash, V> Lru<K, V> {
    /// A table for so many entries, at least one. Memory is taken as entries come.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            places: HashMap::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
            capacity: capacity.clamp(1, NONE as usize - 1),
        }
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Finds an entry and notes its use.
    pub(crate) fn find(&mut self, key: &K) -> Option<Place> {
        let place = *self.places.get(key)?;
        if self.newest != place {
            self.unlink(place);
            self.link_newest(place);
        }
        Some(Place(place))
    }

    /// The value at a place.
    pub(crate) fn at(&self, Place(place): Place) -> &V {
        &self.nodes[place as usize].value
    }

    /// The value at a place, to be changed.
    pub(crate) fn at_mut(&mut self, Place(place): Place) -> &mut V {
        &mut self.nodes[place as usize].value
    }

    /// Enters or replaces an entry; gives back the one that had to go for it.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        if let Some(place) = self.find(&key) {
            *self.at_mut(place) = value;
            return None;
        }
        if self.places.len() >= self.capacity {
            return Some(self.displace(key, value));
        }
        self.add(key, value);
        None
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V>
    where
        V: Copy,
    {
        let place = self.places.remove(key)?;
        self.unlink(place);
        self.free.push(place);
        Some(self.nodes[place as usize].value)
    }

    /// All entries, the least recently used first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let node = |place: u32| self.nodes.get(place as usize).map(|node| (place, node));
        std::iter::successors(node(self.oldest), move |(_, at)| node(at.newer))
            .map(|(_, node)| (&node.key, &node.value))
    }

    fn add(&mut self, key: K, value: V) {
        let node = Node { key, value, older: NONE, newer: NONE };
        let place = if let Some(place) = self.free.pop() {
            self.nodes[place as usize] = node;
            place
        } else {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        };
        self.places.insert(key, place);
        self.link_newest(place);
    }

    /// Puts a new entry into the place of the oldest one.
    fn displace(&mut self, key: K, value: V) -> (K, V) {
        let place = self.oldest;
        self.unlink(place);
        let old =
            std::mem::replace(&mut self.nodes[place as usize], Node { key, value, older: NONE, newer: NONE });
        self.places.remove(&old.key);
        self.places.insert(key, place);
        self.link_newest(place);
        (old.key, old.value)
    }

    fn unlink(&mut self, place: u32) {
        let (older, newer) = {
            let node = &self.nodes[place as usize];
            (node.older, node.newer)
        };
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let before = self.newest;
        let node = &mut self.nodes[place as usize];
        (node.older, node.newer) = (before, NONE);
        match before {
            NONE => self.oldest = place,
            before => self.nodes[before as usize].newer = place,
        }
        self.newest = place;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Find(u8),
        Insert(u8, u32),
        Remove(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..12_u8).prop_map(Step::Find),
            (0..12_u8, any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
            (0..12_u8).prop_map(Step::Remove),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn it_is_a_list_in_the_order_of_use(steps in steps(), capacity in 1..8_usize) {
            let mut table = Lru::new(capacity);
            let mut model: VecDeque<(u8, u32)> = VecDeque::new();
            for step in steps {
                let take = |model: &mut VecDeque<(u8, u32)>, key| {
                    model.iter().position(|(own, _)| *own == key).and_then(|at| model.remove(at))
                };
                match step {
                    Step::Find(key) => {
                        let known = take(&mut model, key);
                        prop_assert_eq!(table.find(&key).map(|place| *table.at(place)), known.map(|(_, value)| value));
                        model.extend(known);
                    }
                    Step::Insert(key, value) => {
                        let known = take(&mut model, key);
                        let oldest = if known.is_none() && model.len() == capacity { model.pop_front() } else { None };
                        prop_assert_eq!(table.insert(key, value), oldest);
                        model.push_back((key, value));
                    }
                    Step::Remove(key) => {
                        prop_assert_eq!(table.remove(&key), take(&mut model, key).map(|(_, value)| value));
                    }
                }
                let held: Vec<_> = table.iter().map(|(key, value)| (*key, *value)).collect();
                prop_assert_eq!(held, Vec::from(model.clone()));
                prop_assert_eq!(table.len(), model.len());
            }
        }
    }
}
