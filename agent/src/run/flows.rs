//! Readers of the flow ring inside the agent.

use std::convert::Infallible;
use std::path::Path;

use anyhow::Context;
use specola_flow_server::{
    ExporterSpec, Exporters, FileWatch, FlowMetrics, FlowServer, MetricSpec, MetricsSettings, Output,
    parse_filters,
};
use specola_lifecycle::Lifecycle;
use specola_telemetry::Metrics;

use crate::config::{FlowExportConfig, FlowMetricsConfig};
use crate::warnings::Warnings;

/// Starts the metrics that are made of flows.
pub(crate) fn spawn_metrics(
    life: &mut Lifecycle,
    config: &FlowMetricsConfig,
    flows: &FlowServer,
    registry: &Metrics,
    warnings: &Warnings,
) -> anyhow::Result<Option<FlowMetrics>> {
    let settings = MetricsSettings {
        budget: config.metrics_budget,
        pod_ttl_ns: u64::try_from(config.metrics_pod_ttl.as_nanos()).unwrap_or(u64::MAX),
    };
    let metrics = flows.flow_metrics(settings);
    if let Some(list) = &config.hubble_metrics {
        let (specs, said) = MetricSpec::parse_list(list).context("--hubble-metrics")?;
        said.iter().for_each(|warning| tracing::warn!(warning, "--hubble-metrics"));
        metrics.apply(specs).context("--hubble-metrics")?;
    } else if let Some(path) = &config.hubble_dynamic_metrics_config_path {
        let text = FileWatch::read(path)?;
        apply(&metrics, &text).with_context(|| path.display().to_string())?;
        let (follower, said, path) = (metrics.clone(), warnings.clone(), path.clone());
        let drain = life.drain();
        life.spawn("metrics configuration", async move {
            let mut watch = FileWatch::new(path.clone(), text);
            while let Some(read) = watch.changed(&drain).await {
                let outcome = read.map_err(anyhow::Error::from).and_then(|text| apply(&follower, &text));
                said.set("metrics configuration", refusal(&path, outcome));
            }
            Ok::<_, Infallible>(())
        });
    } else {
        return Ok(None);
    }
    registry.register_as("hubble", |registry| metrics.register(registry));
    let (running, drain) = (metrics.clone(), life.drain());
    life.spawn("flow metrics", async move {
        running.run(drain).await;
        Ok::<_, Infallible>(())
    });
    Ok(Some(metrics))
}

fn apply(metrics: &FlowMetrics, text: &str) -> anyhow::Result<()> {
    let (specs, said) = MetricSpec::parse_file(text)?;
    said.iter().for_each(|warning| tracing::warn!(warning, "metrics configuration"));
    let count = specs.len();
    metrics.apply(specs)?;
    tracing::info!(metrics = count, "metrics configuration is in force");
    Ok(())
}

/// Starts the exporters of flows.
pub(crate) fn spawn_exporters(
    life: &mut Lifecycle,
    config: &FlowExportConfig,
    flows: &FlowServer,
    registry: &Metrics,
    warnings: &Warnings,
) -> anyhow::Result<()> {
    if let Some(target) = &config.hubble_export_file_path {
        let exporters = flows.exporters();
        exporters.apply(vec![static_exporter(config, target)?]).context("--hubble-export-*")?;
        spawn_set(life, "exporter", exporters);
    }
    if let Some(path) = &config.hubble_flowlogs_config_path {
        let exporters = flows.exporters();
        let text = FileWatch::read(path)?;
        apply_exporters(&exporters, &text).with_context(|| path.display().to_string())?;
        registry.register_as("hubble", |registry| exporters.register(registry));
        let (follower, said, path) = (exporters.clone(), warnings.clone(), path.clone());
        let drain = life.drain();
        life.spawn("exporters' configuration", async move {
            let mut watch = FileWatch::new(path.clone(), text);
            while let Some(read) = watch.changed(&drain).await {
                let outcome =
                    read.map_err(anyhow::Error::from).and_then(|text| apply_exporters(&follower, &text));
                said.set("exporters' configuration", refusal(&path, outcome));
            }
            Ok::<_, Infallible>(())
        });
        spawn_set(life, "exporters", exporters);
    }
    Ok(())
}

