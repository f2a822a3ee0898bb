//! The sides that read: random access and cursors.

use crate::{
    blocks::BlockTimes,
    slots::{Record, Shared},
    sync::Arc,
};

/// Reads a ring; cheap to clone, usable from any thread, never slows the writer.
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
    /// The writer lapped this cursor, which then skipped a quarter of the ring to get clear of it.
    Lost(Lost),
    /// Nothing new yet.
    Pending,
}

impl<T: Record> Reader<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared }
    }

    /// Number of records that the ring can hold.
    pub fn capacity(&self) -> u64 {
        self.shared.capacity() as u64
    }

    /// Sequence number of the next record to be written, which is also the number of records pushed so far.
    pub fn head(&self) -> u64 {
        self.shared.head()
    }

    /// Sequence number of the oldest record held. The writer may overwrite it at any moment.
    pub fn oldest(&self) -> u64 {
        self.head().saturating_sub(self.capacity())
    }

    /// Number of records held: head - oldest.
    pub fn held(&self) -> u64 {
        self.head().min(self.capacity())
    }

    /// Number of records that were overwritten so far.
    pub fn overwritten(&self) -> u64 {
        self.oldest()
    }

    /// Reads the record with this sequence number.
    pub fn read(&self, seq: u64) -> Read<T> {
        if seq >= self.head() {
            return Read::Pending;
        }
        self.shared.read(seq).map_or(Read::Overwritten, Read::Item)
    }

    /// Times of the block that `seq` is in; `None` when it is not known (overwritten in part, or not begun).
    pub fn block(&self, seq: u64) -> Option<BlockTimes> {
        if seq >= self.head() {
            return None;
        }
        self.shared.blocks.times(seq)
    }

    /// Where a search for records at or after `since_ns` begins: nothing held before it is that young.
    pub fn seek_since(&self, since_ns: u64) -> u64 {
        let head = self.head();
        let mut seq = head.saturating_sub(self.capacity());
        while seq < head {
            match self.shared.blocks.times(seq) {
                Some(times) if times.max_ns < since_ns => seq = times.end.min(head),
                Some(_) => return seq,
                // Overwritten in part: what is left of it has no times of its own.
                None => return seq,
            }
        }
        seq
    }

    /// A cursor that goes on with record `from`.
    pub fn cursor(&self, from: u64) -> Cursor<T> {
        Cursor { reader: self.clone(), position: from }
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
}

impl<T: Record> Cursor<T> {
    /// Takes the next step. Never waits.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not tell loss and pending apart")]
    pub fn next(&mut self) -> Next<T> {
        let head = self.reader.head();
        if self.position >= head {
            return Next::Pending;
        }
        match self.reader.shared.read(self.position) {
            Some(value) => {
                let seq = self.position;
                self.position += 1;
                Next::Item { seq, value }
            }
            None => self.skip(),
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

    /// Leaves the lapped place for one that the writer will not reach at once.
    fn skip(&mut self) -> Next<T> {
        let head = self.reader.head();
        let capacity = self.reader.capacity();
        let clear = head.saturating_sub(capacity) + capacity / 4;
        let from = self.position;
        self.position = clear.max(from + 1).min(head);
        Next::Lost(Lost { from, to: self.position })
    }
}
