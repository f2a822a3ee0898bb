//! The measurements, and their tables.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use specola_proto::observer::{ServerStatusRequest, observer_client::ObserverClient};
use tonic::transport::Endpoint;

use crate::child::Process;
use crate::client::{Seen, Task};
use crate::flows::Times;
use crate::synthetic::{Plan, now_ns, peer_socket};

mod curve;
mod faults;
mod followers;
mod real;

/// Measures what has `only` in its name, or everything.
pub(crate) fn run(only: Option<&str>) -> anyhow::Result<()> {
    let wants = |name: &str| only.is_none_or(|only| name.contains(only));
    let mut tables = Vec::new();
    if wants("servers") {
        tables.push(real::table()?);
    }
    if wants("curve") {
        tables.push(curve::table()?);
    }
    if wants("followers") {
        tables.push(followers::table()?);
    }
    if wants("faults") {
        tables.push(faults::table()?);
    }
    writeln!(std::io::stdout(), "{}", tables.join("\n"))?;
    Ok(())
}

/// Nodes and a relay in front of them.
struct Bed {
    directory: tempfile::TempDir,
    times: Times,
    nodes: Process,
    relay: Process,
}

impl Bed {
    /// Synthetic nodes that have `rate` flows a second, all together.
    fn synthetic(nodes: u64, rate: u64, plan: impl FnOnce(Times) -> Plan) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let begin_ns = now_ns() - HOUR_NS;
        let times = Times { begin_ns, step_ns: 1_000_000_000 / rate, nodes };
        let mut arguments = vec!["nodes".to_owned(), directory.path().display().to_string()];
        arguments.extend(plan(times).arguments());
        let processes = Process::serving(&arguments)?;
        let peers = format!("unix://{}", peer_socket(directory.path()).display());
        let relay = relay(directory.path(), ["--peer-service", &peers])?;
        let bed = Self { directory, times, nodes: processes, relay };
        bed.wait_connected()?;
        Ok(bed)
    }

    fn wait_connected(&self) -> anyhow::Result<()> {
        let nodes = self.times.nodes;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket().display()))?;
        runtime.block_on(async {
            let mut client = ObserverClient::connect(endpoint).await?;
            let begin = Instant::now();
            loop {
                let status = client.server_status(ServerStatusRequest {}).await?.into_inner();
                // Flapping ones are not there all the time.
                if u64::from(status.num_connected_nodes.unwrap_or(0)) * 10 >= nodes * 9 {
                    return Ok(());
                }
                ensure!(begin.elapsed() < PATIENCE, "nodes are not connected: {status:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("relay.sock")
    }

    fn task(&self) -> Task {
        Task {
            from: self.socket(),
            times: self.times,
            follow: false,
            number: 0,
            streams: 1,
            warm_ms: 0,
            for_ms: 120_000,
        }
    }

    /// Runs a client.
    fn measure(&self, task: &Task) -> anyhow::Result<Measured> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["client", &serde_json::to_string(task)?])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it has an output")?).lines();
        ensure!(lines.next().context("the client failed")?? == "warm", "the client failed");
        let (nodes_ns, relay_ns) = (self.nodes.cpu_ns()?, self.relay.cpu_ns()?);
        let seen = lines.next().context("the client failed")??;
        let (nodes_ns, relay_ns) = (self.nodes.cpu_ns()? - nodes_ns, self.relay.cpu_ns()? - relay_ns);
        ensure!(child.wait()?.success(), "the client failed");
        let seen = serde_json::from_str(&seen)?;
        let measured = Measured { seen, nodes_ns, relay_ns };
        eprintln!("{task:?}\n  {measured:?}");
        Ok(measured)
    }
}

/// What a client saw, and what that cost.
#[derive(Debug)]
struct Measured {
    seen: Seen,
    nodes_ns: u64,
    relay_ns: u64,
}

impl Measured {
    /// CPU time of the relay for a flow, us.
    fn relay_us(&self) -> f64 {
        self.relay_ns as f64 / self.seen.flows.max(1) as f64 / 1e3
    }

    /// CPU time of the nodes for a flow, us.
    fn nodes_us(&self) -> f64 {
        self.nodes_ns as f64 / self.seen.flows.max(1) as f64 / 1e3
    }

    fn flows_per_second(&self) -> f64 {
        self.seen.flows as f64 / (self.seen.elapsed_ns.max(1) as f64 / 1e9)
    }
}

/// A relay with these peers.
fn relay(directory: &Path, peers: [&str; 2]) -> anyhow::Result<Process> {
    let socket = directory.join("relay.sock").display().to_string();
    let arguments = ["relay", "--listen-address", "127.0.0.1:0", "--listen-socket", &socket];
    let arguments: Vec<String> = arguments.into_iter().chain(peers).map(ToOwned::to_owned).collect();
    Process::serving(&arguments)
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

const HOUR_NS: u64 = 3_600_000_000_000;
const PATIENCE: Duration = Duration::from_secs(60);
