//! Settings of the agent, as command line flags.

mod flows;
mod language;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use specola_datapath::AttachMode;
use specola_policy::Mode;
use specola_telemetry::LogFormat;

pub use self::flows::{FlowExportConfig, FlowMetricsConfig, RedactionConfig};
pub use self::language::{LocalhostRule, PolicyLanguage};
pub use self::tls::{MetricsTls, ObserverTls, TlsVersion};
use crate::host::Devices;

/// Settings of one agent. The defaults suit a plain host.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentConfig {
    /// Name of this node; its Node object in the desired state has the same name [default: the host's name].
    #[arg(long, env = "SPECOLA_NODE_NAME", default_value_t = host_name(), hide_default_value = true)]
    pub node_name: String,
    /// Name of the cluster.
    #[arg(long, default_value = "default")]
    pub cluster_name: String,
    /// What must survive a restart of the agent: endpoints, addresses, local identities, cookies.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/specola/state")]
    pub state_dir: PathBuf,
    /// Directory of Kubernetes YAML files that is watched: policies, nodes, pods.
    #[arg(long, visible_alias = "policy-dir", value_name = "DIR", default_value = "/etc/specola/desired")]
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
    /// TCP address of the flow API, or none [default: 0.0.0.0:4244, with --devices 127.0.0.1:4244].
    #[arg(long, value_name = "ADDR")]
    pub observer_listen: Option<Listen>,
    #[command(flatten)]
    pub tls: ObserverTls,
    /// TCP address of /metrics, /healthz and /readyz, or none [default: 0.0.0.0:9965, with --devices 127.0.0.1:9965].
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<Listen>,
    #[command(flatten)]
    pub metrics_tls: MetricsTls,
    /// Directory in a bpffs for pinned maps and links.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/specola/default/local")]
    pub pin_dir: PathBuf,
    /// Network device of the node that pod traffic to other nodes uses; may be given several times.
    #[arg(long = "device", value_name = "NAME")]
    pub devices: Vec<String>,
    /// Host mode: look at the traffic of this machine, which has no pods, on these devices. A list such as eth0,eth1,
    /// or auto: Ethernet devices that are up and have an address others can use.
    #[arg(long = "devices", value_name = "LIST", conflicts_with = "devices", help_heading = "Host")]
    pub host_devices: Option<Devices>,
    /// Enforce policies that select this node by a nodeSelector; without this flag they only name it.
    #[arg(long, help_heading = "Host")]
    pub host_firewall: bool,
    /// Let pass what those policies deny, and mark it with the verdict AUDIT.
    #[arg(long, requires = "host_firewall", help_heading = "Host")]
    pub host_audit: bool,
    /// Label of this node, besides those of its Node object; may be given several times.
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = label, help_heading = "Host")]
    pub node_labels: Vec<(String, String)>,
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
    #[command(flatten)]
    pub language: PolicyLanguage,
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
    #[arg(long, value_name = "FLOWS", alias = "flow-capacity", env = "SPECOLA_RING_SIZE", default_value = "4096",
        value_parser = ring_size)]
    pub ring_size: usize,
    /// Room for drops and errors that newer flows of other kinds do not overwrite, % of the ring's size, rounded up to a
    /// power of two; 0 = none.
    #[arg(long, value_name = "PERCENT", env = "SPECOLA_RING_PROTECTED_PERCENT", default_value_t = 25,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    pub ring_protected_percent: u8,
    /// Memory for requests, responses and names of flows, MiB; the oldest ones make room.
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub flow_details_mib: u32,
    #[command(flatten)]
    pub redaction: RedactionConfig,
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
    /// How many of a hundred made-up events are requests and responses of applications: HTTP, DNS, Kafka.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub synthetic_l7_percent: u8,
    /// Shift the time of flows by so many milliseconds: a node whose clock is off, for tests.
    #[arg(long, value_name = "MS", default_value_t = 0, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-MAX_CLOCK_OFFSET_MS..=MAX_CLOCK_OFFSET_MS))]
    pub clock_offset: i64,
    /// How long a shutdown may take before tasks are aborted, seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub drain_timeout: Duration,
}

/// A day, ms.
const MAX_CLOCK_OFFSET_MS: i64 = 86_400_000;

impl AgentConfig {
    /// Whether the agent looks at a machine without pods.
    pub const fn is_host_only(&self) -> bool {
        self.host_devices.is_some()
    }

    /// Whether the node itself is an endpoint.
    pub const fn has_host_endpoint(&self) -> bool {
        self.is_host_only() || self.host_firewall
    }

