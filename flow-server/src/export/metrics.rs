//! Metrics about exporters whose configuration may change.

use std::fmt;

use specola_telemetry::prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::Exporters;

impl Exporters {
    /// Adds the families `dynamic_exporter_*` to a registry, which should have the prefix `hubble`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }
}

impl Collector for Exporters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.counts();
        let active = counts.exporters.iter().filter(|(_, is_active, _)| *is_active).count() as u64;
        let inactive = counts.exporters.len() as u64 - active;
        gauges(
            &mut encoder,
            ("dynamic_exporter_exporters_total", "Configured exporters by whether they write", "status"),
            &[("active", active), ("inactive", inactive)],
        )?;
        let up: Vec<_> = counts
            .exporters
            .iter()
            .map(|(name, is_active, _)| (name.as_str(), u64::from(*is_active)))
            .collect();
        gauges(&mut encoder, ("dynamic_exporter_up", "Whether an exporter writes", "name"), &up)?;
        let errors: Vec<_> =
            counts.exporters.iter().map(|(name, _, errors)| (name.as_str(), *errors)).collect();
        counters(&mut encoder, ("dynamic_exporter_errors", "Failed attempts to write", "name"), &errors)?;
        counters(
            &mut encoder,
            ("dynamic_exporter_reconfigurations", "Changes of the configuration", "op"),
            &[("add", counts.added), ("update", counts.updated), ("remove", counts.removed)],
        )?;
        let help = "When the configuration came into force, seconds since 1970";
        let applied = ConstGauge::new(counts.applied_ns as f64 / 1e9);
        let name = "dynamic_exporter_config_last_applied";
        applied.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }
}

type Family = (&'static str, &'static str, &'static str);

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, label): Family,
    values: &[(&str, u64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value, count) in values {
        ConstGauge::new(*count).encode(family.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, label): Family,
    values: &[(&str, u64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        ConstCounter::new(*count).encode(family.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}
