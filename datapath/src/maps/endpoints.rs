//! The endpoint table and the index by interface.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};
use specola_datapath_common::endpoint::{
    ADDRESS_HINTS, EndpointRecord, HOST_SLOT, IFINDEX_HINTS, MAX_SLOTS, PolicyState, address_hint,
    policy_flags,
};
use specola_datapath_common::{names, v4_mapped};

use super::words::Words;
use super::{MapsError, take, take_as};

/// Why an endpoint was not added or changed.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// No such slot.
    #[error("endpoint slot {slot} does not exist: use 1 to {}", MAX_SLOTS - 1)]
    NoSuchSlot {
        /// As given.
        slot: u16,
    },
    /// No endpoint lives in the slot.
    #[error("endpoint slot {slot} is empty: add the endpoint first")]
    Empty {
        /// As given.
        slot: u16,
    },
    /// Another endpoint lives in the slot.
    #[error(
        "endpoint slot {slot} belongs to endpoint {holder} on interface {ifindex}: remove that one first"
    )]
    Taken {
        /// As given.
        slot: u16,
        /// Endpoint id of the one that lives there.
        holder: u16,
        /// Its interface.
        ifindex: u32,
    },
    /// A field that must be set is zero.
    #[error("endpoint record for slot {slot} has no {field}")]
    Unset {
        /// As given.
        slot: u16,
        /// Name of the field.
        field: &'static str,
    },
    /// A map failed.
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// The table of [`EndpointRecord`] and the index from interface to slot.
#[derive(Debug)]
pub(crate) struct EndpointTable {
    words: Words,
    /// Keeps the array alive as long as the mapping.
    _array: Map,
    by_ifindex: HashMap<MapData, u32, u32>,
    /// Where the programs look first. Never wrong for long: what a record does not confirm counts for nothing.
    by_interface: Words,
    by_address: Words,
    _hints: [Map; 2],
}

impl EndpointTable {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, MapsError> {
        let records = size_of::<EndpointRecord>() * MAX_SLOTS as usize;
        let (words, array) = Self::map(ebpf, names::ENDPOINTS, records)?;
        let hints = |entries: u32| size_of::<u64>() * entries as usize;
        let (by_interface, interfaces) = Self::map(ebpf, names::IFINDEX_HINT, hints(IFINDEX_HINTS))?;
        let (by_address, addresses) = Self::map(ebpf, names::ADDRESS_HINT, hints(ADDRESS_HINTS))?;
        let by_ifindex = take_as(ebpf, names::IFINDEX_SLOT)?;
        let _hints = [interfaces, addresses];
        Ok(Self { words, _array: array, by_ifindex, by_interface, by_address, _hints })
    }

    /// Maps an array's memory; the array itself keeps it alive.
    fn map(ebpf: &mut Ebpf, name: &'static str, bytes: usize) -> Result<(Words, Map), MapsError> {
        let array = take(ebpf, name)?;
        let Map::Array(data) = &array else {
            return Err(MapsError::Missing { name });
        };
        let words =
            Words::map(data.fd().as_fd(), bytes).map_err(|source| MapsError::Mmap { name, source })?;
        Ok((words, array))
    }

    /// The record of a slot, also of an empty one.
    pub(crate) fn record(&self, slot: u16) -> EndpointRecord {
        let mut words = [0; RECORD_WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.words.word(Self::first_word(slot) + index).load(Ordering::Acquire);
        }
        record_of(words)
    }

    /// The record of the endpoint that lives in a slot.
    pub(crate) fn live(&self, slot: u16) -> Option<EndpointRecord> {
        if check_slot(slot).is_err() {
            return None;
        }
        Some(self.record(slot)).filter(|record| record.identity != 0)
    }