    /// The TCP address of the flow API.
    pub fn observer_address(&self) -> Option<SocketAddr> {
        self.address(self.observer_listen, 4244)
    }

    /// The TCP address of metrics and probes.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.address(self.metrics_listen, 9965)
    }

    /// The labels of the flags.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.node_labels.iter().cloned().collect()
    }

    /// What is added to the time of flows, ns.
    pub(crate) const fn clock_offset_ns(&self) -> i64 {
        self.clock_offset * 1_000_000
    }

    fn address(&self, listen: Option<Listen>, port: u16) -> Option<SocketAddr> {
        match listen {
            Some(Listen::At(address)) => Some(address),
            Some(Listen::Nowhere) => None,
            None if self.is_host_only() => Some((Ipv4Addr::LOCALHOST, port).into()),
            None => Some((Ipv4Addr::UNSPECIFIED, port).into()),
        }
    }
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listen {
    /// At an address.
    At(SocketAddr),
    /// Nowhere.
    Nowhere,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::Nowhere);
        }
        text.parse().map(Self::At).map_err(|_invalid| "use address:port, [v6]:port or none".to_owned())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Nowhere => f.write_str("none"),
        }
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

/// The name of the machine, as an object may be called.
fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.map(|name| name.to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "host".to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("use KEY=VALUE".to_owned()),
    }
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
    use specola_flow_server::Redaction;

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
        assert_eq!(agent.observer_address(), Some(([0, 0, 0, 0], 4244).into()));
        assert!(agent.devices.is_empty() && !agent.has_host_endpoint());
    }

    #[test]
    fn host_mode_listens_to_the_machine_only() {
        let flags =
            ["agent", "--devices", "eth0,eth1", "--metrics-listen", "none", "--node-label", "role=web"];
        let agent = Program::try_parse_from(flags).expect("parses").agent;
        assert!(agent.is_host_only() && agent.has_host_endpoint());
        assert!(!agent.node_name.is_empty());
        assert_eq!(agent.observer_address(), Some(([127, 0, 0, 1], 4244).into()));
        assert_eq!(agent.metrics_address(), None);
        assert_eq!(agent.labels()["role"], "web");
    }

    #[test]
    fn ring_sizes_are_rounded_up() {
        for (size, rounded) in [("64", 64), ("65", 128), ("4095", 4096), ("1000000", 1 << 20)] {
            let args = ["agent", "--node-name", "n1", "--ring-size", size];
            assert_eq!(Program::try_parse_from(args).expect("parses").agent.ring_size, rounded);
        }
    }

    #[test]
    fn redaction_follows_its_switch() {
        let parse = |flags: &[&str]| {
            let args = ["agent", "--node-name", "n1"].iter().chain(flags);
            Program::try_parse_from(args).map(|program| program.agent.redaction.redaction())
        };
        let names = ["a".to_owned(), "b".to_owned()];
        for (flags, expected) in [
            (&[][..], None),
            (&["--hubble-redact-http-urlquery"], None),
            (&["--hubble-redact-enabled"], Some(Redaction::new(&[], &[]))),
            (&["--hubble-redact-enabled=false"], None),
            (
                &[
                    "--hubble-redact-enabled=true",
                    "--hubble-redact-http-urlquery",
                    "--hubble-redact-http-userinfo=false",
                    "--hubble-redact-kafka-apikey",
                    "--hubble-redact-http-headers-allow=a,b",
                ],
                Some(
                    Redaction::new(&names, &[])
                        .map(|all| all.with_url_query(true).with_user_info(false).with_kafka_api_key(true)),
                ),
            ),
            (
                &[
                    "--hubble-redact-enabled",
                    "--hubble-redact-http-headers-deny=a",
                    "--hubble-redact-http-headers-deny=b",
                ],
                Some(Redaction::new(&[], &names)),
            ),
        ] {
            let found = parse(flags).expect("parses").expect("no conflict");
            assert_eq!(found, expected.map(|redaction| redaction.expect("no conflict")), "{flags:?}");
        }
        assert!(
            parse(&["--hubble-redact-http-headers-allow=a", "--hubble-redact-http-headers-deny=b"]).is_err()
        );
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
            ["--metrics-tls-key-file", "x"],
            ["--metrics-tls-client-ca-files", "x"],
            ["--observer-tls-min-version", "1.1"],
            ["--conntrack-tcp-entries", "1000"],
            ["--devices", "auto,eth0"],
            ["--node-label", "x"],
        ] {
            let args = ["agent", "--node-name", "n1"].into_iter().chain(flags);
            assert!(Program::try_parse_from(args).is_err(), "{flags:?}");
        }
    }
}
