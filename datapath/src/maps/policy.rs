//! Policy of the endpoints: two tries for each, of which one is active.
//!
//! An update goes to the inactive trie, then one store makes that trie active together with its revision, default
//! cookies and a new epoch; after a kernel grace period, when no program can still be reading the trie that was
//! active, the same change goes to that one. So every packet sees either the whole old or the whole new policy.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{ArrayOfMaps, MapData, MapError};
use specola_datapath_common::endpoint::{EndpointRecord, PolicyState};
use specola_datapath_common::names;
use specola_datapath_common::policy::{MAX_ENTRIES, PolicyKey, PolicyValue};

use self::grace::wait_for_readers;
use self::trie::Trie;
use super::endpoints::{EndpointError, EndpointTable, check_slot, is_not_found};
use super::{MapsError, take_as};

mod check;
mod grace;
pub(crate) mod trie;

/// A change of one endpoint's policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyUpdate {
    /// Slot of the endpoint.
    pub slot: u16,
    /// Entries to add or to replace.
    pub upserts: Vec<(PolicyKey, PolicyValue)>,
    /// Entries to remove; those that are not there, or are in `upserts`, do not matter.
    pub deletes: Vec<PolicyKey>,
    /// Revision, default cookies and flags that come into force together with the entries.
    pub state: PolicyState,
}

/// Why a policy was not applied. The policy that was in force stays in force, whole.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The entries would not fit; nothing was written.
    #[error(
        "policy of endpoint slot {slot} needs {need} entries, {max} fit ({have} are in force): \
         use wider port ranges or fewer peers in its rules"
    )]
    Full {
        /// The endpoint.
        slot: u16,
        /// Entries in force.
        have: usize,
        /// Entries after the update.
        need: usize,
        /// Entries that fit.
        max: usize,
    },
    /// A key or value that the programs would misread; nothing was written.
    #[error("policy entry {key:?} of endpoint slot {slot}: {reason}")]
    BadEntry {
        /// The endpoint.
        slot: u16,
        /// The entry's key.
        key: PolicyKey,
        /// What is wrong.
        reason: &'static str,
    },
    /// No such endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A map failed.
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// The tries of all endpoints.
#[derive(Debug)]
pub(crate) struct PolicyMaps {
    outer: ArrayOfMaps<MapData>,
    /// Definition of the outer map: it knows what its inner maps must be.
    definition: aya_obj::Map,
    /// Where tries are pinned.
    dir: PathBuf,
    slots: HashMap<u16, Slot>,
    max: usize,
}

impl PolicyMaps {
    pub(crate) fn open(ebpf: &mut Ebpf, definition: aya_obj::Map, dir: PathBuf) -> Result<Self, MapsError> {
        let outer = take_as(ebpf, names::POLICY)?;
        Ok(Self { outer, definition, dir, slots: HashMap::new(), max: MAX_ENTRIES as usize })
    }

    /// Makes or finds the tries of a slot; what the active one holds is the policy in force.
    pub(crate) fn open_slot(&mut self, slot: u16, active: u32) -> Result<(), MapsError> {
        if self.slots.contains_key(&slot) {
            return Ok(());
        }
        let tries = [self.open_trie(slot, 0)?, self.open_trie(slot, 1)?];
        let content = tries[active as usize & 1].entries()?;
        let twin_is_stale = tries[inactive(active)].entries()? != content;
        self.slots.insert(slot, Slot { tries, content, twin_is_stale });
        Ok(())
    }

    /// Empties both tries of a slot, for an endpoint that comes or goes.
    pub(crate) fn clear_slot(&mut self, slot: u16) -> Result<(), MapsError> {
        let Some(tries) = self.slots.get_mut(&slot) else { return Ok(()) };
        tries.content.clear();
        tries.twin_is_stale = true;
        let empty = HashMap::new();
        tries.tries[0].become_equal_to(&empty)?;
        tries.tries[1].become_equal_to(&empty)?;
        tries.twin_is_stale = false;
        Ok(())
    }

