//! Policy of the endpoints: two tries for each, of which one is active.
//!
//! An update goes to the inactive trie, then one store makes that trie active together with its revision, default
//! cookies and a new epoch; after a kernel grace period, when no program can still be reading the trie that was
//! active, the same change goes to that one. So every packet sees either the whole old or the whole new policy.
//!
//! Packets follow a policy from the store on; nobody waits for the grace period but the next change of the same
//! endpoint, and who adds what only the new policy knows where processors may reorder loads.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{ArrayOfMaps, Map, MapData, MapError};
use specola_datapath_common::endpoint::{EndpointRecord, HOST_SLOT, PolicyState};
use specola_datapath_common::names;
use specola_datapath_common::policy::{MAX_ENTRIES, PolicyKey, PolicyValue};

use self::grace::{Grace, Ticket};
use self::trie::Trie;
use super::endpoints::{EndpointError, EndpointTable, check_slot, is_not_found};
use super::{MapsError, take};
use crate::sys;

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
    /// The same map, for what aya does not offer.
    outer_fd: OwnedFd,
    /// Definition of the outer map: it knows what its inner maps must be.
    definition: aya_obj::Map,
    /// Where tries are pinned.
    dir: PathBuf,
    slots: HashMap<u16, Slot>,
    /// Slots whose inactive trie has to follow.
    unfinished: BTreeSet<u16>,
    grace: Grace,
    max: usize,
}

impl PolicyMaps {
    pub(crate) fn open(ebpf: &mut Ebpf, definition: aya_obj::Map, dir: PathBuf) -> Result<Self, MapsError> {
        let outer = take(ebpf, names::POLICY)?;
        let Map::ArrayOfMaps(data) = &outer else {
            return Err(MapsError::Missing { name: names::POLICY });
        };
        let outer_fd = data.fd().as_fd().try_clone_to_owned();
        let outer_fd = outer_fd.map_err(|error| opening(MapError::IoError(error)))?;
        let outer = ArrayOfMaps::try_from(outer).map_err(opening)?;
        let grace = Grace::start().map_err(|source| MapsError::Thread { source })?;
        let max = MAX_ENTRIES as usize;
        let (slots, unfinished) = (HashMap::new(), BTreeSet::new());
        Ok(Self { outer, outer_fd, definition, dir, slots, unfinished, grace, max })
    }

    /// Makes or finds the tries of a slot; what the active one holds is the policy in force.
    pub(crate) fn open_slot(&mut self, slot: u16, active: u32) -> Result<(), MapsError> {
        if self.slots.contains_key(&slot) {
            return Ok(());
        }
        let tries = [self.open_trie(slot, 0)?, self.open_trie(slot, 1)?];
        let content = tries[active as usize & 1].entries()?;
        let twin_is_stale = tries[inactive(active)].entries()? != content;
        let (behind, flipped) = (HashSet::new(), Ticket::default());
        let active = active as usize & 1;
        self.slots.insert(slot, Slot { tries, active, content, behind, twin_is_stale, flipped });
        Ok(())
    }

