//! Time index: the smallest and largest time of each run of records, so that a search by time skips whole runs.

use crate::sync::{AtomicU64, Ordering, fence, zeroed};

/// Records in a block; a smaller ring is one block.
const BLOCK: usize = 1024;

/// Times of the records of one block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockTimes {
    /// Sequence number of the first record.
    pub first: u64,
    /// Sequence number after the last possible record of the block.
    pub end: u64,
    /// Smallest time, ns.
    pub min_ns: u64,
    /// Largest time, ns.
    pub max_ns: u64,
}

/// Three words per block: 1 + the block's number (0 = none or in change), smallest and largest time.
#[derive(Debug)]
pub(crate) struct Blocks {
    words: Box<[AtomicU64]>,
    /// Records per block.
    size: u64,
    /// Number of blocks.
    count: u64,
}

/// The writer's copy of the block that it fills.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Current {
    min_ns: u64,
    max_ns: u64,
}

impl Blocks {
    pub(crate) fn new(capacity: usize) -> Option<Self> {
        let size = capacity.min(BLOCK);
        let count = capacity / size;
        Some(Self { words: zeroed(count.checked_mul(3)?)?, size: size as u64, count: count as u64 })
    }

    /// Takes the time of record `seq` into account. Only the writer calls this, before it publishes the record.
    pub(crate) fn note(&self, current: &mut Current, seq: u64, time_ns: u64) {
        let [number, min, max] = self.words_of(seq);
        if seq.is_multiple_of(self.size) {
            *current = Current { min_ns: time_ns, max_ns: time_ns };
            number.store(0, Ordering::Relaxed);
            fence(Ordering::Release);
            min.store(time_ns, Ordering::Relaxed);
            max.store(time_ns, Ordering::Relaxed);
            number.store(seq / self.size + 1, Ordering::Release);
            return;
        }
        if time_ns < current.min_ns {
            current.min_ns = time_ns;
            min.store(time_ns, Ordering::Relaxed);
        }
        if time_ns > current.max_ns {
            current.max_ns = time_ns;
            max.store(time_ns, Ordering::Relaxed);
        }
    }

    /// Times of the block of `seq`, over all its records below a head that the caller has read before.
    /// `None` when the block was overwritten or not begun.
    pub(crate) fn times(&self, seq: u64) -> Option<BlockTimes> {
        let [number, min, max] = self.words_of(seq);
        let block = seq / self.size;
        if number.load(Ordering::Acquire) != block + 1 {
            return None;
        }
        let (min_ns, max_ns) = (min.load(Ordering::Relaxed), max.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if number.load(Ordering::Relaxed) != block + 1 {
            return None;
        }
        Some(BlockTimes { first: block * self.size, end: (block + 1) * self.size, min_ns, max_ns })
    }

    fn words_of(&self, seq: u64) -> [&AtomicU64; 3] {
        let index = (seq / self.size % self.count) as usize * 3;
        [&self.words[index], &self.words[index + 1], &self.words[index + 2]]
    }
}
