//! The thread that drains kernel events into the flow pipeline.

use std::thread::JoinHandle;

use anyhow::Context;
use specola_datapath::{EventReader, ReaderCounts, ReaderWaker};
use specola_flow_server::Pipeline;

/// A running reader.
pub(super) struct ReaderThread {
    waker: ReaderWaker,
    thread: JoinHandle<ReaderCounts>,
}

impl ReaderThread {
    /// Starts the thread. `clock_offset_ns` is added to all times.
    pub(super) fn start(
        reader: EventReader,
        mut pipeline: Pipeline,
        clock_offset_ns: i64,
    ) -> anyhow::Result<Self> {
        let waker = reader.waker();
        let sink = move |tick: specola_datapath::Tick<'_>| {
            for (reason, count) in tick.rejected.by_reason() {
                pipeline.reject(reason, count);
            }
            pipeline.ingest(tick.events, tick.clock_offset_ns.saturating_add(clock_offset_ns))
        };
        let thread = reader.spawn(sink).context("starting the reader thread")?;
        Ok(Self { waker, thread })
    }

    /// Stops after a last drain of the lanes.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.waker.stop();
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        let counts = joined.map_err(|_panic| anyhow::anyhow!("the reader thread panicked"))?;
        tracing::debug!(?counts, "reader stopped");
        Ok(())
    }
}
