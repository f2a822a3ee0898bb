//! All running metrics, fed from the ring.

use std::{collections::HashSet, fmt, sync::Arc};

use parking_lot::Mutex;
use specola_directory::Directory;
use specola_flow::{Flow, FlowView};
use specola_lifecycle::Drain;
use specola_telemetry::prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
    registry::Registry,
};

use super::{
    config::{MetricSpec, MetricsConfigError, check_set},
    handler::Handler,
};
use crate::{
    consumer::{Consumer, Found},
    shared::{FlowServer, Shared},
};

/// Bounds of flow metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MetricsSettings {
    /// Series that a family may have; further ones are counted in series with the label value `other`.
    pub budget: usize,
    /// How long series of a pod stay after the pod has gone, ns.
    pub pod_ttl_ns: u64,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { budget: 10_000, pod_ttl_ns: 60_000_000_000 }
    }
}

/// How many series a family has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cardinality {
    /// The metric as configurations name it.
    pub metric: &'static str,
    /// Its options.
    pub options: String,
    /// Full name of the family.
    pub family: String,
    /// Names of its labels.
    pub labels: Vec<&'static str>,
    /// Series that it has.
    pub series: u64,
    /// Series that it may have.
    pub budget: u64,
    /// Events that were counted as `other`.
    pub limited: u64,
}

/// What flows count for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FlowMetrics {
    shared: Arc<Shared>,
    set: Arc<Mutex<Set>>,
}

#[derive(Debug)]
struct Set {
    settings: MetricsSettings,
    handlers: Vec<Handler>,
    swept_ns: u64,
}

impl FlowServer {
    /// Metrics over the flows of this server; none until [`FlowMetrics::apply`].
    pub fn flow_metrics(&self, settings: MetricsSettings) -> FlowMetrics {
        let set = Set { settings, handlers: Vec::new(), swept_ns: 0 };
        FlowMetrics { shared: Arc::clone(&self.shared), set: Arc::new(Mutex::new(set)) }
    }
}

impl FlowMetrics {
    /// Makes these the metrics: counts of those that stay go on, those that are not listed vanish.
    ///
    /// # Errors
    /// The list contradicts itself, or changes labels of a metric that runs; then all is as before.
    pub fn apply(&self, specs: Vec<MetricSpec>) -> Result<(), MetricsConfigError> {
        check_set(&specs)?;
        let mut set = self.set.lock();
        for spec in &specs {
            let running = set.handlers.iter().find(|handler| handler.spec.name == spec.name);
            if running.is_some_and(|running| !running.spec.has_labels_of(spec)) {
                return Err(MetricsConfigError::LabelsChanged(spec.name));
            }
        }
        let budget = set.settings.budget;
        let mut before = std::mem::take(&mut set.handlers);
        for spec in specs {
            match before.iter().position(|handler| handler.spec.name == spec.name) {
                Some(index) => {
                    let mut handler = before.swap_remove(index);
                    handler.spec = spec;
                    set.handlers.push(handler);
                }
                None => set.handlers.push(Handler::new(spec, budget)),
            }
        }
        Ok(())
    }

    /// Adds the families to a registry, which should have the prefix `hubble`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// How many series there are.
    pub fn cardinality(&self) -> Vec<Cardinality> {
        let set = self.set.lock();
        let budget = set.settings.budget as u64;
        let of = |handler: &Handler| {
            let (metric, options) = (handler.spec.name.text(), handler.spec.options_text());
            let family = |table: &super::table::Table| Cardinality {
                metric,
                options: options.clone(),
                family: table.full_name(),
                labels: table.label_names(),
                series: table.len() as u64,
                budget,
                limited: table.limited(),
            };
            handler.tables.iter().map(family).collect::<Vec<_>>()
        };
        set.handlers.iter().flat_map(of).collect()
    }

    /// Counts flows until the drain, or until the pipeline is gone.
    pub async fn run(self, drain: Drain) {
        let mut consumer = Consumer::open(&self.shared, "metrics");
        loop {
            let is_over = drain.is_signalled();
            while self.take(&mut consumer) {
                tokio::task::yield_now().await;
            }
            self.sweep();
            if is_over || !consumer.wait(&drain).await {
                return;
            }
        }
    }

