//! The thread that drains the lanes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use specola_datapath_common::event::{BadEvent, Event, lane};

use super::bell::{Bell, ReaderWaker};
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
    bell: Bell,
    ledger: Ledger,
    folds: Arc<Mutex<Folds>>,
    folds_reported: Option<Instant>,
    /// Packets may be folded since, or are.
    has_folds: bool,
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
        bell: Bell,
        ledger: Ledger,
        folds: Arc<Mutex<Folds>>,
        pins: Pins,
    ) -> Self {
        let bytes: usize = lane_bytes.iter().map(|bytes| *bytes as usize).sum();
        Self {
            merge: Merge::new(rings.map(Ring), BATCH),
            bell,
            ledger,
            folds,
            folds_reported: None,
            has_folds: true,
            folded: Vec::new(),
            clock: Clock::new(),
            rounds_to_drain: bytes / size_of::<Event>() / BATCH + 1,
            _pins: pins,
        }
    }

    /// Wakes and stops this reader.
    pub fn waker(&self) -> ReaderWaker {
        self.bell.waker()
    }

    /// Reads until [`ReaderWaker::stop`], then drains what the lanes hold, reports what is folded, and returns. Runs on
    /// the calling thread, which sleeps while there are no events.
    ///
    /// `sink` is called every round, also with an empty batch, so that it can serve other sources of events
    /// ([`ReaderWaker::wake`]); it should be quick, because while it runs nothing drains the lanes. It returns after how
    /// long it wants to be called though nothing comes; `None` = not before something comes.
    pub fn run(mut self, mut sink: impl FnMut(Tick<'_>) -> Option<Duration>) -> ReaderCounts {
        let mut counts = ReaderCounts::default();
        let mut pace = Pace::default();
        while !self.bell.is_stopped() {
            // Without the clock nothing can wait for the next round.
            let cut = Clock::boot_ns().unwrap_or(u64::MAX);
            self.round(cut, &mut counts, &mut sink);
            if self.merge.is_full() {
                continue;
            }
            match pace.after(self.is_busy()) {
                Rest::Pause(pause) => self.wait(Some(pause)),
                Rest::Sleep => self.sleep(&mut counts, &mut sink),
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
        sink: impl FnMut(Tick<'_>) -> Option<Duration> + Send + 'static,
    ) -> std::io::Result<std::thread::JoinHandle<ReaderCounts>> {
        std::thread::Builder::new().name("events".to_owned()).spawn(move || self.run(sink))
    }

    /// What the lanes hold now, one batch, and what is folded, on the calling thread.
    #[cfg(feature = "test-run")]
    pub fn read_now(&mut self, sink: impl FnOnce(Tick<'_>)) {
        let mut sink = Some(sink);
        self.folds_reported = None;
        self.round(u64::MAX, &mut ReaderCounts::default(), &mut |tick: Tick<'_>| {
            if let Some(sink) = sink.take() {
                sink(tick);
            }
            None
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

    /// Sleeps until something comes or has to be looked after.
    fn sleep(&mut self, counts: &mut ReaderCounts, sink: &mut impl FnMut(Tick<'_>) -> Option<Duration>) {
        self.bell.arm();
        // What came before that is not announced.
        let cut = Clock::boot_ns().unwrap_or(u64::MAX);
        let sinks = self.round(cut, counts, sink);
        if !self.is_busy() && !self.bell.is_stopped() {
            let longest = [sinks, self.folds_due()].into_iter().flatten().min();
            self.wait(longest);
        }
        self.bell.disarm();
    }

    fn wait(&mut self, longest: Option<Duration>) {
        if let Err(error) = self.bell.wait(longest) {
            tracing::warn!(%error, "the event reader cannot wait for events and looks for them now and then");
            std::thread::sleep(longest.map_or(LONGEST_PAUSE, |longest| longest.min(LONGEST_PAUSE)));
        }
    }

    /// Whether the latest round found something, or there is something that it had to leave.
    fn is_busy(&self) -> bool {
        !self.merge.batch().is_empty() || !self.merge.is_empty() || self.merge.rejected().total() > 0
    }

    /// Gives when the sink wants to be called again.
    fn round(
        &mut self,
        cut: u64,
        counts: &mut ReaderCounts,
        sink: &mut impl FnMut(Tick<'_>) -> Option<Duration>,
    ) -> Option<Duration> {
        let before = self.merge.consumed();
        self.merge.collect(cut);
        let (consumed, rejected) = (self.merge.consumed(), self.merge.rejected());
        let taken = std::array::from_fn(|index| consumed[index] - before[index]);
        // Packets are folded only after others of their kind gave records.
        self.has_folds |= taken[usize::from(lane::DENY)] > 0;
        let clock_offset_ns = self.clock.offset_ns();
        let folded = self.report_folds();
        let again = sink(Tick { events: self.merge.batch(), clock_offset_ns, rejected });
        counts.consumed = consumed;
        counts.rejected += rejected;
        counts.folded += folded;
        self.ledger.add(taken, rejected);
        again
    }

    /// When folded packets are to be reported; `None` = there are none.
    fn folds_due(&self) -> Option<Duration> {
        let last = self.folds_reported.filter(|_| self.has_folds)?;
        Some(FOLD_INTERVAL.saturating_sub(last.elapsed()))
    }

    /// Once a second: puts records of folded packets into the batch. Gives how many packets they stand for.
    fn report_folds(&mut self) -> u64 {
        let is_due = self.folds_reported.is_none_or(|at| self.has_folds && at.elapsed() >= FOLD_INTERVAL);
        if !is_due {
            return 0;
        }
        self.folds_reported = Some(Instant::now());
        // Without the clock nothing can be called idle.
        let now_ns = Clock::boot_ns().unwrap_or(0);
        self.folded.clear();
        let mut folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
        match folds.report(now_ns, &mut self.folded) {
            Ok(has_keys) => self.has_folds = has_keys,
            Err(error) => {
                self.has_folds = true;
                tracing::warn!(%error, "folded packets are reported later");
            }
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

/// What to do between rounds: short pauses while events come, longer ones when none do, then sleep.
#[derive(Debug, Default)]
struct Pace {
    empty_rounds: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rest {
    /// Events are not announced.
    Pause(Duration),
    /// Until an event is announced.
    Sleep,
}

impl Pace {
    fn after(&mut self, had_events: bool) -> Rest {
        self.empty_rounds = if had_events { 0 } else { self.empty_rounds.saturating_add(1) };
        let pause = BUSY * 2u32.saturating_pow(self.empty_rounds.saturating_sub(PATIENCE));
        if pause <= LONGEST_PAUSE { Rest::Pause(pause) } else { Rest::Sleep }
    }
}

const BATCH: usize = 8192;
/// Time between two reports of folded packets.
const FOLD_INTERVAL: Duration = Duration::from_secs(1);
/// Pause while events come.
const BUSY: Duration = Duration::from_micros(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(4);
/// Empty rounds before pauses grow.
const PATIENCE: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_when_nothing_comes_until_it_sleeps() {
        let mut pace = Pace::default();
        let pauses: Vec<_> = std::iter::from_fn(|| match pace.after(false) {
            Rest::Pause(pause) => Some(pause.as_micros()),
            Rest::Sleep => None,
        })
        .take(100)
        .collect();
        assert_eq!(pauses, [500, 500, 1000, 2000, 4000]);
        for _ in 0..1000 {
            assert_eq!(pace.after(false), Rest::Sleep);
        }
        assert_eq!(pace.after(true), Rest::Pause(BUSY));
        assert_eq!(pace.after(false), Rest::Pause(BUSY));
    }
}
