//! Reports denied packets that the programs counted instead of writing records for them.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{HashMap as KernelMap, IterableMap, Map, MapData, MapError};
use specola_datapath_common::event::Event;
use specola_datapath_common::fold::{FOLD_ENTRIES, FOLD_WINDOW_NS, FoldCount, FoldKey, FoldSeen};
use specola_datapath_common::names;

use super::Ledger;
use crate::maps::endpoints::is_not_found;
use crate::maps::plain::Plain;
use crate::maps::policy::remove_pin;
use crate::maps::{MapSource, MapsError, take_as};
use crate::sys;

/// The counts, and how much of them was reported by this or an earlier process.
pub(crate) struct Folds {
    counts: KernelMap<MapData, Plain<FoldKey>, Plain<FoldCount>>,
    samples: KernelMap<MapData, Plain<FoldKey>, Plain<Event>>,
    /// Pinned, so that no packet is reported twice or left out when the process is killed.
    seen: KernelMap<MapData, Plain<FoldKey>, Plain<FoldSeen>>,
    /// What `seen` holds.
    known: HashMap<FoldKey, FoldSeen>,
    ledger: Ledger,
}

impl Folds {
    /// Takes the programs' maps, and opens or makes the pinned map of what was reported.
    pub(crate) fn open(maps: &mut impl MapSource, pin: &Path, ledger: Ledger) -> Result<Self, MapsError> {
        let data = match reuse(pin)? {
            Some(data) => data,
            None => create(pin)?,
        };
        let seen: KernelMap<_, Plain<FoldKey>, Plain<FoldSeen>> =
            KernelMap::try_from(Map::HashMap(data)).map_err(MapsError::kernel(SEEN, "open"))?;
        let mut known = HashMap::new();
        for_each(&seen, SEEN, |key, value| {
            known.insert(key, value);
        })?;
        let (counts, samples) = (take_as(maps, names::FOLD)?, take_as(maps, names::FOLD_SAMPLE)?);
        Ok(Self { counts, samples, seen, known, ledger })
    }

    /// One record for each key whose count grew since it was reported. What is reported is on the books when this
    /// returns. Keys that had no packet for a while are forgotten. Gives whether there are keys to look after.
    ///
    /// # Errors
    /// The kernel refused to read or change a map; what was reported until then is in `records`.
    pub(crate) fn report(&mut self, now_ns: u64, records: &mut Vec<Event>) -> Result<bool, MapsError> {
        let entries = self.entries()?;
        let has_keys = !entries.is_empty();
        for (key, count) in entries {
            if count.packets != self.seen_of(&key, &count).packets {
                self.record(key, &count, records)?;
            } else if now_ns / FOLD_WINDOW_NS > count.window + IDLE_WINDOWS {
                self.forget(&key, records)?;
            }
        }
        Ok(has_keys)
    }

    /// Packets that were counted and not reported yet.
    pub(crate) fn waiting(&self) -> Result<u64, MapsError> {
        let waits = |(key, count): &(FoldKey, FoldCount)| count.packets - self.seen_of(key, count).packets;
        Ok(self.entries()?.iter().map(waits).sum())
    }

    fn entries(&self) -> Result<Vec<(FoldKey, FoldCount)>, MapsError> {
        let mut entries = Vec::new();
        for_each(&self.counts, names::FOLD, |key, count: FoldCount| entries.push((key, count)))?;
        Ok(entries)
    }

    /// What was reported of an entry; nothing, if it was made after the one that was reported.
    fn seen_of(&self, key: &FoldKey, count: &FoldCount) -> FoldSeen {
        let fresh = FoldSeen { created_ns: count.created_ns, packets: 0, bytes: 0 };
        let seen = self.known.get(key).copied().unwrap_or(fresh);
        if seen.created_ns == count.created_ns && seen.packets <= count.packets { seen } else { fresh }
    }

    /// Puts the growth of a count on the books and makes its record.
    fn record(&mut self, key: FoldKey, count: &FoldCount, records: &mut Vec<Event>) -> Result<(), MapsError> {
        let before = self.seen_of(&key, count);
        // What a record cannot hold comes with the next one.
        let fold = u32::try_from(count.packets - before.packets).unwrap_or(u32::MAX);
        let bytes = count.bytes.saturating_sub(before.bytes);
        let packets = before.packets + u64::from(fold);
        let after = FoldSeen { created_ns: count.created_ns, packets, bytes: before.bytes + bytes };
        let sample = self.sample(&key)?;
        self.seen.insert(Plain(key), Plain(after), 0).map_err(MapsError::kernel(SEEN, "write"))?;
        self.ledger.add_folded(fold.into());
        self.known.insert(key, after);
        records.push(Event {
            fold,
            bytes_fwd: bytes,
            lane_seq: 0,
            boot_ns: count.last_ns.max(count.created_ns),
            ..sample
        });
        Ok(())
    }

