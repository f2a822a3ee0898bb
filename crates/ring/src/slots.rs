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

/// Slot `seq % capacity` holds record `seq`. Its first word is the state: 0 = never written, `2 * (seq + 1)` = holds
/// record `seq`, odd = being written.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    words: Box<[AtomicU64]>,
    capacity: usize,
    /// Sequence number of the next record: all below are readable or overwritten.
    head: AtomicU64,
    pub(crate) blocks: Blocks,
    record: PhantomData<fn() -> T>,
}

const WORD: usize = size_of::<u64>();

impl<T: Record> Shared<T> {
    pub(crate) fn new(capacity: usize) -> Result<Self, InvalidCapacity> {
        const { assert!(size_of::<T>().is_multiple_of(WORD) && size_of::<T>() > 0, "records are whole words") };
        if !capacity.is_power_of_two() || capacity > MAX_CAPACITY {
            return Err(InvalidCapacity::NotPowerOfTwo(capacity));
        }
        let no_memory = InvalidCapacity::NoMemory(capacity);
        let len = capacity.checked_mul(Self::STRIDE).ok_or(no_memory)?;
        Ok(Self {
            words: zeroed(len).ok_or(no_memory)?,
            capacity,
            head: AtomicU64::new(0),
            blocks: Blocks::new(capacity).ok_or(no_memory)?,
            record: PhantomData,
        })
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sequence number of the next record.
    pub(crate) fn head(&self) -> u64 {
        // Pairs with the store in `publish`: what lies below the head is seen whole, block times too.
        self.head.load(Ordering::Acquire)
    }

    pub(crate) fn publish(&self, head: u64) {
        self.head.store(head, Ordering::Release);
    }

    /// Writes record `seq`. Only the one writer calls this.
    pub(crate) fn write(&self, seq: u64, record: &T) {
        let (state, words) = self.slot(seq);
        state.store(full(seq) | 1, Ordering::Relaxed);
        // A reader that copies one of the words below also sees the odd state (or a later one) when it checks again.
        fence(Ordering::Release);
        for (word, bytes) in words.iter().zip(record.as_bytes().as_chunks::<WORD>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        state.store(full(seq), Ordering::Release);
    }

    /// Copies record `seq`; `None` when the slot holds another one or is being written.
    pub(crate) fn read(&self, seq: u64) -> Option<T> {
        let (state, words) = self.slot(seq);
        if state.load(Ordering::Acquire) != full(seq) {
            return None;
        }
        let mut record = T::new_zeroed();
        for (word, bytes) in words.iter().zip(record.as_mut_bytes().as_chunks_mut::<WORD>().0) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        fence(Ordering::Acquire);
        (state.load(Ordering::Relaxed) == full(seq)).then_some(record)
    }

    fn slot(&self, seq: u64) -> (&AtomicU64, &[AtomicU64]) {
        // The mask keeps the low bits, which fit a usize.
        let index = seq as usize & (self.capacity - 1);
        let slot = &self.words[index * Self::STRIDE..][..Self::STRIDE];
        (&slot[0], &slot[1..])
    }

    /// Words of a slot: the state and the record.
    const STRIDE: usize = 1 + size_of::<T>() / WORD;
}

/// State of a slot that holds record `seq`. Wraps after 2^63 records, 29 thousand years at ten million per second.
const fn full(seq: u64) -> u64 {
    (seq + 1) << 1
}
