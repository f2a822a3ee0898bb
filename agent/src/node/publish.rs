//! What others shall know: names for the directory, objects for the store, routes for the route task, numbers for
//! the metrics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use specola_flow::{EndpointMeta, Workload};
use specola_labels::NumericIdentity;

use super::feed::IpMeta;
use super::life::Endpoint;
use super::{Node, NodeSettings};
use crate::endpoint::State;
use crate::ipam::Ipam;
use crate::store::{
    Addressing, CiliumEndpoint, CiliumNode, Direction, EndpointIdentity, EndpointStatus, ExternalIdentifiers,
    NamedPort, Networking, NodeAddress, NodeSpec, Object, ObjectMeta,
};

impl Node {
    /// Everything that others see, after a pass.
    pub(super) fn publish(&mut self) {
        self.seen.unpublished = false;
        self.publish_directory();
        let result = self.publish_store();
        self.note_store(result);
        let routes = self.wanted_routes();
        self.peer_routes.send_if_modified(|current| {
            let changed = *current != routes;
            *current = routes;
            changed
        });
    }

    /// Names first: an event may come as soon as the kernel knows an endpoint.
    pub(super) fn publish_directory(&mut self) {
        let ips = self.ip_metas();
        let endpoints = self.endpoint_metas();
        let changed = self.relabelled.take();
        let result = self.feed.publish(self.engine.identities(), changed.as_ref(), ips, endpoints);
        self.relabelled = result.is_ok().then(BTreeSet::new);
        self.warnings.set("directory", result.err().map(|error| error.to_string()));
    }

    /// Numbers for the metrics.
    pub(super) fn count(&self) {
        let mut states: BTreeMap<State, usize> = State::ALL.into_iter().map(|state| (state, 0)).collect();
        for endpoint in self.endpoints.values() {
            *states.entry(endpoint.state).or_default() += 1;
        }
        self.metrics.endpoints(&states);
        let repository = self.engine.repository();
        self.metrics.revision(repository.revision(), repository.len());
        self.metrics.identities(self.engine.identities().len());
        for (family, used, capacity) in self.ipam.usage() {
            self.metrics.addresses(family, used, capacity);
        }
        self.metrics.ipcache(self.ips.len());
    }

    fn ip_metas(&self) -> HashMap<IpNet, IpMeta> {
        let mut metas: HashMap<IpNet, IpMeta> =
            self.local_identities.iter().map(|(prefix, identity)| (prefix, (identity, None))).collect();
        for peer in self.contents.nodes.iter() {
            let own = peer.metadata.name == self.settings.node_name;
            let identity = if own { NumericIdentity::HOST } else { self.peer_identity(&peer.metadata.name) };
            let addresses = peer.spec.addresses.iter().map(|address| IpNet::from(address.ip));
            metas.extend(addresses.map(|prefix| (prefix, (identity, None))));
        }
        let own = self.addresses.all.iter().map(|address| IpNet::from(*address));
        metas.extend(own.map(|prefix| (prefix, (NumericIdentity::HOST, None))));
        for endpoint in self.contents.endpoints.iter().filter(|endpoint| !self.addresses.publishes(endpoint))
        {
            let identity = NumericIdentity(endpoint.status.identity.id);
            let meta = self.meta(0, identity, &endpoint.metadata.namespace, &endpoint.metadata.name);
            for address in endpoint.ips() {
                metas.insert(address.into(), (identity, Some(meta.clone())));
            }
        }
        metas
    }

    fn endpoint_metas(&self) -> BTreeMap<u16, (EndpointMeta, Vec<IpAddr>)> {
        let attached = self.endpoints.values().filter(|endpoint| endpoint.is_attached());
        let entry = |endpoint: &Endpoint| {
            let file = &endpoint.file;
            let identity = match file.identity {
                0 => NumericIdentity::INIT,
                number => NumericIdentity(number),
            };
            let mut meta = self.meta(file.id, identity, &file.pod_namespace, &file.pod_name);
            if !endpoint.labels.is_empty() {
                meta.labels = endpoint.labels.clone();
            }
            (file.id, (meta, file.addresses.iter().collect()))
        };
        attached.map(entry).chain(self.host_meta()).collect()
    }

    fn meta(&self, id: u16, identity: NumericIdentity, namespace: &str, name: &str) -> EndpointMeta {
        let workload = self.desired.pod(namespace, name).and_then(|pod| pod.workload());
        EndpointMeta {
            id,
            identity,
            namespace: namespace.to_owned(),
            pod_name: name.to_owned(),
            labels: self.engine.identities().labels(identity).cloned().unwrap_or_default(),
            workloads: workload.into_iter().map(|(kind, name)| Workload { name, kind }).collect(),
            cluster_name: self.settings.cluster_name.clone(),
        }
    }

