//! The format of the case file.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use specola_policy::request::{HttpRequest, KafkaRequest, Request};
use specola_policy::{AllowLocalhost, IpFamilies, Mode, Settings};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseFile {
    #[expect(dead_code, reason = "a field of the format")]
    pub(crate) version: u32,
    pub(crate) clusters: BTreeMap<String, Cluster>,
    pub(crate) cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    pub(crate) cluster_name: String,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) pods: BTreeMap<String, Pod>,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) fqdn: BTreeMap<String, Vec<std::net::IpAddr>>,
    pub(crate) cidr_groups: BTreeMap<String, CidrGroup>,
    #[serde(default)]
    pub(crate) external_apiservers: Vec<std::net::IpAddr>,
    pub(crate) aws_groups: BTreeMap<String, Vec<std::net::IpAddr>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CidrGroup {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) cidrs: Vec<ipnet::IpNet>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    pub(crate) ip: std::net::IpAddr,
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) apiserver: bool,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pod {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ip: std::net::IpAddr,
    pub(crate) node: String,
    #[serde(default)]
    pub(crate) serviceaccount: String,
    #[serde(default)]
    pub(crate) ports: BTreeMap<String, String>,
    #[serde(default, rename = "hostNetwork")]
    pub(crate) host_network: bool,
    pub(crate) cluster: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) selector: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) endpoints: Vec<std::net::IpAddr>,
    pub(crate) ports: Vec<ServicePort>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServicePort {
    pub(crate) port: u16,
    #[serde(rename = "targetPort")]
    pub(crate) target: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) feature: String,
    #[expect(dead_code, reason = "a field of the format")]
    #[serde(rename = "ref")]
    pub(crate) reference: String,
    #[expect(dead_code, reason = "a field of the format")]
    pub(crate) note: Option<String>,
    pub(crate) cluster: String,
    pub(crate) mode: Option<String>,
    #[serde(default)]
    pub(crate) options: Options,
    pub(crate) policies: Vec<Value>,
    #[serde(default)]
    pub(crate) rejected: Vec<Rejected>,
    #[serde(default)]
    pub(crate) probes: Vec<Probe>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Options {
    pub(crate) host_firewall: bool,
    pub(crate) node_selector_labels: bool,
    pub(crate) extended_protocols: bool,
    pub(crate) dual_stack: bool,
    pub(crate) allow_localhost: Option<String>,
    pub(crate) audit_mode: bool,
    pub(crate) default_local_cluster: bool,
    pub(crate) kcnp: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rejected {
    pub(crate) policy: String,
    pub(crate) error: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Probe {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) port: Option<u16>,
    pub(crate) proto: String,
    pub(crate) icmp_type: Option<u16>,
    pub(crate) ct: Option<String>,
    pub(crate) l7: Option<L7>,
    pub(crate) expect: Expect,
    pub(crate) at: Option<Side>,
    #[serde(default)]
    pub(crate) audited: bool,
    #[serde(default)]
    policy: Option<OneOrMany>,
}

/// One request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(crate) enum L7 {
    Http(Http),
    Dns(Dns),
    Kafka(Kafka),
    Sni(String),
    Kv(BTreeMap<String, String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    method: String,
    path: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dns {
    qname: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Kafka {
    api_key: String,
    #[serde(default)]
    topics: BTreeSet<String>,
    #[serde(default, rename = "clientID")]
    client_id: String,
    #[serde(default)]
    api_version: i16,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Expect {
    Allow,
    Deny,
    DenyL7,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Egress,
    Ingress,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Case {
    pub(crate) fn settings(&self, cluster_name: &str) -> Settings {
        Settings {
            cluster_name: cluster_name.to_owned(),
            mode: match self.mode.as_deref() {
                None | Some("default") => Mode::Default,
                Some("always") => Mode::Always,
                Some("never") => Mode::Never,
                Some(other) => panic!("mode {other}"),
            },
            allow_localhost: match self.options.allow_localhost.as_deref() {
                None | Some("auto") => AllowLocalhost::Auto,
                Some("always") => AllowLocalhost::Always,
                Some("policy") => AllowLocalhost::Policy,
                Some(other) => panic!("allow_localhost {other}"),
            },
            ip_families: if self.options.dual_stack { IpFamilies::Dual } else { IpFamilies::V4 },
            host_firewall: self.options.host_firewall,
            default_local_cluster: self.options.default_local_cluster,
            ..Settings::default()
        }
    }
}

impl Probe {
    pub(crate) fn policies(&self) -> Vec<&String> {
        match &self.policy {
            None => Vec::new(),
            Some(OneOrMany::One(policy)) => vec![policy],
            Some(OneOrMany::Many(policies)) => policies.iter().collect(),
        }
    }

    /// IANA protocol number and destination port as policy sees them.
    pub(crate) fn l4(&self) -> (u8, u16) {
        match (self.proto.as_str(), self.port, self.icmp_type) {
            ("TCP", Some(port), None) => (6, port),
            ("UDP", Some(port), None) => (17, port),
            ("SCTP", Some(port), None) => (132, port),
            ("ICMP", None, Some(kind)) => (1, kind),
            ("ICMPv6", None, Some(kind)) => (58, kind),
            ("VRRP", None, None) => (112, 0),
            ("IGMP", None, None) => (2, 0),
            other => panic!("{other:?}"),
        }
    }
}

impl L7 {
    /// The request as the engine takes it; none for what it does not judge.
    pub(crate) fn request(&self) -> Option<Request> {
        match self {
            Self::Http(http) => Some(Request::Http(HttpRequest {
                path: http.path.clone(),
                method: http.method.clone(),
                host: http.host.clone(),
                headers: http.headers.clone().into_iter().collect(),
            })),
            Self::Dns(dns) => Some(Request::Dns(dns.qname.clone())),
            Self::Kafka(kafka) => Some(Request::Kafka(KafkaRequest {
                api_key: match kafka.api_key.as_str() {
                    "produce" => 0,
                    "fetch" => 1,
                    "metadata" => 3,
                    "apiversions" => 18,
                    other => panic!("{other}"),
                },
                api_version: kafka.api_version,
                client_id: kafka.client_id.clone(),
                topics: kafka.topics.clone(),
            })),
            Self::Sni(name) => Some(Request::Sni(name.clone())),
            Self::Kv(pairs) => Some(Request::Pairs(pairs.clone())),
        }
    }
}
