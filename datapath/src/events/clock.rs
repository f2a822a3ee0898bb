//! From the kernel's stamps (time since boot) to wall time.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Keeps the difference between wall time and time since boot, which changes when the clock is set.
#[derive(Debug)]
pub(super) struct Clock {
    offset_ns: i64,
    read_at: Option<Instant>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { offset_ns: 0, read_at: None }
    }

    /// Nanoseconds to add to a stamp; read anew once a second.
    pub(super) fn offset_ns(&mut self) -> i64 {
        let is_fresh = self.read_at.is_some_and(|at| at.elapsed() < REFRESH);
        if !is_fresh
            && let Some(offset) = best_offset(now(ClockId::CLOCK_BOOTTIME), now(ClockId::CLOCK_REALTIME))
        {
            self.offset_ns = offset;
            self.read_at = Some(Instant::now());
        }
        self.offset_ns
    }

    /// Time since boot, as the programs stamp it.
    pub(super) fn boot_ns() -> Option<u64> {
        now(ClockId::CLOCK_BOOTTIME)().and_then(|ns| u64::try_from(ns).ok())
    }
}

/// Reads both clocks several times and keeps the pair that was read closest together.
fn best_offset(boot: impl Fn() -> Option<i64>, wall: impl Fn() -> Option<i64>) -> Option<i64> {
    let read = || {
        let (before, wall, after) = (boot()?, wall()?, boot()?);
        let apart = after - before;
        Some((apart, wall - (before + apart / 2)))
    };
    (0..READS).filter_map(|_| read()).min_by_key(|(apart, _)| *apart).map(|(_, offset)| offset)
}

fn now(clock: ClockId) -> impl Fn() -> Option<i64> {
    move || {
        let time = clock_gettime(clock).ok()?;
        time.tv_sec().checked_mul(1_000_000_000)?.checked_add(time.tv_nsec())
    }
}

const READS: usize = 5;
const REFRESH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_tightest_pair_of_readings_wins() {
        // Readings of the boot clock: the second pair is 10 apart, the others 100.
        let boots = [0, 100, 200, 210, 300, 400, 500, 600, 700, 800];
        let walls = [5_000, 5_205, 6_000, 7_000, 8_000];
        let (next_boot, next_wall) = (Cell::new(0), Cell::new(0));
        let take = |values: &[i64], next: &Cell<usize>| {
            let value = values[next.get()];
            next.set(next.get() + 1);
            Some(value)
        };
        let offset = best_offset(|| take(&boots, &next_boot), || take(&walls, &next_wall));
        assert_eq!(offset, Some(5_000));
    }

    #[test]
    fn stamps_become_wall_time() {
        let mut clock = Clock::new();
        let stamp = i64::try_from(Clock::boot_ns().unwrap()).unwrap();
        let wall = now(ClockId::CLOCK_REALTIME)().unwrap();
        let difference = (stamp + clock.offset_ns() - wall).unsigned_abs();
        assert!(difference < 1_000_000_000, "{difference} ns apart");
    }
}
