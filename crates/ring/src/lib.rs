//! An overwriting ring of plain records: one writer that never waits, any number of readers, exact loss.
//!
//! The writer lives on one thread and is not shared. Readers read from any thread, take no lock, and are told exactly
//! which sequence numbers they missed. A record is copied word by word through relaxed atomics under a sequence number
//! per slot, so a torn copy is noticed and there is no data race in the sense of the memory model.
//!
//! Records of [`Class::Protected`] outlive a flood of common ones: a second, smaller store keeps the last of them, and
//! readers find them in their place in the sequence.
//!
//! ```
//! use specola_ring::{Class, Next, ring};
//!
//! let (mut writer, reader) = ring::<u64>(4)?;
//! let mut cursor = reader.cursor(0);
//! assert_eq!(cursor.next(), Next::Pending);
//! for value in 0..6 {
//!     writer.push(&value, 1_000 + value, Class::Common);
//! }
//! // Two were overwritten.
//! assert!(matches!(cursor.next(), Next::Lost(lost) if lost.from == 0 && lost.to == 2));
//! assert_eq!(cursor.next(), Next::Item { seq: 2, value: 2 });
//! # Ok::<(), specola_ring::InvalidCapacity>(())
//! ```
#![forbid(unsafe_code)]

mod blocks;
mod reader;
mod slots;
mod sync;
mod writer;

pub use blocks::BlockTimes;
pub use reader::{Cursor, Lost, Next, Read, Reader};
pub use slots::{InvalidCapacity, MAX_CAPACITY, Record};
pub use writer::{Class, Writer};

/// Default number of records.
pub const DEFAULT_CAPACITY: usize = 4096;
/// Default number of places for protected records, % of the capacity.
pub const DEFAULT_PROTECTED_PERCENT: u8 = 25;

/// Makes a ring of `capacity` records (and a quarter of that for protected ones) and returns its writer and a reader.
///
/// Memory is asked for at once but touched only as records arrive.
///
/// # Errors
/// `capacity` is not a power of two between 1 and [`MAX_CAPACITY`], or there is no memory for it.
pub fn ring<T: Record>(capacity: usize) -> Result<(Writer<T>, Reader<T>), InvalidCapacity> {
    ring_with(capacity, protected_places(capacity, DEFAULT_PROTECTED_PERCENT))
}

/// [`ring`] with `protected` places for protected records; 0 = they stay no longer than others.
///
/// # Errors
/// As for [`ring`]; the same holds for `protected`.
pub fn ring_with<T: Record>(
    capacity: usize,
    protected: usize,
) -> Result<(Writer<T>, Reader<T>), InvalidCapacity> {
    let shared = sync::Arc::new(slots::Shared::new(capacity, protected)?);
    Ok((Writer::new(sync::Arc::clone(&shared)), Reader::new(shared)))
}

/// The number of places that is this part of a ring, rounded up to a power of two; 0 when it is less than one place.
pub fn protected_places(capacity: usize, percent: u8) -> usize {
    // Capacities are far below what could overflow; a larger one is refused later.
    let part = capacity.min(MAX_CAPACITY) * usize::from(percent) / 100;
    if part == 0 { 0 } else { part.next_power_of_two() }
}
