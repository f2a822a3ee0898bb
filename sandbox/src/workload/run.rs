//! The process that runs a pod's workloads.
//!
//! It is driven by lines on standard input and answers on standard output: `listening` once every server is bound;
//! after `go` the clients begin; after `stop` they finish their current connection, then it says `idle`. End of
//! input, SIGTERM and SIGINT end the process, so it never outlives the supervisor that holds the other end.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::journal::Journal;
use super::server::{Service, listen_tcp, listen_udp, serve_tcp, serve_udp};
use super::{Workload, Workloads, client};

/// Said when every server is bound.
pub(crate) const LISTENING: &str = "listening";
/// Said when no client has a connection any more.
pub(crate) const IDLE: &str = "idle";
/// Asks the clients to begin.
pub(crate) const GO: &str = "go";
/// Asks the clients to end.
pub(crate) const STOP: &str = "stop";

/// What a pod's process is told on its command line.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub namespace: String,
    pub pod: String,
    pub journal: PathBuf,
    pub workloads: Workloads,
}

/// Runs until the input ends or a signal asks to end.
///
/// # Errors
/// When a server cannot bind its port or the journal cannot be opened.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let result = runtime.block_on(serve(settings));
    // The thread that reads standard input cannot be interrupted.
    runtime.shutdown_background();
    result
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let journal = Arc::new(Journal::open(&settings.journal, &settings.namespace, &settings.pod)?);
    let workloads = settings.workloads.0;
    let body: Arc<str> = format!("200 OK from {}/{}\n", settings.namespace, settings.pod).into();
    for workload in &workloads {
        start_server(workload, &body, &journal)?;
    }
    say(LISTENING).await?;
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        let command = tokio::select! {
            biased;
            _ = term.recv() => None,
            _ = int.recv() => None,
            line = commands.next_line() => line.context("cannot read commands")?,
        };
        match command.as_deref() {
            Some(GO) if clients.is_empty() => {
                stop.send_replace(false);
                for workload in workloads.iter().filter(|workload| workload.is_client()) {
                    clients.spawn(client::run(workload.clone(), Arc::clone(&journal), stopped.clone()));
                }
            }
            Some(STOP) => {
                finish(&stop, &mut clients, &workloads).await;
                say(IDLE).await?;
            }
            Some(other) => eprintln!("ignored the command {other:?}"),
            None => {
                finish(&stop, &mut clients, &workloads).await;
                return Ok(());
            }
        }
    }
}

fn start_server(workload: &Workload, body: &Arc<str>, journal: &Arc<Journal>) -> anyhow::Result<()> {
    let journal = Arc::clone(journal);
    match *workload {
        Workload::HttpServer { port } => {
            tokio::spawn(serve_tcp(listen_tcp(port)?, Service::Http(Arc::clone(body)), journal));
        }
        Workload::TcpEcho { port } => {
            tokio::spawn(serve_tcp(listen_tcp(port)?, Service::Echo, journal));
        }
        Workload::UdpEcho { port } => {
            tokio::spawn(serve_udp(listen_udp(port)?, journal));
        }
        _ => {}
    }
    Ok(())
}

/// Lets the clients end their current connection, and cuts those that take too long.
async fn finish(stop: &watch::Sender<bool>, clients: &mut JoinSet<()>, workloads: &[Workload]) {
    stop.send_replace(true);
    let all_ended = async { while clients.join_next().await.is_some() {} };
    if timeout(client::grace(workloads), all_ended).await.is_err() {
        eprintln!("a connection did not end in time and was cut");
        clients.shutdown().await;
    }
}

async fn say(word: &str) -> anyhow::Result<()> {
    let mut output = tokio::io::stdout();
    output.write_all(format!("{word}\n").as_bytes()).await.context("cannot answer the supervisor")?;
    output.flush().await.context("cannot answer the supervisor")
}
