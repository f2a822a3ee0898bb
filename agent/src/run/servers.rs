//! Sockets: flow API, metrics, admin API.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use specola_flow_server::{FlowServer, ListenConfig, Listeners};
use specola_lifecycle::Lifecycle;
use specola_serve::{HttpListener, HttpServer, Refresh, Scrapes};
use specola_telemetry::Metrics;
use tokio::net::TcpListener;

use super::AllMetrics;
use crate::admin::{AdminService, AdminSocket};
use crate::config::AgentConfig;
use crate::metrics::ScrapedCounts;
use crate::net::Net;
use crate::node::NodeHandle;
use crate::persist;

/// Opens every socket but that of the flow API and serves it.
pub(super) async fn spawn_servers(
    life: &mut Lifecycle,
    config: &AgentConfig,
    node: &NodeHandle,
    net: &Net,
    flows: &FlowServer,
    metrics: AllMetrics,
) -> anyhow::Result<()> {
    spawn_metrics(life, config, metrics.registry, refresh(node.clone(), metrics.scraped)).await?;

    // Last: who finds the admin socket finds an agent that works.
    let socket = AdminSocket::bind(&config.admin_socket).await?;
    let admin = AdminService::new(node.clone(), net.clone(), flows.clone(), life.readiness(), config.mtu)
        .with_metrics(metrics.flows);
    life.spawn("admin", admin.serve(socket, life.drain()));
    Ok(())
}

/// Serves the flow API.
pub(crate) async fn spawn_observer(
    life: &mut Lifecycle,
    config: &AgentConfig,
    flows: &FlowServer,
) -> anyhow::Result<()> {
    make_parent(&config.observer_socket)?;
    let (tcp, tls) = (config.observer_address(), config.tls.files());
    if let Some(address) = tcp.filter(|address| tls.is_none() && !address.ip().is_loopback()) {
        tracing::warn!(%address, "the flow API is served without TLS");
    }
    let listen = ListenConfig { unix: Some(config.observer_socket.clone()), tcp, tls };
    let observer = Listeners::bind(&listen).await?;
    let (server, drain) = (flows.clone(), life.drain());
    life.spawn("observer", async move { server.serve(observer, drain).await });
    Ok(())
}

/// Serves metrics and health.
pub(crate) async fn spawn_metrics(
    life: &mut Lifecycle,
    config: &AgentConfig,
    metrics: Arc<Metrics>,
    refresh: Refresh,
) -> anyhow::Result<()> {
    let Some(address) = config.metrics_address() else { return Ok(()) };
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listening on {address} for metrics"))?;
    let listener = HttpListener::new(listener, config.metrics_tls.files()).context("--metrics-tls-*")?;
    let scrapes = Scrapes::default();
    metrics.register_as("hubble", |registry| scrapes.register(registry));
    let http = HttpServer { metrics, readiness: life.readiness(), refresh, scrapes: Some(scrapes) };
    life.spawn("metrics", http.run(listener, life.drain()));
    Ok(())
}

fn refresh(node: NodeHandle, scraped: ScrapedCounts) -> Refresh {
    Arc::new(move || {
        let (node, scraped) = (node.clone(), scraped.clone());
        Box::pin(async move {
            let kernel = match node.call(|node| node.kernel_counts()).await {
                Ok(Ok(counts)) => counts,
                Ok(Err(error)) => return tracing::warn!(error = format!("{error:#}"), "kernel counters"),
                Err(gone) => return tracing::debug!(%gone, "kernel counters"),
            };
            scraped.set(kernel);
        })
    })
}

fn make_parent(path: &Path) -> anyhow::Result<()> {
    match path.parent() {
        Some(parent) => Ok(persist::make_dir(parent)?),
        None => Ok(()),
    }
}
