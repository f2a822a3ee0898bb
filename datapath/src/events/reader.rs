//! The thread that drains the lanes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use specola_datapath_common::event::{BadEvent, Event, lane};

use super::clock::Clock;
use super::fold::Folds;
use super::ledger::Ledger;
use super::merge::{Lane, Merge, Rejected};
use crate::load::Pins;

/// One batch of events, in the order of their stamps.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// The events. A later batch may hold an earlier stamp only if its program was held up after it took the time.
    /// Those with [`Event::fold`] set were in no lane: they stand for packets that the programs counted.
    pub events: &'a [Event],
    /// Nanoseconds to add to [`Event::boot_ns`] to get wall time (since 1970, UTC).
    pub clock_offset_ns: i64,
    /// Samples since the previous batch that were no events.
    pub rejected: Rejected,
}

/// What a reader did from start to stop.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReaderCounts {
    /// Samples taken out of each lane, good and bad; indexed by [`lane`].
    pub consumed: [u64; lane::COUNT],
    /// Samples that were no events.
    pub rejected: Rejected,
    /// Packets that records with [`Event::fold`] set stand for. Folded = this + what waits to be reported.
    pub folded: u64,
}

/// Drains the lanes of one node. There is one reader per node at a time.
#[derive(Debug)]
pub struct EventReader {
    merge: Merge<Ring>,
    ledger: Ledger,
    folds: Arc<Mutex<Folds>>,
    folds_reported: Option<Instant>,
    folded: Vec<Event>,
    clock: Clock,
    /// Rounds that empty the lanes even when they were full at the beginning.
    rounds_to_drain: usize,
    /// Holds the pin directory: nobody else may read these lanes as long as this reader lives.
    _pins: Pins,
}

impl EventReader {
    pub(crate) fn new(
        rings: [RingBuf<MapData>; lane::COUNT],
        lane_bytes: [u32; lane::COUNT],
        ledger: Ledger,
        folds: Arc<Mutex<Folds>>,
        pins: Pins,
    ) -> Self {
        let bytes: usize = lane_bytes.iter().map(|bytes| *bytes as usize).sum();
        Self {
            merge: Merge::new(rings.map(Ring), BATCH),
            ledger,
            folds,
            folds_reported: None,
            folded: Vec::new(),
            clock: Clock::new(),
            rounds_to_drain: bytes / size_of::<Event>() / BATCH + 1,
            _pins: pins,
        }
    }