fn spawn_set(life: &mut Lifecycle, name: &'static str, exporters: Exporters) {
    let drain = life.drain();
    life.spawn(name, async move {
        exporters.run(drain).await;
        Ok::<_, Infallible>(())
    });
}

fn static_exporter(config: &FlowExportConfig, target: &str) -> anyhow::Result<ExporterSpec> {
    let paths =
        |text: &str| text.split([' ', ',']).filter(|path| !path.is_empty()).map(str::to_owned).collect();
    let interval = config.hubble_export_aggregation_interval.as_nanos();
    Ok(ExporterSpec {
        field_mask: paths(&config.hubble_export_fieldmask),
        include: parse_filters(&config.hubble_export_allowlist).context("--hubble-export-allowlist")?,
        exclude: parse_filters(&config.hubble_export_denylist).context("--hubble-export-denylist")?,
        max_size_mb: config.hubble_export_file_max_size_mb,
        max_backups: config.hubble_export_file_max_backups,
        compress: config.hubble_export_file_compress,
        aggregate: paths(&config.hubble_export_fieldaggregate),
        aggregation_interval_ns: u64::try_from(interval).unwrap_or(u64::MAX),
        ..ExporterSpec::new("static", Output::parse(target))
    })
}

fn apply_exporters(exporters: &Exporters, text: &str) -> anyhow::Result<()> {
    let specs = ExporterSpec::parse_file(text)?;
    let count = specs.len();
    exporters.apply(specs)?;
    tracing::info!(exporters = count, "exporters' configuration is in force");
    Ok(())
}

/// What to say of a file that was refused; what was in force stays.
fn refusal(path: &Path, outcome: anyhow::Result<()>) -> Option<String> {
    let error = outcome.err()?;
    Some(format!("{}: {error:#}; the configuration before it stays in force", path.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use specola_directory::directory;
    use specola_flow::{InstanceId, NodeInfo};
    use specola_flow_server::{Config, MetricName, flow_server};

    use super::*;

    /// Names of all families that an agent can have.
    fn registered() -> BTreeSet<String> {
        let config = Config::new(InstanceId::new(1), "1");
        let (_pipeline, flows) = flow_server(config, directory(NodeInfo::default()).1).expect("a small ring");
        let all = super::super::build_metrics(&flows);
        let metrics = flows.flow_metrics(MetricsSettings::default());
        let names = MetricName::ALL.iter().map(|name| name.text()).filter(|name| *name != "http");
        let list = names.collect::<Vec<_>>().join(" ");
        metrics.apply(MetricSpec::parse_list(&list).expect("all names").0).expect("no conflict");
        let exporters = flows.exporters();
        all.registry.register_as("hubble", |registry| {
            metrics.register(registry);
            exporters.register(registry);
        });
        let text = all.registry.encode().expect("encodes");
        let name = |line: &str| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned());
        text.lines().filter_map(name).collect()
    }

    /// Words of a text that are names of metrics.
    fn named(text: &str) -> BTreeSet<&str> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
        words.filter(|word| word.starts_with("hubble_") || word.starts_with("specola_")).collect()
    }

    #[test]
    fn dashboards_and_rules_name_metrics_that_there_are() {
        let registered = registered();
        for (file, text) in [
            ("flows.json", include_str!("../../../dashboards/flows.json")),
            ("rules.yaml", include_str!("../../../dashboards/rules.yaml")),
        ] {
            let named = named(text);
            assert!(named.len() > 4, "{file}: {named:?}");
            for name in named {
                let family = ["_total", "_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .unwrap_or(name);
                assert!(registered.contains(family), "{file}: {name} is none of {registered:?}");
            }
        }
        let dashboard: serde_json::Value =
            serde_json::from_str(include_str!("../../../dashboards/flows.json")).expect("JSON");
        assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 5));
    }
}