    /// A packet of the key. Without one (the programs had no room) the key alone says what it can.
    fn sample(&self, key: &FoldKey) -> Result<Event, MapsError> {
        match self.samples.get(&Plain(*key), 0) {
            // The kernel may give the memory to another key while it is copied.
            Ok(Plain(sample)) if FoldKey::of(&sample) == *key => Ok(sample),
            Ok(_) => Ok(key.to_event()),
            Err(error) if is_not_found(&error) => Ok(key.to_event()),
            Err(error) => Err(MapsError::kernel(names::FOLD_SAMPLE, "look up")(error)),
        }
    }

    /// Removes an entry; packets that came meanwhile are reported.
    fn forget(&mut self, key: &FoldKey, records: &mut Vec<Event>) -> Result<(), MapsError> {
        let failed = |error| MapsError::kernel(names::FOLD, "remove")(MapError::IoError(error));
        let last: Option<FoldCount> = sys::take(self.counts.map().fd().as_fd(), key).map_err(failed)?;
        if let Some(last) = last
            && last.packets != self.seen_of(key, &last).packets
        {
            self.record(*key, &last, records)?;
        }
        remove(&mut self.samples, key, names::FOLD_SAMPLE)?;
        remove(&mut self.seen, key, SEEN)?;
        self.known.remove(key);
        Ok(())
    }
}

impl std::fmt::Debug for Folds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folds").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

fn for_each<V: crate::maps::plain::Abi + Default>(
    map: &KernelMap<MapData, Plain<FoldKey>, Plain<V>>,
    name: &'static str,
    mut visit: impl FnMut(FoldKey, V),
) -> Result<(), MapsError> {
    let failed = |error| MapsError::kernel(name, "list")(MapError::IoError(error));
    let mut chunks = sys::Chunks::<FoldKey, V>::new(map.map().fd().as_fd());
    while let Some((keys, values)) = chunks.next_chunk().map_err(failed)? {
        for (Plain(key), Plain(value)) in keys.iter().zip(values) {
            visit(*key, *value);
        }
    }
    Ok(())
}

fn remove<V: crate::maps::plain::Abi>(
    map: &mut KernelMap<MapData, Plain<FoldKey>, Plain<V>>,
    key: &FoldKey,
    name: &'static str,
) -> Result<(), MapsError> {
    match map.remove(&Plain(*key)) {
        Err(error) if !is_not_found(&error) => Err(MapsError::kernel(name, "remove")(error)),
        _ => Ok(()),
    }
}

/// The pinned map, if there is one of the right layout.
fn reuse(pin: &Path) -> Result<Option<MapData>, MapsError> {
    if !pin.exists() {
        return Ok(None);
    }
    let data = MapData::from_pin(pin).map_err(MapsError::kernel(SEEN, "open its pin"))?;
    let info = data.info().map_err(MapsError::kernel(SEEN, "look at its pin"))?;
    let sizes = (info.key_size() as usize, info.value_size() as usize, info.max_entries());
    if sizes == (size_of::<FoldKey>(), size_of::<FoldSeen>(), SEEN_ENTRIES) {
        return Ok(Some(data));
    }
    tracing::warn!(map = SEEN, "pinned map has another layout and begins anew");
    remove_pin(pin).map_err(|error| MapsError::kernel(SEEN, "unpin")(MapError::IoError(error)))?;
    Ok(None)
}

fn create(pin: &Path) -> Result<MapData, MapsError> {
    let size = |bytes| u32::try_from(bytes).expect("some bytes");
    let definition = aya_obj::Map::new_from_params(
        aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH as u32,
        size(size_of::<FoldKey>()),
        size(size_of::<FoldSeen>()),
        SEEN_ENTRIES,
        0,
    );
    let data =
        MapData::create(definition, "sp_fold_seen", None).map_err(MapsError::kernel(SEEN, "create"))?;
    data.pin(pin).map_err(|error| {
        MapsError::kernel(SEEN, "pin")(MapError::PinError { name: Some(SEEN.to_owned()), error })
    })?;
    Ok(data)
}

/// Also the name of the pin.
pub(crate) const SEEN: &str = "SP_FOLD_SEEN";
/// Twice as many as there are counts: a key may stay here a little longer.
const SEEN_ENTRIES: u32 = 2 * FOLD_ENTRIES;
/// An entry without packets for so many seconds is removed, so that other keys have room.
const IDLE_WINDOWS: u64 = 10;
