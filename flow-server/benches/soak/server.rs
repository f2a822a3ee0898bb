//! The server's process.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use serde::{Deserialize, Serialize};
use specola_directory::directory;
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{
    Clock, Config, ExporterSpec, FlowServer, ListenConfig, Listeners, MetricSpec, MetricsSettings, Output,
    Pipeline, Synthetic, flow_server, parse_filters,
};
use specola_lifecycle::drain;

/// What the server says at its end.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Summary {
    pub(crate) pushed: u64,
    pub(crate) agent: u64,
    pub(crate) refused: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) details_lost: u64,
    pub(crate) exported: u64,
    pub(crate) is_balanced: bool,
    pub(crate) cpu_seconds: f64,
}

/// A running server.
pub(crate) struct ServerProcess(Child);

impl ServerProcess {
    /// Starts it and waits until it serves.
    pub(crate) fn start(socket: &Path, rate: u64) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .arg(socket)
            .arg(rate.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the server")?;
        let mut byte = [0];
        process
            .stdout
            .as_mut()
            .context("a pipe")?
            .read_exact(&mut byte)
            .context("the server did not start")?;
        Ok(Self(process))
    }

    /// Resident memory, bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let text =
            fs::read_to_string(format!("/proc/{}/statm", self.0.id())).context("the server is gone")?;
        let pages = text.split_whitespace().nth(1).context("no figure")?;
        // Pages of x86-64 and most others.
        Ok(pages.parse::<u64>()? * 4096)
    }

    /// Ends it and takes its summary.
    pub(crate) fn stop(mut self) -> anyhow::Result<Summary> {
        drop(self.0.stdin.take());
        let mut text = String::new();
        BufReader::new(self.0.stdout.take().context("a pipe")?).read_line(&mut text)?;
        ensure!(self.0.wait()?.success(), "the server failed");
        serde_json::from_str(&text).with_context(|| format!("the server said {text:?}"))
    }
}

/// Serves until the input ends.
pub(crate) fn run(socket: &Path, rate: u64) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let summary = runtime.block_on(serve(socket, rate))?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&summary)?)?;
    Ok(())
}

async fn serve(socket: &Path, rate: u64) -> anyhow::Result<Summary> {
    let (mut writer, reader) = directory(NodeInfo { name: "n1".into(), ..NodeInfo::default() });
    writer.apply(Synthetic::changes())?;
    let config = Config { capacity: 1 << 16, ..Config::new(InstanceId::new(1), "1") };
    let (pipeline, server) = flow_server(config, reader)?;
    let listen = ListenConfig { unix: Some(socket.to_owned()), ..ListenConfig::default() };
    let listeners = Listeners::bind(&listen).await?;
    let (trigger, watcher) = drain();
    let (served, draining) = (server.clone(), watcher.clone());
    let serving = tokio::spawn(async move { served.serve(listeners, draining).await });
    let metrics = server.flow_metrics(MetricsSettings::default());
    metrics.apply(MetricSpec::parse_list(METRICS)?.0)?;
    let (counting, draining) = (metrics.clone(), watcher.clone());
    let counting = tokio::spawn(async move { counting.run(draining).await });
    let exporters = server.exporters();
    exporters.apply(vec![exporter(socket)?])?;
    let exporting = tokio::spawn(exporters.run(watcher));
    while server.consumers().len() < 2 {
        // Metrics and exporter see every flow from the first one on.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let feed = Feed::start(pipeline, &server, rate)?;

    std::io::stdout().write_all(b".")?;
    std::io::stdout().flush()?;
    let input_ends = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(input_ends).await??;
    drop(feed.stop()?);
    trigger.signal();
    counting.await?;
    exporting.await?;
    serving.await??;
    summary(&server)
}

/// Of each kind.
const METRICS: &str = "flow drop tcp icmp policy port-distribution kafka dns:query \
                       httpV2:exemplars=true;labelsContext=source_pod,destination_pod,traffic_direction";

/// Drops and requests, with rotation.
fn exporter(socket: &Path) -> anyhow::Result<ExporterSpec> {
    let include = parse_filters(r#"{"verdict":["DROPPED"]} {"event_type":[{"type":129}]}"#)?;
    let path = socket.with_file_name("flows.log");
    Ok(ExporterSpec {
        include,
        max_size_mb: 10,
        max_backups: 1,
        ..ExporterSpec::new("soak", Output::File(path))
    })
}

fn summary(server: &FlowServer) -> anyhow::Result<Summary> {
    let status = server.status();
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let consumers = server.consumers();
    let exported = consumers.iter().find(|consumer| consumer.name.starts_with("export:"));
    // A reader inside has seen all that there was since its start.
    let whole = consumers.iter().all(|consumer| consumer.seen() == status.ledger.pushed);
    Ok(Summary {
        pushed: status.ledger.pushed,
        agent: status.ledger.agent,
        refused: status.details.refused,
        delivered: status.streams.delivered,
        lost: status.streams.lost,
        details_lost: status.details.lost,
        exported: exported.map_or(0, |exporter| exporter.delivered),
        is_balanced: status.ledger.is_balanced() && whole,
        cpu_seconds: (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6,
    })
}

/// The thread that makes flows.
struct Feed {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Pipeline>,
}

impl Feed {
    fn start(mut pipeline: Pipeline, server: &FlowServer, rate: u64) -> anyhow::Result<Self> {
        const BATCH: u64 = 1024;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, log) = (Arc::clone(&stop), server.access_log());
        let feed = move || {
            let (mut source, clock, start) = (Synthetic::new(1), Clock::system(), Instant::now());
            let (mut made, mut events) = (0, Vec::new());
            while !stopped.load(Ordering::Acquire) {
                let due = start.elapsed().as_micros() as u64 * rate / 1_000_000;
                let now_ns = clock.now_ns();
                events.clear();
                for number in made..due.min(made + BATCH) {
                    if number % 10 == 0 {
                        // A refusal is counted, and asked for at the end.
                        _ = log.send(source.access(now_ns));
                    } else {
                        events.push(source.event(now_ns));
                    }
                }
                pipeline.ingest(&events, 0);
                made = due.min(made + BATCH);
                if made == due {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
            pipeline
        };
        let thread = std::thread::Builder::new().name("feed".into()).spawn(feed)?;
        Ok(Self { stop, thread })
    }

    fn stop(self) -> anyhow::Result<Pipeline> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_panic| anyhow::anyhow!("the feed panicked"))
    }
}