    /// All endpoints with their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, EndpointRecord)> + '_ {
        let slots = 1..u16::try_from(MAX_SLOTS).expect("the table has fewer than 65536 slots");
        slots.filter_map(|slot| Some((slot, self.live(slot)?)))
    }

    /// The slot that packets of an interface find.
    pub(crate) fn slot_of(&self, ifindex: u32) -> Result<Option<u16>, MapsError> {
        match self.by_ifindex.get(&ifindex, 0) {
            Ok(slot) => Ok(u16::try_from(slot).ok()),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(MapsError::kernel(names::IFINDEX_SLOT, "look up")(error)),
        }
    }

    /// Writes a new endpoint, not ready, under the slot's next epoch, and makes packets of its interface find it.
    pub(crate) fn insert(&mut self, slot: u16, record: &EndpointRecord) -> Result<(), MapsError> {
        let old = self.record(slot).word;
        let word = EndpointRecord::word_of(EndpointRecord::active(old), next_epoch(old));
        self.write_fields(slot, &EndpointRecord { policy: [PolicyState::default(); 2], word, ..*record });
        self.words.word(Self::first_word(slot)).store(word, Ordering::Release);
        self.index(slot, record)
    }

    /// Writes the fields of a live endpoint that do not belong to its policy, and lets cached verdicts expire.
    pub(crate) fn refresh(&mut self, slot: u16, record: &EndpointRecord) -> Result<(), MapsError> {
        let old = self.record(slot);
        self.write_fields(slot, &EndpointRecord { policy: old.policy, word: old.word, ..*record });
        if old.identity != record.identity {
            self.flip(slot, EndpointRecord::active(old.word));
        }
        self.index(slot, record)
    }

    /// Makes packets of an interface, and to its addresses, find a slot. The host endpoint has none of its own.
    fn index(&mut self, slot: u16, record: &EndpointRecord) -> Result<(), MapsError> {
        if slot == HOST_SLOT {
            return Ok(());
        }
        for address in [v4_mapped(record.ipv4), record.ipv6] {
            let [.., a, b, c, d, e, f, g, h] = address;
            let hint = address_hint(u64::from_be_bytes([a, b, c, d, e, f, g, h])) as usize;
            self.by_address.word(hint).store(u64::from(slot), Ordering::Relaxed);
        }
        let hint = record.ifindex as usize % IFINDEX_HINTS as usize;
        self.by_interface.word(hint).store(u64::from(slot), Ordering::Relaxed);
        self.by_ifindex
            .insert(record.ifindex, u32::from(slot), 0)
            .map_err(MapsError::kernel(names::IFINDEX_SLOT, "insert"))
    }

    /// Empties a slot. The epoch stays and moves on, so that nothing cached for the old endpoint serves the next one.
    pub(crate) fn remove(&mut self, slot: u16) -> Result<(), MapsError> {
        let old = self.record(slot);
        let removed = match self.by_ifindex.remove(&old.ifindex) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) if is_not_found(&source) => Ok(()),
            Err(source) => Err(MapsError::kernel(names::IFINDEX_SLOT, "remove")(source)),
        };
        let active = EndpointRecord::active(old.word);
        let word = EndpointRecord::word_of(active, next_epoch(old.word));
        self.words.word(Self::first_word(slot)).store(word, Ordering::Release);
        self.write_fields(slot, &EndpointRecord { word, ..EndpointRecord::default() });
        removed
    }

    /// Writes the state that belongs to one trie of an endpoint; packets see it after [`Self::flip`] to that trie.
    pub(crate) fn set_state(&self, slot: u16, side: u32, state: PolicyState) {
        let first = Self::first_word(slot) + 1 + 2 * side as usize;
        let low = u64::from(state.default_cookie_ingress) | (u64::from(state.default_cookie_egress) << 32);
        let high = u64::from(state.revision) | (u64::from(state.flags) << 32);
        let words = if cfg!(target_endian = "little") {
            [low, high]
        } else {
            [low.rotate_left(32), high.rotate_left(32)]
        };
        for (index, word) in words.into_iter().enumerate() {
            self.words.word(first + index).store(word, Ordering::Relaxed);
        }
    }

    /// Makes a trie the active one under a new epoch, in one store. Gives the epoch.
    pub(crate) fn flip(&self, slot: u16, side: u32) -> u32 {
        let cell = self.words.word(Self::first_word(slot));
        let epoch = next_epoch(cell.load(Ordering::Relaxed));
        // Release: whoever sees the new word sees the state and the trie entries written before it.
        cell.store(EndpointRecord::word_of(side, epoch), Ordering::Release);
        epoch
    }

    /// Stores all words but the first (the active trie and the epoch).
    fn write_fields(&self, slot: u16, record: &EndpointRecord) {
        for (index, word) in words_of(*record).into_iter().enumerate().skip(1) {
            self.words.word(Self::first_word(slot) + index).store(word, Ordering::Relaxed);
        }
    }

    fn first_word(slot: u16) -> usize {
        usize::from(slot) * RECORD_WORDS
    }
}

