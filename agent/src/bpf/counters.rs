//! Counters of packets and of records.

use serde::Serialize;
use specola_datapath::ConnectionCounts;
use specola_flow::DropReason;

use super::NodeView;
use crate::node::{direction_name, lane_name};

/// Packets of one direction that met one fate, since the maps were made.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct PacketRow {
    /// `ingress`, `egress` or `unknown`.
    pub direction: &'static str,
    /// Drop reason, Hubble's number; 0 = forwarded.
    pub reason: u8,
    /// Its name, `FORWARDED` for 0.
    pub reason_name: String,
    /// Packets.
    pub packets: u64,
    /// Bytes, with link headers.
    pub bytes: u64,
}

/// What happened to the records of one lane, since the maps were made: attempts = submitted + lost + folded.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct LaneRow {
    /// `deny`, `allow` or `trace`.
    pub lane: &'static str,
    /// Records that a program wanted to write.
    pub attempts: u64,
    /// Records handed to the ring buffer.
    pub submitted: u64,
    /// Records lost because the ring buffer was full.
    pub lost: u64,
    /// Packets counted in another record.
    pub folded: u64,
    /// Bytes that no agent has taken out yet.
    pub waiting_bytes: u64,
    /// Bytes that fit.
    pub size_bytes: u64,
}

/// Connections that came and went since the tables were made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct ConnectionTotals {
    /// Entries made.
    pub created: u64,
    /// Entries that sweeps removed.
    pub removed: u64,
    /// Entries at the latest sweep.
    pub present: u64,
    /// Entries that newer ones displaced, as of the latest sweep.
    pub evicted: u64,
}

impl NodeView {
    /// Connections that came and went.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn connection_totals(&self) -> anyhow::Result<ConnectionTotals> {
        let ConnectionCounts { created, removed, present, evicted } = self.pinned.connection_counts()?;
        Ok(ConnectionTotals { created, removed, present, evicted })
    }

    /// Packets by direction and fate.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn packets(&self) -> anyhow::Result<Vec<PacketRow>> {
        let mut rows: Vec<_> = self
            .pinned
            .packet_counts()?
            .into_iter()
            .map(|count| PacketRow {
                direction: direction_name(count.direction),
                reason: count.reason,
                reason_name: reason_name(count.reason),
                packets: count.packets,
                bytes: count.bytes,
            })
            .collect();
        rows.sort_by_key(|row| (row.direction, row.reason));
        Ok(rows)
    }

    /// Records by lane.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn lanes(&self) -> anyhow::Result<Vec<LaneRow>> {
        let counts = self.pinned.lane_counts()?;
        let fill = self.pinned.lane_fill()?;
        let row = |(index, (count, (waiting_bytes, size_bytes))): (usize, (_, (u64, u64)))| {
            let count: specola_datapath::abi::metrics::LaneCount = count;
            LaneRow {
                lane: lane_name(index),
                attempts: count.attempts,
                submitted: count.submitted,
                lost: count.reserve_failed,
                folded: count.folded,
                waiting_bytes,
                size_bytes,
            }
        };
        Ok(counts.into_iter().zip(fill).enumerate().map(row).collect())
    }
}

fn reason_name(reason: u8) -> String {
    match (reason, DropReason(reason).name()) {
        (0, _) => "FORWARDED".to_owned(),
        (_, Some(name)) => name.to_owned(),
        (other, None) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_have_names() {
        for (reason, name) in [(0, "FORWARDED"), (133, "POLICY_DENIED"), (255, "255")] {
            assert_eq!(reason_name(reason), name);
        }
    }
}
