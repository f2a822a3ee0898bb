//! The whole server, with clients in another process.

use std::{
    io::Read as _,
    path::PathBuf,
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use specola_flow_server::{ListenConfig, Listeners, StreamCounts};
use specola_lifecycle::{DrainTrigger, drain};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    bed::Bed,
    client::{self, Reading},
    cpu,
    report::{Beside, Report},
};

pub(crate) fn run(report: &mut Report) -> anyhow::Result<()> {
    drains(report)?;
    ingests(report)?;
    rates(report)?;
    memory(report)
}

/// A server on a unix socket.
struct Served {
    bed: Bed,
    runtime: Runtime,
    socket: PathBuf,
    drain: Option<DrainTrigger>,
    _dir: TempDir,
}

impl Served {
    fn new(capacity: usize) -> anyhow::Result<Self> {
        let bed = Bed::new(capacity)?;
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("observer.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let config = ListenConfig { unix: Some(socket.clone()), ..ListenConfig::default() };
        let listeners = runtime.block_on(Listeners::bind(&config))?;
        let (trigger, drain) = drain();
        let server = bed.server.clone();
        runtime.spawn(async move { server.serve(listeners, drain).await });
        Ok(Self { bed, runtime, socket, drain: Some(trigger), _dir: dir })
    }

    /// Starts followers and waits until all of them listen.
    fn followers(&self, streams: usize) -> anyhow::Result<Option<Child>> {
        if streams == 0 {
            return Ok(None);
        }
        let child = client::spawn(&self.socket, Reading { streams, follow: true, window: 0 })?;
        wait(|| self.bed.server.status().streams.open == streams as u64)?;
        Ok(Some(child))
    }

    /// Ends the server and returns the number of messages that the clients got.
    fn end(mut self, child: Option<Child>) -> anyhow::Result<u64> {
        if let Some(trigger) = self.drain.take() {
            trigger.signal();
        }
        let received = child.map_or(Ok(0), received)?;
        self.runtime.shutdown_timeout(Duration::from_secs(5));
        Ok(received)
    }
}

fn received(mut child: Child) -> anyhow::Result<u64> {
    let mut text = String::new();
    child.stdout.take().context("the client has no output")?.read_to_string(&mut text)?;
    ensure!(child.wait()?.success(), "the client failed");
    Ok(text.trim().parse()?)
}

fn wait(mut is_done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !is_done() {
        ensure!(start.elapsed() < Duration::from_secs(60), "nothing happened for a minute");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

const DRAINED: u64 = 65_536;

fn drains(report: &mut Report) -> anyhow::Result<()> {
    for (name, window) in
        [("GetFlows: drain of 65,536 flows", 0), ("GetFlows: drain, client with a window of 64 KiB", 65_535)]
    {
        if !report.wants(name) {
            continue;
        }
        let mut served = Served::new(DRAINED as usize)?;
        while served.bed.server.status().seen < DRAINED {
            served.bed.pipeline.ingest(&served.bed.events, 0);
        }
        let mut rounds = Vec::new();
        for _ in 0..7 {
            let start = cpu::process_ns()?;
            let child = client::spawn(&served.socket, Reading { streams: 1, follow: false, window })?;
            let count = received(child)?;
            // Drops that are older than the ring come on top.
            ensure!(count >= DRAINED, "the client got {count} flows");
            rounds.push((cpu::process_ns()? - start) as f64 / count as f64 / 1e3);
        }
        let beside = Beside { goal: "<= 1.6", original: "7.9" };
        report.add(name, "us/flow", &mut rounds, String::new(), beside);
        served.end(None)?;
    }
    Ok(())
}

/// As fast as followers can read: the writer goes on when none of them lags by more than a part of the ring.
fn ingests(report: &mut Report) -> anyhow::Result<()> {
    const FLOWS: u64 = 400_000;
    /// Flows that the followers may lag, all together: less than the ring holds, so that none is lost.
    const LAG: u64 = 3_000;
    for (streams, goal, original) in [(0, ">= 1,000", "86"), (1, ">= 380", "66"), (8, ">= 75", "38")] {
        let name = format!("ingest with {streams} followers, per CPU second of the server");
        if !report.wants(&name) {
            continue;
        }
        let (mut rounds, mut lost, mut shared) = (Vec::new(), 0, 0);
        for _ in 0..3 {
            let mut served = Served::new(4096)?;
            let child = served.followers(streams)?;
            let events = served.bed.events.clone();
            let (ring, server) = (served.bed.server.ring(), served.bed.server.clone());
            let behind = || {
                let StreamCounts { delivered, lost, .. } = server.stream_counts();
                ring.head() * streams as u64 - delivered - lost
            };
            let start = cpu::process_ns()?;
            for batch in events.chunks(64).cycle() {
                served.bed.pipeline.ingest(batch, 0);
                if ring.head() >= FLOWS {
                    break;
                }
                wait(|| behind() < LAG)?;
            }
            wait(|| behind() == 0)?;
            let taken = cpu::process_ns()? - start;
            let total = ring.head();
            lost += served.bed.server.status().streams.lost;
            rounds.push(-(total as f64 / (taken as f64 / 1e9)) / 1e3);
            shared += served.end(child)?;
        }
        // Larger is better here: the largest comes first.
        rounds.sort_by(f64::total_cmp);
        let mut figures: Vec<f64> = rounds.iter().map(|figure| -figure).collect();
        let note = format!("largest {:.0}; {shared} messages received, {lost} lost", figures[0]);
        report.add(&name, "1,000 flows", &mut figures, note, Beside { goal, original });
    }
    Ok(())
}

/// At a steady rate with the default ring.
fn rates(report: &mut Report) -> anyhow::Result<()> {
    const RATE: u64 = 10_000;
    const SECONDS: u64 = 4;
    for (streams, goal, original) in [(0, "<= 1", "14"), (1, "<= 3", "29"), (8, "<= 13, 0 lost", "43-56")] {
        let name = format!("10,000 flows a second, {streams} followers: share of a core");
        if !report.wants(&name) {
            continue;
        }
        let mut served = Served::new(4096)?;
        let child = served.followers(streams)?;
        let events = served.bed.events.clone();
        let (mut waiting, ring) = (events.iter().cycle(), served.bed.server.ring());
        let (cpu_start, start) = (cpu::process_ns()?, Instant::now());
        loop {
            let elapsed = start.elapsed();
            if elapsed >= Duration::from_secs(SECONDS) {
                break;
            }
            let due = elapsed.as_micros() as u64 * RATE / 1_000_000;
            let seen = ring.head();
            let batch: Vec<_> = waiting.by_ref().take(due.saturating_sub(seen) as usize).copied().collect();
            served.bed.pipeline.ingest(&batch, 0);
            std::thread::sleep(Duration::from_micros(500));
        }
        let taken = (cpu::process_ns()? - cpu_start) as f64;
        let share = taken / start.elapsed().as_nanos() as f64 * 100.0;
        let counts = served.bed.server.status();
        let note = format!("{} flows, {} lost", counts.seen, counts.streams.lost);
        report.add(&name, "%", &mut [share], note, Beside { goal, original });
        served.end(child)?;
    }
    Ok(())
}

/// A full ring, and one that turns over.
fn memory(report: &mut Report) -> anyhow::Result<()> {
    const CAPACITY: u64 = 1 << 20;
    let name = "memory per flow held";
    if !report.wants(name) {
        return Ok(());
    }
    let events = Bed::new(64)?;
    let before = cpu::resident()?;
    let mut bed = Bed::new(CAPACITY as usize)?;
    drop(events);
    let mut figures = Vec::new();
    for turn in 1..=3 {
        while bed.server.status().seen < CAPACITY * turn {
            bed.pipeline.ingest(&bed.events, 0);
        }
        figures.push((cpu::resident()? - before) as f64 / CAPACITY as f64);
    }
    let note = format!("after one, two, three turns: {figures:.0?}");
    let beside = Beside { goal: "<= 400, steady", original: "3,100; 7,600-9,200 turning over" };
    report.add(name, "bytes", &mut figures, note, beside);
    Ok(())
}
