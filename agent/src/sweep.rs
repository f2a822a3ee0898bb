//! Closes connections that ended without anyone seeing it.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use specola_datapath::Conntrack;
use specola_flow_server::AgentEvents;
use specola_lifecycle::Drain;

use crate::metrics::AgentMetrics;
use crate::warnings::Warnings;

/// Removes idle connections now and then, and reports each with its final counters.
#[derive(Debug)]
pub(crate) struct Sweeper {
    pub(crate) connections: Conntrack,
    pub(crate) events: AgentEvents,
    pub(crate) metrics: AgentMetrics,
    pub(crate) warnings: Warnings,
}

impl Sweeper {
    /// Sweeps until the drain. The first sweep closes what aged while no agent ran.
    pub(crate) async fn run(mut self, drain: Drain) -> anyhow::Result<()> {
        loop {
            self = tokio::task::spawn_blocking(move || {
                self.sweep();
                self
            })
            .await?;
            tokio::select! {
                biased;
                () = drain.signalled() => return Ok(()),
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    fn sweep(&mut self) {
        let (Some(now_ns), Some(boot_ns)) =
            (clock_ns(ClockId::CLOCK_MONOTONIC), clock_ns(ClockId::CLOCK_BOOTTIME))
        else {
            return;
        };
        let started = Instant::now();
        let mut unreported = 0_u64;
        let swept = self.connections.sweep(now_ns, |connection| {
            // The queue counts what it refuses.
            unreported += u64::from(self.events.send(connection.close_event(boot_ns)).is_err());
        });
        match swept {
            Ok(sweep) => {
                tracing::debug!(
                    sweep.present,
                    sweep.removed,
                    sweep.closed,
                    sweep.evicted,
                    unreported,
                    "connections swept"
                );
                self.metrics.swept(started.elapsed(), sweep);
                self.warnings.set("connections", None);
            }
            Err(error) => self.warnings.set("connections", Some(error.to_string())),
        }
    }
}

/// What a clock shows.
pub(crate) fn clock_ns(clock: ClockId) -> Option<u64> {
    let time = clock_gettime(clock).ok()?;
    let (seconds, nanos) = (u64::try_from(time.tv_sec()).ok()?, u64::try_from(time.tv_nsec()).ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

const PERIOD: Duration = Duration::from_secs(10);
