//! The writing side: events in, flows into the ring, readers woken once per batch.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError},
    },
    time::Duration,
};

use specola_datapath_common::event::Event;
use specola_directory::Directory;
use specola_flow::{Flow, Metas, Verdict};
use specola_ring::{Class, Read, Writer};
use tokio::sync::watch;

use crate::{
    access::{self, Queued},
    convert::convert,
    details::DetailWriter,
    kernel_loss::KernelLoss,
    ledger::Counts,
    namespaces::NamespaceTracker,
    pressure::PressureSender,
    shared::Shared,
};

/// Turns events into flows. It belongs to the thread that reads the kernel's ring buffers and never waits.
#[derive(Debug)]
pub struct Pipeline {
    shared: Arc<Shared>,
    counts: Counts,
    ring: Writer<Flow>,
    head: watch::Sender<u64>,
    pressure: PressureSender,
    agent_events: Receiver<Event>,
    access_records: Receiver<Queued>,
    details: DetailWriter,
    namespaces: NamespaceTracker,
    kernel_loss: KernelLoss,
}

impl Pipeline {
    pub(crate) fn new(
        shared: Arc<Shared>,
        counts: Counts,
        ring: Writer<Flow>,
        (head, pressure): (watch::Sender<u64>, PressureSender),
        (agent_events, access_records): (Receiver<Event>, Receiver<Queued>),
    ) -> Self {
        Self {
            shared,
            counts,
            ring,
            head,
            pressure,
            agent_events,
            access_records,
            details: DetailWriter::default(),
            namespaces: NamespaceTracker::default(),
            kernel_loss: KernelLoss::default(),
        }
    }

    /// Takes a batch of events, then what other sources have queued ([`AgentEvents`],
    /// [`crate::AccessLog`]), and wakes the readers.
    ///
    /// Call it on every tick, with an empty batch too, or queued events wait. `clock_offset_ns` is wall clock less
    /// boot clock. No allocation per flow. Gives after how long it has something to do though nothing comes.
    pub fn ingest(&mut self, events: &[Event], clock_offset_ns: i64) -> Option<Duration> {
        let shared = Arc::clone(&self.shared);
        let directory = shared.directory.load();
        // After the snapshot, so that it has all that the snapshot names.
        let metas = shared.directory.metas();
        let before = self.counts.clone();
        for event in events {
            let time_ns = event.boot_ns.saturating_add_signed(clock_offset_ns);
            self.counts.kernel_lost += self.kernel_loss.note(event, time_ns);
            // Fold records are made by the reader, not taken from a ring buffer.
            *(if event.fold == 0 { &mut self.counts.consumed } else { &mut self.counts.agent }) += 1;
            self.push(event, clock_offset_ns, &directory, &metas);
        }
        while let Ok(event) = self.agent_events.try_recv() {
            self.counts.agent += 1;
            self.push(&event, clock_offset_ns, &directory, &metas);
        }
        while let Ok(record) = self.access_records.try_recv() {
            self.counts.agent += 1;
            self.push_access(record, &directory, &metas);
        }
        for loss in self.kernel_loss.due(|| shared.config.clock.now_ns()) {
            append(&mut self.ring, &mut self.counts, &shared, &loss, Class::Protected);
            self.counts.loss_records += 1;
        }
        self.write_books(&before);
        if self.counts.pushed > before.pushed {
            self.head.send_replace(self.ring.pushed());
        }
        self.kernel_loss.pending()
    }

    /// Counts records that the reader took from a ring buffer but could not read as events. `reason` is
    /// [`specola_datapath_common::event::BadEvent::reason`]'s label.
    pub fn reject(&mut self, reason: &'static str, count: u64) {
        let before = self.counts.clone();
        self.counts.consumed += count;
        self.counts.reject(reason, count);
        self.write_books(&before);
    }

    fn write_books(&mut self, before: &Counts) {
        if self.counts != *before {
            self.counts.held = self.shared.ring.head() - self.shared.ring.oldest();
            self.shared.ledger.write(&mut self.counts);
        }
    }

    fn push(&mut self, event: &Event, clock_offset_ns: i64, directory: &Directory, metas: &Metas) {
        let flows = match convert(event, clock_offset_ns, directory) {
            Ok(flows) => flows,
            Err(bad) => return self.counts.reject(bad.reason(), 1),
        };
        self.write(&flows.first, metas);
        if let Some(drop) = flows.drop {
            self.write(&drop, metas);
            self.counts.expanded += 1;
        }
    }

    fn push_access(&mut self, (record, weight): Queued, directory: &Directory, metas: &Metas) {
        let flow = access::convert(&record, directory);
        let (seq, shared) = (self.ring.pushed(), Arc::clone(&self.shared));
        let is_read = |seq| matches!(shared.ring.read(seq), Read::Item(_));
        let detail = self.details.keep(&shared.details, (record.detail, weight), seq, is_read);
        self.write(&Flow { detail, ..flow }, metas);
    }

    fn write(&mut self, flow: &Flow, metas: &Metas) {
        let class = class(flow);
        for handle in [flow.source_meta, flow.destination_meta] {
            metas.note_use(handle, self.ring.pushed(), class == Class::Protected);
            self.namespaces.track(handle, flow.time_ns, metas, &self.shared.namespaces);
        }
        append(&mut self.ring, &mut self.counts, &self.shared, flow, class);
        if self.pressure.pushed(self.ring.pushed()) {
            // A batch may be larger than what readers can afford to miss.
            self.head.send_replace(self.ring.pushed());
        }
    }
}

fn append(ring: &mut Writer<Flow>, counts: &mut Counts, shared: &Shared, flow: &Flow, class: Class) {
    counts.overwritten += u64::from(ring.pushed() >= shared.ring.capacity());
    ring.push(flow, flow.time_ns, class);
    counts.pushed += 1;
}

/// What is looked for after the fact stays longer than what went well.
fn class(flow: &Flow) -> Class {
    match flow.verdict() {
        Verdict::DROPPED | Verdict::ERROR | Verdict::AUDIT => Class::Protected,
        _ => Class::Common,
    }
}

/// Hands events of other sources (conntrack sweep, restored state) to the pipeline, from any thread, without waiting.
#[derive(Clone, Debug)]
pub struct AgentEvents {
    queue: SyncSender<Event>,
    shared: Arc<Shared>,
}

/// The queue to the pipeline is full, or the pipeline ended. The event is lost and counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the flow pipeline's queue for agent events is full or closed")]
pub struct AgentQueueFull;

impl AgentEvents {
    pub(crate) const fn new(queue: SyncSender<Event>, shared: Arc<Shared>) -> Self {
        Self { queue, shared }
    }

    /// Queues an event for the pipeline's next tick.
    ///
    /// # Errors
    /// The queue is full or the pipeline ended; the loss is counted.
    pub fn send(&self, event: Event) -> Result<(), AgentQueueFull> {
        self.queue.try_send(event).map_err(|full: TrySendError<Event>| {
            let (TrySendError::Full(_) | TrySendError::Disconnected(_)) = full;
            self.shared.ledger.refuse_agent_event();
            AgentQueueFull
        })?;
        self.shared.config.wake.call();
        Ok(())
    }
}
