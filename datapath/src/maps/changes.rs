//! How many connections came and went. The programs count what they make, user space what it makes and removes; what
//! is missing then was evicted: a full table gives the place of its least recently used entry to a new one.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use aya::maps::{Array, Map, MapData, PerCpuArray};
use specola_datapath_common::conntrack::CtCount;
use specola_datapath_common::names;

use super::plain::Plain;
use super::words::{Words, pinned_array};
use super::{MapSource, MapsError, take_as};

/// Connections that came and went since the tables were made, also those of earlier processes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConnectionCounts {
    /// Entries made, and those that were there when counting began.
    pub created: u64,
    /// Entries that sweeps removed.
    pub removed: u64,
    /// Entries at the latest sweep.
    pub present: u64,
    /// Entries that newer ones displaced, as of the latest sweep: created - removed - present. Those that are made
    /// while a sweep looks around are left to the next one. What an evicted connection carried since its latest trace
    /// record, at most one interval's, is in no record.
    pub evicted: u64,
}

/// The counters. Clones are the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Changes {
    made: Arc<Made>,
    words: Arc<Words>,
    _map: Arc<Map>,
}

/// What the programs count.
struct Made(PerCpuArray<MapData, Plain<CtCount>>);

impl Changes {
    /// Takes the programs' map, and opens or makes the pinned array of user space.
    pub(crate) fn open(maps: &mut impl MapSource, pin: &Path) -> Result<Self, MapsError> {
        let made = Arc::new(Made::open(maps)?);
        let data = pinned_array(NAME, pin, WORDS)?;
        let words = Words::map(data.fd().as_fd(), WORDS * size_of::<u64>())
            .map_err(|source| MapsError::Mmap { name: NAME, source })?;
        Ok(Self { made, words: Arc::new(words), _map: Arc::new(Map::Array(data)) })
    }

    /// Notes an entry that user space made.
    pub(super) fn added(&self) {
        self.words.word(ADDED).fetch_add(1, Relaxed);
    }

    /// Notes an entry that user space removed.
    pub(super) fn removed(&self) {
        self.words.word(REMOVED).fetch_add(1, Relaxed);
    }

    /// Says that tables were exchanged: the next sweep counts from what it finds.
    pub(crate) fn begin_anew(&self) {
        self.words.word(IS_FOUNDED).store(0, Relaxed);
    }

    /// The numbers.
    pub(crate) fn read(&self) -> Result<ConnectionCounts, MapsError> {
        Ok(counts(self.made.sum()?, |index| self.words.word(index).load(Relaxed)))
    }

    /// Takes in what a sweep found: `before` was read before it looked at `seen` entries, of which it left `present`.
    pub(super) fn swept(&self, before: ConnectionCounts, seen: u64, present: u64) -> u64 {
        let evicted = self.words.word(EVICTED);
        if self.words.word(IS_FOUNDED).swap(1, Relaxed) == 0 {
            // What is there and was not counted, because it was made before, or by programs that did not count.
            let should = seen + before.removed + evicted.load(Relaxed);
            self.words.word(FOUND).fetch_add(should.wrapping_sub(before.created), Relaxed);
        } else {
            evicted.fetch_max(before.created.saturating_sub(before.removed + seen), Relaxed);
        }
        self.words.word(PRESENT).store(present, Relaxed);
        evicted.load(Relaxed)
    }
}

/// The numbers, from pins that are only looked at.
pub(crate) fn read_pinned(maps: &mut impl MapSource) -> Result<ConnectionCounts, MapsError> {
    let made = Made::open(maps)?.sum()?;
    let array: Array<MapData, u64> = take_as(maps, NAME)?;
    let mut words = [0; WORDS];
    for (index, word) in (0..).zip(&mut words) {
        *word = array.get(&index, 0).map_err(MapsError::kernel(NAME, "read a counter"))?;
    }
    Ok(counts(made, |index| words[index]))
}

fn counts(made: u64, word: impl Fn(usize) -> u64) -> ConnectionCounts {
    ConnectionCounts {
        created: made.wrapping_add(word(ADDED)).wrapping_add(word(FOUND)),
        removed: word(REMOVED),
        present: word(PRESENT),
        evicted: word(EVICTED),
    }
}

impl Made {
    fn open(maps: &mut impl MapSource) -> Result<Self, MapsError> {
        Ok(Self(take_as(maps, names::CT_COUNTS)?))
    }

    fn sum(&self) -> Result<u64, MapsError> {
        let per_cpu = self.0.get(&0, 0).map_err(MapsError::kernel(names::CT_COUNTS, "read a counter"))?;
        Ok(per_cpu.iter().fold(0, |sum: u64, Plain(count)| sum.wrapping_add(count.created)))
    }
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").finish_non_exhaustive()
    }
}

/// Name of the array of user space, also of its pin.
pub(crate) const NAME: &str = "SP_CT_CHANGES";
const ADDED: usize = 0;
const REMOVED: usize = 1;
const EVICTED: usize = 2;
const PRESENT: usize = 3;
/// What the first sweep found that nobody had counted.
const FOUND: usize = 4;
/// Whether there was such a sweep.
const IS_FOUNDED: usize = 5;
const WORDS: usize = 6;
