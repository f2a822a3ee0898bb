//! What became of every record: consumed + agent + expanded + loss records = pushed + rejected.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

/// Counters that the pipeline's thread writes and anyone reads.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    consumed: AtomicU64,
    agent: AtomicU64,
    agent_refused: AtomicU64,
    expanded: AtomicU64,
    kernel_lost: AtomicU64,
    loss_records: AtomicU64,
    pushed: AtomicU64,
    rejected: Mutex<BTreeMap<&'static str, u64>>,
}

/// A reading of the counters. While no batch is under way: `consumed + agent + expanded + loss_records` = `pushed` + all
/// `rejected`.
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
    /// Records that gave no flow, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
}

impl LedgerCounts {
    /// Whether every record is accounted for.
    pub fn is_balanced(&self) -> bool {
        self.consumed + self.agent + self.expanded + self.loss_records
            == self.pushed + self.rejected.values().sum::<u64>()
    }
}

/// What one batch adds.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) consumed: u64,
    pub(crate) agent: u64,
    pub(crate) expanded: u64,
    pub(crate) kernel_lost: u64,
    pub(crate) loss_records: u64,
    pub(crate) pushed: u64,
}

impl Ledger {
    /// Adds a batch.
    pub(crate) fn add(&self, batch: &Batch) {
        self.consumed.fetch_add(batch.consumed, Relaxed);
        self.agent.fetch_add(batch.agent, Relaxed);
        self.expanded.fetch_add(batch.expanded, Relaxed);
        self.kernel_lost.fetch_add(batch.kernel_lost, Relaxed);
        self.loss_records.fetch_add(batch.loss_records, Relaxed);
        self.pushed.fetch_add(batch.pushed, Relaxed);
    }

    /// Counts records that gave no flow. They must be in `consumed` or `agent` too.
    pub(crate) fn reject(&self, reason: &'static str, count: u64) {
        *self.rejected.lock().entry(reason).or_default() += count;
    }

    pub(crate) fn refuse_agent_event(&self) {
        self.agent_refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn counts(&self) -> LedgerCounts {
        LedgerCounts {
            consumed: self.consumed.load(Relaxed),
            agent: self.agent.load(Relaxed),
            agent_refused: self.agent_refused.load(Relaxed),
            expanded: self.expanded.load(Relaxed),
            kernel_lost: self.kernel_lost.load(Relaxed),
            loss_records: self.loss_records.load(Relaxed),
            pushed: self.pushed.load(Relaxed),
            rejected: self.rejected.lock().clone(),
        }
    }
}