    /// Gives up the tries of an endpoint that is gone. The kernel keeps them, empty, for the slot's next endpoint.
    pub(crate) fn close_slot(&mut self, slot: u16) -> Result<(), MapsError> {
        let cleared = self.clear_slot(slot);
        self.slots.remove(&slot);
        for side in 0..2 {
            remove_pin(&self.pin_path(slot, side))
                .map_err(|error| MapsError::kernel(names::POLICY, "unpin")(MapError::IoError(error)))?;
        }
        cleared
    }

    /// The entries in force.
    pub(crate) fn content(&self, slot: u16) -> Option<&HashMap<PolicyKey, PolicyValue>> {
        Some(&self.slots.get(&slot)?.content)
    }

    /// What the kernel holds in one trie.
    pub(crate) fn kernel_content(
        &self,
        slot: u16,
        side: u32,
    ) -> Result<HashMap<PolicyKey, PolicyValue>, MapsError> {
        self.slots
            .get(&slot)
            .map_or_else(|| Ok(HashMap::new()), |found| found.tries[side as usize & 1].entries())
    }

    /// Applies updates under as few grace periods as possible. One result per update: the endpoint's new epoch.
    pub(crate) fn apply(
        &mut self,
        endpoints: &EndpointTable,
        updates: &[PolicyUpdate],
    ) -> Vec<Result<u32, ApplyError>> {
        let mut results = Vec::with_capacity(updates.len());
        let mut rest = updates;
        while !rest.is_empty() {
            // A slot takes one update per grace period.
            let mut seen = HashSet::new();
            let length = rest.iter().take_while(|update| seen.insert(update.slot)).count();
            let (round, later) = rest.split_at(length);
            self.apply_round(endpoints, round, &mut results);
            rest = later;
        }
        results
    }

    fn apply_round(
        &mut self,
        endpoints: &EndpointTable,
        round: &[PolicyUpdate],
        results: &mut Vec<Result<u32, ApplyError>>,
    ) {
        let mut flipped = Vec::new();
        for update in round {
            results.push(self.realize(endpoints, update).map(|realized| {
                if realized.entries_changed {
                    flipped.push((update, realized.old_side));
                }
                realized.epoch
            }));
        }
        if flipped.is_empty() {
            return;
        }
        wait_for_readers();
        for (update, old_side) in flipped {
            let slot = self.slots.get_mut(&update.slot).expect("`realize` found it");
            let repeated = slot.tries[old_side].apply(update, None);
            if let Err(error) = repeated {
                // The new policy is in force; the next update repairs this trie before it uses it.
                tracing::warn!(slot = update.slot, %error, "policy trie out of step");
            } else {
                slot.twin_is_stale = false;
            }
        }
    }

    /// Writes an update to the inactive trie and makes it the active one.
    fn realize(&mut self, endpoints: &EndpointTable, update: &PolicyUpdate) -> Result<Realized, ApplyError> {
        let slot_index = update.slot;
        check_slot(slot_index)?;
        let record = endpoints.live(slot_index).ok_or(EndpointError::Empty { slot: slot_index })?;
        let slot = self.slots.get_mut(&slot_index).ok_or(EndpointError::Empty { slot: slot_index })?;
        check::entries(update)?;
        let need = slot.entries_after(update);
        if need > self.max {
            let have = slot.content.len();
            return Err(ApplyError::Full { slot: slot_index, have, need, max: self.max });
        }
        let active = EndpointRecord::active(record.word);
        let (old_side, new_side) = (active as usize, inactive(active));
        slot.repair(new_side)?;
        let entries_changed = slot.changes(update);
        if entries_changed {
            slot.twin_is_stale = true;
            slot.tries[new_side].apply(update, Some(&slot.content))?;
            slot.remember(update);
        }
        let side = 1 - active;
        endpoints.set_state(slot_index, side, update.state);
        Ok(Realized { epoch: endpoints.flip(slot_index, side), old_side, entries_changed })
    }

    /// The first half of an update, as if the process died before the second.
    #[cfg(feature = "test-util")]
    pub(crate) fn apply_first_half(
        &mut self,
        endpoints: &EndpointTable,
        update: &PolicyUpdate,
    ) -> Result<u32, ApplyError> {
        self.realize(endpoints, update).map(|realized| realized.epoch)
    }

