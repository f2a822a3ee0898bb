//! Settings of the agent, as command line flags.

mod flows;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use specola_datapath::AttachMode;
use specola_flow_server::TlsFiles;
use specola_policy::{Mode, ParseOptions};
use specola_telemetry::LogFormat;

pub use self::flows::{FlowExportConfig, FlowMetricsConfig};

/// Settings of one agent. The defaults suit a plain host.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentConfig {
    /// Name of this node; its Node object in the desired state has the same name.
    #[arg(long, env = "SPECOLA_NODE_NAME")]
    pub node_name: String,
    /// Name of the cluster.
    #[arg(long, default_value = "default")]
    pub cluster_name: String,
    /// What must survive a restart of the agent: endpoints, addresses, local identities, cookies.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/specola/state")]
    pub state_dir: PathBuf,
    /// Directory of Kubernetes YAML files that is watched.
    #[arg(long, value_name = "DIR", default_value = "/etc/specola/desired")]
    pub desired_dir: PathBuf,
    /// Directory that all agents of the cluster share: identities, endpoints, nodes.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/specola/store")]
    pub store_dir: PathBuf,
    /// Unix socket of the admin API; only root may talk to it.
    #[arg(long, value_name = "PATH", default_value = "/run/specola/admin.sock")]
    pub admin_socket: PathBuf,
    /// Unix socket of the flow API.
    #[arg(long, value_name = "PATH", default_value = "/run/specola/observer.sock")]
    pub observer_socket: PathBuf,
    /// TCP address of the flow API.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:4244")]
    pub observer_listen: SocketAddr,
    #[command(flatten)]
    pub tls: ObserverTls,
    /// TCP address of /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9965")]
    pub metrics_listen: SocketAddr,
    /// Directory in a bpffs for pinned maps and links.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/specola/default/local")]
    pub pin_dir: PathBuf,
    /// Network device of the node that pod traffic to other nodes uses; may be given several times.
    #[arg(long = "device", value_name = "NAME")]
    pub devices: Vec<String>,
    /// How programs are attached.
    #[arg(long, value_enum, default_value_t = Attach::Auto)]
    pub attach: Attach,
    /// When policies are enforced.
    #[arg(long, value_enum, default_value_t = PolicyMode::Default)]
    pub policy_mode: PolicyMode,
    /// Only report what policies would drop, on every endpoint. One namespace, pod or policy: the annotation
    /// specola.io/policy-audit-mode=enabled.
    #[arg(long)]
    pub policy_audit_mode: bool,
    /// Accept ClusterNetworkPolicy of Kubernetes (policy.networking.k8s.io/v1alpha2).
    #[arg(long)]
    pub enable_k8s_cluster_network_policy: bool,
    /// What an endpoint enforces while its policies need more map entries than fit (16384).
    #[arg(long, value_enum, default_value_t = PolicyOverflow::Keep)]
    pub policy_overflow: PolicyOverflow,
    /// Form of the log lines.
    #[arg(long, value_enum, default_value_t = LogForm::Text)]
    pub log_format: LogForm,
    /// Which log lines to write: a level, or target=level pairs.
    #[arg(long, default_value = "info", env = "SPECOLA_LOG")]
    pub log_filter: String,
    /// MTU of pod interfaces.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub mtu: u32,
    /// Flows kept in memory, 64 to 16777216, rounded up to a power of two; each takes about 250 bytes.
    #[arg(long, value_name = "FLOWS", alias = "flow-capacity", default_value = "4096", value_parser = ring_size)]
    pub ring_size: usize,
    /// Room for drops and errors that newer flows of other kinds do not overwrite, % of the ring's size, rounded up to a
    /// power of two; 0 = none.
    #[arg(long, value_name = "PERCENT", default_value_t = 25, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub ring_protected_percent: u8,
    #[command(flatten)]
    pub flow_metrics: FlowMetricsConfig,
    #[command(flatten)]
    pub flow_export: FlowExportConfig,
    /// Connection of a pod: how often its counters are reported while it lives, milliseconds.
    #[arg(long, default_value_t = 5000)]
    pub trace_interval_ms: u32,
    /// Records per second of denied packets that have the same endpoint, identities, destination port, reason and
    /// policy; further ones are counted, and one record a second stands for them. 0 = a record for each packet.
    #[arg(long, value_name = "RECORDS", default_value_t = 100)]
    pub fold_per_second: u32,
    /// TCP connections that the node remembers, per address family; the least recently used one makes room.
    #[arg(long, value_name = "ENTRIES", default_value_t = 65_536, value_parser = conntrack_entries())]
    pub conntrack_tcp_entries: u32,
    /// Connections of other protocols that the node remembers, per address family.
    #[arg(long, value_name = "ENTRIES", default_value_t = 65_536, value_parser = conntrack_entries())]
    pub conntrack_other_entries: u32,
    /// Serve made-up events, so many a second, instead of those of the kernel: for trying clients and for load tests.
    /// Needs no root. Only the flow API and the metrics are served.
    #[arg(long, value_name = "RATE")]
    pub synthetic: Option<u32>,
    /// How long a shutdown may take before tasks are aborted, seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub drain_timeout: Duration,
}

