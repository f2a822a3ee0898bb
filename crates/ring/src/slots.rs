//! The memory that writer and readers share: slots of words, each under its own state word.

use std::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    blocks::Blocks,
    sync::{AtomicU64, Ordering, fence, zeroed},
};

/// What a ring can hold: plain data without padding whose size is a multiple of 8 bytes.
///
/// Implemented for every type with these properties; zerocopy's derives check them.
pub trait Record: FromBytes + IntoBytes + Immutable + Copy + Send + Sync + 'static {}

impl<T: FromBytes + IntoBytes + Immutable + Copy + Send + Sync + 'static> Record for T {}

/// Largest capacity of a ring, records.
pub const MAX_CAPACITY: usize = 1 << 28;

/// Why a ring cannot be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidCapacity {
    /// The capacity has no single bit set, or too high a one.
    #[error("ring capacity {0} is not a power of two from 1 to {MAX_CAPACITY}")]
    NotPowerOfTwo(usize),
    /// The allocator refused.
    #[error("no memory for a ring of {0} records: choose a smaller capacity")]
    NoMemory(usize),
}

/// What writer and readers share.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    /// The last records, without gaps.
    pub(crate) recent: Store<T>,
    /// The last protected records once more; `None` when the ring has no place for them.
    pub(crate) protected: Option<Store<T>>,
}

impl<T: Record> Shared<T> {
    pub(crate) fn new(capacity: usize, protected: usize) -> Result<Self, InvalidCapacity> {
        let is_bad = |places: usize| !places.is_power_of_two() || places > MAX_CAPACITY;
        if let Some(bad) = [capacity, protected.max(1)].into_iter().find(|places| is_bad(*places)) {
            return Err(InvalidCapacity::NotPowerOfTwo(bad));
        }
        let no_memory = InvalidCapacity::NoMemory(capacity);
        let protected = match protected {
            0 => None,
            places => Some(Store::new(places, places).ok_or(no_memory)?),
        };
        Ok(Self { recent: Store::new(capacity, 0).ok_or(no_memory)?, protected })
    }
}

/// Slots that are used in turn. Slot `index % capacity` holds the record with this index, in words: the state (0 =
/// never written, `2 * (index + 1)` = holds record `index`, odd = being written), the record.
#[derive(Debug)]
pub(crate) struct Store<T> {
    words: Box<[AtomicU64]>,
    /// Where the first slot begins: at a cache line, so that a slot lies in as few of them as possible.
    first: usize,
    /// By slot: the record's sequence number in the ring. Empty where it is the index.
    numbers: Box<[AtomicU64]>,
    capacity: usize,
    /// Index of the next record: all below are readable or overwritten.
    head: AtomicU64,
    pub(crate) blocks: Blocks,
    record: PhantomData<fn() -> T>,
}

const WORD: usize = size_of::<u64>();
/// Bytes of a cache line on most machines.
const LINE: usize = 64;

impl<T: Record> Store<T> {
    /// `None` when there is no memory. `capacity` is a power of two, `numbers` 0 or the same.
    fn new(capacity: usize, numbers: usize) -> Option<Self> {
        const { assert!(size_of::<T>().is_multiple_of(WORD) && size_of::<T>() > 0, "records are whole words") };
        let words = zeroed(capacity.checked_mul(Self::STRIDE)?.checked_add(LINE / WORD - 1)?)?;
        Some(Self {
            first: (words.as_ptr().addr().next_multiple_of(LINE) - words.as_ptr().addr()) / WORD,
            words,
            numbers: zeroed(numbers)?,
            capacity,
            head: AtomicU64::new(0),
            blocks: Blocks::new(capacity)?,
            record: PhantomData,
        })
    }

    pub(crate) const fn capacity(&self) -> u64 {
        self.capacity as u64
    }

    /// Index of the next record.
    pub(crate) fn head(&self) -> u64 {
        // Pairs with the store in `publish`: what lies below the head is seen whole, block times too.
        self.head.load(Ordering::Acquire)
    }

    /// Index of the oldest record held below `head`.
    pub(crate) const fn oldest(&self, head: u64) -> u64 {
        head.saturating_sub(self.capacity as u64)
    }

    pub(crate) fn publish(&self, head: u64) {
        self.head.store(head, Ordering::Release);
    }

    /// Writes record `index`, number `seq` of the ring. Only the one writer calls this.
    pub(crate) fn write(&self, index: u64, seq: u64, record: &T) {
        let (state, words) = self.slot(index);
        state.store(full(index) | 1, Ordering::Relaxed);
        // A reader that copies one of the words below also sees the odd state (or a later one) when it checks again.
        fence(Ordering::Release);
        if let Some(number) = self.number(index) {
            number.store(seq, Ordering::Relaxed);
        }
        for (word, bytes) in words.iter().zip(record.as_bytes().as_chunks::<WORD>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        state.store(full(index), Ordering::Release);
    }

    /// Copies record `index`; `None` when the slot holds another one or is being written.
    #[inline(always)]
    pub(crate) fn read(&self, index: u64) -> Option<T> {
        let (state, words) = self.slot(index);
        if state.load(Ordering::Acquire) != full(index) {
            return None;
        }
        let mut record = T::new_zeroed();
        for (word, bytes) in words.iter().zip(record.as_mut_bytes().as_chunks_mut::<WORD>().0) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        fence(Ordering::Acquire);
        if state.load(Ordering::Relaxed) == full(index) { Some(record) } else { None }
    }

    /// Sequence number of record `index`; `None` as in [`Self::read`].
    pub(crate) fn seq(&self, index: u64) -> Option<u64> {
        let (state, _) = self.slot(index);
        if state.load(Ordering::Acquire) != full(index) {
            return None;
        }
        let seq = self.number(index).map_or(index, |number| number.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (state.load(Ordering::Relaxed) == full(index)).then_some(seq)
    }

    /// Index of the first record held whose number is `seq` or higher; the head when there is none.
    pub(crate) fn first_from(&self, seq: u64) -> u64 {
        let mut high = self.head();
        let mut low = self.oldest(high);
        while low < high {
            let middle = low + (high - low) / 2;
            // What was overwritten meanwhile is older than all that is held.
            if self.seq(middle).is_some_and(|found| found >= seq) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    #[inline(always)]
    fn slot(&self, index: u64) -> (&AtomicU64, &[AtomicU64]) {
        let slot = &self.words[self.first + self.place(index) * Self::STRIDE..][..Self::STRIDE];
        (&slot[0], &slot[1..])
    }

    fn number(&self, index: u64) -> Option<&AtomicU64> {
        self.numbers.get(self.place(index))
    }

    const fn place(&self, index: u64) -> usize {
        // The mask keeps the low bits, which fit a usize.
        index as usize & (self.capacity - 1)
    }

    /// Words of a slot: the state and the record.
    const STRIDE: usize = 1 + size_of::<T>() / WORD;
}

/// State of a slot that holds record `index`. Wraps after 2^63 records, 29 thousand years at ten million per second.
const fn full(index: u64) -> u64 {
    (index + 1) << 1
}