/// Refuses slot 0 and slots beyond the table.
pub(crate) fn check_slot(slot: u16) -> Result<(), EndpointError> {
    if slot == 0 || u32::from(slot) >= MAX_SLOTS {
        return Err(EndpointError::NoSuchSlot { slot });
    }
    Ok(())
}

/// Refuses a record that packets could not be matched to.
pub(crate) fn check_record(slot: u16, record: &EndpointRecord) -> Result<(), EndpointError> {
    check_slot(slot)?;
    let is_host = slot == HOST_SLOT;
    for (value, field) in
        [(record.ifindex, "ifindex"), (record.identity, "identity"), (u32::from(record.id), "id")]
    {
        if value == 0 && !(is_host && field == "ifindex") {
            return Err(EndpointError::Unset { slot, field });
        }
    }
    Ok(())
}

/// Whether both records are of one endpoint: id, interface and addresses. Identity and MACs may differ.
pub(crate) fn same_endpoint(a: &EndpointRecord, b: &EndpointRecord) -> bool {
    a.id == b.id && a.ifindex == b.ifindex && a.ipv4 == b.ipv4 && a.ipv6 == b.ipv6
}

/// Whether the endpoint has a realized policy.
pub(crate) fn is_ready(record: &EndpointRecord) -> bool {
    let active = EndpointRecord::active(record.word) as usize;
    record.policy.get(active).is_some_and(|state| state.flags & policy_flags::READY != 0)
}

/// The epoch after the one in a word; never 0.
fn next_epoch(word: u64) -> u32 {
    EndpointRecord::epoch(word).wrapping_add(1).max(1)
}

/// aya gives a bare system call error where the kernel says "no such entry".
pub(crate) fn is_not_found(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

fn words_of(record: EndpointRecord) -> [u64; RECORD_WORDS] {
    // SAFETY: the record is `repr(C, align(8))`, has the size of the array (checked by `transmute`) and no implicit
    // padding, so all its bytes are initialized.
    unsafe { std::mem::transmute(record) }
}

fn record_of(words: [u64; RECORD_WORDS]) -> EndpointRecord {
    // SAFETY: same size (checked by `transmute`); every field is an integer or an array of integers, for which every
    // bit pattern is a value.
    unsafe { std::mem::transmute(words) }
}

const RECORD_WORDS: usize = size_of::<EndpointRecord>() / size_of::<u64>();
const _: () = assert!(std::mem::offset_of!(EndpointRecord, word) == 0);
const _: () = assert!(std::mem::offset_of!(EndpointRecord, policy) == 8);
// The stride of an array map is its value size rounded up to 8.
const _: () = assert!(size_of::<EndpointRecord>().is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_records_are_one() {
        let record = EndpointRecord {
            word: EndpointRecord::word_of(1, 7),
            policy: [
                PolicyState { default_cookie_ingress: 1, default_cookie_egress: 2, revision: 3, flags: 4 },
                PolicyState { default_cookie_ingress: 5, default_cookie_egress: 6, revision: 7, flags: 8 },
            ],
            ifindex: 9,
            identity: 10,
            id: 11,
            mac: [1, 2, 3, 4, 5, 6],
            ipv4: [10, 0, 0, 1],
            ..EndpointRecord::default()
        };
        let words = words_of(record);
        assert_eq!(record_of(words), record);
        assert_eq!(words[0], 7 << 32 | 1);
        #[cfg(target_endian = "little")]
        assert_eq!(words[1..5], [2 << 32 | 1, 4 << 32 | 3, 6 << 32 | 5, 8 << 32 | 7]);
    }

    #[test]
    fn epochs_never_become_zero() {
        assert_eq!(next_epoch(0), 1);
        assert_eq!(next_epoch(EndpointRecord::word_of(1, 41)), 42);
        assert_eq!(next_epoch(EndpointRecord::word_of(0, u32::MAX)), 1);
    }

    #[test]
    fn incomplete_records_are_refused() {
        let whole = EndpointRecord { ifindex: 3, identity: 256, id: 9, ..EndpointRecord::default() };
        assert!(check_record(1, &whole).is_ok());
        for (slot, record, message) in [
            (0, whole, "slot 0 does not exist"),
            (1024, whole, "slot 1024 does not exist"),
            (1, EndpointRecord { ifindex: 0, ..whole }, "no ifindex"),
            (1, EndpointRecord { identity: 0, ..whole }, "no identity"),
            (1, EndpointRecord { id: 0, ..whole }, "no id"),
        ] {
            let error = check_record(slot, &record).expect_err(message).to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
