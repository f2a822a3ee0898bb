//! Many streams as one, ordered by time. No I/O and no clock: the caller says what came, and when.
//!
//! What has come is held until nothing older is to be expected: because every stream is past it, or because the time is
//! over in which streams deliver. That time follows what the streams show: the usual longest delay between the time of a
//! flow and its arrival, and the shortest one of each stream, of those streams whose delay is within [`Limits::wait`] of
//! the median one. A flow that comes after a later one has left is late: it is passed on and marked.

use std::collections::BTreeSet;

use crate::envelope::{Answer, Kind};

mod delay;
mod held;

use delay::{Delays, WindowMin};
use held::{Held, Waiting};

/// Bounds of one merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest wait for older flows, ns.
    pub(crate) wait_ns: u64,
    /// Answers that are held.
    pub(crate) answers: usize,
    /// Bytes that are held.
    pub(crate) bytes: usize,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct MergeCounts {
    /// Flows that came in.
    pub(crate) flows: u64,
    /// Flows that went out after a later one.
    pub(crate) late: u64,
    /// Answers that had to leave early because too many were held.
    pub(crate) forced: u64,
    /// Flows that peers said were lost.
    pub(crate) lost: u64,
}

/// What is known of one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceView {
    /// Flows that came.
    pub(crate) flows: u64,
    /// Of these, those that were late.
    pub(crate) late: u64,
    /// Flows that it said were lost.
    pub(crate) lost: u64,
    /// Newest time that came, ns.
    pub(crate) newest_ns: u64,
    /// Shortest delay seen lately, ns; below 0 when its clock is ahead.
    pub(crate) delay_ns: Option<i64>,
    /// Its clock is further off than streams wait for each other.
    pub(crate) skewed: bool,
    state: State,
    low: WindowMin,
    /// Since when its flows show how long flows are under way: before, it catches up.
    settled_ns: u64,
    held: usize,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Live,
    /// Silent for longer than others wait for it.
    Stalled,
}

/// An answer that may leave.
#[derive(Debug)]
pub(crate) struct Released {
    pub(crate) answer: Answer,
    /// Stream that it came from.
    pub(crate) source: u32,
    /// How much older it is than what has left before; 0 = in order.
    pub(crate) late_ns: u64,
    /// The clock of its node is off: its place says nothing.
    pub(crate) skewed: bool,
}

/// The merge.
#[derive(Debug)]
pub(crate) struct Merge {
    limits: Limits,
    /// Goes on for ever: streams that are silent have nothing, rather than more to say.
    follow: bool,
    held: Waiting,
    /// By number.
    sources: Vec<SourceView>,
    /// Newest time and stream, of those that are waited for.
    marks: BTreeSet<(u64, u32)>,
    released_ns: u64,
    delays: Delays,
    /// Longest delay of streams that catch up: better than nothing.
    early_ns: Option<i64>,
    /// Longest of the streams' shortest delays.
    farthest_ns: Option<i64>,
    /// Median of the streams' delays.
    reference_ns: Option<i64>,
    reference_due_ns: u64,
    /// Streams whose clock was found to be off, not yet asked for.
    newly_skewed: Vec<u32>,
    counts: MergeCounts,
}

/// How often the median delay is found anew, ns.
const REFERENCE_INTERVAL_NS: u64 = 500_000_000;
/// Time in which a stream may catch up, ns.
const CATCH_UP_NS: u64 = 1_000_000_000;
/// Added to the longest delay seen: the next one may be a little longer, ns.
const SLACK_NS: i64 = 1_000_000;

impl Merge {
    /// An empty merge; `follow`: streams do not end by themselves.
    pub(crate) fn new(limits: Limits, follow: bool) -> Self {
        Self {
            limits,
            follow,
            held: Waiting::default(),
            sources: Vec::new(),
            marks: BTreeSet::new(),
            released_ns: 0,
            delays: Delays::default(),
            early_ns: None,
            farthest_ns: None,
            reference_ns: None,
            reference_due_ns: 0,
            newly_skewed: Vec::new(),
            counts: MergeCounts::default(),
        }
    }

