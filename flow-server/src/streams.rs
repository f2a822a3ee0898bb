//! What happened to the flows that observers' streams came across: seen = delivered + filtered + lost.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::shared::Shared;

/// Totals over all streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: AtomicU64,
    delivered: AtomicU64,
    filtered: AtomicU64,
    lost: AtomicU64,
}

/// A reading of the totals. A stream adds what it passed over when it answers and when it ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StreamCounts {
    /// Streams that are open.
    pub open: u64,
    /// Flows sent.
    pub delivered: u64,
    /// Flows passed over: not asked for.
    pub filtered: u64,
    /// Flows overwritten before a stream came to them.
    pub lost: u64,
}

impl Streams {
    pub(crate) fn counts(&self) -> StreamCounts {
        StreamCounts {
            open: self.open.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            filtered: self.filtered.load(Relaxed),
            lost: self.lost.load(Relaxed),
        }
    }
}

/// Counts for one stream; adds to the totals.
#[derive(Debug)]
pub(crate) struct StreamMeter {
    shared: Arc<Shared>,
    /// Not yet in the totals, so that passing over a flow touches nothing shared.
    filtered: u64,
}

impl StreamMeter {
    pub(crate) fn open(shared: Arc<Shared>) -> Self {
        shared.streams.open.fetch_add(1, Relaxed);
        Self { shared, filtered: 0 }
    }

    pub(crate) const fn pass_over(&mut self, count: u64) {
        self.filtered += count;
    }

    pub(crate) fn deliver(&mut self, count: u64) {
        if count > 0 {
            self.flush();
            self.shared.streams.delivered.fetch_add(count, Relaxed);
        }
    }

    pub(crate) fn lose(&self, count: u64) {
        self.shared.streams.lost.fetch_add(count, Relaxed);
    }

    /// Adds what was passed over to the totals.
    pub(crate) fn flush(&mut self) {
        let filtered = std::mem::take(&mut self.filtered);
        if filtered > 0 {
            self.shared.streams.filtered.fetch_add(filtered, Relaxed);
        }
    }
}

impl Drop for StreamMeter {
    fn drop(&mut self) {
        self.flush();
        self.shared.streams.open.fetch_sub(1, Relaxed);
    }
}
