//! The flow server's own metrics, read from its counters at each scrape.

use std::fmt;

use specola_telemetry::prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    consumer::ConsumerCounts,
    shared::{FlowServer, FlowStatus},
};

impl FlowServer {
    /// Adds the metrics `flow_*` to a registry.
    pub fn register_metrics(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(FlowCounters { server: self.clone() }));
    }
}

#[derive(Debug)]
struct FlowCounters {
    server: FlowServer,
}

impl Collector for FlowCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.server.status();
        for (name, help, read) in COUNTERS {
            let counter = ConstCounter::new(read(&status));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (name, help, read) in GAUGES {
            let gauge = ConstGauge::new(read(&status));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let mut lost = encoder.encode_descriptor(
            "lost",
            "Records and flows that were lost, by what lost them",
            None,
            MetricType::Counter,
        )?;
        for (stage, count) in [
            ("agent_restart_records", status.ledger.lost_records),
            ("agent_restart", status.ledger.lost_flows),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(lost.encode_family(&[("stage", stage)])?)?;
        }
        let mut balanced = encoder.encode_descriptor(
            "ledger_balanced",
            "Whether an equation of the ledger holds: 1 or 0",
            None,
            MetricType::Gauge,
        )?;
        for (equation, holds) in
            [("records", status.ledger.records_balance()), ("flows", status.ledger.flows_balance())]
        {
            let gauge = ConstGauge::new(u64::from(holds));
            gauge.encode(balanced.encode_family(&[("equation", equation)])?)?;
        }
        self.encode_consumers(&mut encoder)?;
        let mut rejected = encoder.encode_descriptor(
            "flow_records_rejected",
            "Event records that gave no flow",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in &status.ledger.rejected {
            let counter = ConstCounter::new(*count);
            counter.encode(rejected.encode_family(&[("reason", *reason)])?)?;
        }
        Ok(())
    }
}

impl FlowCounters {
    fn encode_consumers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let consumers = self.server.consumers();
        for (name, help, read) in CONSUMERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for consumer in &consumers {
                let counter = ConstCounter::new(read(consumer));
                counter.encode(family.encode_family(&[("consumer", consumer.name.as_str())])?)?;
            }
        }
        let help = "Flows that wait in a reader's buffer";
        let mut waiting = encoder.encode_descriptor("consumer_waiting", help, None, MetricType::Gauge)?;
        for consumer in &consumers {
            let gauge = ConstGauge::new(consumer.waiting);
            gauge.encode(waiting.encode_family(&[("consumer", consumer.name.as_str())])?)?;
        }
        Ok(())
    }
}

type ConsumerReading = (&'static str, &'static str, fn(&ConsumerCounts) -> u64);

/// Name, help, value, for each reader inside the agent.
const CONSUMERS: [ConsumerReading; 5] = [
    ("consumer_seen", "Flows that a reader inside the agent came to, or missed", ConsumerCounts::seen),
    ("consumer_delivered", "Flows that a reader made something of", |counts| counts.delivered),
    ("consumer_filtered", "Flows that a reader was not asked for", |counts| counts.filtered),
    ("consumer_failed", "Flows that a reader could not pass on", |counts| counts.failed),
    ("consumer_lost", "Flows that were overwritten before a reader came to them", |counts| counts.lost),
];

/// Name, help, value.
type Reading<T> = (&'static str, &'static str, fn(&FlowStatus) -> T);

const COUNTERS: [Reading<u64>; 14] = [
    ("flow_records_consumed", "Event records taken from the kernel", |status| status.ledger.consumed),
    ("flow_agent_events", "Events made in user space", |status| status.ledger.agent),
    ("flow_agent_events_refused", "Events refused because the pipeline's queue was full", |status| {
        status.ledger.agent_refused
    }),
    ("flow_kernel_lost", "Events that the kernel had no room for", |status| status.ledger.kernel_lost),
    ("flow_expanded", "Flows beyond one per record", |status| status.ledger.expanded),
    ("flow_pushed", "Flows written into the ring", |status| status.ledger.pushed),
    ("flow_overwritten", "Flows that newer ones overwrote in the ring", |status| status.ledger.overwritten),
    ("flow_delivered", "Flows sent to observers", |status| status.streams.delivered),
    ("flow_filtered", "Flows that observers did not ask for", |status| status.streams.filtered),
    ("flow_lost", "Flows that observers were too slow for", |status| status.streams.lost),
    ("flow_details", "Flows that came with a request, a response or names", |status| status.details.kept),
    (
        "flow_details_lost",
        "Details that made room for newer ones while their flow could still be read",
        |status| status.details.lost,
    ),
    ("flow_details_clipped", "Details that were too large, and of which a part was cut off", |status| {
        status.details.clipped
    }),
    ("flow_access_records_refused", "Requests and responses refused because the queue was full", |status| {
        status.details.refused
    }),
];

const GAUGES: [Reading<u64>; 4] = [
    ("flow_held", "Flows in the ring", |status| status.held),
    ("flow_capacity", "Flows that the ring can hold", |status| status.capacity),
    ("flow_details_bytes", "Memory of requests, responses and names", |status| status.details.bytes),
    ("flow_streams", "Open observer streams", |status| status.streams.open),
];

#[cfg(test)]
mod tests {
    use specola_directory::directory;
    use specola_flow::{InstanceId, NodeInfo};
    use specola_telemetry::Metrics;

    use crate::{Config, flow_server};

    #[test]
    fn every_counter_is_scraped() {
        let (mut pipeline, server) =
            flow_server(Config::new(InstanceId::new(1), "1"), directory(NodeInfo::default()).1).unwrap();
        pipeline.reject("size", 2);
        let metrics = Metrics::new();
        metrics.register(|registry| server.register_metrics(registry));
        let text = metrics.encode().unwrap();
        for line in [
            "specola_flow_records_consumed_total 2",
            "specola_flow_records_rejected_total{reason=\"size\"} 2",
            "specola_flow_capacity 4096",
            "specola_flow_streams 0",
            "specola_flow_lost_total 0",
            "specola_lost_total{stage=\"agent_restart\"} 0",
            "specola_ledger_balanced{equation=\"records\"} 1",
            "specola_ledger_balanced{equation=\"flows\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