    /// Adds a stream, which is waited for from now on. One that comes back is the same stream.
    pub(crate) fn add(&mut self, source: u32, now_ns: u64) {
        let at = source as usize;
        if at >= self.sources.len() {
            self.sources.resize_with(at + 1, SourceView::default);
        }
        let view = &mut self.sources[at];
        view.state = State::Live;
        view.settled_ns = now_ns.saturating_add(CATCH_UP_NS);
        self.marks.insert((view.newest_ns, source));
    }

    /// A stream has ended.
    pub(crate) fn end(&mut self, source: u32) {
        if let Some(view) = self.sources.get(source as usize) {
            self.marks.remove(&(view.newest_ns, source));
        }
    }

    /// A stream that others wait for says nothing: they go on without it until it speaks again.
    pub(crate) fn stall(&mut self, source: u32) {
        if let Some(view) = self.sources.get_mut(source as usize) {
            self.marks.remove(&(view.newest_ns, source));
            view.state = State::Stalled;
        }
    }

    /// Takes an answer of a stream.
    pub(crate) fn push(&mut self, source: u32, answer: Answer, now_ns: u64) {
        let Some(view) = self.sources.get_mut(source as usize) else { return };
        // Without a time it goes behind what the stream said last.
        let time_ns = answer.time_ns.unwrap_or(view.newest_ns);
        match answer.kind {
            Kind::Flow => {
                self.counts.flows += 1;
                view.flows += 1;
            }
            Kind::Lost(count) => {
                self.counts.lost = self.counts.lost.saturating_add(count);
                view.lost = view.lost.saturating_add(count);
            }
            Kind::Other => {}
        }
        let was_waited_for = self.marks.remove(&(view.newest_ns, source));
        let is_flow = answer.kind == Kind::Flow;
        if is_flow {
            view.newest_ns = view.newest_ns.max(time_ns);
        }
        if was_waited_for || view.state == State::Stalled {
            view.state = State::Live;
            self.marks.insert((view.newest_ns, source));
        }
        view.held += 1;
        self.held.push(Held { time_ns, arrived_ns: now_ns, source, answer });
        if self.follow && is_flow {
            self.note_delay(source, time_ns, now_ns);
        }
    }

    /// The oldest answer, if it may leave.
    pub(crate) fn pop(&mut self, now_ns: u64) -> Option<Released> {
        let head = self.held.first()?;
        let is_full = self.held.len() > self.limits.answers || self.held.bytes() > self.limits.bytes;
        let may_leave = self.is_passed(head.time_ns) || self.due_ns(head) <= now_ns;
        if !may_leave && !is_full {
            return None;
        }
        self.counts.forced += u64::from(!may_leave);
        let held = self.held.pop()?;
        let view = self.sources.get_mut(held.source as usize)?;
        view.held -= 1;
        let mut late_ns = 0;
        if held.answer.kind == Kind::Flow {
            late_ns = self.released_ns.saturating_sub(held.time_ns);
            // A clock that is ahead must not make everybody else late.
            if !view.skewed {
                self.released_ns = self.released_ns.max(held.time_ns);
            }
            view.late += u64::from(late_ns > 0);
            self.counts.late += u64::from(late_ns > 0);
        }
        let skewed = view.skewed;
        Some(Released { answer: held.answer, source: held.source, late_ns, skewed })
    }

