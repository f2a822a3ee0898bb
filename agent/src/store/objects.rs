//! CiliumIdentity, CiliumEndpoint and CiliumNode, the fields that are used here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Object metadata.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectMeta {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
}

/// `CiliumIdentity`: the name is the number, `security-labels` the truth.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CiliumIdentity {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) metadata: ObjectMeta,
    #[serde(rename = "security-labels")]
    pub(crate) security_labels: BTreeMap<String, String>,
}

impl CiliumIdentity {
    /// An identity object of labels in the form `source:key=value`.
    pub(crate) fn new(number: u32, labels: &[String]) -> Self {
        let security_labels: BTreeMap<String, String> =
            labels.iter().map(|label| split_label(label)).collect();
        let own = |key: &&String| !key.starts_with("io.cilium.k8s.namespace.labels.");
        let metadata_labels = security_labels
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("k8s:")?.to_owned(), value.clone())))
            .filter(|(key, _)| own(&key))
            .collect();
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "CiliumIdentity".to_owned(),
            metadata: ObjectMeta {
                name: number.to_string(),
                labels: metadata_labels,
                ..ObjectMeta::default()
            },
            security_labels,
        }
    }

    /// The number, if the name is one.
    pub(crate) fn number(&self) -> Option<u32> {
        self.metadata.name.parse().ok()
    }

    /// The labels as `source:key=value`, sorted; a label without a value has no `=`.
    pub(crate) fn labels(&self) -> Vec<String> {
        self.security_labels.iter().map(|(key, value)| join_label(key, value)).collect()
    }
}

/// `CiliumEndpoint`: a pod's addresses and identity.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CiliumEndpoint {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) metadata: ObjectMeta,
    pub(crate) status: EndpointStatus,
}

impl CiliumEndpoint {
    pub(crate) fn new(metadata: ObjectMeta, status: EndpointStatus) -> Self {
        Self { api_version: API_VERSION.to_owned(), kind: "CiliumEndpoint".to_owned(), metadata, status }
    }

    /// The pod's addresses.
    pub(crate) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        let addressing = &self.status.networking.addressing;
        addressing
            .iter()
            .flat_map(|pair| [pair.ipv4.map(IpAddr::from), pair.ipv6.map(IpAddr::from)])
            .flatten()
    }
}

/// `status` of a [`CiliumEndpoint`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct EndpointStatus {
    pub(crate) id: u16,
    pub(crate) identity: EndpointIdentity,
    pub(crate) networking: Networking,
    #[serde(default)]
    pub(crate) external_identifiers: ExternalIdentifiers,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) named_ports: Vec<NamedPort>,
    #[serde(default)]
    pub(crate) policy: EndpointPolicyStatus,
    #[serde(default)]
    pub(crate) state: String,
}

/// Identity part of a [`CiliumEndpoint`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct EndpointIdentity {
    pub(crate) id: u32,
    #[serde(default)]
    pub(crate) labels: Vec<String>,
}

/// Addresses of a [`CiliumEndpoint`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Networking {
    pub(crate) addressing: Vec<Addressing>,
    /// Address of the node that hosts the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<IpAddr>,
}

/// One address per family.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Addressing {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ipv4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ipv6: Option<Ipv6Addr>,
}

/// Names that other systems have for the endpoint.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ExternalIdentifiers {
    #[serde(default)]
    pub(crate) container_id: String,
    #[serde(default)]
    pub(crate) k8s_namespace: String,
    #[serde(default)]
    pub(crate) k8s_pod_name: String,
}

/// A named port of the pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct NamedPort {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) protocol: String,
}

/// Enforcement per direction.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct EndpointPolicyStatus {
    #[serde(default)]
    pub(crate) ingress: Direction,
    #[serde(default)]
    pub(crate) egress: Direction,
}

/// Enforcement of one direction.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Direction {
    pub(crate) enforcing: bool,
}

/// `CiliumNode`: a node's labels, addresses and pod CIDRs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CiliumNode {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: NodeSpec,
}

impl CiliumNode {
    pub(crate) fn new(name: &str, spec: NodeSpec) -> Self {
        let metadata = ObjectMeta { name: name.to_owned(), ..ObjectMeta::default() };
        Self { api_version: API_VERSION.to_owned(), kind: "CiliumNode".to_owned(), metadata, spec }
    }

    /// The same node with these labels.
    pub(crate) fn with_labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.metadata.labels = labels;
        self
    }

    /// Addresses of a type, such as `InternalIP`.
    pub(crate) fn addresses(&self, kind: &str) -> impl Iterator<Item = IpAddr> {
        self.spec.addresses.iter().filter(move |address| address.kind == kind).map(|address| address.ip)
    }
}

/// `spec` of a [`CiliumNode`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct NodeSpec {
    #[serde(default)]
    pub(crate) addresses: Vec<NodeAddress>,
    #[serde(default)]
    pub(crate) ipam: Ipam,
    /// Where the node serves flows; absent in objects that other programs made.
    #[serde(default, rename = "specolaFlowApi", skip_serializing_if = "Option::is_none")]
    pub(crate) flow_api: Option<FlowApi>,
}

/// Where a node serves flows on TCP.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FlowApi {
    /// The port; none = it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    /// Name in the certificate; none = plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server_name: Option<String>,
}

/// An address of a node; the type is `InternalIP` or `CiliumInternalIP` (the router).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct NodeAddress {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) ip: IpAddr,
}

/// Pod CIDRs of a node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Ipam {
    #[serde(rename = "podCIDRs", default)]
    pub(crate) pod_cidrs: Vec<IpNet>,
}

fn split_label(label: &str) -> (String, String) {
    let (key, value) = label.split_once('=').unwrap_or((label, ""));
    (key.to_owned(), value.to_owned())
}

fn join_label(key: &str, value: &str) -> String {
    if value.is_empty() { key.to_owned() } else { format!("{key}={value}") }
}

const API_VERSION: &str = "cilium.io/v2";
