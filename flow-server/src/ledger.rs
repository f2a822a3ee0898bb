//! What became of every record, kept where it survives the process.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use specola_datapath_common::metrics::BOOK_WORDS;

/// Where the pipeline's counters are kept. A book that outlives the process lets them go on where the last one stopped.
pub trait Book: fmt::Debug + Send + Sync {
    /// The numbers of the latest write, zeros before the first.
    fn read(&self) -> [u64; BOOK_WORDS];

    /// Replaces all numbers. Whoever reads meanwhile, or after a sudden end of the writer, finds the old ones or the
    /// new ones. Only the pipeline's thread writes.
    fn write(&self, numbers: &[u64; BOOK_WORDS]);
}

/// A book that ends with the process.
#[derive(Debug, Default)]
pub(crate) struct MemoryBook(Mutex<[u64; BOOK_WORDS]>);

impl Book for MemoryBook {
    fn read(&self) -> [u64; BOOK_WORDS] {
        *self.0.lock()
    }

    fn write(&self, numbers: &[u64; BOOK_WORDS]) {
        *self.0.lock() = *numbers;
    }
}

/// A reading of the counters, all of one moment. They go on over restarts when the book does.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LedgerCounts {
    /// Records taken from the kernel's ring buffers, good or bad.
    pub consumed: u64,
    /// Events made in user space: folded denies, the agent's own.
    pub agent: u64,
    /// Events of other sources that were refused because the queue was full; they are in no other counter.
    pub agent_refused: u64,
    /// Flows beyond one per record: a denied packet gives two.
    pub expanded: u64,
    /// Events that the kernel had no room for; they are in no other counter.
    pub kernel_lost: u64,
    /// Records in the ring that tell of such events.
    pub loss_records: u64,
    /// Records written into the ring.
    pub pushed: u64,
    /// Records that newer ones overwrote in the ring.
    pub overwritten: u64,
    /// Records in the ring.
    pub held: u64,
    /// Records that a process took from the kernel and had not written into the ring when it ended.
    pub lost_records: u64,
    /// Records that were in the rings of processes that ended.
    pub lost_flows: u64,
    /// Records that gave no flow, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
}

impl LedgerCounts {
    /// Whether every record became a flow or has a reason why not: consumed + agent + expanded + loss records = pushed
    /// + rejected + lost records.
    pub fn records_balance(&self) -> bool {
        let made = self.consumed + self.agent + self.expanded + self.loss_records;
        made == self.pushed + self.rejected.values().sum::<u64>() + self.lost_records
    }

    /// Whether every flow is somewhere: pushed = held + overwritten + lost flows.
    pub fn flows_balance(&self) -> bool {
        self.pushed == self.held + self.overwritten + self.lost_flows
    }

    /// Whether both hold.
    pub fn is_balanced(&self) -> bool {
        self.records_balance() && self.flows_balance()
    }
}

/// The counters as the pipeline's thread has them; others see them after the next [`Ledger::write`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    pub(crate) consumed: u64,
    pub(crate) agent: u64,
    pub(crate) agent_refused: u64,
    pub(crate) expanded: u64,
    pub(crate) kernel_lost: u64,
    pub(crate) loss_records: u64,
    pub(crate) pushed: u64,
    pub(crate) overwritten: u64,
    pub(crate) held: u64,
    lost_records: u64,
    lost_flows: u64,
    rejected: [u64; REASONS.len()],
}

/// Reasons of rejected records, in the order of the book; the last one stands for those not among them.
const REASONS: [&str; 5] = ["size", "abi", "kind", "verdict", "other"];

impl Counts {
    /// Takes records into account that gave no flow. They must be in `consumed` or `agent` too.
    pub(crate) fn reject(&mut self, reason: &str, count: u64) {
        let index = REASONS.iter().position(|known| *known == reason).unwrap_or(REASONS.len() - 1);
        self.rejected[index] += count;
    }

    /// Where each number stands in the book. New ones go to the end.
    fn numbers(&mut self) -> impl Iterator<Item = &mut u64> {
        [
            &mut self.consumed,
            &mut self.agent,
            &mut self.agent_refused,
            &mut self.expanded,
            &mut self.kernel_lost,
            &mut self.loss_records,
            &mut self.pushed,
            &mut self.overwritten,
            &mut self.held,
            &mut self.lost_records,
            &mut self.lost_flows,
        ]
        .into_iter()
        .chain(&mut self.rejected)
    }

