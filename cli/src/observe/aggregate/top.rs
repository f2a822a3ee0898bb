//! The busiest pairs of peers: rows of bounded number with totals, rates and their latest flows.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::traffic::{Pair, Totals};

/// Rows that are told apart; the least recently used ones go into the row of the others.
pub(super) const MAX_ROWS: usize = 2_048;
/// Rows that give way at once, so that not every new pair looks for the oldest row.
const EVICTED: usize = MAX_ROWS / 8;
/// Flows of a row that are remembered.
const REMEMBERED: usize = 12;
/// Characters of a name or a line that are kept.
const MAX_TEXT: usize = 512;
/// After this time a rate has lost most of what it was.
const SMOOTHING_SECONDS: f64 = 3.0;

/// All rows.
#[derive(Debug)]
pub(super) struct Top {
    rows: HashMap<Pair, Row>,
    other: Row,
    all: Row,
    /// Pairs that were put together in `other`.
    evicted: u64,
    lost: u64,
    ticked: Instant,
    uses: u64,
}

/// One pair.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// Since the start.
    pub(super) totals: Totals,
    /// Per second, lately.
    pub(super) rate: Rate,
    /// What happened last, such as `FORWARDED`.
    pub(super) verdict: &'static str,
    /// The latest flows, oldest first.
    pub(super) latest: VecDeque<String>,
    /// What came since the last tick.
    fresh: Totals,
    used: u64,
}

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    /// Flows of any verdict.
    pub(super) flows: f64,
    /// Dropped packets.
    pub(super) drops: f64,
    /// Bytes.
    pub(super) bytes: f64,
}

impl Top {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            rows: HashMap::new(),
            other: Row::default(),
            all: Row::default(),
            evicted: 0,
            lost: 0,
            ticked: now,
            uses: 0,
        }
    }

    /// Adds a flow of a pair; `line` is how it is printed.
    pub(super) fn add(&mut self, mut pair: Pair, totals: &Totals, verdict: &'static str, line: &str) {
        truncate(&mut pair.from);
        truncate(&mut pair.to);
        self.uses += 1;
        self.all.add(totals);
        if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&pair) {
            self.evict();
        }
        let row = self.rows.entry(pair).or_default();
        row.used = self.uses;
        row.verdict = verdict;
        row.add(totals);
        if row.latest.len() == REMEMBERED {
            row.latest.pop_front();
        }
        let mut line = line.to_owned();
        truncate(&mut line);
        row.latest.push_back(line);
    }

    /// Notes events that no server can tell.
    pub(super) const fn add_lost(&mut self, events: u64) {
        self.lost = self.lost.saturating_add(events);
    }

    /// Brings the rates up to date.
    pub(super) fn tick(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.ticked).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        self.ticked = now;
        let rows = self.rows.values_mut().chain([&mut self.other, &mut self.all]);
        rows.for_each(|row| row.tick(seconds));
    }

    /// Begins anew.
    pub(super) fn clear(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// Every row, in no order.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&Pair, &Row)> {
        self.rows.iter()
    }

    /// What the rows that gave way had, and how many they were.
    pub(super) const fn other(&self) -> (&Row, u64) {
        (&self.other, self.evicted)
    }

    /// Everything together.
    pub(super) const fn all(&self) -> &Row {
        &self.all
    }

    /// Events that were lost.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    fn evict(&mut self) {
        let mut uses: Vec<u64> = self.rows.values().map(|row| row.used).collect();
        let (_, limit, _) = uses.select_nth_unstable(EVICTED - 1);
        let limit = *limit;
        let (other, evicted) = (&mut self.other, &mut self.evicted);
        self.rows.retain(|_, row| {
            let stays = row.used > limit;
            if !stays {
                other.totals.add(&row.totals);
                other.fresh.add(&row.fresh);
                *evicted += 1;
            }
            stays
        });
    }
}

impl Row {
    const fn add(&mut self, totals: &Totals) {
        self.totals.add(totals);
        self.fresh.add(totals);
    }

    fn tick(&mut self, seconds: f64) {
        let fresh = std::mem::take(&mut self.fresh);
        let kept = (-seconds / SMOOTHING_SECONDS).exp();
        let blend = |old: f64, count: u64| {
            let blended = old * kept + per_second(count, seconds) * (1.0 - kept);
            // Below this nothing is shown of it.
            if blended < 0.005 { 0.0 } else { blended }
        };
        self.rate = Rate {
            flows: blend(self.rate.flows, fresh.events()),
            drops: blend(self.rate.drops, fresh.dropped),
            bytes: blend(self.rate.bytes, fresh.bytes),
        };
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate of three digits needs no more")]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

fn truncate(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pair(number: usize) -> Pair {
        Pair { from: number.to_string(), to: "x".to_owned(), protocol: "tcp", port: Some(80) }
    }

    const ONE: Totals = Totals { passed: 1, dropped: 0, audited: 0, packets: 2, bytes: 100 };

    #[test]
    fn the_number_of_rows_has_a_bound_and_nothing_is_missing() {
        let mut top = Top::new(Instant::now());
        for number in 0..3 * MAX_ROWS {
            top.add(pair(number), &ONE, "FORWARDED", "line");
            // The first one is used again and again.
            top.add(pair(0), &ONE, "FORWARDED", "line");
        }
        assert!(top.rows.len() <= MAX_ROWS);
        assert!(top.rows.contains_key(&pair(0)) && top.rows.contains_key(&pair(3 * MAX_ROWS - 1)));
        let (other, evicted) = top.other();
        let held: u64 = top.rows().map(|(_, row)| row.totals.passed).sum();
        assert_eq!(held + other.totals.passed, top.all().totals.passed);
        assert_eq!(evicted, (3 * MAX_ROWS - top.rows.len()) as u64);
    }

    #[test]
    fn texts_have_a_bound() {
        let mut top = Top::new(Instant::now());
        let long = "ä".repeat(10 * MAX_TEXT);
        for _ in 0..100 {
            top.add(Pair { from: long.clone(), ..pair(1) }, &ONE, "FORWARDED", &long);
        }
        let (pair, row) = top.rows().next().unwrap();
        assert_eq!(pair.from.chars().count(), MAX_TEXT);
        assert_eq!((row.latest.len(), row.latest[0].chars().count()), (REMEMBERED, MAX_TEXT));
    }

    #[test]
    fn rates_rise_to_what_comes_and_fall_to_nothing() {
        let start = Instant::now();
        let mut top = Top::new(start);
        let at = |second: u64| start + Duration::from_secs(second);
        for second in 1..=30 {
            (0..50).for_each(|_| top.add(pair(1), &ONE, "FORWARDED", ""));
            top.tick(at(second));
        }
        let rate = top.all().rate;
        assert!((rate.flows - 50.0).abs() < 0.1 && (rate.bytes - 5_000.0).abs() < 10.0, "{rate:?}");
        (31..=90).for_each(|second| top.tick(at(second)));
        assert_eq!(top.all().rate, Rate::default());
        top.tick(at(1));
        top.clear(at(2));
        assert_eq!((top.rows().count(), top.all().totals), (0, Totals::default()));
    }
}
