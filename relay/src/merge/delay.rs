//! How long flows are under way, of late.

use std::collections::VecDeque;

/// The longest delay of nearly all moments of the last ten seconds: a pause of this machine or of one node, which all
/// would wait for later on, does not count.
#[derive(Clone, Debug, Default)]
pub(super) struct Delays {
    /// Number and longest delay of each moment in which something came.
    moments: VecDeque<(u64, i64)>,
    usual: Option<i64>,
}

/// Length of a moment, ns.
const MOMENT_NS: u64 = 20_000_000;
/// Moments that count.
const MOMENTS: u64 = 500;
/// One in so many moments is left out: the worst ones.
const LEFT_OUT: usize = 50;

impl Delays {
    pub(super) fn note(&mut self, delay: i64, now_ns: u64) {
        let moment = now_ns / MOMENT_NS;
        match self.moments.back_mut() {
            Some((last, longest)) if *last >= moment => *longest = (*longest).max(delay),
            _ => {
                self.moments.push_back((moment, delay));
                self.find();
            }
        }
        // Until there is enough to leave something out, all counts.
        if self.moments.len() < LEFT_OUT {
            self.usual = self.usual.max(Some(delay));
        }
    }

    pub(super) fn get(&self) -> Option<i64> {
        self.usual
    }

    fn find(&mut self) {
        let Some((newest, _)) = self.moments.back().copied() else { return };
        while self.moments.front().is_some_and(|(moment, _)| moment + MOMENTS <= newest) {
            self.moments.pop_front();
        }
        let mut delays: Vec<i64> = self.moments.iter().map(|(_, delay)| *delay).collect();
        let at = delays.len() - 1 - delays.len() / LEFT_OUT;
        self.usual = Some(*delays.select_nth_unstable(at).1);
    }
}

/// Smallest value of the current span of time and the one before it, and the number of values.
#[derive(Clone, Debug, Default)]
pub(super) struct WindowMin {
    current: Option<i64>,
    before: Option<i64>,
    counts: [u32; 2],
    ends_ns: u64,
}

/// Length of a span, ns.
const SPAN_NS: u64 = 5_000_000_000;

impl WindowMin {
    pub(super) fn note(&mut self, value: i64, now_ns: u64) {
        if now_ns >= self.ends_ns {
            self.before = self.current.take();
            self.counts = [0, self.counts[0]];
            self.ends_ns = now_ns.saturating_add(SPAN_NS);
        }
        self.current = Some(self.current.map_or(value, |current| current.min(value)));
        self.counts[0] = self.counts[0].saturating_add(1);
    }

    pub(super) fn get(&self) -> Option<i64> {
        [self.current, self.before].into_iter().flatten().min()
    }

    /// The same, when enough values stand behind it.
    pub(super) fn sure(&self) -> Option<i64> {
        self.get().filter(|_| self.counts[0].saturating_add(self.counts[1]) >= ENOUGH)
    }
}

/// Values that show what is usual.
const ENOUGH: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_values_are_forgotten() {
        let mut min = WindowMin::default();
        assert_eq!(min.get(), None);
        for (at, value, expected) in
            [(0, 1, 1), (1, 7, 1), (SPAN_NS, 6, 1), (2 * SPAN_NS, 8, 6), (3 * SPAN_NS, 11, 8)]
        {
            min.note(value, at);
            assert_eq!(min.get(), Some(expected), "{at}");
        }
    }

    #[test]
    fn a_rare_pause_does_not_count_and_a_lasting_change_does() {
        let mut delays = Delays::default();
        assert_eq!(delays.get(), None);
        delays.note(9, 0);
        assert_eq!(delays.get(), Some(9), "better than nothing");
        for moment in 1..1_000 {
            let pause = if moment % 100 == 0 { 50 } else { 0 };
            delays.note(2 + pause, moment * MOMENT_NS);
            delays.note(1, moment * MOMENT_NS + 1);
        }
        assert_eq!(delays.get(), Some(2));
        for moment in 1_000..1_020 {
            delays.note(7, moment * MOMENT_NS);
        }
        assert_eq!(delays.get(), Some(7));
    }
}