    /// Counts a batch of flows; returns whether there may be more.
    fn take(&self, consumer: &mut Consumer) -> bool {
        let directory = self.shared.directory.load();
        let mut set = self.set.lock();
        let mut taken = 0;
        while taken < BATCH {
            taken += 1;
            match consumer.next() {
                Found::Flow { seq, flow } => {
                    set.observe(&self.shared, &directory, seq, &flow);
                    consumer.done(true);
                }
                Found::Lost(_) => {}
                Found::Nothing => return false,
            }
        }
        true
    }

    /// Removes series of pods that have gone.
    fn sweep(&self) {
        let now_ns = self.shared.config.clock.now_ns();
        let mut set = self.set.lock();
        if now_ns.saturating_sub(set.swept_ns) < SWEEP_NS {
            return;
        }
        set.swept_ns = now_ns;
        let names_pods = |handler: &Handler| handler.tables.iter().any(super::table::Table::names_pods);
        if !set.handlers.iter().any(names_pods) {
            return;
        }
        let pods = self.known_pods();
        let ttl_ns = set.settings.pod_ttl_ns;
        for table in set.handlers.iter_mut().flat_map(|handler| &mut handler.tables) {
            table.remove_gone(&pods, now_ns, ttl_ns);
        }
    }

    /// Pods of the cluster, `namespace/name`.
    fn known_pods(&self) -> HashSet<String> {
        let directory = self.shared.directory.load();
        let metas = self.shared.directory.metas();
        let name = |entry: &specola_directory::IpEntry| {
            let meta = metas.get(entry.meta).filter(|meta| !meta.pod_name.is_empty())?;
            Some(format!("{}/{}", meta.namespace, meta.pod_name))
        };
        directory.addresses().entries().filter_map(name).collect()
    }

    /// Counts one flow that does not come from the ring.
    pub fn observe(&self, view: &FlowView<'_>) {
        self.set.lock().observe_view(view);
    }

    #[cfg(test)]
    pub(super) fn sweep_now(&self) {
        self.set.lock().swept_ns = 0;
        self.sweep();
    }
}

/// Flows that are counted under one lock.
const BATCH: u32 = 256;
/// How often gone pods are looked for, ns.
const SWEEP_NS: u64 = 5_000_000_000;

impl Set {
    fn observe(&mut self, shared: &Shared, directory: &Directory, seq: u64, flow: &Flow) {
        if flow.lost_count().is_some() {
            return;
        }
        let (metas, node) = (shared.directory.metas(), directory.node());
        let kept = shared.details.of(flow);
        let mut view = FlowView::new(flow, seq, shared.config.instance, &metas, node).with_names(directory);
        view.detail = kept.as_deref().map(|kept| &kept.detail);
        self.observe_view(&view);
    }

    fn observe_view(&mut self, view: &FlowView<'_>) {
        for handler in &mut self.handlers {
            handler.observe(view);
        }
    }
}

impl MetricSpec {
    fn has_labels_of(&self, other: &Self) -> bool {
        self.contexts == other.contexts && self.options == other.options
    }
}

impl Collector for FlowMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let set = self.set.lock();
        for table in set.handlers.iter().flat_map(|handler| &handler.tables) {
            table.encode(&mut encoder)?;
        }
        let mut limited = encoder.encode_descriptor(
            "metric_limited",
            "Events counted in series of the value other, because their family has as many series as it may have",
            None,
            MetricType::Counter,
        )?;
        for table in set.handlers.iter().flat_map(|handler| &handler.tables) {
            let counter = ConstCounter::new(table.limited());
            counter.encode(limited.encode_family(&[("family", table.full_name())])?)?;
        }
        if set.handlers.is_empty() {
            return Ok(());
        }
        drop(set);
        let ledger = self.shared.ledger.counts();
        let streams = self.shared.streams.counts().lost + self.shared.consumers.lost();
        let mut lost = encoder.encode_descriptor(
            "lost_events",
            "Events that were lost, by what had no room for them",
            None,
            MetricType::Counter,
        )?;
        for (source, count) in [
            ("perf_event_ring_buffer", ledger.kernel_lost),
            ("observer_events_queue", ledger.agent_refused),
            ("hubble_ring_buffer", streams),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(lost.encode_family(&[("source", source)])?)?;
        }
        Ok(())
    }
}
