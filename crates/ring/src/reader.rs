//! The sides that read: random access and cursors.

use crate::{
    blocks::BlockTimes,
    slots::{Record, Shared, Store},
    sync::Arc,
};

/// Reads a ring; cheap to clone, usable from any thread, never slows the writer.
///
/// The ring holds its last [`Reader::capacity`] records without gaps, and before them, with gaps, protected ones that
/// are older.
#[derive(Debug)]
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
}

/// What lies at a sequence number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Read<T> {
    /// The record.
    Item(T),
    /// It was overwritten.
    Overwritten,
    /// It is not written yet.
    Pending,
}

/// Records that a cursor did not get: all from `from` up to, not including, `to`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lost {
    /// First lost sequence number.
    pub from: u64,
    /// The sequence number that the cursor goes on with.
    pub to: u64,
}

impl Lost {
    /// Number of lost records.
    pub const fn count(&self) -> u64 {
        self.to - self.from
    }
}

/// One step of a cursor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next<T> {
    /// The next record.
    Item {
        /// Its sequence number.
        seq: u64,
        /// The record.
        value: T,
    },
    /// The writer lapped this cursor. It goes on with the next protected record, or clear of the writer: the further
    /// the more often it was lapped.
    Lost(Lost),
    /// Nothing new yet.
    Pending,
}

