//! Assembly: builds every part, connects them, and runs until a signal.

use anyhow::Context;
use specola_lifecycle::{Lifecycle, termination};
use specola_telemetry::{LogFormat, init_logs};

use crate::config::{AgentConfig, LogForm};
use crate::persist;
use crate::store::DirectoryStore;

/// Runs the agent until SIGTERM, SIGINT or a fatal error. Pinned programs and maps keep working after it.
///
/// # Errors
/// A part cannot be set up, or a task ends before shutdown.
pub async fn run(config: AgentConfig) -> anyhow::Result<()> {
    let format = match config.log_format {
        LogForm::Text => LogFormat::Text,
        LogForm::Json => LogFormat::Json,
    };
    init_logs(format, &config.log_filter)?;
    persist::make_dir(&config.state_dir)?;
    DirectoryStore::open(&config.store_dir)?;
    let life = Lifecycle::new();
    let stop = async {
        match termination().await {
            Ok(signal) => tracing::info!(signal, "stopping"),
            Err(error) => tracing::error!(%error, "cannot wait for signals, stopping"),
        }
    };
    let outcome = life.run_until(stop, config.drain_timeout).await;
    outcome.cause.map_or(Ok(()), |cause| Err(cause).context("the agent stopped by itself"))
}
