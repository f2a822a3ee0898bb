//! Which identities there are: those of the cluster, those of this node's pods, those of prefixes.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use specola_datapath::abi::proto;
use specola_labels::{Label, LabelFilter, LabelSet, NumericIdentity, PodLabels, source};
use specola_policy::rule::DnsRule;
use specola_policy::{NamedPorts, cidr_identity_labels};

use super::life::Endpoint;
use super::names;
use super::{Node, NodeSettings};
use crate::desired::Desired;
use crate::endpoint::{EndpointFile, State};
use crate::store::{CiliumEndpoint, CiliumIdentity, Store};

impl Node {
    /// Finds the number that stands for each pod's labels.
    pub(super) fn assign_identities(&mut self) {
        let mut failure = None;
        let attached = self.endpoints.values_mut().filter(|endpoint| endpoint.is_attached());
        for endpoint in attached {
            let file = &endpoint.file;
            let wanted = pod_labels(&self.desired, &self.settings, &self.filter, file);
            match wanted {
                Some(labels) if file.identity == 0 || endpoint.labels != labels => {
                    let assigned = assign(endpoint, labels, &*self.store, &self.settings);
                    failure = assigned.err().map(|error| format!("{error:#}")).or(failure);
                }
                Some(_) => {}
                None if file.identity == 0 => {
                    let pod = endpoint.pod();
                    endpoint
                        .condition(format!("pod {pod} is not in the desired state; its labels are unknown"));
                }
                // The pod's object goes before its endpoint does.
                None => {}
            }
        }
        self.retry |= failure.is_some();
        self.warnings.set("endpoints", failure);
    }

    /// Takes up the identities of the cluster with the named ports of their pods. Those that nobody has any more stay in
    /// the policies until no address has them.
    pub(super) fn learn_identities(&mut self) {
        let mut own: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        for (id, endpoint) in self.endpoints.iter().filter(|(_, endpoint)| endpoint.file.identity != 0) {
            own.entry(endpoint.file.identity).or_default().push(*id);
        }
        let (local, addresses) = (own.keys().copied().collect(), &self.addresses);
        let concerned = self.cluster.follow(&self.contents, local, |endpoint| addresses.publishes(endpoint));
        for number in concerned {
            let own = own.get(&number).map(Vec::as_slice).unwrap_or_default();
            let (labels, ports) = self.cluster_identity(number, own);
            let identity = NumericIdentity(number);
            match labels {
                Some(labels) => {
                    self.leaving.remove(&identity);
                    let is_new = self.engine.insert_identity(identity, labels);
                    self.note_identity(identity, is_new);
                    self.engine.set_named_ports(identity, ports);
                }
                None if CLUSTER.contains(&number) && self.engine.identities().labels(identity).is_some() => {
                    self.leaving.insert(identity);
                }
                None => {}
            }
        }
    }

    /// Notes that names of flows depend on an identity that changed.
    pub(super) fn note_identity(&mut self, identity: NumericIdentity, has_changed: bool) {
        if let (true, Some(changed)) = (has_changed, &mut self.relabelled) {
            changed.insert(identity);
        }
    }

    /// Labels and named ports of an identity: from this node's endpoints that have it, from the store, from other
    /// nodes' endpoints.
    fn cluster_identity(&self, number: u32, own: &[u16]) -> (Option<LabelSet>, NamedPorts) {
        // An endpoint may arrive before the object of its identity.
        let mut labels = self.cluster.identity(number).map(labels_of).or_else(|| {
            self.cluster.holders(number).next().map(|endpoint| parse_labels(&endpoint.status.identity.labels))
        });
        let mut ports = NamedPorts::new();
        for endpoint in self.cluster.holders(number) {
            add_ports(&mut ports, remote_ports(endpoint));
        }
        for endpoint in own.iter().filter_map(|id| self.endpoints.get(id)) {
            if !endpoint.labels.is_empty() {
                labels = Some(endpoint.labels.clone());
            }
            let pod = self.desired.pod(&endpoint.file.pod_namespace, &endpoint.file.pod_name);
            let named = pod.into_iter().flat_map(|pod| pod.named_ports());
            add_ports(&mut ports, named.map(|(name, p, n)| (name, p.to_owned(), n)));
        }
        (labels, ports)
    }

