//! Counters that the programs keep per CPU.

use aya::maps::{MapData, PerCpuArray};
use specola_datapath_common::event::{EVENT_SIZE, lane};
use specola_datapath_common::metrics::{LaneCount, METRIC_ENTRIES, PacketCount, metric_index};
use specola_datapath_common::names;

use super::plain::Plain;
use super::words::Positions;
use super::{MapSource, MapsError, take_as};

/// Packets of one direction that met one fate, since the maps were made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PacketCounts {
    /// See [`specola_datapath_common::direction`].
    pub direction: u8,
    /// Drop reason; 0 = forwarded.
    pub reason: u8,
    /// Packets.
    pub packets: u64,
    /// Bytes, with link headers.
    pub bytes: u64,
}

/// What became of the records of one lane.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LaneBook {
    /// As the programs count.
    pub counts: LaneCount,
    /// Records that readers took out of the ring buffer, also those of earlier processes.
    pub taken: u64,
    /// Records that wait in the ring buffer.
    pub backlog: u64,
    /// Whether attempts = submitted + reserve failed + folded, and submitted = taken + backlog. While records are
    /// being written the numbers cannot be read at one moment; then those read before and after must enclose.
    pub is_balanced: bool,
}

/// What became of the denied packets that the programs counted instead of writing a record.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FoldBook {
    /// As the programs count.
    pub folded: u64,
    /// Those that a record stands for.
    pub reported: u64,
    /// Those whose record is still to come.
    pub waiting: u64,
    /// Whether folded = reported + waiting. While packets are being folded the numbers cannot be read at one moment; then
    /// those read before and after must enclose.
    pub is_balanced: bool,
}

impl FoldBook {
    /// How often to look for a moment without new ones.
    pub(crate) const TRIES: u32 = QUIET_TRIES;

    /// `before` and `after`: folded, read before and after the other two.
    pub(crate) fn new(before: u64, reported: u64, waiting: u64, after: u64) -> Self {
        // A program counts the packet of a key, then the lane's: one of each CPU may be in between.
        let is_balanced = (before..=after.saturating_add(MAX_CPUS)).contains(&(reported + waiting));
        Self { folded: after, reported, waiting, is_balanced }
    }
}

/// Reads the counters; they never go back while the maps are pinned.
pub struct Counters {
    packets: PerCpuArray<MapData, Plain<PacketCount>>,
    lanes: PerCpuArray<MapData, Plain<LaneCount>>,
}

impl Counters {
    pub(crate) fn open(maps: &mut impl MapSource) -> Result<Self, MapsError> {
        Ok(Self { packets: take_as(maps, names::METRICS)?, lanes: take_as(maps, names::LANES)? })
    }

    /// Packets and bytes by direction and fate, summed over the CPUs; only what is not zero.
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn packets(&self) -> Result<Vec<PacketCounts>, MapsError> {
        let mut rows = Vec::new();
        for index in 0..METRIC_ENTRIES {
            let per_cpu =
                self.packets.get(&index, 0).map_err(MapsError::kernel(names::METRICS, "read a counter"))?;
            let sum = per_cpu.iter().fold(PacketCount::default(), |sum, Plain(count)| PacketCount {
                packets: sum.packets.wrapping_add(count.packets),
                bytes: sum.bytes.wrapping_add(count.bytes),
            });
            if sum != PacketCount::default() {
                let (direction, reason) = direction_and_reason(index);
                rows.push(PacketCounts { direction, reason, packets: sum.packets, bytes: sum.bytes });
            }
        }
        Ok(rows)
    }

    /// What happened to the records of each lane, summed over the CPUs; indexed by [`lane`].
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn lanes(&self) -> Result<[LaneCount; lane::COUNT], MapsError> {
        let mut sums = [LaneCount::default(); lane::COUNT];
        for (index, sum) in (0..).zip(&mut sums) {
            let per_cpu =
                self.lanes.get(&index, 0).map_err(MapsError::kernel(names::LANES, "read a counter"))?;
            for Plain(count) in per_cpu.iter() {
                sum.attempts = sum.attempts.wrapping_add(count.attempts);
                sum.submitted = sum.submitted.wrapping_add(count.submitted);
                sum.reserve_failed = sum.reserve_failed.wrapping_add(count.reserve_failed);
                sum.folded = sum.folded.wrapping_add(count.folded);
            }
        }
        Ok(sums)
    }
}

