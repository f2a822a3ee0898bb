//! The relay of a sandbox: started when it is asked for, started again when it ends.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::agent::{RESTART_PAUSE, address_of, becomes, open_log, terminate};
use super::shared::Shared;
use super::{join_all, tail};
use crate::cgroup;
use crate::layout::Layout;
use crate::place::Place;
use crate::spec::NodeSpec;
use crate::state::Relay;

/// Ports of the flow API and of the metrics.
const PORT: u16 = 4245;
const METRICS_PORT: u16 = 9966;

/// Keeps the relay running.
pub(super) struct RelayKeeper {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// What is known of the relay before it runs, on this node.
pub(super) fn describe(layout: &Layout, node: &NodeSpec) -> Relay {
    Relay {
        state: "starting".to_owned(),
        pid: None,
        restarts: 0,
        socket: layout.relay_socket(),
        address: address_of(node, PORT),
        metrics_address: address_of(node, METRICS_PORT),
        log: layout.relay_log(),
    }
}

impl RelayKeeper {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, tasks: JoinSet::new(), stop: watch::Sender::new(false) }
    }

    /// Starts the relay, if the sandbox has one, and waits until it serves.
    ///
    /// # Errors
    /// It does not in time, with the end of its log.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        let Some(relay) = self.shared.cluster().relay else { return Ok(()) };
        self.tasks.spawn(keep_running(Arc::clone(&self.shared), self.stop.subscribe()));
        let deadline = Instant::now() + READY_LIMIT;
        while UnixStream::connect(&relay.socket).await.is_err() {
            if Instant::now() > deadline {
                bail!("the relay is not ready after {} s; {}", READY_LIMIT.as_secs(), tail(&relay.log));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Asks it to end and waits for that.
    pub(super) async fn stop(&mut self) {
        self.stop.send_replace(true);
        join_all(&mut self.tasks).await;
    }
}

async fn keep_running(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        let ended = match spawn(&shared) {
            Err(error) => format!("cannot be started: {error:#}"),
            Ok(mut child) => {
                let pid = child.id();
                note(&shared, |relay| (relay.pid, relay.state) = (pid, "running".to_owned()));
                let status = tokio::select! {
                    biased;
                    () = becomes(&mut stop, true) => return terminate(child).await,
                    status = child.wait() => status,
                };
                status.map_or_else(
                    |error| format!("cannot be watched: {error}"),
                    |status| format!("ended with {status}"),
                )
            }
        };
        eprintln!("{} the relay {ended}", jiff::Timestamp::now());
        note(&shared, |relay| (relay.pid, relay.state, relay.restarts) = (None, ended, relay.restarts + 1));
        tokio::select! {
            biased;
            () = becomes(&mut stop, true) => return,
            () = sleep(RESTART_PAUSE) => {}
        }
    }
}

fn spawn(shared: &Shared) -> anyhow::Result<Child> {
    let cluster = shared.cluster();
    let relay = cluster.relay.context("the sandbox has no relay")?;
    let node = cluster.nodes.first().context("a sandbox has a node")?;
    let place = Place { cgroup: cluster.cgroup.join("relay"), netns: node.netns.clone(), names: None };
    cgroup::create(&place.cgroup)?;
    let mut command = place.command(shared.program());
    command.arg(shared.program()).args(["relay", "--name", "relay", "--peer-service"]);
    command.arg(format!("unix://{}", node.observer_socket.display()));
    command.args(["--listen-address", &format!("0.0.0.0:{PORT}"), "--listen-socket"]).arg(&relay.socket);
    command.args(["--metrics-listen-address", &format!("0.0.0.0:{METRICS_PORT}")]);
    let log = open_log(&relay.log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start {}", shared.program().display()))
}

fn note(shared: &Shared, change: impl FnOnce(&mut Relay)) {
    let noted = shared.update(|cluster| {
        if let Some(relay) = &mut cluster.relay {
            change(relay);
        }
    });
    if let Err(error) = noted {
        eprintln!("{error:#}");
    }
}

const READY_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(25);
