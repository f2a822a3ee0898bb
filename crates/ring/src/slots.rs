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
    pub(crate) fn new(capacity: usize) -> Result<Self, InvalidCapacity> {
        if !capacity.is_power_of_two() || capacity > MAX_CAPACITY {
            return Err(InvalidCapacity::NotPowerOfTwo(capacity));
        }
        let no_memory = InvalidCapacity::NoMemory(capacity);
        let protected = match capacity / PROTECTED_SHARE {
            0 => None,
            places => Some(Store::new(places).ok_or(no_memory)?),
        };
        Ok(Self { recent: Store::new(capacity).ok_or(no_memory)?, protected })
    }
}

/// One place for a protected record per this many of the ring's places.
const PROTECTED_SHARE: usize = 4;

/// Slots that are used in turn. Slot `index % capacity` holds the record with this index, in words: the state (0 =
/// never written, `2 * (index + 1)` = holds record `index`, odd = being written), the record's sequence number in the
/// ring, the record.
#[derive(Debug)]
pub(crate) struct Store<T> {
    words: Box<[AtomicU64]>,
    capacity: usize,
    /// Index of the next record: all below are readable or overwritten.
    head: AtomicU64,
    pub(crate) blocks: Blocks,
    record: PhantomData<fn() -> T>,
}

const WORD: usize = size_of::<u64>();

impl<T: Record> Store<T> {
    /// `None` when there is no memory. `capacity` is a power of two.
    fn new(capacity: usize) -> Option<Self> {
        const { assert!(size_of::<T>().is_multiple_of(WORD) && size_of::<T>() > 0, "records are whole words") };
        Some(Self {
            words: zeroed(capacity.checked_mul(Self::STRIDE)?)?,
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
        let (state, number, words) = self.slot(index);
        state.store(full(index) | 1, Ordering::Relaxed);
        // A reader that copies one of the words below also sees the odd state (or a later one) when it checks again.
        fence(Ordering::Release);
        number.store(seq, Ordering::Relaxed);
        for (word, bytes) in words.iter().zip(record.as_bytes().as_chunks::<WORD>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        state.store(full(index), Ordering::Release);
    }

    /// Copies record `index`; `None` when the slot holds another one or is being written.
    pub(crate) fn read(&self, index: u64) -> Option<T> {
        let (state, _, words) = self.slot(index);
        if state.load(Ordering::Acquire) != full(index) {
            return None;
        }
        let mut record = T::new_zeroed();
        for (word, bytes) in words.iter().zip(record.as_mut_bytes().as_chunks_mut::<WORD>().0) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        fence(Ordering::Acquire);
        (state.load(Ordering::Relaxed) == full(index)).then_some(record)
    }

    /// Sequence number of record `index`; `None` as in [`Self::read`].
    pub(crate) fn seq(&self, index: u64) -> Option<u64> {
        let (state, number, _) = self.slot(index);
        if state.load(Ordering::Acquire) != full(index) {
            return None;
        }
        let seq = number.load(Ordering::Relaxed);
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

    fn slot(&self, index: u64) -> (&AtomicU64, &AtomicU64, &[AtomicU64]) {
        // The mask keeps the low bits, which fit a usize.
        let place = index as usize & (self.capacity - 1);
        let slot = &self.words[place * Self::STRIDE..][..Self::STRIDE];
        (&slot[0], &slot[1], &slot[2..])
    }

    /// Words of a slot: the state, the number and the record.
    const STRIDE: usize = 2 + size_of::<T>() / WORD;
}

/// State of a slot that holds record `index`. Wraps after 2^63 records, 29 thousand years at ten million per second.
const fn full(index: u64) -> u64 {
    (index + 1) << 1
}