impl Counters {
    /// Packets of all lanes that were counted instead of written.
    pub(crate) fn folded(&self) -> Result<u64, MapsError> {
        Ok(self.lanes()?.iter().map(|lane| lane.folded).sum())
    }

    /// What became of the records of each lane, given the positions of the ring buffers.
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub(crate) fn lane_books(
        &self,
        positions: &[Positions; lane::COUNT],
    ) -> Result<[LaneBook; lane::COUNT], MapsError> {
        let mut before = self.lanes()?;
        for _ in 1..QUIET_TRIES {
            let bytes = positions.each_ref().map(Positions::read);
            let after = self.lanes()?;
            if before == after {
                return Ok(lane_books(&before, bytes, &after));
            }
            before = after;
        }
        let bytes = positions.each_ref().map(Positions::read);
        Ok(lane_books(&before, bytes, &self.lanes()?))
    }
}

/// `bytes`: taken out and written, read between `before` and `after`.
fn lane_books(
    before: &[LaneCount; lane::COUNT],
    bytes: [(u64, u64); lane::COUNT],
    after: &[LaneCount; lane::COUNT],
) -> [LaneBook; lane::COUNT] {
    std::array::from_fn(|index| {
        let (before, after) = (before[index], after[index]);
        let (taken, written) = (bytes[index].0 / RECORD_BYTES, bytes[index].1 / RECORD_BYTES);
        let is_moving = before != after;
        // A program counts its attempt, writes, and counts the outcome: one of each CPU may be in between.
        let slack = if is_moving { MAX_CPUS } else { 0 };
        let settled = |count: LaneCount| count.submitted + count.reserve_failed + count.folded;
        let attempts_are_told =
            settled(before) <= after.attempts && before.attempts <= settled(after).saturating_add(slack);
        let is_taken_or_waits =
            before.submitted <= written && written <= after.submitted.saturating_add(slack);
        LaneBook {
            counts: after,
            taken,
            backlog: written.saturating_sub(taken),
            is_balanced: attempts_are_told && is_taken_or_waits,
        }
    })
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

/// A record with the header that the ring buffer puts before it.
pub(crate) const RECORD_BYTES: u64 = (EVENT_SIZE as u64 + 8).next_multiple_of(8);
/// How often to look for a moment without new records.
const QUIET_TRIES: u32 = 8;
/// More than any machine has.
const MAX_CPUS: u64 = 8192;

/// Undoes [`metric_index`].
fn direction_and_reason(index: u32) -> (u8, u8) {
    let [reason, direction, ..] = index.to_le_bytes();
    debug_assert_eq!(metric_index(direction, reason), index);
    (direction, reason)
}

#[cfg(test)]
mod tests {
    use specola_datapath_common::direction::{EGRESS, INGRESS};
    use specola_datapath_common::metrics::drop;

    use super::*;

    #[test]
    fn the_books_of_a_lane_balance_or_do_not() {
        let count = |attempts, submitted, reserve_failed, folded| LaneCount {
            attempts,
            submitted,
            reserve_failed,
            folded,
        };
        let quiet = count(10, 7, 2, 1);
        for (before, records, after, balanced) in [
            (quiet, (5, 7), quiet, true),
            (quiet, (5, 6), quiet, false),
            (quiet, (5, 8), quiet, false),
            (count(11, 7, 2, 1), (5, 7), count(11, 7, 2, 1), false),
            // Three more came between the readings.
            (quiet, (5, 9), count(13, 10, 2, 1), true),
            (quiet, (5, 6), count(13, 10, 2, 1), false),
        ] {
            let bytes = (records.0 * RECORD_BYTES, records.1 * RECORD_BYTES);
            let [book, ..] = lane_books(&[before; 3], [bytes; 3], &[after; 3]);
            assert_eq!(book.is_balanced, balanced, "{before:?} {records:?} {after:?}");
            assert_eq!((book.taken, book.backlog), (records.0, records.1 - records.0));
        }
    }

    #[test]
    fn an_index_gives_back_what_made_it() {
        for (direction, reason) in [(INGRESS, 0), (EGRESS, drop::POLICY_DENIED), (0, 255)] {
            assert_eq!(direction_and_reason(metric_index(direction, reason)), (direction, reason));
        }
    }
}
