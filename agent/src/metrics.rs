//! The agent's own metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
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
        let lanes = counts.lanes.iter().enumerate().flat_map(|(index, lane)| {
            let values = [
                ("submitted", lane.submitted),
                ("reserve_failed", lane.reserve_failed),
                ("folded", lane.folded),
            ];
            values.map(|(outcome, value)| {
                let labels = vec![("lane", lane_name(index).to_owned()), ("outcome", outcome.to_owned())];
                (labels, value)
            })
        });
        family(&mut encoder, "event_records", "Event records of the kernel by lane and outcome", lanes)
    }
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
        let lanes = vec![LaneCount { attempts: 5, submitted: 4, reserve_failed: 1, folded: 0 }];
        scraped.set(KernelCounts { packets, lanes });
        let text = metrics.encode().expect("encodes");
        for line in [
            "specola_datapath_packets_total{direction=\"ingress\",reason=\"POLICY_DENIED\"} 4",
            "specola_datapath_bytes_total{direction=\"egress\",reason=\"FORWARDED\"} 900",
            "specola_event_records_total{lane=\"deny\",outcome=\"reserve_failed\"} 1",
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