/// TLS of the flow API's TCP address. The files are read again when they change.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ObserverTls {
    /// Certificate (PEM) of the flow API's TCP address; without it the port is plaintext.
    #[arg(long, value_name = "FILE", requires = "observer_tls_key_file")]
    pub observer_tls_cert_file: Option<PathBuf>,
    /// Key (PEM) of the certificate.
    #[arg(long, value_name = "FILE", requires = "observer_tls_cert_file")]
    pub observer_tls_key_file: Option<PathBuf>,
    /// Authorities (PEM) of client certificates: clients of the TCP address must have one. Several with commas.
    #[arg(long, value_name = "FILE", value_delimiter = ',', requires = "observer_tls_cert_file")]
    pub observer_tls_client_ca_files: Vec<PathBuf>,
    /// Lowest version of TLS that is accepted.
    #[arg(long, value_enum, default_value_t = TlsVersion::V1_3, requires = "observer_tls_cert_file")]
    pub observer_tls_min_version: TlsVersion,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[value(name = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[default]
    #[value(name = "1.3")]
    V1_3,
}

impl ObserverTls {
    /// The files; `None` without a certificate.
    pub(crate) fn files(&self) -> Option<TlsFiles> {
        let (certificate, key) =
            self.observer_tls_cert_file.clone().zip(self.observer_tls_key_file.clone())?;
        Some(TlsFiles {
            certificate,
            key,
            client_authorities: self.observer_tls_client_ca_files.clone(),
            allow_tls12: self.observer_tls_min_version == TlsVersion::V1_2,
        })
    }
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Attach {
    /// tcx where the kernel has it, else clsact.
    Auto,
    /// tcx links (Linux 6.6 and later).
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// When policies are enforced.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum PolicyMode {
    /// On endpoints that a policy selects.
    Default,
    /// On every endpoint.
    Always,
    /// On none.
    Never,
}

/// What an endpoint enforces while its policies do not fit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum PolicyOverflow {
    /// The last policy that fitted.
    #[default]
    Keep,
    /// Nothing passes.
    Deny,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum LogForm {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl From<Attach> for AttachMode {
    fn from(attach: Attach) -> Self {
        match attach {
            Attach::Auto => Self::Auto,
            Attach::Tcx => Self::Tcx,
            Attach::Clsact => Self::Clsact,
        }
    }
}

impl From<PolicyMode> for Mode {
    fn from(mode: PolicyMode) -> Self {
        match mode {
            PolicyMode::Default => Self::Default,
            PolicyMode::Always => Self::Always,
            PolicyMode::Never => Self::Never,
        }
    }
}

impl From<LogForm> for LogFormat {
    fn from(form: LogForm) -> Self {
        match form {
            LogForm::Text => Self::Text,
            LogForm::Json => Self::Json,
        }
    }
}

/// The parts of the policy language that an agent enforces.
pub(crate) const fn policy_language(cluster_network_policy: bool) -> ParseOptions {
    ParseOptions { node_selector_labels: false, extended_protocols: false, cluster_network_policy }
}

fn conntrack_entries() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1024..=16_777_216)
}

fn ring_size(text: &str) -> Result<usize, String> {
    let value: usize = text.parse().map_err(|error| format!("{error}"))?;
    if !(64..=1 << 24).contains(&value) {
        return Err(format!("{value} is not in 64..=16777216"));
    }
    Ok(value.next_power_of_two())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: u64 = text.parse().map_err(|error| format!("{error}"))?;
    Ok(Duration::from_secs(value))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        agent: AgentConfig,
    }

    #[test]
    fn the_node_name_is_enough() {
        let agent = Program::try_parse_from(["agent", "--node-name", "n1"]).expect("defaults parse").agent;
        assert_eq!((agent.node_name.as_str(), agent.cluster_name.as_str()), ("n1", "default"));
        assert_eq!(agent.observer_listen.port(), 4244);
        assert!(agent.devices.is_empty());
    }

    #[test]
    fn ring_sizes_are_rounded_up() {
        for (size, rounded) in [("64", 64), ("65", 128), ("4095", 4096), ("1000000", 1 << 20)] {
            let args = ["agent", "--node-name", "n1", "--ring-size", size];
            assert_eq!(Program::try_parse_from(args).expect("parses").agent.ring_size, rounded);
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for flags in [
            ["--ring-size", "63"],
            ["--ring-size", "16777217"],
            ["--ring-protected-percent", "101"],
            ["--mtu", "100"],
            ["--policy-mode", "sometimes"],
            ["--observer-tls-cert-file", "x"],
            ["--observer-tls-min-version", "1.1"],
            ["--conntrack-tcp-entries", "1000"],
        ] {
            let args = ["agent", "--node-name", "n1"].into_iter().chain(flags);
            assert!(Program::try_parse_from(args).is_err(), "{flags:?}");
        }
    }
}
