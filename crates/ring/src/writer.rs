//! The only side that writes.

use crate::{
    blocks::Current,
    reader::Reader,
    slots::{Record, Shared, Store},
    sync::Arc,
};

/// The one writer of a ring. It cannot be cloned; it may move to another thread.
#[derive(Debug)]
pub struct Writer<T> {
    shared: Arc<Shared<T>>,
    /// Sequence number of the next record.
    next: u64,
    recent: Current,
    /// Index of the next protected record.
    next_protected: u64,
    protected: Current,
}

/// How long a record stays.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Class {
    /// Until the ring comes round.
    Common,
    /// Longer: until as many other protected records were pushed as the ring has places for them, if that is later.
    Protected,
}

impl<T: Record> Writer<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared, next: 0, recent: Current::default(), next_protected: 0, protected: Current::default() }
    }

    /// Appends a record, overwriting the oldest one when the ring is full, and returns its sequence number.
    ///
    /// `time_ns` feeds the time index. The record is readable when this returns; nothing waits.
    pub fn push(&mut self, record: &T, time_ns: u64, class: Class) -> u64 {
        let seq = self.next;
        // First, so that a reader that finds the record overwritten in the ring finds it there.
        if let (Class::Protected, Some(store)) = (class, &self.shared.protected) {
            append(store, self.next_protected, seq, record, &mut self.protected, time_ns);
            self.next_protected += 1;
        }
        append(&self.shared.recent, seq, seq, record, &mut self.recent, time_ns);
        self.next = seq + 1;
        seq
    }

    /// Number of records pushed so far, which is the sequence number of the next one.
    pub const fn pushed(&self) -> u64 {
        self.next
    }

    /// A reader of this ring.
    pub fn reader(&self) -> Reader<T> {
        Reader::new(Arc::clone(&self.shared))
    }
}

fn append<T: Record>(
    store: &Store<T>,
    index: u64,
    seq: u64,
    record: &T,
    current: &mut Current,
    time_ns: u64,
) {
    store.write(index, seq, record);
    store.blocks.note(current, index, time_ns);
    store.publish(index + 1);
}
