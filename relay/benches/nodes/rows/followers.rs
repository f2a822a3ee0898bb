//! Followers that ask for the same.

use std::fmt::Write as _;

use anyhow::ensure;

use super::Bed;
use crate::client::Task;
use crate::synthetic::Plan;

const NODES: u64 = 10;
const RATE: u64 = 10_000;

pub(super) fn table() -> anyhow::Result<String> {
    let mut out = String::from(
        "| followers of the same 10,000 flows/s of 10 nodes | messages/s | relay, CPU us/message | nodes, CPU us/flow | \
         lost |\n|---|---|---|---|---|\n",
    );
    let bed = Bed::synthetic(NODES, RATE, |times| Plan { times, history: 0, stalled: 0, flapping: 0 })?;
    for streams in [1, 8] {
        let task = Task { follow: true, streams, warm_ms: 2_000, for_ms: 4_000, ..bed.task() };
        let measured = bed.measure(&task)?;
        ensure!(measured.seen.flows > 0, "nothing came: {measured:?}");
        writeln!(
            out,
            "| {streams} | {:.0} | {:.2} | {:.2} | {} |",
            measured.flows_per_second(),
            measured.relay_us(),
            measured.nodes_us() * streams as f64,
            measured.seen.lost,
        )?;
    }
    Ok(out)
}
