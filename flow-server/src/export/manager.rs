//! Running exporters, and how their set changes.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use specola_directory::Directory;
use specola_flow::{FilterSet, Flow, FlowView, MessageContext, NodeInfo};
use specola_lifecycle::{Drain, DrainTrigger};
use tokio::task::{JoinError, JoinHandle};

use super::{
    ExportItem, Exporter,
    config::{ExportConfigError, ExporterSpec, check},
    json::JsonExporter,
};
use crate::{
    consumer::{Consumer, Found},
    losses::{Losses, PendingLoss, kernel_loss},
    shared::{FlowServer, Shared},
};

/// The exporters of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exporters {
    shared: Arc<Shared>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<String, Running>,
    /// Removed ones that still write what they have.
    stopping: Vec<JoinHandle<Option<u64>>>,
    /// How often exporters were added, replaced, removed.
    changes: [u64; 3],
    /// When the set was made, ns since 1970.
    applied_ns: u64,
}

#[derive(Debug)]
struct Running {
    spec: ExporterSpec,
    trigger: DrainTrigger,
    /// Gives the number of the first record that it did not account for.
    task: JoinHandle<Option<u64>>,
    is_active: Arc<AtomicBool>,
    errors: Arc<AtomicU64>,
}

/// State of the exporters.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ExporterCounts {
    /// Each one's name, whether it writes (its end has not come), and how often writing failed.
    pub exporters: Vec<(String, bool, u64)>,
    /// Exporters added since the start.
    pub added: u64,
    /// Exporters replaced by others of the same name.
    pub updated: u64,
    /// Exporters removed.
    pub removed: u64,
    /// When the set was made, ns since 1970; 0 = never.
    pub applied_ns: u64,
}

impl FlowServer {
    /// Exporters of this server's flows; none until [`Exporters::apply`].
    pub fn exporters(&self) -> Exporters {
        Exporters { shared: Arc::clone(&self.shared), state: Arc::default() }
    }
}

impl Exporters {
    /// Makes these the exporters: equal ones go on, changed ones are replaced, others stop after writing what they have.
    /// To be called on a tokio runtime.
    ///
    /// # Errors
    /// An exporter is wrong, or two of them would meet; then all is as before.
    pub fn apply(&self, specs: Vec<ExporterSpec>) -> Result<(), ExportConfigError> {
        check(&specs)?;
        let mut ready = Vec::with_capacity(specs.len());
        for spec in specs {
            let (filters, exporter) = (spec.filters()?, Box::new(JsonExporter::new(&spec)?));
            ready.push((spec, filters, exporter));
        }
        let mut state = self.state.lock();
        let State { running, stopping, changes, applied_ns } = &mut *state;
        *applied_ns = self.shared.config.clock.now_ns();
        stopping.retain(|task| !task.is_finished());
        let mut before = std::mem::take(running);
        for (spec, filters, exporter) in ready {
            let name = spec.name.clone();
            let old = before.remove(&name);
            let next = match old {
                Some(same) if same.spec.is_same(&spec) => same,
                Some(other) => {
                    changes[1] += 1;
                    // One whose end has come wrote nothing of what came since, and neither does its successor.
                    let was_active = other.is_active.load(Relaxed);
                    let before = other.stop();
                    self.start(spec, filters, exporter, was_active.then_some(before))
                }
                None => {
                    changes[0] += 1;
                    self.start(spec, filters, exporter, None)
                }
            };
            running.insert(name, next);
        }
        changes[2] += before.len() as u64;
        stopping.extend(before.into_values().map(Running::stop));
        Ok(())
    }

