//! An overwriting ring of plain records: one writer that never waits, any number of readers, exact loss.
//!
//! The writer lives on one thread and is not shared. Readers read from any thread, take no lock, and are told exactly
//! which sequence numbers they missed. A record is copied word by word through relaxed atomics under a sequence number
//! per slot, so a torn copy is noticed and there is no data race in the sense of the memory model.
//!
//! ```
//! use specola_ring::{Next, ring};
//!
//! let (mut writer, reader) = ring::<u64>(4)?;
//! let mut cursor = reader.cursor(0);
//! assert_eq!(cursor.next(), Next::Pending);
//! for value in 0..6 {
//!     writer.push(&value, 1_000 + value);
//! }
//! // Two were overwritten; the cursor also skips one more to get clear of the writer.
//! assert!(matches!(cursor.next(), Next::Lost(lost) if lost.from == 0 && lost.to == 3));
//! assert_eq!(cursor.next(), Next::Item { seq: 3, value: 3 });
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
pub use writer::Writer;

/// Default number of records.
pub const DEFAULT_CAPACITY: usize = 4096;

/// Makes a ring of `capacity` records and returns its writer and a reader.
///
/// Memory is asked for at once but touched only as records arrive.
///
/// # Errors
/// `capacity` is not a power of two between 1 and [`MAX_CAPACITY`], or there is no memory for it.
pub fn ring<T: Record>(capacity: usize) -> Result<(Writer<T>, Reader<T>), InvalidCapacity> {
    let shared = sync::Arc::new(slots::Shared::new(capacity)?);
    Ok((Writer::new(sync::Arc::clone(&shared)), Reader::new(shared)))
}