    fn open_trie(&mut self, slot: u16, side: u32) -> Result<Trie, MapsError> {
        let index = 2 * u32::from(slot) + side;
        match self.outer.get(&index, 0) {
            Ok(data) => {
                let path = self.pin_path(slot, side);
                if !path.exists() {
                    data.pin(&path).map_err(pin_failed)?;
                }
                Trie::new(data)
            }
            Err(error) if is_not_found(&error) => self.create_trie(slot, side, index),
            Err(error) => Err(MapsError::kernel(names::POLICY, "look up the trie of a slot")(error)),
        }
    }

    fn create_trie(&mut self, slot: u16, side: u32, index: u32) -> Result<Trie, MapsError> {
        let inner = self.definition.inner().ok_or(MapsError::Missing { name: names::POLICY })?;
        // Type, sizes and flags must be those that the outer map was made with; type information need not be.
        let definition = aya_obj::Map::new_from_params(
            inner.map_type(),
            inner.key_size(),
            inner.value_size(),
            inner.max_entries(),
            inner.map_flags(),
        );
        let data = MapData::create(definition, TRIE_NAME, None)
            .map_err(MapsError::kernel(names::POLICY, "create a trie"))?;
        let path = self.pin_path(slot, side);
        remove_pin(&path)
            .map_err(|error| MapsError::kernel(names::POLICY, "unpin")(MapError::IoError(error)))?;
        data.pin(&path).map_err(pin_failed)?;
        // The kernel waits for all readers of the outer map here, some milliseconds.
        self.outer
            .set(index, &data, 0)
            .map_err(MapsError::kernel(names::POLICY, "put a trie into a slot"))?;
        Trie::new(data)
    }

    fn pin_path(&self, slot: u16, side: u32) -> PathBuf {
        trie_pin(&self.dir, slot, side)
    }
}

/// Pin of one of a slot's two tries in their directory.
pub(crate) fn trie_pin(dir: &Path, slot: u16, side: u32) -> PathBuf {
    dir.join(format!("{slot}-{}", if side == 0 { 'a' } else { 'b' }))
}

/// The tries of one slot.
#[derive(Debug)]
struct Slot {
    tries: [Trie; 2],
    /// What the active trie holds.
    content: HashMap<PolicyKey, PolicyValue>,
    /// Whether the inactive trie may hold something else: an update was cut short.
    twin_is_stale: bool,
}

impl Slot {
    /// Makes the inactive trie equal to the active one, after an update that was cut short.
    fn repair(&mut self, inactive: usize) -> Result<(), MapsError> {
        if self.twin_is_stale {
            self.tries[inactive].become_equal_to(&self.content)?;
            self.twin_is_stale = false;
        }
        Ok(())
    }

    fn changes(&self, update: &PolicyUpdate) -> bool {
        update.upserts.iter().any(|(key, value)| self.content.get(key) != Some(value))
            || update.deletes.iter().any(|key| self.content.contains_key(key))
    }

    /// How many entries there will be.
    fn entries_after(&self, update: &PolicyUpdate) -> usize {
        let upserts: HashSet<&PolicyKey> = update.upserts.iter().map(|(key, _)| key).collect();
        let added = upserts.iter().filter(|key| !self.content.contains_key(**key)).count();
        let deletes: HashSet<&PolicyKey> = update.deletes.iter().collect();
        let removed =
            deletes.iter().filter(|key| self.content.contains_key(**key) && !upserts.contains(**key)).count();
        self.content.len() + added - removed
    }

    fn remember(&mut self, update: &PolicyUpdate) {
        for key in &update.deletes {
            self.content.remove(key);
        }
        self.content.extend(update.upserts.iter().copied());
    }
}

/// An update that packets see.
struct Realized {
    epoch: u32,
    /// The trie that was active.
    old_side: usize,
    entries_changed: bool,
}

fn inactive(active: u32) -> usize {
    1 - (active as usize & 1)
}

fn pin_failed(error: aya::pin::PinError) -> MapsError {
    MapsError::kernel(names::POLICY, "pin a trie")(MapError::PinError { name: None, error })
}

/// Removes a pin; that it does not exist is no error.
pub(crate) fn remove_pin(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

const TRIE_NAME: &str = "sp_policy_trie";