    /// Keeps this node's objects in the store right, and removes those of endpoints that it does not have.
    fn publish_store(&mut self) -> anyhow::Result<()> {
        let spec = self.published_spec();
        let known = self.contents.nodes.iter().find(|node| node.metadata.name == self.settings.node_name);
        let labels = self.own_labels();
        if known.is_none_or(|node| node.spec != spec || node.metadata.labels != labels) {
            let node = CiliumNode::new(&self.settings.node_name, spec).with_labels(labels);
            self.store.put(&Object::Node(node))?;
        }
        let mut wanted: BTreeMap<(String, String), (u16, CiliumEndpoint)> = BTreeMap::new();
        for endpoint in self.endpoints.values().filter(|endpoint| endpoint.is_attached()) {
            if endpoint.file.identity != 0 {
                let key = (endpoint.file.pod_namespace.clone(), endpoint.file.pod_name.clone());
                wanted.insert(key, (endpoint.file.id, self.object(endpoint)));
            }
        }
        let stale: Vec<(String, String)> = self
            .contents
            .endpoints
            .iter()
            .filter(|object| self.addresses.publishes(object))
            .map(|object| (object.metadata.namespace.clone(), object.metadata.name.clone()))
            .filter(|key| !wanted.contains_key(key))
            .collect();
        for (namespace, name) in stale {
            self.unpublish(&namespace, &name)?;
        }
        for (id, object) in wanted.into_values() {
            let Some(endpoint) = self.endpoints.get_mut(&id) else { continue };
            let is_stored = || self.contents.endpoints.iter().any(|stored| *stored == object);
            // Contents that were read before the object was written say nothing about it.
            let is_current = endpoint.published.as_ref().is_some_and(|(published, version)| {
                *published == object && (*version >= self.contents_version || is_stored())
            });
            if !is_current {
                self.store.put(&Object::Endpoint(object.clone()))?;
                endpoint.published = Some((object, self.contents_version));
            }
        }
        Ok(())
    }

    fn object(&self, endpoint: &Endpoint) -> CiliumEndpoint {
        let file = &endpoint.file;
        let metadata = ObjectMeta {
            name: file.pod_name.clone(),
            namespace: file.pod_namespace.clone(),
            ..ObjectMeta::default()
        };
        let pod = self.desired.pod(&file.pod_namespace, &file.pod_name);
        let ports = pod.into_iter().flat_map(|pod| pod.named_ports());
        let enforcing =
            |egress: bool| endpoint.realized.as_ref().is_some_and(|realized| realized.enforces(egress));
        let mut status = EndpointStatus {
            id: file.id,
            identity: EndpointIdentity { id: file.identity, labels: endpoint.labels.to_strings() },
            networking: Networking {
                addressing: vec![Addressing { ipv4: file.addresses.ipv4, ipv6: file.addresses.ipv6 }],
                node: self.settings.internal_ips.first().copied(),
            },
            external_identifiers: ExternalIdentifiers {
                container_id: file.key.container_id.clone(),
                k8s_namespace: file.pod_namespace.clone(),
                k8s_pod_name: file.pod_name.clone(),
            },
            named_ports: ports
                .map(|(name, protocol, port)| NamedPort { name, port, protocol: protocol.to_owned() })
                .collect(),
            state: endpoint.state.as_str().to_owned(),
            ..EndpointStatus::default()
        };
        status.policy.ingress = Direction { enforcing: enforcing(false) };
        status.policy.egress = Direction { enforcing: enforcing(true) };
        CiliumEndpoint::new(metadata, status)
    }

    fn wanted_routes(&self) -> BTreeMap<IpNet, IpAddr> {
        let mut routes = BTreeMap::new();
        for peer in self.contents.nodes.iter().filter(|peer| peer.metadata.name != self.settings.node_name) {
            for cidr in &peer.spec.ipam.pod_cidrs {
                let gateway =
                    peer.addresses(INTERNAL).find(|address| address.is_ipv4() == cidr.addr().is_ipv4());
                let own = self.ipam.cidrs().any(|own| own == cidr.trunc());
                if let Some(gateway) = gateway.filter(|_| !own) {
                    routes.insert(cidr.trunc(), gateway);
                }
            }
        }
        routes
    }

    fn note_store(&mut self, result: anyhow::Result<()>) {
        self.retry |= result.is_err();
        self.warnings.set("store", result.err().map(|error| format!("{error:#}")));
    }
}

/// The spec of a node's own object.
pub(super) fn node_spec(settings: &NodeSettings, ipam: &Ipam) -> NodeSpec {
    let address = |kind: &str, ip: IpAddr| NodeAddress { kind: kind.to_owned(), ip };
    let internal = settings.internal_ips.iter().map(|ip| address(INTERNAL, *ip));
    let routers = ipam.routers();
    let addresses = internal.chain(routers.iter().map(|ip| address("CiliumInternalIP", ip))).collect();
    let flow_api = Some(settings.flow_api.clone());
    let mut spec = NodeSpec { addresses, flow_api, ..NodeSpec::default() };
    spec.ipam.pod_cidrs = ipam.cidrs().collect();
    spec
}

const INTERNAL: &str = "InternalIP";
