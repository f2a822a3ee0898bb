//! The agent's own metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use specola_datapath::{ConnectionCounts, FoldBook, LaneBook, Sweep};
use specola_flow::DropReason;

use crate::endpoint::State;
use crate::node::{KernelCounts, direction_name, lane_name};

/// Metrics that the node thread keeps.
#[derive(Clone, Debug)]
pub(crate) struct AgentMetrics {
    endpoints: Family<StateLabel, Gauge>,
    revision: Gauge,
    policies: Gauge,
    identities: Gauge,
    ipam_used: Family<FamilyLabel, Gauge>,
    ipam_capacity: Family<FamilyLabel, Gauge>,
    ipcache: Gauge,
    reconcile_seconds: Histogram,
    apply_seconds: Histogram,
    applied: Counter,
    failed: Counter,
    overflowed: Counter,
    connections: Gauge,
    connections_expired: Counter,
    connections_closed: Counter,
    sweep_seconds: Histogram,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct FamilyLabel {
    family: &'static str,
}

impl AgentMetrics {
    pub(crate) fn new() -> Self {
        let histogram = || Histogram::new(exponential_buckets(0.0005, 2.0, 14));
        Self {
            endpoints: Family::default(),
            revision: Gauge::default(),
            policies: Gauge::default(),
            identities: Gauge::default(),
            ipam_used: Family::default(),
            ipam_capacity: Family::default(),
            ipcache: Gauge::default(),
            reconcile_seconds: histogram(),
            apply_seconds: histogram(),
            applied: Counter::default(),
            failed: Counter::default(),
            overflowed: Counter::default(),
            connections: Gauge::default(),
            connections_expired: Counter::default(),
            connections_closed: Counter::default(),
            sweep_seconds: histogram(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("endpoints", "Local endpoints by state", self.endpoints.clone());
        registry.register("policy_revision", "Revision of the policy repository", self.revision.clone());
        registry.register("policies", "Policies in force", self.policies.clone());
        registry.register("identities", "Identities that the node knows", self.identities.clone());
        registry.register("ipam_addresses_used", "Pod addresses in use", self.ipam_used.clone());
        registry.register(
            "ipam_addresses_capacity",
            "Pod addresses that can be used",
            self.ipam_capacity.clone(),
        );
        registry.register("ipcache_entries", "Prefixes in the ipcache", self.ipcache.clone());
        registry.register(
            "reconcile_seconds",
            "Time of one pass over desired state and store",
            self.reconcile_seconds.clone(),
        );
        registry.register(
            "policy_apply_seconds",
            "Time to write policies of one pass to the kernel",
            self.apply_seconds.clone(),
        );
        registry.register(
            "endpoint_regenerations",
            "Endpoint policies written to the kernel",
            self.applied.clone(),
        );
        registry.register(
            "endpoint_regeneration_failures",
            "Endpoint policies that could not be computed or written",
            self.failed.clone(),
        );
        registry.register(
            "endpoint_policy_overflows",
            "Endpoint policies that need more map entries than fit",
            self.overflowed.clone(),
        );
        self.register_connections(registry);
    }

    fn register_connections(&self, registry: &mut Registry) {
        registry.register("connections", "Connections at the latest sweep", self.connections.clone());
        registry.register(
            "connections_expired",
            "Connections that sweeps removed because nothing was seen of them any more",
            self.connections_expired.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections among them whose end nobody had reported",
            self.connections_closed.clone(),
        );
        registry.register(
            "sweep_seconds",
            "Time of one sweep of the connections",
            self.sweep_seconds.clone(),
        );
    }

    pub(crate) fn swept(&self, took: Duration, sweep: Sweep) {
        self.sweep_seconds.observe(took.as_secs_f64());
        self.connections.set(i64::try_from(sweep.present).unwrap_or(i64::MAX));
        self.connections_expired.inc_by(sweep.removed);
        self.connections_closed.inc_by(sweep.closed);
    }

    pub(crate) fn endpoints(&self, states: &BTreeMap<State, usize>) {
        for (state, count) in states {
            self.endpoints.get_or_create(&StateLabel { state: state.as_str() }).set(gauge(*count));
        }
    }

    pub(crate) fn revision(&self, revision: u64, policies: usize) {
        self.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        self.policies.set(gauge(policies));
    }

    pub(crate) fn identities(&self, count: usize) {
        self.identities.set(gauge(count));
    }

    pub(crate) fn addresses(&self, family: &'static str, used: usize, capacity: u64) {
        let label = FamilyLabel { family };
        self.ipam_used.get_or_create(&label).set(gauge(used));
        self.ipam_capacity.get_or_create(&label).set(i64::try_from(capacity).unwrap_or(i64::MAX));
    }

    pub(crate) fn ipcache(&self, entries: usize) {
        self.ipcache.set(gauge(entries));
    }

    pub(crate) fn reconciled(&self, took: Duration) {
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn policy_applied(&self, took: Duration, endpoints: usize) {
        self.apply_seconds.observe(took.as_secs_f64());
        self.applied.inc_by(endpoints as u64);
    }

    pub(crate) fn policy_overflowed(&self) {
        self.overflowed.inc();
    }

    pub(crate) fn regeneration_failed(&self) {
        self.failed.inc();
    }
}

/// The kernel's counters as of the latest scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScrapedCounts(Arc<Mutex<KernelCounts>>);

impl ScrapedCounts {
    /// Takes fresh numbers.
    pub(crate) fn set(&self, counts: KernelCounts) {
        *self.0.lock() = counts;
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }
}

type Labels = [(&'static str, String)];

impl Collector for ScrapedCounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.0.lock().clone();
        let packets = |bytes: bool| {
            let value =
                move |count: &specola_datapath::PacketCounts| if bytes { count.bytes } else { count.packets };
            counts.packets.iter().map(move |count| {
                let reason = match count.reason {
                    0 => "FORWARDED".to_owned(),
                    reason => {
                        DropReason(reason).name().map_or_else(|| reason.to_string(), |name| name.to_owned())
                    }
                };
                let direction = direction_name(count.direction).to_owned();
                (vec![("direction", direction), ("reason", reason)], value(count))
            })
        };
        family(&mut encoder, "datapath_packets", "Packets by direction and drop reason", packets(false))?;
        family(&mut encoder, "datapath_bytes", "Bytes by direction and drop reason", packets(true))?;
        lanes(&mut encoder, &counts.lanes)?;
        folds(&mut encoder, &counts.folds)?;
        connections(&mut encoder, &counts.connections)
    }
}

fn folds(encoder: &mut DescriptorEncoder<'_>, book: &FoldBook) -> Result<(), std::fmt::Error> {
    let one = |value| std::iter::once((Vec::new(), value));
    let reported = "Denied packets without a record of their own that a later record stands for";
    family(encoder, "folded_packets_reported", reported, one(book.reported))?;
    let waiting = "Denied packets without a record of their own whose record is still to come";
    gauges(encoder, "folded_packets_waiting", waiting, one(book.waiting))?;
    let balanced = "Whether every folded packet is reported or waits: 1 or 0";
    gauges(encoder, "folds_balanced", balanced, one(u64::from(book.is_balanced)))
}

fn connections(
    encoder: &mut DescriptorEncoder<'_>,
    counts: &ConnectionCounts,
) -> Result<(), std::fmt::Error> {
    let one = |value| std::iter::once((Vec::new(), value));
    family(
        encoder,
        "connections_created",
        "Connections that were entered into the tables",
        one(counts.created),
    )?;
    family(encoder, "connections_removed", "Connections that sweeps removed", one(counts.removed))?;
    let evicted = "Connections that newer ones displaced in a full table; what they carried since their latest trace \
                   record, at most one trace interval's, is in no flow";
    family(encoder, "connections_evicted", evicted, one(counts.evicted))
}

fn lanes(encoder: &mut DescriptorEncoder<'_>, books: &[LaneBook]) -> Result<(), std::fmt::Error> {
    let label = |index| ("lane", lane_name(index).to_owned());
    let outcomes = books.iter().enumerate().flat_map(|(index, book)| {
        let count = &book.counts;
        let values = [
            ("submitted", count.submitted),
            ("reserve_failed", count.reserve_failed),
            ("folded", count.folded),
        ];
        values.map(|(outcome, value)| (vec![label(index), ("outcome", outcome.to_owned())], value))
    });
    family(encoder, "event_records", "Event records of the kernel by lane and outcome", outcomes)?;
    let by_lane = |value: fn(&LaneBook) -> u64| {
        books.iter().enumerate().map(move |(index, book)| (vec![label(index)], value(book)))
    };
    let attempts = by_lane(|book| book.counts.attempts);
    family(encoder, "event_attempts", "Event records that programs wanted to write, by lane", attempts)?;
    family(encoder, "event_records_taken", "Event records taken out of a lane", by_lane(|book| book.taken))?;
    gauges(encoder, "event_backlog", "Event records that wait in a lane", by_lane(|book| book.backlog))?;
    let balanced = by_lane(|book| u64::from(book.is_balanced));
    gauges(encoder, "lane_balanced", "Whether a lane's numbers account for every record: 1 or 0", balanced)
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (Vec<(&'static str, String)>, u64)>,
) -> Result<(), std::fmt::Error> {
    let mut metrics = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        let labels: &Labels = &labels;
        ConstGauge::new(value).encode(metrics.encode_family(&labels)?)?;
    }
    Ok(())
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (Vec<(&'static str, String)>, u64)>,
) -> Result<(), std::fmt::Error> {
    let counter = ConstCounter::new(0_u64);
    let mut metrics = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
    for (labels, value) in values {
        let labels: &Labels = &labels;
        ConstCounter::new(value).encode(metrics.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use specola_datapath::PacketCounts;
    use specola_datapath::abi::metrics::LaneCount;
    use specola_telemetry::Metrics;

    use super::*;

    #[test]
    fn kernel_counters_have_names() {
        let metrics = Metrics::new();
        let scraped = ScrapedCounts::default();
        metrics.register(|registry| scraped.register(registry));
        let packets = vec![
            PacketCounts { direction: 1, reason: 133, packets: 4, bytes: 400 },
            PacketCounts { direction: 2, reason: 0, packets: 9, bytes: 900 },
        ];
        let counts = LaneCount { attempts: 5, submitted: 4, reserve_failed: 1, folded: 0 };
        let lanes = vec![LaneBook { counts, taken: 3, backlog: 1, is_balanced: true }];
        let folds = FoldBook { folded: 9, reported: 7, waiting: 2, is_balanced: true };
        let connections = ConnectionCounts { created: 10, removed: 3, present: 5, evicted: 2 };
        scraped.set(KernelCounts { packets, lanes, folds, connections });
        let text = metrics.encode().expect("encodes");
        for line in [
            "specola_datapath_packets_total{direction=\"ingress\",reason=\"POLICY_DENIED\"} 4",
            "specola_datapath_bytes_total{direction=\"egress\",reason=\"FORWARDED\"} 900",
            "specola_event_records_total{lane=\"deny\",outcome=\"reserve_failed\"} 1",
            "specola_event_attempts_total{lane=\"deny\"} 5",
            "specola_event_records_taken_total{lane=\"deny\"} 3",
            "specola_event_backlog{lane=\"deny\"} 1",
            "specola_lane_balanced{lane=\"deny\"} 1",
            "specola_folded_packets_reported_total{} 7",
            "specola_folded_packets_waiting{} 2",
            "specola_folds_balanced{} 1",
            "specola_connections_created_total{} 10",
            "specola_connections_evicted_total{} 2",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn endpoints_are_counted_by_state() {
        let metrics = Metrics::new();
        let agent = AgentMetrics::new();
        metrics.register(|registry| agent.register(registry));
        agent.endpoints(&BTreeMap::from([(State::Ready, 3), (State::NotReady, 0)]));
        let text = metrics.encode().expect("encodes");
        assert!(text.contains("specola_endpoints{state=\"ready\"} 3"), "{text}");
        assert!(text.contains("specola_endpoints{state=\"not-ready\"} 0"), "{text}");
    }
}
