//! Nodes that say nothing, and nodes that come and go.

use std::fmt::Write as _;

use super::{Bed, ms};
use crate::client::Task;
use crate::synthetic::Plan;

const NODES: u64 = 100;
const RATE: u64 = 2_000;

pub(super) fn table() -> anyhow::Result<String> {
    let mut out = String::from(
        "| following 2,000 flows/s of 100 nodes | flows/s | median latency, ms | 99 %, ms | out of order | by at \
         most, ms | missing | twice |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (what, stalled, flapping) in
        [("all well", 0, 0), ("10 % stalled", 10, 0), ("5 % flapping", 0, 20), ("both", 10, 20)]
    {
        let bed = Bed::synthetic(NODES, RATE, |times| Plan { times, history: 0, stalled, flapping })?;
        let task = Task { follow: true, warm_ms: 2_000, for_ms: 8_000, ..bed.task() };
        let measured = bed.measure(&task)?;
        let seen = &measured.seen;
        writeln!(
            out,
            "| {what} | {:.0} | {:.1} | {:.1} | {:.2} % | {:.0} | {} | {} |",
            measured.flows_per_second(),
            ms(seen.median_ns),
            ms(seen.p99_ns),
            seen.inversions as f64 * 100.0 / seen.flows.max(1) as f64,
            ms(seen.largest_ns),
            seen.missing,
            seen.twice,
        )?;
    }
    Ok(out)
}
