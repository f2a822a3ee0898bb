//! Real peer servers behind a relay: what a flow costs in both.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::ensure;

use super::{Bed, Measured, relay};
use crate::child::Process;
use crate::flows::{Times, name};
use crate::servers::RECORDS;
use crate::synthetic::socket;

const NODES: u64 = 10;
const ROUNDS: usize = 5;

pub(super) fn table() -> anyhow::Result<String> {
    let directory = tempfile::tempdir()?;
    let nodes =
        Process::serving(&["servers".to_owned(), directory.path().display().to_string(), NODES.to_string()])?;
    let relay = relay(directory.path(), ["--peers", &peers(directory.path())])?;
    let times = Times { begin_ns: 0, step_ns: 1, nodes: NODES };
    let bed = Bed { directory, times, nodes, relay };
    bed.wait_connected()?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let measured = bed.measure(&bed.task())?;
        ensure!(measured.seen.flows >= NODES * RECORDS, "flows are missing: {measured:?}");
        ensure!(measured.seen.inversions == 0, "flows are out of order: {measured:?}");
        rounds.push(measured);
    }
    let mut out = String::from(
        "| 10 real peer servers, all they have | smallest | median | goal | Hubble |\n|---|---|---|---|---|\n",
    );
    for (what, figure, goal, original) in [
        ("peer servers, CPU us/flow", Measured::nodes_us as fn(&Measured) -> f64, "", ""),
        ("relay, CPU us/flow", Measured::relay_us, "", ""),
        ("together, CPU us/flow", |one| one.nodes_us() + one.relay_us(), "<= 6", "61"),
    ] {
        let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        writeln!(out, "| {what} | {:.2} | {:.2} | {goal} | {original} |", figures[0], figures[ROUNDS / 2])?;
    }
    Ok(out)
}

fn peers(directory: &Path) -> String {
    let peers: Vec<_> = (0..NODES)
        .map(|node| format!("{}=unix://{}", name(node), socket(directory, node).display()))
        .collect();
    peers.join(",")
}
