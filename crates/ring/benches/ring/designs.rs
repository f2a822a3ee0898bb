//! The designs that are compared, behind one interface.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use crossbeam_epoch::{self as epoch, Atomic, Owned};
use specola_ring::{Class, Read, Reader, Writer};

/// Words of a record: as many as a flow has.
pub(crate) const WORDS: usize = 23;
/// See [`record`].
pub(crate) type Record = [u64; WORDS];

/// What lies at a sequence number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum At {
    /// The record of this number.
    Record(u64),
    Overwritten,
    Pending,
}

/// A ring: one writer, any number of readers.
pub(crate) trait Design {
    const NAME: &'static str;
    type Writer: Send;
    type Reader: Clone + Send;
    fn new(capacity: usize) -> (Self::Writer, Self::Reader);
    fn push(writer: &mut Self::Writer, record: &Record);
    fn read(reader: &Self::Reader, seq: u64) -> At;
    fn head(reader: &Self::Reader) -> u64;
}

/// Looks whether a record in the reader's memory is whole.
fn taken(copy: &Record) -> At {
    let copy = std::hint::black_box(copy);
    assert_eq!(copy[0], !copy[WORDS - 1], "a torn record");
    At::Record(copy[0])
}

/// The record of a number.
pub(crate) fn record(seq: u64) -> Record {
    let mut record = [seq; WORDS];
    record[WORDS - 1] = !seq;
    record
}

/// This crate's ring: records are copied word by word through relaxed atomics.
pub(crate) struct Words;

impl Design for Words {
    const NAME: &'static str = "words (this crate)";
    type Writer = (Writer<Record>, u64);
    type Reader = Reader<Record>;

    fn new(capacity: usize) -> (Self::Writer, Self::Reader) {
        let (writer, reader) = specola_ring::ring(capacity).expect("memory for the ring");
        ((writer, 0), reader)
    }

    fn push((writer, time): &mut Self::Writer, record: &Record) {
        *time += 1;
        writer.push(record, *time, Class::Common);
    }

    fn read(reader: &Self::Reader, seq: u64) -> At {
        match reader.read(seq) {
            Read::Item(record) => taken(&record),
            Read::Overwritten => At::Overwritten,
            Read::Pending => At::Pending,
        }
    }

    fn head(reader: &Self::Reader) -> u64 {
        reader.head()
    }
}

/// A record with its number, on the heap.
pub(crate) struct Numbered {
    seq: u64,
    record: Record,
}

impl Numbered {
    fn at(&self, seq: u64) -> At {
        let copy = self.record;
        if self.seq == seq { taken(&copy) } else { At::Overwritten }
    }
}

/// Slots and the number of the next record.
pub(crate) struct Slots<S> {
    slots: Box<[S]>,
    head: AtomicU64,
}

impl<S> Slots<S> {
    fn new(capacity: usize, slot: impl Fn() -> S) -> Arc<Self> {
        Arc::new(Self { slots: (0..capacity).map(|_| slot()).collect(), head: AtomicU64::new(0) })
    }

    fn next(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    fn slot(&self, seq: u64) -> &S {
        &self.slots[seq as usize & (self.slots.len() - 1)]
    }

    fn publish(&self, seq: u64) {
        self.head.store(seq + 1, Ordering::Release);
    }

    fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }
}

/// Reference-counted records; a slot is swapped, the old record goes when its last reader is done.
pub(crate) struct Counted;

impl Design for Counted {
    const NAME: &'static str = "Arc in arc-swap slots";
    type Writer = Arc<Slots<ArcSwapOption<Numbered>>>;
    type Reader = Self::Writer;

    fn new(capacity: usize) -> (Self::Writer, Self::Reader) {
        let slots = Slots::new(capacity, ArcSwapOption::empty);
        (Arc::clone(&slots), slots)
    }

    fn push(slots: &mut Self::Writer, record: &Record) {
        let seq = slots.next();
        slots.slot(seq).store(Some(Arc::new(Numbered { seq, record: *record })));
        slots.publish(seq);
    }

    fn read(slots: &Self::Reader, seq: u64) -> At {
        if seq >= slots.head() {
            return At::Pending;
        }
        slots.slot(seq).load().as_ref().map_or(At::Overwritten, |found| found.at(seq))
    }

    fn head(slots: &Self::Reader) -> u64 {
        slots.head()
    }
}

/// Records behind atomic pointers; an old record is freed when no thread can be at it (epochs).
pub(crate) struct Epochs;

impl Design for Epochs {
    const NAME: &'static str = "boxes with crossbeam-epoch";
    type Writer = Arc<Slots<Atomic<Numbered>>>;
    type Reader = Self::Writer;

    fn new(capacity: usize) -> (Self::Writer, Self::Reader) {
        let slots = Slots::new(capacity, Atomic::null);
        (Arc::clone(&slots), slots)
    }

    fn push(slots: &mut Self::Writer, record: &Record) {
        let seq = slots.next();
        let guard = epoch::pin();
        let old =
            slots.slot(seq).swap(Owned::new(Numbered { seq, record: *record }), Ordering::AcqRel, &guard);
        if !old.is_null() {
            // SAFETY: it is out of the slot, and only one writer takes it out; readers hold guards.
            unsafe { guard.defer_destroy(old) };
        }
        slots.publish(seq);
    }

    fn read(slots: &Self::Reader, seq: u64) -> At {
        if seq >= slots.head() {
            return At::Pending;
        }
        let guard = epoch::pin();
        // SAFETY: what a slot points to is freed only after all guards of this time are gone.
        let found = unsafe { slots.slot(seq).load(Ordering::Acquire, &guard).as_ref() };
        found.map_or(At::Overwritten, |found| found.at(seq))
    }

    fn head(slots: &Self::Reader) -> u64 {
        slots.head()
    }
}

/// A lock per slot: readers and writer wait for each other.
pub(crate) struct Locks;

impl Design for Locks {
    const NAME: &'static str = "a mutex per slot";
    type Writer = Arc<Slots<Mutex<Option<Numbered>>>>;
    type Reader = Self::Writer;

    fn new(capacity: usize) -> (Self::Writer, Self::Reader) {
        let slots = Slots::new(capacity, || Mutex::new(None));
        (Arc::clone(&slots), slots)
    }

    fn push(slots: &mut Self::Writer, record: &Record) {
        let seq = slots.next();
        let numbered = Numbered { seq, record: *record };
        *slots.slot(seq).lock().unwrap_or_else(PoisonError::into_inner) = Some(numbered);
        slots.publish(seq);
    }

    fn read(slots: &Self::Reader, seq: u64) -> At {
        if seq >= slots.head() {
            return At::Pending;
        }
        let slot = slots.slot(seq).lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().map_or(At::Overwritten, |found| found.at(seq))
    }

    fn head(slots: &Self::Reader) -> u64 {
        slots.head()
    }
}
