//! Settings of the readers of flows inside the agent.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction::Set;
use specola_flow_server::{Redaction, RedactionConflict};

use super::seconds;

/// Metrics made of flows.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Flow metrics")]
pub struct FlowMetricsConfig {
    /// Metrics to make of flows, such as `dns drop tcp flow:sourceContext=pod`; see docs/metrics.md.
    #[arg(
        long,
        value_name = "LIST",
        env = "SPECOLA_HUBBLE_METRICS",
        conflicts_with = "hubble_dynamic_metrics_config_path"
    )]
    pub hubble_metrics: Option<String>,
    /// YAML file that says which metrics to make of flows; it is read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub hubble_dynamic_metrics_config_path: Option<PathBuf>,
    /// Series that a family of such metrics may have; the rest is counted with the label value `other`.
    #[arg(long, value_name = "SERIES", default_value_t = 10_000)]
    pub metrics_budget: usize,
    /// How long series of a pod stay after the pod has gone, seconds.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub metrics_pod_ttl: Duration,
}

/// What of requests and responses is left out of flows; see docs/api.md.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Redaction")]
pub struct RedactionConfig {
    /// Leave secrets out of requests and responses: in the flow API, metrics and exported flows alike. Without lists of
    /// headers the values of all headers are left out.
    #[arg(long, env = "SPECOLA_HUBBLE_REDACT_ENABLED", value_name = "BOOL", default_value_t = false, action = Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub hubble_redact_enabled: bool,
    /// Query and fragment of URLs; needs --hubble-redact-enabled, as all that follows.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub hubble_redact_http_urlquery: bool,
    /// Passwords in URLs.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub hubble_redact_http_userinfo: bool,
    /// API keys of Kafka.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub hubble_redact_kafka_apikey: bool,
    /// HTTP headers whose values stay; those of others are left out. Several with commas.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        conflicts_with = "hubble_redact_http_headers_deny"
    )]
    pub hubble_redact_http_headers_allow: Vec<String>,
    /// HTTP headers whose values are left out; those of others stay. Several with commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub hubble_redact_http_headers_deny: Vec<String>,
}

impl RedactionConfig {
    /// What to leave out; `None` = nothing.
    ///
    /// # Errors
    /// Both lists of headers have entries.
    pub(crate) fn redaction(&self) -> Result<Option<Redaction>, RedactionConflict> {
        if !self.hubble_redact_enabled {
            return Ok(None);
        }
        let redaction =
            Redaction::new(&self.hubble_redact_http_headers_allow, &self.hubble_redact_http_headers_deny)?
                .with_url_query(self.hubble_redact_http_urlquery)
                .with_user_info(self.hubble_redact_http_userinfo)
                .with_kafka_api_key(self.hubble_redact_kafka_apikey);
        Ok(Some(redaction))
    }
}

/// Flows written to files; see docs/export.md.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Flow export")]
pub struct FlowExportConfig {
    /// File that flows are written to as lines of JSON, or `stdout`.
    #[arg(long, value_name = "FILE", env = "SPECOLA_HUBBLE_EXPORT_FILE_PATH")]
    pub hubble_export_file_path: Option<String>,
    /// Size from which the file is put aside, MB.
    #[arg(long, value_name = "MB", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub hubble_export_file_max_size_mb: u64,
    /// Files put aside that are kept.
    #[arg(long, value_name = "FILES", default_value_t = 5)]
    pub hubble_export_file_max_backups: usize,
    /// Compress files that are put aside (gzip).
    #[arg(long)]
    pub hubble_export_file_compress: bool,
    /// Flows to write: JSON flow filters with spaces or commas between them.
    #[arg(long, value_name = "FILTERS", default_value = "", hide_default_value = true)]
    pub hubble_export_allowlist: String,
    /// Flows to leave out, in the same form.
    #[arg(long, value_name = "FILTERS", default_value = "", hide_default_value = true)]
    pub hubble_export_denylist: String,
    /// Fields to write, such as `time source.pod_name verdict`.
    #[arg(long, value_name = "PATHS", default_value = "", hide_default_value = true)]
    pub hubble_export_fieldmask: String,
    /// Fields in which flows must be equal to be written as one; needs the interval.
    #[arg(long, value_name = "PATHS", default_value = "", hide_default_value = true)]
    pub hubble_export_fieldaggregate: String,
    /// How often such flows are written, seconds; 0 writes each flow.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub hubble_export_aggregation_interval: Duration,
    /// YAML file with further exporters; it is read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub hubble_flowlogs_config_path: Option<PathBuf>,
}
