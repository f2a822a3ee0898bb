//! Assembly: peers, sockets, health, metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use specola_lifecycle::{Drain, Lifecycle, build_info, termination};
use specola_proto::FILE_DESCRIPTOR_SET;
use specola_serve::{HttpServer, ListenConfig, Listeners};
use specola_telemetry::{LogFormat, Metrics, init_logs};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder as Reflection;

use crate::config::RelayConfig;
use crate::dial::Dialer;
use crate::flows::Context;
use crate::merge::Limits;
use crate::metrics::{Counters, register};
use crate::observer::{RelayObserver, RelayService};
use crate::pool::Pool;

/// Runs a relay until SIGTERM, SIGINT or a fatal error.
///
/// # Errors
/// A socket cannot be opened, or a file for TLS cannot be used.
pub async fn run(config: RelayConfig) -> anyhow::Result<()> {
    init_logs(LogFormat::Text, &config.log_filter)?;
    let relay = Relay::start(&config).await?;
    tracing::info!(version = build_info().semver(), address = ?relay.address, "relay starts");
    let stop = async {
        match termination().await {
            Ok(signal) => tracing::info!(signal, "relay stops"),
            Err(error) => tracing::error!(%error, "signals cannot be caught"),
        }
    };
    relay.run_until(stop).await
}

/// A relay that listens.
#[derive(Debug)]
pub struct Relay {
    life: Lifecycle,
    /// The TCP address of its flow API.
    pub address: Option<SocketAddr>,
}

impl Relay {
    /// Opens the sockets and begins to look for peers.
    ///
    /// # Errors
    /// A socket cannot be opened, or a file for TLS cannot be used.
    pub async fn start(config: &RelayConfig) -> anyhow::Result<Self> {
        let listen = ListenConfig {
            unix: config.listen_socket.clone(),
            tcp: Some(config.listen_address),
            tls: config.server_tls(),
        };
        let listeners = Listeners::bind(&listen).await?;
        let address = listeners.tcp_address();
        let mut life = Lifecycle::new();
        let pool = follow_peers(config, &mut life);
        let context = Context {
            pool: pool.clone(),
            limits: Limits {
                wait_ns: config.sort_buffer_drain_timeout * 1_000_000,
                answers: config.sort_buffer_len_max as usize,
                bytes: (config.request_memory as usize) << 20,
            },
            name: config.name.clone(),
            counters: Arc::new(Counters::default()),
            drain: life.drain(),
        };
        spawn_metrics(config, &mut life, &context).await?;
        let observer =
            RelayObserver { context, version: build_info().semver().to_string(), hubs: Arc::default() };
        let (health, health_service) = tonic_health::server::health_reporter();
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_header_list_size(Some(MAX_HEADERS))
            .max_concurrent_streams(Some(MAX_STREAMS))
            .add_service(health_service)
            .add_service(reflection().build_v1().context("serve gRPC reflection")?)
            .add_service(reflection().build_v1alpha().context("serve gRPC reflection")?)
            .add_service(RelayService::new(observer));
        let drain = life.drain();
        life.spawn("flow API", async move {
            server
                .serve_with_incoming_shutdown(listeners.incoming(), async move { drain.signalled().await })
                .await
        });
        let drain = life.drain();
        life.spawn("health", async move {
            tell_health(health, pool, drain).await;
            Ok::<_, std::convert::Infallible>(())
        });
        Ok(Self { life, address })
    }

    /// Serves until `stop` resolves.
    ///
    /// # Errors
    /// A part ended before.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let outcome = self.life.run_until(stop, DRAIN_TIME).await;
        if !outcome.aborted.is_empty() {
            tracing::warn!(tasks = ?outcome.aborted, "did not end in time");
        }
        match outcome.cause.into_iter().chain(outcome.errors).next() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

fn follow_peers(config: &RelayConfig, life: &mut Lifecycle) -> Pool {
    let dialer = Dialer { tls: config.client_tls(), timeout: config.dial_time(), window: STREAM_WINDOW };
    let sources = config.sources();
    let pool = Pool::new(dialer, sources.len() + 1);
    // The list comes first: it has the last word on addresses.
    pool.update(0, config.peers.iter().cloned().collect());
    pool.set_connected(0, true);
    for (index, source) in sources.into_iter().enumerate() {
        let follow =
            source.follow(index + 1, pool.clone(), config.tls_peer_service_name.clone(), life.drain());
        life.spawn("peers", async move {
            follow.await;
            Ok::<_, std::convert::Infallible>(())
        });
    }
    pool
}

async fn spawn_metrics(config: &RelayConfig, life: &mut Lifecycle, context: &Context) -> anyhow::Result<()> {
    let Some(address) = config.metrics_listen_address else { return Ok(()) };
    let metrics = Arc::new(Metrics::new());
    let refresh = Arc::new(register(&metrics, &context.counters, &context.pool));
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address} for metrics"))?;
    let server = HttpServer {
        metrics,
        readiness: life.readiness(),
        refresh: Arc::new(move || {
            let refresh = Arc::clone(&refresh);
            Box::pin(async move { refresh() })
        }),
        scrapes: None,
    };
    life.spawn("metrics", server.run(listener, life.drain()));
    life.spawn("readiness", tell_readiness(context.pool.clone(), life.readiness(), life.drain()));
    Ok(())
}

/// Not ready while no peer is connected, or a peer service does not answer.
async fn tell_readiness(
    pool: Pool,
    readiness: specola_lifecycle::Readiness,
    drain: Drain,
) -> Result<(), std::convert::Infallible> {
    let mut gate = Some(readiness.gate("a peer"));
    let mut changes = pool.changes();
    loop {
        match (is_serving(&pool), gate.take()) {
            (true, Some(closed)) => closed.open(),
            (false, None) => gate = Some(readiness.gate("a peer")),
            (_, unchanged) => gate = unchanged,
        }
        tokio::select! {
            () = drain.signalled() => return Ok(()),
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

fn is_serving(pool: &Pool) -> bool {
    pool.knows_all() && pool.peers().values().any(|peer| peer.link().is_some())
}

/// Serving as long as the peers are known and one of them is connected, as Hubble's relay.
async fn tell_health(health: HealthReporter, pool: Pool, drain: Drain) {
    let mut changes = pool.changes();
    loop {
        let status = if is_serving(&pool) { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status("", status).await;
        health.set_service_status(HEALTH_SERVICE, status).await;
        tokio::select! {
            () = drain.signalled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// The services of the sockets, told to clients that ask.
fn reflection<'a>() -> Reflection<'a> {
    Reflection::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("observer.Observer")
        .with_service_name("grpc.health.v1.Health")
}

/// The name that Hubble's command line asks the health service for.
const HEALTH_SERVICE: &str = "hubble.server.Observer";
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Headers of a request, bytes.
const MAX_HEADERS: u32 = 16 << 10;
/// Streams of one connection.
const MAX_STREAMS: u32 = 256;
/// Bytes of a stream that a peer may send ahead.
const STREAM_WINDOW: u32 = 64 << 10;
const DRAIN_TIME: Duration = Duration::from_secs(5);
