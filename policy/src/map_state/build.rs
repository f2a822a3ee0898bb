//! From what the rules say, one by one, to a map in which two lookups are enough.
//!
//! Whatever order rules come in, the map is the same. A change of what is said of one identity costs what that identity
//! has; a change of what is said of any identity costs the whole map.

use std::collections::{BTreeMap, BTreeSet};

use super::column::{Column, Common};
use super::saying::Saying;
use super::{Diff, Entry, Key, MapState};
use crate::origin::OriginSet;

/// Collects what rules say about one endpoint's peers, and keeps its map in step.
#[derive(Debug)]
pub(crate) struct MapBuilder {
    columns: BTreeMap<u32, Column>,
    /// Keys of all columns.
    raw: usize,
    /// By identity and direction, keys where a broad entry of it meets a narrower one of anybody.
    crossed: BTreeMap<u32, [usize; 2]>,
    crossed_in_all: [usize; 2],
    /// Columns that are layered, by direction.
    layered: [usize; 2],
    common: Common,
    /// Identities whose column is not in the map yet.
    dirty: BTreeSet<u32>,
    state: MapState,
}

impl MapBuilder {
    /// Adds what one rule says of a key.
    pub(crate) fn add(&mut self, key: Key, saying: Saying) {
        self.dirty.insert(key.identity);
        let column = self.columns.entry(key.identity).or_default();
        let direction = usize::from(key.egress);
        let was_layered = column.layered[direction];
        let is_new = column.add(key, saying);
        self.layered[direction] += usize::from(!was_layered && column.layered[direction]);
        self.raw += usize::from(is_new);
    }

    /// Forgets everything that was said of an identity.
    pub(crate) fn clear(&mut self, identity: u32) {
        if let Some(column) = self.columns.remove(&identity) {
            self.raw -= column.len();
            for (count, layered) in self.layered.iter_mut().zip(column.layered) {
                *count -= usize::from(layered);
            }
            self.dirty.insert(identity);
        }
    }

    /// Names what closes a direction where nothing matches; empty: nothing does.
    pub(crate) fn close(&mut self, egress: bool, origins: OriginSet) {
        let direction = usize::from(egress);
        if self.common.closed_by[direction] != origins {
            self.common.closed_by[direction] = origins;
            if self.layered[direction] > 0 {
                self.dirty.extend(self.columns.keys());
            }
        }
    }

    /// Number of keys so far.
    pub(crate) fn len(&self) -> usize {
        self.raw
    }

    /// What the rules said so far.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.columns.values().flat_map(Column::entries)
    }

    /// The map as of the last [`Self::settle`].
    pub(crate) fn state(&self) -> &MapState {
        &self.state
    }

    /// The map alone.
    pub(crate) fn into_state(self) -> MapState {
        self.state
    }

    /// Brings the map in step and returns what changed in it. It has more than `named_in_full` entries only if the
    /// rules need them for their verdicts. None when it would take more than `limit` keys to find out; the map is not
    /// in step then.
    pub(crate) fn settle(&mut self, named_in_full: usize, limit: usize) -> Option<Diff> {
        if self.dirty.is_empty() {
            return Some(Diff::default());
        }
        let any = self.columns.remove(&0).unwrap_or_default();
        let changes =
            self.dirty_columns(&any, named_in_full, limit).map(|dirty| self.set_columns(dirty, &any));
        if !any.is_empty() {
            self.columns.insert(0, any);
        }
        changes
    }

    /// The identities whose entries may be others now. None: see [`Self::settle`].
    fn dirty_columns(&mut self, any: &Column, named_in_full: usize, limit: usize) -> Option<BTreeSet<u32>> {
        let mut dirty = std::mem::take(&mut self.dirty);
        if dirty.contains(&0) {
            dirty.extend(self.columns.keys());
        }
        for identity in &dirty {
            self.count_crossed(*identity, any);
        }
        let mut keys = self.raw;
        for direction in 0..2 {
            let crossed = self.crossed_in_all[direction];
            let layered = self.layered[direction] > 0;
            if layered && crossed > limit {
                return None;
            }
            let names = layered || crossed <= named_in_full.saturating_sub(keys);
            keys += if names { crossed } else { 0 };
            if std::mem::replace(&mut self.common.layered[direction], layered) != layered {
                dirty.insert(0);
                dirty.extend(self.columns.keys());
            }
            if std::mem::replace(&mut self.common.names_crossed[direction], names) != names {
                dirty.extend(self.crossed.keys());
            }
        }
        Some(dirty)
    }

    fn set_columns(&mut self, mut dirty: BTreeSet<u32>, any: &Column) -> Diff {
        let mut diff = Diff::default();
        let before = self.state.column(0);
        let any_state = if dirty.remove(&0) {
            let state = any.state(0, any, &BTreeMap::new(), &self.common);
            self.state.set_column(&before, &state, &mut diff);
            state
        } else {
            before
        };
        for identity in dirty {
            let column = self.columns.get(&identity);
            let state = column.map(|column| column.state(identity, any, &any_state, &self.common));
            let before = self.state.column(identity);
            self.state.set_column(&before, &state.unwrap_or_default(), &mut diff);
        }
        diff
    }

    fn count_crossed(&mut self, identity: u32, any: &Column) {
        let before = self.crossed.remove(&identity).unwrap_or_default();
        let mut counts = [0, 0];
        if identity != 0 {
            for key in self.columns.get(&identity).iter().flat_map(|column| column.crossed(any, identity)) {
                counts[usize::from(key.egress)] += 1;
            }
        }
        if counts != [0, 0] {
            self.crossed.insert(identity, counts);
        }
        for direction in 0..2 {
            self.crossed_in_all[direction] += counts[direction];
            self.crossed_in_all[direction] -= before[direction];
        }
    }
}

impl Default for MapBuilder {
    fn default() -> Self {
        let common = Common { names_crossed: [true; 2], ..Common::default() };
        Self {
            columns: BTreeMap::new(),
            raw: 0,
            crossed: BTreeMap::new(),
            crossed_in_all: [0; 2],
            layered: [0; 2],
            common,
            dirty: BTreeSet::new(),
            state: MapState::default(),
        }
    }
}

impl MapState {
    /// Entries of one identity.
    fn column(&self, identity: u32) -> BTreeMap<Key, Entry> {
        let first = Key::all(identity, false);
        let last = Key { identity, egress: true, proto: u8::MAX, port: u16::MAX, port_bits: u8::MAX };
        self.entries.range(first..=last).map(|(key, entry)| (*key, entry.clone())).collect()
    }

    /// Replaces the entries of one identity and notes what that changes.
    fn set_column(&mut self, before: &BTreeMap<Key, Entry>, after: &BTreeMap<Key, Entry>, diff: &mut Diff) {
        for key in before.keys().filter(|key| !after.contains_key(key)) {
            self.entries.remove(key);
            diff.deletes.push(*key);
        }
        for (key, entry) in after.iter().filter(|(key, entry)| before.get(key) != Some(entry)) {
            self.entries.insert(*key, entry.clone());
            diff.upserts.push((*key, entry.clone()));
        }
    }
}