    /// Waits for the drain, then until every exporter has written what it has.
    pub async fn run(self, drain: Drain) {
        drain.signalled().await;
        let (running, stopping) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.running), std::mem::take(&mut state.stopping))
        };
        // All are told before one is waited for.
        let tasks: Vec<_> = running.into_values().map(Running::stop).chain(stopping).collect();
        for task in tasks {
            ended(task).await;
        }
    }

    /// State of the exporters.
    pub fn counts(&self) -> ExporterCounts {
        let state = self.state.lock();
        let of = |(name, exporter): (&String, &Running)| {
            (name.clone(), exporter.is_active.load(Relaxed), exporter.errors.load(Relaxed))
        };
        let [added, updated, removed] = state.changes;
        let applied_ns = state.applied_ns;
        ExporterCounts {
            exporters: state.running.iter().map(of).collect(),
            added,
            updated,
            removed,
            applied_ns,
        }
    }

    /// Starts an exporter behind the one that it replaces.
    fn start(
        &self,
        spec: ExporterSpec,
        filters: FilterSet,
        exporter: Box<dyn Exporter>,
        before: Option<JoinHandle<Option<u64>>>,
    ) -> Running {
        let (trigger, drain) = specola_lifecycle::drain();
        let (is_active, errors) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let node = Arc::clone(self.shared.directory.load().node());
        let (shared, name) = (Arc::clone(&self.shared), spec.name.clone());
        let (end_ns, failures, active) = (spec.end_ns, Arc::clone(&errors), Arc::clone(&is_active));
        let mut consumer = Consumer::open(&shared, &format!("export:{name}"));
        let task = tokio::spawn(async move {
            if let Some(before) = before
                && let Some(end) = ended(before).await
            {
                // No flow is written twice or left out.
                consumer.begin_at(end);
            }
            let job = Job {
                consumer,
                exporter,
                filters,
                node_name: node.absolute_name(),
                node,
                end_ns,
                errors: failures,
                is_failing: false,
                losses: Losses::default(),
                name,
                shared,
            };
            let end = job.run(drain).await;
            active.store(false, Relaxed);
            end
        });
        Running { spec, trigger, task, is_active, errors }
    }
}

async fn ended(task: JoinHandle<Option<u64>>) -> Option<u64> {
    task.await.unwrap_or_else(|error| {
        tracing::error!(%error, "an exporter did not end well");
        None
    })
}

impl Running {
    fn stop(self) -> JoinHandle<Option<u64>> {
        self.trigger.signal();
        self.task
    }
}

fn panicked(error: &JoinError) -> Option<u64> {
    tracing::error!(%error, "an exporter panicked");
    None
}

/// One exporter at work.
#[derive(Debug)]
struct Job {
    name: String,
    shared: Arc<Shared>,
    consumer: Consumer,
    exporter: Box<dyn Exporter>,
    filters: FilterSet,
    node: Arc<NodeInfo>,
    node_name: String,
    end_ns: Option<u64>,
    errors: Arc<AtomicU64>,
    is_failing: bool,
    /// What was overwritten before this exporter came to it, and is not on record yet.
    losses: Losses,
}

/// Records that are looked at before other threads get a turn.
const BATCH: u32 = 4096;
/// How often what is held back is looked at, and writing tried again.
const TICK: Duration = Duration::from_secs(1);

impl Job {
    /// Gives the number of the first record that is not accounted for; `None` after a panic.
    async fn run(mut self, drain: Drain) -> Option<u64> {
        loop {
            let is_over = drain.is_signalled() || self.is_past_end();
            loop {
                let batch = tokio::task::spawn_blocking(move || {
                    let more = self.batch();
                    (self, more)
                });
                let (job, more) = match batch.await {
                    Ok(done) => done,
                    Err(error) => return panicked(&error),
                };
                self = job;
                if !more {
                    break;
                }
            }
            if is_over {
                let finished = tokio::task::spawn_blocking(move || self.finish()).await;
                return finished.map_or_else(|error| panicked(&error), Some);
            }
            if self.exporter.is_full() {
                tokio::select! { () = drain.signalled() => {}, () = tokio::time::sleep(TICK) => {} }
            } else {
                tokio::select! { _ = self.consumer.wait(&drain) => {}, () = tokio::time::sleep(TICK) => {} }
            }
        }
    }