    /// Gives every prefix of the policies in force and of the desired ones an identity. Returns whether some had none.
    pub(super) fn allocate_prefixes(&mut self) -> anyhow::Result<bool> {
        if !self.has_new_policies() && !self.seen.names {
            return Ok(false);
        }
        let changes = self.policy_changes();
        let repository = self.engine.repository();
        let mut prefixes: BTreeSet<IpNet> =
            changes.new.iter().flat_map(|policy| repository.prefixes_of(policy)).collect();
        let is_new_name = |name: &&DnsRule| !repository.dns_selectors().contains(name);
        let same_names = !self.seen.names
            && self.taken.as_ref().is_some_and(|taken| taken.same_names(&self.desired))
            && !changes.new.iter().flat_map(|policy| policy.dns_selectors()).any(|name| is_new_name(&name));
        if same_names {
            let new = self.local_identities.ensure(&prefixes)?;
            return Ok(self.insert_prefixes(new, &BTreeMap::new()));
        }
        let mut selectors = repository.dns_selectors();
        selectors.extend(changes.new.iter().flat_map(|policy| policy.dns_selectors()));
        let by_name = names::labels(self.names(), &selectors, self.desired.api_servers());
        prefixes.extend(by_name.keys());
        prefixes.extend(names::prefixes(&self.desired));
        self.local_identities.ensure(&prefixes)?;
        // Those of an earlier process are in the kernel's tables, too.
        let all = self.local_identities.iter().collect();
        let learned = self.insert_prefixes(all, &by_name);
        self.seen.names = false;
        Ok(learned)
    }

    /// Tells the engine of identities of prefixes, with the names that they have. Returns whether it learned anything.
    fn insert_prefixes(
        &mut self,
        prefixes: Vec<(IpNet, NumericIdentity)>,
        by_name: &BTreeMap<IpNet, BTreeSet<Label>>,
    ) -> bool {
        let families = self.settings.families();
        let mut learned = false;
        for (prefix, identity) in prefixes {
            let known = self.engine.identities().labels(identity);
            let names = by_name.get(&prefix);
            let is_name = |label: &Label| label.source() == source::FQDN || label.key() == names::API_SERVER;
            let had_names = known.is_some_and(|labels| labels.iter().any(is_name));
            if known.is_none() || names.is_some() || had_names {
                let labels =
                    cidr_identity_labels(prefix, families).with(names.into_iter().flatten().cloned());
                let is_new = self.engine.insert_identity(identity, labels);
                self.note_identity(identity, is_new);
                learned |= is_new;
            }
        }
        learned
    }
}

/// The identity labels of an endpoint's pod, when the desired state has the pod.
fn pod_labels(
    desired: &Desired,
    settings: &NodeSettings,
    filter: &LabelFilter,
    file: &EndpointFile,
) -> Option<LabelSet> {
    let pod = desired.pod(&file.pod_namespace, &file.pod_name)?;
    let source = PodLabels {
        labels: &pod.metadata.labels,
        namespace: &file.pod_namespace,
        namespace_labels: &desired.namespace_labels(&file.pod_namespace),
        service_account: &pod.spec.service_account_name,
        cluster: &settings.cluster_name,
    };
    Some(LabelSet::from_k8s(&source, filter))
}

/// Gives an endpoint the number of its labels. On an error it keeps what it had.
fn assign(
    endpoint: &mut Endpoint,
    labels: LabelSet,
    store: &dyn Store,
    settings: &NodeSettings,
) -> anyhow::Result<()> {
    let number = match store.identity(&labels.sha256_hex(), &labels.to_strings()) {
        Ok(number) => number,
        Err(error) => {
            endpoint.condition(format!("no identity: {error}"));
            if endpoint.file.identity == 0 {
                endpoint.become_state(State::WaitingForIdentity);
            }
            return Err(error.into());
        }
    };
    tracing::info!(endpoint = endpoint.file.id, pod = %endpoint.pod(), identity = number, "identity");
    endpoint.file.identity = number;
    endpoint.labels = labels;
    Ok(endpoint.file.save(&settings.endpoints_dir)?)
}

/// Labels of a CiliumIdentity; what does not parse as a label is left out.
pub(super) fn labels_of(identity: &CiliumIdentity) -> LabelSet {
    parse_labels(&identity.labels())
}

fn parse_labels(labels: &[String]) -> LabelSet {
    labels.iter().filter_map(|label| label.parse::<Label>().ok()).collect()
}

fn remote_ports(endpoint: &CiliumEndpoint) -> impl Iterator<Item = (String, String, u16)> + '_ {
    let ports = endpoint.status.named_ports.iter();
    ports.map(|port| (port.name.to_ascii_lowercase(), port.protocol.clone(), port.port))
}

pub(crate) fn add_ports(to: &mut NamedPorts, ports: impl Iterator<Item = (String, String, u16)>) {
    for (name, protocol, number) in ports {
        if let Some(protocol) = protocol_number(&protocol) {
            to.entry((name, protocol)).or_default().insert(number);
        }
    }
}

fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(proto::TCP),
        "UDP" => Some(proto::UDP),
        "SCTP" => Some(proto::SCTP),
        _ => None,
    }
}

/// Numbers that the cluster allocates.
const CLUSTER: std::ops::RangeInclusive<u32> = NumericIdentity::USER_MIN.0..=NumericIdentity::USER_MAX.0;
