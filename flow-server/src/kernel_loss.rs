//! Events that the kernel could not hand over: gaps in the numbers that each CPU gives the records of a lane.

use std::time::Duration;

use specola_datapath_common::event::{Event, lane};
use specola_flow::Flow;

/// A loss is put on record at most this often per CPU.
const INTERVAL_NS: u64 = 1_000_000_000;
/// CPUs that are watched; more than any machine has.
const MAX_CPUS: usize = 8192;

/// Finds gaps. Ring buffers keep the order of one CPU's records, so a gap is a loss.
#[derive(Debug, Default)]
pub(crate) struct KernelLoss {
    cpus: Vec<Cpu>,
    /// Whether any CPU has a loss that is not on record.
    is_pending: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// Last number per lane; `None` = no record seen.
    last: [Option<u32>; lane::COUNT],
    count: u64,
    first_ns: u64,
    last_ns: u64,
    recorded_ns: Option<u64>,
}

impl KernelLoss {
    /// Takes the number of a record from a ring buffer into account; returns how many records are missing before it.
    /// Fold records do not come from a ring buffer and have no number.
    pub(crate) fn note(&mut self, event: &Event, time_ns: u64) -> u64 {
        let (number, lane) = (usize::from(event.cpu), usize::from(event.lane));
        let is_numbered = event.fold == 0;
        if !is_numbered || number >= MAX_CPUS || lane >= lane::COUNT {
            return 0;
        }
        if number >= self.cpus.len() {
            self.cpus.resize(number + 1, Cpu::default());
        }
        let Some(cpu) = self.cpus.get_mut(number) else {
            return 0;
        };
        let missing = match cpu.last[lane].replace(event.lane_seq) {
            Some(last) => missing(last, event.lane_seq),
            None => 0,
        };
        if missing > 0 {
            cpu.first_ns = if cpu.count == 0 { time_ns } else { cpu.first_ns };
            cpu.last_ns = time_ns;
            cpu.count += missing;
            self.is_pending = true;
        }
        missing
    }

    /// When a loss is due that is not on record yet; `None` = there is none.
    pub(crate) fn pending(&self) -> Option<Duration> {
        self.is_pending.then_some(Duration::from_nanos(INTERVAL_NS))
    }

    /// Records for the ring of all losses that are due.
    pub(crate) fn due(&mut self, now_ns: impl FnOnce() -> u64) -> impl Iterator<Item = Flow> {
        let now_ns = if self.is_pending { now_ns() } else { 0 };
        let cpus = if self.is_pending { self.cpus.as_mut_slice() } else { &mut [] };
        let is_due = move |cpu: &Cpu| {
            let is_rested =
                cpu.recorded_ns.is_none_or(|recorded| now_ns.saturating_sub(recorded) >= INTERVAL_NS);
            cpu.count > 0 && is_rested
        };
        self.is_pending = cpus.iter().any(|cpu| cpu.count > 0 && !is_due(cpu));
        cpus.iter_mut().enumerate().filter(move |(_, cpu)| is_due(cpu)).map(move |(number, cpu)| {
            cpu.recorded_ns = Some(now_ns);
            let count = std::mem::take(&mut cpu.count);
            // Below MAX_CPUS, so the number fits.
            Flow::lost(count, u16::try_from(number).unwrap_or(u16::MAX), cpu.first_ns, cpu.last_ns)
        })
    }
}

/// Numbers between two that came one after the other. A step back, or far ahead, means that counting began anew.
fn missing(last: u32, next: u32) -> u64 {
    match next.wrapping_sub(last) {
        step @ 1..=0x7fff_ffff => u64::from(step) - 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(cpu: u16, lane: u8, lane_seq: u32) -> Event {
        Event { cpu, lane, lane_seq, ..Event::zeroed() }
    }

    #[test]
    fn gaps_of_numbers() {
        for (last, next, expected) in [
            (1, 2, 0),
            (1, 3, 1),
            (5, 105, 99),
            (u32::MAX, 0, 0),
            (u32::MAX - 1, 2, 3),
            (7, 7, 0),
            (7, 6, 0),
            (1_000, 1, 0),
            (0, u32::MAX, 0),
        ] {
            assert_eq!(missing(last, next), expected, "{last} {next}");
        }
    }

    #[test]
    fn lanes_and_cpus_count_apart_and_losses_are_told_once_a_second() {
        let mut losses = KernelLoss::default();
        for (event, expected) in [
            (event(0, 0, 10), 0),
            (event(0, 1, 50), 0),
            (event(3, 0, 7), 0),
            (event(0, 0, 11), 0),
            (Event { fold: 9, ..event(0, 0, 0) }, 0),
            (event(0, 1, 53), 2),
            (event(3, 0, 9), 1),
            (event(0, 0, 13), 1),
            (event(u16::MAX, 0, 1), 0),
            (event(0, 200, 1), 0),
        ] {
            assert_eq!(losses.note(&event, 5), expected, "{event:?}");
        }
        let told = |losses: &mut KernelLoss, now_ns| -> Vec<(u16, u64)> {
            losses.due(|| now_ns).map(|flow| (flow.cpu, flow.lost_count().unwrap())).collect()
        };
        assert_eq!(told(&mut losses, 100), [(0, 3), (3, 1)]);
        assert_eq!(told(&mut losses, 200), []);
        losses.note(&event(0, 0, 20), 6);
        assert_eq!(told(&mut losses, 100 + INTERVAL_NS - 1), []);
        losses.note(&event(0, 0, 22), 7);
        assert_eq!(told(&mut losses, 100 + INTERVAL_NS), [(0, 7)]);
        assert!(!losses.is_pending);
    }
}
