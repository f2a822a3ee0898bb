//! The format of case files. Users know it from docs/policy-test.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ParseOptions;
use crate::request::{HttpRequest, KafkaRequest, Request};
use crate::settings::{AllowLocalhost, IpFamilies, Mode, Settings};
use crate::yaml::Node as YamlNode;

/// Clusters, and cases that are played in them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    pub(super) version: u32,
    pub(super) clusters: BTreeMap<String, Cluster>,
    pub(super) cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    #[serde(default = "default_name")]
    pub(super) cluster_name: String,
    #[serde(default)]
    pub(super) nodes: BTreeMap<String, Node>,
    #[serde(default)]
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) pods: BTreeMap<String, Pod>,
    #[serde(default)]
    pub(super) services: BTreeMap<String, Service>,
    #[serde(default)]
    pub(super) fqdn: BTreeMap<String, Vec<std::net::IpAddr>>,
    #[serde(default)]
    pub(super) cidr_groups: BTreeMap<String, CidrGroup>,
    #[serde(default)]
    pub(super) external_apiservers: Vec<std::net::IpAddr>,
    #[serde(default)]
    pub(super) aws_groups: BTreeMap<String, Vec<std::net::IpAddr>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CidrGroup {
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) cidrs: Vec<ipnet::IpNet>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) ip: std::net::IpAddr,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) apiserver: bool,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Pod {
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ip: std::net::IpAddr,
    pub(super) node: String,
    #[serde(default = "default_name")]
    pub(super) serviceaccount: String,
    /// Name to "number/PROTOCOL".
    #[serde(default)]
    pub(super) ports: BTreeMap<String, PortText>,
    #[serde(default, rename = "hostNetwork")]
    pub(super) host_network: bool,
    pub(super) cluster: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) selector: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) endpoints: Vec<std::net::IpAddr>,
    #[serde(default)]
    pub(super) ports: Vec<ServicePort>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServicePort {
    pub(super) port: u16,
    #[serde(rename = "targetPort")]
    pub(super) target: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) id: String,
    #[serde(default)]
    pub(super) feature: String,
    #[expect(dead_code, reason = "a field of the format, for people")]
    #[serde(rename = "ref")]
    reference: Option<String>,
    #[expect(dead_code, reason = "a field of the format, for people")]
    note: Option<String>,
    /// Why the case is not to be run.
    pub(super) skip: Option<String>,
    pub(super) cluster: String,
    #[serde(default)]
    pub(super) mode: CaseMode,
    #[serde(default)]
    pub(super) options: Options,
    #[serde(default)]
    pub(super) policies: Vec<YamlNode>,
    /// Files of policies, relative to the case file.
    #[serde(default)]
    pub(super) policy_files: Vec<String>,
    #[serde(default)]
    pub(super) rejected: Vec<Rejected>,
    #[serde(default)]
    pub(super) probes: Vec<Probe>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum CaseMode {
    #[default]
    Default,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Localhost {
    #[default]
    Auto,
    Always,
    Policy,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum MatchMode {
    Nodes,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Options {
    pub(super) host_firewall: bool,
    pub(super) node_selector_labels: bool,
    pub(super) extended_protocols: bool,
    pub(super) dual_stack: bool,
    pub(super) allow_localhost: Localhost,
    pub(super) cidr_match_mode: Vec<MatchMode>,
    pub(super) audit_mode: bool,
    pub(super) default_local_cluster: bool,
    pub(super) kcnp: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rejected {
    pub(super) policy: String,
    pub(super) error: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) port: Option<u16>,
    pub(super) proto: Proto,
    pub(super) icmp_type: Option<u8>,
    #[serde(default)]
    pub(super) ct: Ct,
    pub(super) l7: Option<L7>,
    pub(super) expect: Expect,
    pub(super) at: Option<Side>,
    #[serde(default)]
    pub(super) audited: bool,
    #[serde(default)]
    policy: Option<OneOrMany>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub(super) enum Proto {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
    #[serde(rename = "ICMP")]
    Icmp,
    #[serde(rename = "ICMPv6")]
    IcmpV6,
    #[serde(rename = "VRRP")]
    Vrrp,
    #[serde(rename = "IGMP")]
    Igmp,
}

/// Conntrack state of the packet.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ct {
    #[default]
    New,
    Reply,
    Related,
}

/// One request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(super) enum L7 {
    Http(Http),
    Dns(Dns),
    Kafka(Kafka),
    Sni(String),
    Kv(BTreeMap<String, String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    method: String,
    path: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dns {
    qname: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Kafka {
    api_key: KafkaKey,
    #[serde(default)]
    topics: BTreeSet<String>,
    #[serde(default, rename = "clientID")]
    client_id: String,
    #[serde(default)]
    api_version: i16,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KafkaKey {
    Produce = 0,
    Fetch = 1,
    Metadata = 3,
    ApiVersions = 18,
}

/// What becomes of a probe.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// Passes.
    Allow,
    /// The connection is refused.
    Deny,
    /// The connection is accepted, the request is refused.
    DenyL7,
}

/// Where it happens.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// At the sender.
    Egress,
    /// At the receiver.
    Ingress,
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::DenyL7 => "deny-l7",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

/// `number/PROTOCOL`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub(super) struct PortText {
    pub(super) number: u16,
    pub(super) proto: u8,
}

impl TryFrom<String> for PortText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no port; write number/PROTOCOL, such as 80/TCP");
        let (number, proto) = text.split_once('/').ok_or_else(wrong)?;
        let proto = match proto {
            "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            _ => return Err(wrong()),
        };
        Ok(Self { number: number.parse().map_err(|_invalid| wrong())?, proto })
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Case {
    pub(super) fn settings(&self, cluster_name: &str) -> Settings {
        Settings {
            cluster_name: cluster_name.to_owned(),
            mode: match self.mode {
                CaseMode::Default => Mode::Default,
                CaseMode::Always => Mode::Always,
                CaseMode::Never => Mode::Never,
            },
            allow_localhost: match self.options.allow_localhost {
                Localhost::Auto => AllowLocalhost::Auto,
                Localhost::Always => AllowLocalhost::Always,
                Localhost::Policy => AllowLocalhost::Policy,
            },
            ip_families: if self.options.dual_stack { IpFamilies::Dual } else { IpFamilies::V4 },
            host_firewall: self.options.host_firewall,
            default_local_cluster: self.options.default_local_cluster,
            ..Settings::default()
        }
    }

    pub(super) fn parse_options(&self) -> ParseOptions {
        ParseOptions {
            node_selector_labels: self.options.node_selector_labels,
            extended_protocols: self.options.extended_protocols,
            cluster_network_policy: self.options.kcnp,
        }
    }
}

impl Probe {
    pub(super) fn policies(&self) -> Vec<&String> {
        match &self.policy {
            None => Vec::new(),
            Some(OneOrMany::One(policy)) => vec![policy],
            Some(OneOrMany::Many(policies)) => policies.iter().collect(),
        }
    }

    /// IANA protocol number and destination port as policy sees them.
    pub(super) fn l4(&self) -> Result<(u8, u16), String> {
        let icmp = |kind: Option<u8>| kind.map(u16::from).ok_or("ICMP needs icmp_type and no port");
        let with_port = |port: Option<u16>| port.ok_or("the protocol needs port");
        let has_port = self.port.is_some();
        Ok(match self.proto {
            Proto::Tcp => (6, with_port(self.port)?),
            Proto::Udp => (17, with_port(self.port)?),
            Proto::Sctp => (132, with_port(self.port)?),
            Proto::Vrrp | Proto::Igmp | Proto::Icmp | Proto::IcmpV6 if has_port => {
                return Err("the protocol has no port".to_owned());
            }
            Proto::Icmp => (1, icmp(self.icmp_type)?),
            Proto::IcmpV6 => (58, icmp(self.icmp_type)?),
            Proto::Vrrp => (112, 0),
            Proto::Igmp => (2, 0),
        })
    }

    /// `80/TCP`, `ICMP type 8` or `VRRP`.
    pub(super) fn shown_l4(&self) -> String {
        let name = match self.proto {
            Proto::Tcp => "TCP",
            Proto::Udp => "UDP",
            Proto::Sctp => "SCTP",
            Proto::Icmp => "ICMP",
            Proto::IcmpV6 => "ICMPv6",
            Proto::Vrrp => "VRRP",
            Proto::Igmp => "IGMP",
        };
        match (self.port, self.icmp_type) {
            (Some(port), _) => format!("{port}/{name}"),
            (None, Some(kind)) => format!("{name} type {kind}"),
            (None, None) => name.to_owned(),
        }
    }
}

impl L7 {
    /// The request as the engine takes it.
    pub(super) fn request(&self) -> Request {
        match self {
            Self::Http(http) => Request::Http(HttpRequest {
                path: http.path.clone(),
                method: http.method.clone(),
                host: http.host.clone(),
                headers: http.headers.clone().into_iter().collect(),
            }),
            Self::Dns(dns) => Request::Dns(dns.qname.clone()),
            Self::Kafka(kafka) => Request::Kafka(KafkaRequest {
                api_key: kafka.api_key as i16,
                api_version: kafka.api_version,
                client_id: kafka.client_id.clone(),
                topics: kafka.topics.clone(),
            }),
            Self::Sni(name) => Request::Sni(name.clone()),
            Self::Kv(pairs) => Request::Pairs(pairs.clone()),
        }
    }
}

fn default_name() -> String {
    "default".to_owned()
}
