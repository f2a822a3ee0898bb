//! Counters that the programs keep per CPU.

use aya::maps::{MapData, PerCpuArray};
use specola_datapath_common::event::lane;
use specola_datapath_common::metrics::{LaneCount, METRIC_ENTRIES, PacketCount, metric_index};
use specola_datapath_common::names;

use super::plain::Plain;
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

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

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
    fn an_index_gives_back_what_made_it() {
        for (direction, reason) in [(INGRESS, 0), (EGRESS, drop::POLICY_DENIED), (0, 255)] {
            assert_eq!(direction_and_reason(metric_index(direction, reason)), (direction, reason));
        }
    }
}
