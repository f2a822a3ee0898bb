//! The only side that writes.

use crate::{
    blocks::Current,
    reader::Reader,
    slots::{Record, Shared},
    sync::Arc,
};

/// The one writer of a ring. It cannot be cloned; it may move to another thread.
#[derive(Debug)]
pub struct Writer<T> {
    shared: Arc<Shared<T>>,
    next: u64,
    current: Current,
}

impl<T: Record> Writer<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared, next: 0, current: Current::default() }
    }

    /// Appends a record, overwriting the oldest one when the ring is full, and returns its sequence number.
    ///
    /// `time_ns` feeds the time index. The record is readable when this returns; nothing waits.
    pub fn push(&mut self, record: &T, time_ns: u64) -> u64 {
        let seq = self.next;
        self.shared.write(seq, record);
        self.shared.blocks.note(&mut self.current, seq, time_ns);
        self.next = seq + 1;
        self.shared.publish(self.next);
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