impl<T: Record> Reader<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared }
    }

    /// Number of records that the ring holds without gaps when it is full.
    pub fn capacity(&self) -> u64 {
        self.shared.recent.capacity()
    }

    /// Sequence number of the next record to be written, which is also the number of records pushed so far.
    pub fn head(&self) -> u64 {
        self.shared.recent.head()
    }

    /// Sequence number of the oldest record held without gaps. The writer may overwrite it at any moment.
    pub fn oldest(&self) -> u64 {
        self.shared.recent.oldest(self.head())
    }

    /// Sequence number of the oldest record held at all.
    pub fn oldest_protected(&self) -> u64 {
        let oldest = self.oldest();
        let first = self.shared.protected.as_ref().and_then(|store| first_held(store, 0));
        first.map_or(oldest, |(seq, _)| seq.min(oldest))
    }

    /// Number of records held without gaps: head - oldest.
    pub fn held(&self) -> u64 {
        self.head().min(self.capacity())
    }

    /// Number of records that were overwritten in the ring so far; protected ones may be held all the same.
    pub fn overwritten(&self) -> u64 {
        self.oldest()
    }

    /// Reads the record with this sequence number.
    #[inline]
    pub fn read(&self, seq: u64) -> Read<T> {
        if seq >= self.head() {
            return Read::Pending;
        }
        // Straight into the result: each further move of a record costs as much as reading it.
        match self.shared.recent.read(seq) {
            Some(value) => Read::Item(value),
            None => self.read_protected(seq),
        }
    }

    #[cold]
    fn read_protected(&self, seq: u64) -> Read<T> {
        match self.first_protected(seq) {
            Some((found, value)) if found == seq => Read::Item(value),
            _ => Read::Overwritten,
        }
    }

    /// The newest record held before `seq`, with its sequence number: for walking back.
    pub fn before(&self, seq: u64) -> Option<(u64, T)> {
        let previous = seq.min(self.head()).checked_sub(1)?;
        if let Some(value) = self.shared.recent.read(previous) {
            return Some((previous, value));
        }
        let store = self.shared.protected.as_ref()?;
        let index = store.first_from(seq).checked_sub(1)?;
        // `None` when it is overwritten at this moment: then so is all that is older.
        let found = store.seq(index)?;
        store.read(index).map(|value| (found, value))
    }

    /// Times of the block that `seq` is in; `None` when it is not known (overwritten in part, or not begun).
    pub fn block(&self, seq: u64) -> Option<BlockTimes> {
        if seq >= self.head() {
            return None;
        }
        self.shared.recent.blocks.times(seq)
    }

    /// Where a search for records at or after `since_ns` begins: nothing held before it is that young.
    pub fn seek_since(&self, since_ns: u64) -> u64 {
        let recent = seek(&self.shared.recent, since_ns);
        let oldest = self.oldest();
        let protected = self.shared.protected.as_ref().and_then(|store| {
            let (seq, _) = first_held(store, seek(store, since_ns))?;
            (seq < oldest).then_some(seq)
        });
        protected.unwrap_or(recent)
    }

    /// A cursor that goes on with record `from`. What was overwritten before this call is not counted as lost.
    pub fn cursor(&self, from: u64) -> Cursor<T> {
        Cursor { reader: self.clone(), position: from, gaps_below: self.oldest(), laps: 0 }
    }

    /// The first protected record from `seq` on.
    fn first_protected(&self, seq: u64) -> Option<(u64, T)> {
        let store = self.shared.protected.as_ref()?;
        first_held(store, store.first_from(seq))
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

/// A place in the ring that moves forward. Each one is independent.
#[derive(Debug)]
pub struct Cursor<T> {
    reader: Reader<T>,
    position: u64,
    /// Below this the ring had gaps already when the cursor was made: they are no loss.
    gaps_below: u64,
    /// How often the writer lapped this cursor since it last caught up.
    laps: u32,
}

/// The first lap makes a cursor skip this fraction (a power of two) of the ring; each further one twice as much.
const FIRST_SKIP_SHIFT: u32 = 6;
/// The largest skip, as a fraction of the ring.
const LARGEST_SKIP_SHIFT: u32 = 2;

impl<T: Record> Cursor<T> {
    /// Takes the next step. Never waits.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "an iterator could not tell loss and pending apart")]
    pub fn next(&mut self) -> Next<T> {
        loop {
            if self.position >= self.reader.head() {
                self.laps = 0;
                return Next::Pending;
            }
            if let Some(value) = self.reader.shared.recent.read(self.position) {
                return self.item(value);
            }
            match self.skip() {
                Skipped::To(value) => return self.item(value),
                Skipped::Lost(lost) => return Next::Lost(lost),
                Skipped::Gap => {}
            }
        }
    }

    /// Sequence number of the next record.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Goes on with another record.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
    }

    #[inline(always)]
    fn item(&mut self, value: T) -> Next<T> {
        let seq = self.position;
        self.position = seq + 1;
        Next::Item { seq, value }
    }

    /// Leaves an overwritten place: for the next protected record, or for one that the writer will not reach at once.
    fn skip(&mut self) -> Skipped<T> {
        let from = self.position;
        let protected = self.reader.first_protected(from);
        let head = self.reader.head();
        let oldest = self.reader.shared.recent.oldest(head);
        let is_lapped = self.gaps_below < oldest;
        let clear = if is_lapped { oldest + self.clearance() } else { oldest };
        let target = match protected {
            Some((seq, value)) if seq == from => return Skipped::To(value),
            Some((seq, _)) if seq < clear => seq,
            _ => {
                self.laps += u32::from(is_lapped);
                clear.max(from + 1).min(head)
            }
        };
        self.position = target;
        let lost = Lost { from: from.max(self.gaps_below.min(target)), to: target };
        if lost.count() > 0 { Skipped::Lost(lost) } else { Skipped::Gap }
    }

    /// How far from the oldest record a lapped cursor goes on. One that is lapped again and again goes further away.
    fn clearance(&self) -> u64 {
        let shift = FIRST_SKIP_SHIFT.saturating_sub(self.laps).max(LARGEST_SKIP_SHIFT);
        self.reader.capacity() >> shift
    }
}

/// How a cursor left an overwritten place.
enum Skipped<T> {
    /// Not at all: the record is held as a protected one.
    To(T),
    /// With a loss.
    Lost(Lost),
    /// Over records that were gone before the cursor was made.
    Gap,
}

/// The first record that can be read from `index` on, with its sequence number.
fn first_held<T: Record>(store: &Store<T>, index: u64) -> Option<(u64, T)> {
    let mut index = index;
    loop {
        let head = store.head();
        index = index.max(store.oldest(head));
        if index >= head {
            return None;
        }
        let seq = store.seq(index);
        if let (Some(seq), Some(value)) = (seq, store.read(index)) {
            return Some((seq, value));
        }
        // The writer is at it: the next one is younger.
        index += 1;
    }
}

/// Index where a search for records at or after `since_ns` begins.
fn seek<T: Record>(store: &Store<T>, since_ns: u64) -> u64 {
    let head = store.head();
    let mut index = store.oldest(head);
    while index < head {
        match store.blocks.times(index) {
            Some(times) if times.max_ns < since_ns => index = times.end.min(head),
            // In time, or overwritten in part: what is left of such a block has no times of its own.
            _ => return index,
        }
    }
    index
}