    fn is_past_end(&self) -> bool {
        self.end_ns.is_some_and(|end_ns| self.shared.config.clock.now_ns() >= end_ns)
    }

    /// Takes a batch of records; returns whether there may be more.
    fn batch(&mut self) -> bool {
        let directory = self.shared.directory.load();
        for _ in 0..BATCH {
            if self.exporter.is_full() {
                let is_stuck = !self.flush();
                return !is_stuck && !self.exporter.is_full();
            }
            match self.consumer.next() {
                Found::Flow { seq, flow } => self.consider(&directory, seq, &flow),
                Found::Lost(count) => self.miss(count),
                Found::Nothing => {
                    let due = self.losses.due(self.shared.config.clock.now_ns());
                    self.tell(due);
                    self.flush();
                    return false;
                }
            }
        }
        true
    }

    fn consider(&mut self, directory: &Directory, seq: u64, flow: &Flow) {
        let outcome = match flow.lost_count() {
            Some(count) => self.exporter.push(ExportItem::Lost(&kernel_loss(flow, count), &self.node_name)),
            None => {
                let (instance, metas) = (self.shared.config.instance, self.shared.directory.metas());
                let kept = self.shared.details.of(flow);
                let mut view = FlowView::new(flow, seq, instance, &metas, &self.node).with_names(directory);
                view.detail = kept.as_deref().map(|kept| &kept.detail);
                if self.end_ns.is_some_and(|end_ns| flow.time_ns > end_ns) || !self.filters.passes(&view) {
                    return self.consumer.done(false);
                }
                let origins = directory.origins(flow.cookie);
                let context = MessageContext {
                    version: &self.shared.config.version,
                    node_name: &self.node_name,
                    origins: origins.map_or(&[], AsRef::as_ref),
                    interface: directory.interface(flow.ifindex),
                    extension: false,
                };
                self.exporter.push(ExportItem::Flow(&view, &context))
            }
        };
        if let Err(error) = outcome {
            self.consumer.fail(1);
            self.note(Err(error));
        }
    }

    /// Takes note of flows that were overwritten before this exporter came to them.
    fn miss(&mut self, count: u64) {
        let now_ns = self.shared.config.clock.now_ns();
        self.losses.add(count, now_ns);
        let due = self.losses.due(now_ns);
        self.tell(due);
    }

    /// Puts on record what this exporter missed.
    fn tell(&mut self, missed: Option<PendingLoss>) {
        let Some(missed) = missed else {
            return;
        };
        let outcome = self.exporter.push(ExportItem::Missed(&missed.event(), &self.node_name));
        if outcome.is_err() {
            self.note(outcome);
        }
    }

    /// Writes what waits; returns whether that worked.
    fn flush(&mut self) -> bool {
        let outcome = self.exporter.flush(self.shared.config.clock.now_ns());
        self.consumer.passed_on(self.exporter.take_written(), self.exporter.waiting());
        self.note(outcome)
    }

    /// Counts a failure, and says when failing begins and ends.
    fn note(&mut self, outcome: io::Result<()>) -> bool {
        let failed = outcome.is_err();
        if let Err(error) = outcome {
            self.errors.fetch_add(1, Relaxed);
            if !self.is_failing {
                tracing::warn!(exporter = self.name, %error, "flows cannot be exported; they wait, and it is tried again");
            }
        } else if self.is_failing {
            tracing::info!(exporter = self.name, "flows are exported again");
        }
        self.is_failing = failed;
        !failed
    }

    /// Writes the rest; what cannot be written, or not be read for lack of room, is counted as failed.
    fn finish(mut self) -> u64 {
        if self.exporter.is_full() {
            self.consumer.abandon();
        }
        self.exporter.finish();
        let missed = self.losses.take();
        self.tell(missed);
        self.flush();
        self.consumer.fail(self.exporter.waiting());
        self.consumer.passed_on(0, 0);
        self.consumer.position()
    }
}
