//! Kubernetes objects, the fields that are used here. Fields that are not known are left alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// Object metadata.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ObjectMeta {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) owner_references: Vec<OwnerReference>,
}

/// Who owns an object.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OwnerReference {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) controller: bool,
}

/// `Namespace`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct Namespace {
    pub(crate) metadata: ObjectMeta,
}

/// `Node`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: NodeSpec,
    pub(crate) status: NodeStatus,
}

/// `spec` of a [`Node`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(crate) pod_cidr: Option<IpNet>,
    #[serde(rename = "podCIDRs")]
    pub(crate) pod_cidrs: Vec<IpNet>,
}

/// `status` of a [`Node`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct NodeStatus {
    pub(crate) addresses: Vec<NodeAddress>,
}

/// An address of a node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub(crate) struct NodeAddress {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// An address, or a name when the type is `Hostname` or a DNS one.
    pub(crate) address: String,
}

impl Node {
    /// `spec.podCIDRs`, or `spec.podCIDR` where only that is set.
    pub(crate) fn pod_cidrs(&self) -> Vec<IpNet> {
        match (&self.spec.pod_cidr, self.spec.pod_cidrs.as_slice()) {
            (Some(single), []) => vec![*single],
            (_, several) => several.to_vec(),
        }
    }

    /// Addresses of the type `InternalIP`.
    pub(crate) fn internal_ips(&self) -> Vec<IpAddr> {
        let internal = self.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        internal.filter_map(|address| address.address.parse().ok()).collect()
    }
}

/// `Pod`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: PodSpec,
}

/// `spec` of a [`Pod`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub(crate) service_account_name: String,
    pub(crate) containers: Vec<Container>,
}

/// A container of a [`Pod`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct Container {
    pub(crate) ports: Vec<ContainerPort>,
}

/// A port of a [`Container`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub(crate) name: String,
    pub(crate) container_port: u16,
    pub(crate) protocol: String,
}

impl Pod {
    /// Named ports as (name in lower case, protocol, number); TCP where no protocol is given.
    pub(crate) fn named_ports(&self) -> impl Iterator<Item = (String, &str, u16)> {
        let ports = self.spec.containers.iter().flat_map(|container| &container.ports);
        ports.filter(|port| !port.name.is_empty()).map(|port| {
            let protocol = if port.protocol.is_empty() { "TCP" } else { port.protocol.as_str() };
            (port.name.to_ascii_lowercase(), protocol, port.container_port)
        })
    }

    /// Kind and name of the workload that controls the pod. A ReplicaSet that a Deployment made gives the Deployment.
    pub(crate) fn workload(&self) -> Option<(String, String)> {
        let owner = self.metadata.owner_references.iter().find(|owner| owner.controller)?;
        let template = self.metadata.labels.get("pod-template-hash").filter(|_| owner.kind == "ReplicaSet");
        let deployment = template.and_then(|hash| owner.name.strip_suffix(&format!("-{hash}")));
        Some(match deployment {
            Some(name) => ("Deployment".to_owned(), name.to_owned()),
            None => (owner.kind.clone(), owner.name.clone()),
        })
    }
}

/// `CiliumCIDRGroup`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub(super) struct CidrGroupObject {
    pub(super) metadata: ObjectMeta,
    pub(super) spec: CidrGroupSpec,
}

/// `spec` of a [`CidrGroupObject`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct CidrGroupSpec {
    #[serde(rename = "externalCIDRs")]
    pub(super) external_cidrs: Vec<IpNet>,
}

/// `Service`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(super) struct ServiceObject {
    pub(super) metadata: ObjectMeta,
    pub(super) spec: ServiceSpec,
}

/// `spec` of a [`ServiceObject`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(super) struct ServiceSpec {
    pub(super) selector: BTreeMap<String, String>,
}

/// `EndpointSlice`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(super) struct EndpointSlice {
    pub(super) metadata: ObjectMeta,
    pub(super) endpoints: Vec<SliceEndpoint>,
}

/// One element of an [`EndpointSlice`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(super) struct SliceEndpoint {
    /// Addresses, or names where the slice has the address type FQDN.
    pub(super) addresses: Vec<String>,
}

/// `Endpoints`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(super) struct EndpointsObject {
    pub(super) metadata: ObjectMeta,
    pub(super) subsets: Vec<EndpointSubset>,
}

/// One element of [`EndpointsObject`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(super) struct EndpointSubset {
    pub(super) addresses: Vec<SubsetAddress>,
}

/// An address of an [`EndpointSubset`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub(super) struct SubsetAddress {
    pub(super) ip: IpAddr,
}

/// `FQDNCache` of `specola.io/v1alpha1`: addresses that DNS gave for names.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct FqdnCache {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(super) metadata: ObjectMeta,
    pub(super) spec: FqdnCacheSpec,
}

/// `spec` of a [`FqdnCache`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct FqdnCacheSpec {
    pub(super) names: Vec<FqdnName>,
}

/// A name with its addresses.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct FqdnName {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
}

/// Addresses behind a service, by the object that lists them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Backends {
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) addresses: Vec<IpAddr>,
}

impl EndpointSlice {
    /// The addresses; none when the slice belongs to no service.
    pub(super) fn backends(&self, namespace: String) -> Option<Backends> {
        let service = self.metadata.labels.get("kubernetes.io/service-name")?.clone();
        let addresses = self.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        Some(Backends {
            namespace,
            service,
            addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
        })
    }
}

impl EndpointsObject {
    /// The addresses.
    pub(super) fn backends(&self, namespace: String) -> Backends {
        let addresses = self.subsets.iter().flat_map(|subset| &subset.addresses);
        let addresses = addresses.map(|address| address.ip).collect();
        Backends { namespace, service: self.metadata.name.clone(), addresses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployments_pod_names_the_deployment() {
        let yaml = "metadata: {name: p, labels: {pod-template-hash: 7d4}, ownerReferences: [{kind: ReplicaSet, name: web-7d4, controller: true}]}";
        let pod: Pod = serde_saphyr::from_str(yaml).expect("decodes");
        assert_eq!(pod.workload(), Some(("Deployment".to_owned(), "web".to_owned())));
        let yaml = "metadata: {name: p, ownerReferences: [{kind: StatefulSet, name: db, controller: true}]}";
        let pod: Pod = serde_saphyr::from_str(yaml).expect("decodes");
        assert_eq!(pod.workload(), Some(("StatefulSet".to_owned(), "db".to_owned())));
        assert_eq!(Pod::default().workload(), None);
    }

    #[test]
    fn named_ports_default_to_tcp() {
        let yaml = "spec: {containers: [{name: c, image: i, ports: [{name: HTTP, containerPort: 80}, {containerPort: 81}, {name: dns, containerPort: 53, protocol: UDP}]}]}";
        let pod: Pod = serde_saphyr::from_str(yaml).expect("decodes, unknown fields are left alone");
        let ports: Vec<_> = pod.named_ports().collect();
        assert_eq!(ports, [("http".to_owned(), "TCP", 80), ("dns".to_owned(), "UDP", 53)]);
    }

    #[test]
    fn either_cidr_field_of_a_node_is_read() {
        let yaml = "{spec: {podCIDR: 10.0.0.0/24}, status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 172.30.0.2}]}}";
        let node: Node = serde_saphyr::from_str(yaml).expect("decodes");
        assert_eq!(node.pod_cidrs().len(), 1);
        assert_eq!(node.internal_ips(), ["172.30.0.2".parse::<IpAddr>().expect("an address")]);
    }
}
