//! Long load with flat memory: `cargo bench -p specola-flow-server --bench soak -- [--seconds 600] [--rate 100000]`.
//!
//! A server in a process of its own makes flows at that rate, one in ten a request or response, counts them in metrics and
//! exports some. Clients in this process read, stall, and cut their streams. It ends with an error when the server's
//! resident memory grew after the warm-up, when its books do not hold, or when a reader missed flows without a count.

mod clients;
mod server;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use clients::{Clients, Totals};
use server::{ServerProcess, Summary};

struct Settings {
    seconds: u64,
    rate: u64,
}

/// Resident memory may grow by so much after the warm-up: what allocators keep differs from moment to moment.
const GROWTH_BYTES: u64 = 8 << 20;
const GROWTH_PERCENT: u64 = 5;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut settings = Settings { seconds: 600, rate: 100_000 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} takes a value"));
        match argument.as_str() {
            "--serve" => return server::run(value()?.as_ref(), value()?.parse()?),
            "--seconds" => settings.seconds = value()?.parse().context("--seconds")?,
            "--rate" => settings.rate = value()?.parse().context("--rate")?,
            // What cargo passes to every bench.
            "--bench" => {}
            other => bail!("unknown argument {other}; there are --seconds N and --rate N"),
        }
    }
    ensure!(settings.seconds >= 20, "--seconds must be 20 or more: the warm-up takes a part of it");
    soak(&settings)
}

fn soak(settings: &Settings) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("observer.sock");
    let server = ServerProcess::start(&socket, settings.rate)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clients = runtime.block_on(async { Clients::start(&socket) });
    let (started, mut samples) = (Instant::now(), Vec::new());
    let length = Duration::from_secs(settings.seconds);
    runtime.block_on(async {
        while started.elapsed() < length {
            tokio::time::sleep(Duration::from_secs(1)).await;
            samples.push(server.resident()?);
        }
        anyhow::Ok(())
    })?;
    // Clients read on while the server ends.
    let (summary, totals) = runtime.block_on(async {
        clients.hurry();
        let summary = tokio::task::spawn_blocking(move || server.stop()).await??;
        anyhow::Ok((summary, clients.end().await?))
    })?;
    let memory = Memory::of(&samples)?;
    report(settings, &memory, &summary, &totals);
    ensure!(memory.is_flat(), "resident memory grew after the warm-up");
    ensure!(summary.is_balanced, "the books of the server do not hold");
    ensure!(summary.refused == 0, "the server's own queue refused requests");
    ensure!(
        summary.pushed as f64 >= 0.9 * (settings.seconds * settings.rate) as f64,
        "too few flows were made"
    );
    ensure!(totals.whole > 0, "no stream was read to its end");
    ensure!(totals.gaps == 0, "readers missed flows without a count");
    ensure!(totals.read > 0 && totals.cuts > 0 && totals.stalls > 0, "a kind of client did nothing");
    Ok(())
}

/// Resident memory of the server, bytes: medians of parts of the run.
struct Memory {
    /// The first and the last quarter after the warm-up.
    early: u64,
    late: u64,
    most: u64,
}

impl Memory {
    /// The first fifth of the samples is the warm-up.
    fn of(samples: &[u64]) -> anyhow::Result<Self> {
        let after = &samples[samples.len() / 5..];
        let quarter = after.len() / 4;
        ensure!(quarter > 0, "too few samples");
        let most = samples.iter().copied().max().context("no samples")?;
        Ok(Self { early: median(&after[..quarter]), late: median(&after[after.len() - quarter..]), most })
    }

    const fn is_flat(&self) -> bool {
        self.late <= self.early + self.early * GROWTH_PERCENT / 100 + GROWTH_BYTES
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

#[expect(clippy::print_stdout, reason = "the report")]
fn report(settings: &Settings, memory: &Memory, summary: &Summary, totals: &Totals) {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let per_second = |count: u64| format!("{:.0}", count as f64 / settings.seconds as f64);
    println!("| {} s at {} events/s | |", settings.seconds, settings.rate);
    println!("|---|---|");
    for (name, value) in [
        ("flows made, per second", per_second(summary.pushed)),
        ("requests and responses, per second", per_second(summary.agent)),
        ("server, CPU", format!("{:.0} %", 100.0 * summary.cpu_seconds / settings.seconds as f64)),
        ("resident, first quarter after the warm-up", mib(memory.early)),
        ("resident, last quarter", mib(memory.late)),
        ("resident, most", mib(memory.most)),
        ("flows sent to clients, per second", per_second(summary.delivered)),
        ("flows that slow clients lost, counted", summary.lost.to_string()),
        ("details lost with their flow held", summary.details_lost.to_string()),
        ("flows exported", summary.exported.to_string()),
        ("flows that readers got", totals.read.to_string()),
        ("flows that readers were told they lost", totals.told_lost.to_string()),
        ("streams that were read to their end", totals.whole.to_string()),
        ("stalls", totals.stalls.to_string()),
        ("streams that were cut", totals.cuts.to_string()),
        ("books hold", summary.is_balanced.to_string()),
    ] {
        println!("| {name} | {value} |");
    }
}