    /// Reads until `stop` is set, then drains what the lanes hold, reports what is folded, and returns. Runs on the
    /// calling thread.
    ///
    /// `sink` is called every round, also with an empty batch, so that it can serve other sources of events; it should
    /// be quick, because while it runs nothing drains the lanes.
    pub fn run(mut self, stop: Arc<AtomicBool>, mut sink: impl FnMut(Tick<'_>)) -> ReaderCounts {
        let mut counts = ReaderCounts::default();
        let mut pace = Pace::default();
        while !stop.load(Ordering::Acquire) {
            // Without the clock nothing can wait for the next round.
            let cut = Clock::boot_ns().unwrap_or(u64::MAX);
            self.round(cut, &mut counts, &mut sink);
            if !self.merge.is_full() {
                std::thread::sleep(pace.after(!self.merge.batch().is_empty()));
            }
        }
        self.folds_reported = None;
        for _ in 0..self.rounds_to_drain {
            self.round(u64::MAX, &mut counts, &mut sink);
            if !self.merge.is_full() {
                break;
            }
        }
        counts
    }

    /// Starts [`Self::run`] on a thread of its own.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn spawn(
        self,
        stop: Arc<AtomicBool>,
        sink: impl FnMut(Tick<'_>) + Send + 'static,
    ) -> std::io::Result<std::thread::JoinHandle<ReaderCounts>> {
        std::thread::Builder::new().name("events".to_owned()).spawn(move || self.run(stop, sink))
    }

    /// What the lanes hold now, one batch, and what is folded, on the calling thread.
    #[cfg(feature = "test-util")]
    pub fn read_now(&mut self, sink: impl FnOnce(Tick<'_>)) {
        let mut sink = Some(sink);
        self.folds_reported = None;
        self.round(u64::MAX, &mut ReaderCounts::default(), &mut |tick: Tick<'_>| {
            if let Some(sink) = sink.take() {
                sink(tick);
            }
        });
    }

    /// What is folded, as if the time since boot were `now_ns`.
    ///
    /// # Errors
    /// The kernel refused to read or change a map.
    #[cfg(feature = "test-util")]
    pub fn report_folds_at(&mut self, now_ns: u64) -> Result<Vec<Event>, crate::MapsError> {
        let mut records = Vec::new();
        let mut folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
        folds.report(now_ns, &mut records)?;
        Ok(records)
    }

    fn round(&mut self, cut: u64, counts: &mut ReaderCounts, sink: &mut impl FnMut(Tick<'_>)) {
        let before = self.merge.consumed();
        self.merge.collect(cut);
        let (consumed, rejected) = (self.merge.consumed(), self.merge.rejected());
        let clock_offset_ns = self.clock.offset_ns();
        let folded = self.report_folds();
        sink(Tick { events: self.merge.batch(), clock_offset_ns, rejected });
        counts.consumed = consumed;
        counts.rejected += rejected;
        counts.folded += folded;
        let taken = std::array::from_fn(|index| consumed[index] - before[index]);
        self.ledger.add(taken, rejected);
    }

    /// Once a second: puts records of folded packets into the batch. Gives how many packets they stand for.
    fn report_folds(&mut self) -> u64 {
        if self.folds_reported.is_some_and(|at| at.elapsed() < FOLD_INTERVAL) {
            return 0;
        }
        self.folds_reported = Some(Instant::now());
        // Without the clock nothing can be called idle.
        let now_ns = Clock::boot_ns().unwrap_or(0);
        self.folded.clear();
        let mut folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = folds.report(now_ns, &mut self.folded) {
            tracing::warn!(%error, "folded packets are reported later");
        }
        self.merge.add(&self.folded);
        self.folded.iter().map(|event| u64::from(event.fold)).sum()
    }
}

/// A lane in the kernel.
struct Ring(RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Lane for Ring {
    fn pop(&mut self) -> Option<Result<Event, BadEvent>> {
        // The sample is given back to the kernel when `item` drops, after the copy.
        let item = self.0.next()?;
        Some(Event::from_bytes(&item).copied())
    }
}

/// How long to sleep between rounds: short while events come, longer when none do.
#[derive(Debug, Default)]
struct Pace {
    empty_rounds: u32,
}

impl Pace {
    fn after(&mut self, had_events: bool) -> Duration {
        self.empty_rounds = if had_events { 0 } else { self.empty_rounds.saturating_add(1) };
        let doublings = self.empty_rounds.saturating_sub(PATIENCE).min(8);
        (BUSY * 2u32.pow(doublings)).min(IDLE)
    }
}

const BATCH: usize = 8192;
/// Time between two reports of folded packets.
const FOLD_INTERVAL: Duration = Duration::from_secs(1);
/// Sleep while events come.
const BUSY: Duration = Duration::from_micros(500);
/// Longest sleep.
const IDLE: Duration = Duration::from_millis(5);
/// Empty rounds before sleeps grow.
const PATIENCE: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_grow_when_nothing_comes_and_shrink_at_once() {
        let mut pace = Pace::default();
        for _ in 0..PATIENCE {
            assert_eq!(pace.after(false), BUSY);
        }
        assert_eq!(pace.after(false), 2 * BUSY);
        assert_eq!(pace.after(false), 4 * BUSY);
        for _ in 0..1000 {
            assert!(pace.after(false) <= IDLE);
        }
        assert_eq!(pace.after(false), IDLE);
        assert_eq!(pace.after(true), BUSY);
    }
}