    /// When the oldest answer may leave at the latest, ns; `None` when nothing is held.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.held.first().map(|head| self.due_ns(head))
    }

    /// Whether reading this stream brings the merge forward. Others may wait, and their peers with them.
    pub(crate) fn wants(&self, source: u32) -> bool {
        let Some(view) = self.sources.get(source as usize) else { return false };
        if self.follow {
            let is_full =
                self.held.len() * 2 > self.limits.answers || self.held.bytes() * 2 > self.limits.bytes;
            return !is_full || view.held == 0;
        }
        self.held.first_ns().is_none_or(|head_ns| view.newest_ns < head_ns || view.held == 0)
    }

    /// Streams whose next answers the oldest one waits for; of a follower, all.
    pub(crate) fn blockers(&self) -> impl Iterator<Item = u32> {
        let head_ns = self.held.first_ns().filter(|_| !self.follow).unwrap_or(u64::MAX);
        self.marks.iter().take_while(move |(mark, _)| *mark <= head_ns).map(|(_, source)| *source)
    }

    /// Whether a stream keeps what is held from leaving.
    pub(crate) fn waits_for(&self, source: u32) -> bool {
        let Some(head_ns) = self.held.first_ns() else { return false };
        self.sources
            .get(source as usize)
            .is_some_and(|view| view.state == State::Live && view.newest_ns < head_ns)
    }

    /// Streams whose clock was found to be off since the last call.
    pub(crate) fn take_newly_skewed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.newly_skewed)
    }

    /// Streams whose clock is off now.
    pub(crate) fn skewed(&self) -> usize {
        self.sources.iter().filter(|view| view.skewed).count()
    }

    pub(crate) fn counts(&self) -> MergeCounts {
        self.counts
    }

    /// Bytes that are held.
    pub(crate) const fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Answers that are held.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// How much later than the median stream this one is, ns; below 0 when it is ahead.
    pub(crate) fn skew_ns(&self, source: u32) -> Option<i64> {
        let (view, reference) = (self.sources.get(source as usize)?, self.reference_ns?);
        view.delay_ns.map(|delay| delay.saturating_sub(reference))
    }

    /// Whether every stream that is waited for is past this time.
    fn is_passed(&self, time_ns: u64) -> bool {
        self.marks.first().is_none_or(|(mark, _)| *mark >= time_ns)
    }

    fn due_ns(&self, held: &Held) -> u64 {
        let latest = held.arrived_ns.saturating_add(self.limits.wait_ns);
        if !self.follow {
            return latest;
        }
        let skewed = self.sources.get(held.source as usize).is_some_and(|view| view.skewed);
        match self.delays.get().or(self.early_ns).max(self.farthest_ns) {
            // No wait brings it in order.
            _ if skewed => held.arrived_ns,
            Some(delay) => held.time_ns.saturating_add_signed(delay.saturating_add(SLACK_NS)).min(latest),
            None => latest,
        }
    }

    /// Learns how long flows are under way.
    fn note_delay(&mut self, source: u32, time_ns: u64, now_ns: u64) {
        let delay = signed(now_ns).saturating_sub(signed(time_ns));
        let Some(view) = self.sources.get_mut(source as usize) else { return };
        view.low.note(delay, now_ns);
        let is_first = view.delay_ns.is_none();
        let is_settled = now_ns >= view.settled_ns;
        view.delay_ns = view.low.get();
        if is_first || now_ns >= self.reference_due_ns {
            self.reference_due_ns = now_ns.saturating_add(REFERENCE_INTERVAL_NS);
            self.find_reference(now_ns);
        }
        let is_near =
            self.reference_ns.is_some_and(|reference| delay.abs_diff(reference) <= self.limits.wait_ns);
        if is_near && is_settled {
            self.delays.note(delay, now_ns);
        } else if is_near {
            self.early_ns = self.early_ns.max(Some(delay));
        }
    }

    fn find_reference(&mut self, now_ns: u64) {
        let mut delays: Vec<i64> = self.sources.iter().filter_map(|view| view.delay_ns).collect();
        delays.sort_unstable();
        let middle = [delays.len().saturating_sub(1) / 2, delays.len() / 2];
        // Of two, the one that agrees better with the clock of this machine.
        let candidates = middle.iter().filter_map(|at| delays.get(*at));
        self.reference_ns = candidates.min_by_key(|delay| delay.unsigned_abs()).copied();
        let Some(reference) = self.reference_ns else { return };
        for (source, view) in (0..).zip(&mut self.sources) {
            let was_skewed = view.skewed;
            // Who catches up is late for another reason.
            view.skewed = view.delay_ns.is_some_and(|delay| {
                delay.abs_diff(reference) > self.limits.wait_ns
                    && (delay < reference || now_ns >= view.settled_ns)
            });
            if view.skewed && !was_skewed {
                self.newly_skewed.push(source);
            }
        }
        let near = self.sources.iter().filter(|view| !view.skewed);
        self.farthest_ns = near.filter_map(|view| view.low.sure()).max();
    }
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