    fn from_book(book: &[u64; BOOK_WORDS]) -> Self {
        let mut counts = Self::default();
        counts.numbers().zip(book).for_each(|(number, kept)| *number = *kept);
        counts
    }

    fn to_book(&self) -> [u64; BOOK_WORDS] {
        let mut book = [0; BOOK_WORDS];
        self.clone().numbers().zip(&mut book).for_each(|(number, kept)| *kept = *number);
        book
    }
}

/// The books that the pipeline's thread writes and anyone reads.
#[derive(Debug)]
pub(crate) struct Ledger {
    book: Arc<dyn Book>,
    agent_refused: AtomicU64,
}

impl Ledger {
    /// Opens the book and closes the accounts of the processes before: what they held, and what they had taken from
    /// the kernel (`taken` records in all) and not written down, is lost.
    pub(crate) fn open(book: Arc<dyn Book>, taken: u64) -> (Self, Counts) {
        let mut counts = Counts::from_book(&book.read());
        counts.lost_flows += std::mem::take(&mut counts.held);
        let interrupted = taken.saturating_sub(counts.consumed);
        counts.consumed += interrupted;
        counts.lost_records += interrupted;
        book.write(&counts.to_book());
        (Self { book, agent_refused: AtomicU64::new(counts.agent_refused) }, counts)
    }

    /// Shows the counters to everyone and keeps them.
    pub(crate) fn write(&self, counts: &mut Counts) {
        counts.agent_refused = self.agent_refused.load(Relaxed);
        self.book.write(&counts.to_book());
    }

    pub(crate) fn refuse_agent_event(&self) {
        self.agent_refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn counts(&self) -> LedgerCounts {
        let counts = Counts::from_book(&self.book.read());
        let rejected = REASONS.into_iter().zip(counts.rejected).filter(|(_, count)| *count > 0);
        LedgerCounts {
            consumed: counts.consumed,
            agent: counts.agent,
            agent_refused: self.agent_refused.load(Relaxed),
            expanded: counts.expanded,
            kernel_lost: counts.kernel_lost,
            loss_records: counts.loss_records,
            pushed: counts.pushed,
            overwritten: counts.overwritten,
            held: counts.held,
            lost_records: counts.lost_records,
            lost_flows: counts.lost_flows,
            rejected: rejected.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_place_in_the_book() {
        let mut counts = Counts::default();
        (1..).zip(counts.numbers()).for_each(|(value, number)| *number = value);
        let count = counts.numbers().count();
        assert!(count <= BOOK_WORDS);
        let book = counts.to_book();
        assert!(book[..count].iter().copied().eq(1..=count as u64), "{book:?}");
        assert_eq!(Counts::from_book(&book), counts);
    }

    #[test]
    fn what_a_dead_process_had_is_lost_and_the_books_balance() {
        let book: Arc<dyn Book> = Arc::new(MemoryBook::default());
        let (ledger, mut counts) = Ledger::open(Arc::clone(&book), 0);
        (counts.consumed, counts.pushed, counts.held, counts.overwritten) = (10, 9, 6, 3);
        counts.reject("kind", 1);
        ledger.write(&mut counts);
        assert!(ledger.counts().is_balanced());
        // Three records were taken and not written down.
        let (ledger, mut counts) = Ledger::open(Arc::clone(&book), 13);
        let after = ledger.counts();
        assert!(after.is_balanced(), "{after:?}");
        assert_eq!((after.consumed, after.lost_records, after.lost_flows, after.held), (13, 3, 6, 0));
        assert_eq!(after.rejected, BTreeMap::from([("kind", 1)]));
        // A process that ends without having done anything changes nothing.
        ledger.write(&mut counts);
        assert_eq!(Ledger::open(book, 13).0.counts(), after);
    }

    #[test]
    fn reasons_that_the_book_does_not_know_are_counted_too() {
        let mut counts = Counts::default();
        counts.reject("verdict", 2);
        counts.reject("weather", 3);
        let (ledger, _) = Ledger::open(Arc::new(MemoryBook::default()), 0);
        ledger.write(&mut counts);
        assert_eq!(ledger.counts().rejected, BTreeMap::from([("verdict", 2), ("other", 3)]));
        assert!(!ledger.counts().records_balance(), "they were never consumed");
    }
}
