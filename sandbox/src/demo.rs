//! `specola sandbox demo`: a cluster with traffic, its flows on the screen, and a check of what was seen.

mod balance;
mod seen;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use crate::cgroup;
use crate::state::Cluster;
use crate::up::{Sandbox, UpOptions};
use crate::workload::journal;
use balance::Balance;
use seen::{Collector, Seen};

/// Brings the cluster up, shows its flows, and ends after `seconds` or with Ctrl-C.
///
/// The exit code is a failure when what was observed is not what the workloads did, unless Ctrl-C ended it.
pub(crate) fn run(options: &UpOptions, seconds: Option<u64>) -> anyhow::Result<ExitCode> {
    let sandbox = Sandbox::up(options, |step| eprintln!("{step}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let shown = runtime.block_on(show(&sandbox, seconds.map(Duration::from_secs)));
    drop(runtime);
    eprintln!("taking the sandbox down");
    let down = sandbox.down();
    let code = shown?;
    down.map(|()| code)
}

/// What the screen shows: of the traces only the delivery, as every connection passes several observation points.
const SCREEN: [&str; 7] =
    ["--print-policy-names", "--type", "policy-verdict", "--type", "drop", "--type", "trace:to-endpoint"];

/// How the demo came to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Time,
    Interrupted,
    /// Whoever read the output is gone.
    Unread,
}

async fn show(sandbox: &Sandbox, limit: Option<Duration>) -> anyhow::Result<ExitCode> {
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let cluster = sandbox.cluster()?;
    super::cli::print(&header(&cluster, limit))?;
    let since = jiff::Timestamp::now().to_string();
    let collector = Collector::start(observe(&cluster, &since, &["-o", "json"])?)?;
    let mut screen = observe(&cluster, &since, &SCREEN)?.spawn().context("cannot start observe")?;
    bind(&cluster, [collector.pid(), screen.id()])?;
    sandbox.release()?;
    let end = tokio::select! {
        biased;
        _ = int.recv() => End::Interrupted,
        _ = term.recv() => End::Interrupted,
        () = sleep_or_for_ever(limit) => End::Time,
        status = screen.wait() => {
            let status = status.context("cannot wait for observe")?;
            if status.signal().is_none() && !status.success() {
                bail!("observe ended with {status}");
            }
            // Ctrl-C reaches it as well, and it may be the first to end.
            if status.signal() == Some(Signal::SIGPIPE as i32) { End::Unread } else { End::Interrupted }
        }
    };
    sandbox.quiesce()?;
    let (balance, seen) = settle(&cluster, &collector).await?;
    stop(&mut screen).await?;
    let collected = collector.stop().await;
    if end == End::Unread {
        return Ok(ExitCode::SUCCESS);
    }
    super::cli::print(&summary(&balance, &seen))?;
    collected?;
    let is_good = balance.problems().is_empty() && seen.problems.is_empty();
    Ok(if is_good || end == End::Interrupted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits until everything that the workloads did has been observed, but not for ever.
async fn settle(cluster: &Cluster, collector: &Collector) -> anyhow::Result<(Balance, Seen)> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        let seen = collector.seen();
        let mut connections = Vec::new();
        for pod in &cluster.pods {
            connections.extend(journal::read(&pod.journal())?);
        }
        let balance = Balance::new(cluster, &connections, &seen);
        if balance.problems().is_empty() || Instant::now() > deadline {
            return Ok((balance, seen));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn observe(cluster: &Cluster, since: &str, arguments: &[&str]) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find the running program")?;
    let mut command = Command::new(program);
    command.args(["observe", "--sandbox", &cluster.name, "--follow", "--since", since]).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// Puts the processes into the sandbox's control group: whatever happens to this one, they end with the sandbox.
fn bind(cluster: &Cluster, pids: [Option<u32>; 2]) -> anyhow::Result<()> {
    let group = cluster.cgroup.join("demo");
    cgroup::create(&group)?;
    pids.into_iter().flatten().try_for_each(|pid| cgroup::add(&group, pid))
}

async fn stop(child: &mut Child) -> anyhow::Result<()> {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended just now.
        _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if timeout(STOP_LIMIT, child.wait()).await.is_err() {
        child.kill().await.context("cannot end observe")?;
    }
    Ok(())
}

async fn sleep_or_for_ever(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn header(cluster: &Cluster, limit: Option<Duration>) -> String {
    let name = &cluster.name;
    let program = std::env::args().next().map_or_else(|| PathBuf::from("specola"), PathBuf::from);
    let program = program.display();
    let pod = cluster.pods.first().map(crate::Pod::full_name).unwrap_or_default();
    let end = match limit {
        Some(limit) => {
            format!("This ends by itself after {} s with a summary; Ctrl-C ends it earlier.", limit.as_secs())
        }
        None => "Ctrl-C ends it with a summary and takes everything down.".to_owned(),
    };
    format!(
        "\nSandbox {name}: {} pods on {} nodes, in network namespaces of this machine.\n\
         Each line below is one flow: a verdict with the policies that decided, a drop, or a delivery to a pod.\n\n\
         Try in a second terminal:\n  \
         {program} observe --sandbox {name} -f      (every observation point)\n  \
         {program} observe --sandbox {name} -f --verdict DROPPED --print-policy-names\n  \
         {program} sandbox ps --name {name}\n  \
         {program} sandbox exec --name {name} {pod} -- cat /etc/hosts\n  \
         {program} endpoint list --sandbox {name}\n\
         Change or remove a policy, and the flows follow:\n  \
         {}\n\n\
         {end}\n\n",
        cluster.pods.len(),
        cluster.nodes.len(),
        cluster.desired_dir.display(),
    )
}

fn summary(balance: &Balance, seen: &Seen) -> String {
    let mut text = format!("\n{}\n{}", seen.summary(), balance.table());
    for problem in seen.problems.iter().chain(balance.problems()) {
        text.push_str(&format!("DIFFERS: {problem}\n"));
    }
    if seen.problems.is_empty() && balance.problems().is_empty() {
        text.push_str(
            "Every connection that the workloads made was observed, in both directions, and nothing else.\n",
        );
    }
    text
}

const SETTLE_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(3);