    /// Empties both tries of a slot, for an endpoint that comes or goes.
    pub(crate) fn clear_slot(&mut self, slot: u16) -> Result<(), MapsError> {
        let Some(tries) = self.slots.get_mut(&slot) else { return Ok(()) };
        tries.content.clear();
        tries.behind.clear();
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

    /// Writes each update to the inactive trie and makes it the active one. One result per update: the endpoint's new
    /// epoch. Packets follow the new policies on return; [`Self::finish`] brings the other tries in step.
    ///
    /// Waits for a grace period only where an endpoint's latest update is younger than that.
    pub(crate) fn start(
        &mut self,
        endpoints: &EndpointTable,
        updates: &[PolicyUpdate],
    ) -> Vec<Result<u32, ApplyError>> {
        updates.iter().map(|update| self.realize(endpoints, update)).collect()
    }

    /// Whether tries have to follow.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Brings those tries in step that no program reads any more, or all of them after waiting for that. What fails is
    /// said, and repaired before the trie is used.
    pub(crate) fn finish(&mut self, waits: bool) {
        for index in std::mem::take(&mut self.unfinished) {
            let Some(slot) = self.slots.get_mut(&index) else { continue };
            if waits {
                self.grace.wait(slot.flipped);
            } else if !self.grace.is_over(slot.flipped) {
                self.unfinished.insert(index);
                continue;
            }
            let twin = 1 - slot.active;
            if let Err(error) = slot.repair(twin) {
                tracing::warn!(slot = index, %error, "policy trie out of step");
                slot.twin_is_stale = true;
            }
        }
    }

    /// Waits until every program run that is under way has ended.
    pub(crate) fn wait_for_readers(&self) {
        self.grace.wait(self.grace.ticket());
    }

    /// Waits until no program looks at a policy that was replaced.
    pub(crate) fn wait_for_replaced(&self) {
        let latest =
            self.unfinished.iter().filter_map(|index| self.slots.get(index)).map(|slot| slot.flipped);
        if let Some(latest) = latest.max() {
            self.grace.wait(latest);
        }
    }

    /// Writes an update to the inactive trie and makes it the active one.
    fn realize(&mut self, endpoints: &EndpointTable, update: &PolicyUpdate) -> Result<u32, ApplyError> {
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
        let new_side = inactive(EndpointRecord::active(record.word));
        self.grace.wait(slot.flipped);
        slot.repair(new_side)?;
        if slot.changes(update) {
            slot.twin_is_stale = true;
            slot.tries[new_side].apply(update, Some(&slot.content))?;
            slot.twin_is_stale = false;
            slot.remember(update);
        }
        let side = u32::from(new_side == 1);
        endpoints.set_state(slot_index, side, update.state);
        let epoch = endpoints.flip(slot_index, side);
        slot.active = new_side;
        slot.flipped = self.grace.ticket();
        self.unfinished.insert(slot_index);
        Ok(epoch)
    }

    /// The first half of an update, as if the process died before the second.
    #[cfg(feature = "test-util")]
    pub(crate) fn apply_first_half(
        &mut self,
        endpoints: &EndpointTable,
        update: &PolicyUpdate,
    ) -> Result<u32, ApplyError> {
        self.realize(endpoints, update)
    }

    fn open_trie(&mut self, slot: u16, side: u32) -> Result<Trie, MapsError> {
        let index = index_of(slot, side);
        let data = match self.trie_at(index)? {
            Some(data) => data,
            None => {
                // A pin of this name is of a trie that no packet can find.
                remove_pin(&self.pin_path(slot, side))
                    .map_err(|error| MapsError::kernel(names::POLICY, "unpin")(MapError::IoError(error)))?;
                self.create_tries(slot)?;
                self.trie_at(index)?.ok_or(MapsError::Missing { name: names::POLICY })?
            }
        };
        let path = self.pin_path(slot, side);
        if !path.exists() {
            data.pin(&path).map_err(pin_failed)?;
        }
        Trie::new(data)
    }

    fn trie_at(&self, index: u32) -> Result<Option<MapData>, MapsError> {
        match self.outer.get(&index, 0) {
            Ok(data) => Ok(Some(data)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(MapsError::kernel(names::POLICY, "look up the trie of a slot")(error)),
        }
    }

    /// Makes the tries that a slot and those beside it lack. The kernel waits for all readers of the outer map, some
    /// milliseconds, after each call that changes it: endpoints that come together share that wait.
    fn create_tries(&mut self, slot: u16) -> Result<(), MapsError> {
        let first = slot / SLOTS_AT_ONCE * SLOTS_AT_ONCE;
        let slots = first..first.saturating_add(SLOTS_AT_ONCE).min(LAST_SLOT + 1);
        let mut made = Vec::new();
        for index in slots.flat_map(|slot| [index_of(slot, 0), index_of(slot, 1)]) {
            if self.trie_at(index)?.is_none() {
                made.push((index, self.create_trie()?));
            }
        }
        let entries: Vec<(u32, BorrowedFd<'_>)> =
            made.iter().map(|(index, data)| (*index, data.fd().as_fd())).collect();
        match sys::set_inner_maps(self.outer_fd.as_fd(), &entries) {
            Ok(()) => Ok(()),
            Err(error) => {
                // Kernels before 5.19 take one at a time.
                tracing::debug!(%error, "tries are put into their slots one by one");
                self.set_one_by_one(slot, &made)
            }
        }
    }

    fn set_one_by_one(&mut self, slot: u16, made: &[(u32, MapData)]) -> Result<(), MapsError> {
        let own = [index_of(slot, 0), index_of(slot, 1)];
        for (index, data) in made.iter().filter(|(index, _)| own.contains(index)) {
            self.outer
                .set(*index, data, 0)
                .map_err(MapsError::kernel(names::POLICY, "put a trie into a slot"))?;
        }
        Ok(())
    }

    fn create_trie(&self) -> Result<MapData, MapsError> {
        let inner = self.definition.inner().ok_or(MapsError::Missing { name: names::POLICY })?;
        // Type, sizes and flags must be those that the outer map was made with; type information need not be.
        let definition = aya_obj::Map::new_from_params(
            inner.map_type(),
            inner.key_size(),
            inner.value_size(),
            inner.max_entries(),
            inner.map_flags(),
        );
        MapData::create(definition, TRIE_NAME, None)
            .map_err(MapsError::kernel(names::POLICY, "create a trie"))
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
    /// Index of the active trie.
    active: usize,
    /// What the active trie holds.
    content: HashMap<PolicyKey, PolicyValue>,
    /// Keys that the inactive trie may hold otherwise: it follows after the grace period.
    behind: HashSet<PolicyKey>,
    /// Whether the inactive trie may hold anything: a change of it was cut short.
    twin_is_stale: bool,
    /// Over when no program reads the inactive trie any more.
    flipped: Ticket,
}

impl Slot {
    /// Makes the inactive trie equal to the active one.
    fn repair(&mut self, inactive: usize) -> Result<(), MapsError> {
        if self.twin_is_stale {
            self.tries[inactive].become_equal_to(&self.content)?;
        } else {
            self.tries[inactive].follow(&self.behind, &self.content)?;
        }
        self.twin_is_stale = false;
        self.behind.clear();
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
            if self.content.remove(key).is_some() {
                self.behind.insert(*key);
            }
        }
        for (key, value) in &update.upserts {
            if self.content.insert(*key, *value) != Some(*value) {
                self.behind.insert(*key);
            }
        }
    }
}

/// Where the outer map has a trie.
fn index_of(slot: u16, side: u32) -> u32 {
    2 * u32::from(slot) + side
}

fn opening(error: MapError) -> MapsError {
    MapsError::kernel(names::POLICY, "open")(error)
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

/// Slots whose tries are made together.
const SLOTS_AT_ONCE: u16 = 16;
const LAST_SLOT: u16 = HOST_SLOT;
const TRIE_NAME: &str = "sp_policy_trie";
