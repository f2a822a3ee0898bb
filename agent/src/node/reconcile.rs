//! One pass that brings everything in line with desired state and store.
//!
//! The order keeps the network from ever being more open than both the old and the new policy:
//!
//! 1. identities: those of the store, those of this node's pods, those of the prefixes that old or new policies name;
//! 2. the *old* policies are realized with the new identities, so that no packet meets an identity unknown to a policy;
//! 3. the kernel learns new addresses, and new identities of endpoints;
//! 4. the *new* policies are realized;
//! 5. the ipcache and the local identities forget what no policy names any more.
//!
//! Whatever fails leaves the last realized policy in force, shows as a condition or a warning, and is tried again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use anyhow::Context;
use ipnet::IpNet;
use specola_datapath::PolicyUpdate;
use specola_datapath::abi::ipcache::IpInfo;
use specola_datapath::abi::proto;
use specola_labels::{Label, LabelSet, NumericIdentity, PodLabels};
use specola_policy::{
    EndpointPolicy, NamedPorts, PolicyRef, Repository, Subject, cidr_identity_labels, resolve,
};

use super::endpoints::record;
use super::ips::{self, LocalAddress};
use super::{Node, entries};
use crate::endpoint::State;
use crate::store::{CiliumEndpoint, CiliumIdentity};

impl Node {
    /// Brings kernel, directory and store in line. Never fails as a whole; see the module.
    pub(super) fn reconcile(&mut self) {
        let started = Instant::now();
        self.retry = false;
        self.assign_identities();
        let new_identities = self.learn_identities();
        let result = self.allocate_prefixes();
        let new_prefixes = *result.as_ref().unwrap_or(&false);
        if let Err(error) = result {
            // Without identities for their prefixes the new policies must not come into force.
            self.fail("identities", &error);
            self.publish();
            return self.finish(started);
        }
        self.warnings.set("identities", None);
        self.publish_directory();
        let wanted = self.wanted_ips();
        let changes = self.upserts(&wanted);
        if (new_identities || new_prefixes) && !changes.is_empty() {
            self.realize();
        }
        let addresses_known = self.refresh_records() & self.upsert_ips(changes);
        if addresses_known {
            self.take_policies();
        }
        let realized = self.realize() && addresses_known;
        if realized {
            let result = self.forget_stale(&wanted);
            self.note_as("ipcache", result);
        }
        self.publish();
        self.finish(started);
    }

    /// Finds the number that stands for each pod's labels.
    fn assign_identities(&mut self) {
        let mut failure = None;
        for endpoint in self.endpoints.values_mut().filter(|endpoint| endpoint.is_attached()) {
            let Some(pod) = self.desired.pod(&endpoint.file.pod_namespace, &endpoint.file.pod_name) else {
                if endpoint.file.identity == 0 {
                    let pod = endpoint.pod();
                    endpoint
                        .condition(format!("pod {pod} is not in the desired state; its labels are unknown"));
                }
                continue;
            };
            let namespace_labels = self.desired.namespace_labels(&endpoint.file.pod_namespace);
            let source = PodLabels {
                labels: &pod.metadata.labels,
                namespace: &endpoint.file.pod_namespace,
                namespace_labels: &namespace_labels,
                service_account: &pod.spec.service_account_name,
                cluster: &self.settings.cluster_name,
            };
            let labels = LabelSet::from_k8s(&source, &self.filter);
            if endpoint.file.identity != 0 && endpoint.labels == labels {
                continue;
            }
            match self.store.identity(&labels.sha256_hex(), &labels.to_strings()) {
                Ok(number) => {
                    tracing::info!(endpoint = endpoint.file.id, pod = %endpoint.pod(), identity = number, "identity");
                    endpoint.file.identity = number;
                    endpoint.labels = labels;
                    if let Err(error) = endpoint.file.save(&self.settings.endpoints_dir) {
                        failure = Some(error.to_string());
                    }
                }
                Err(error) => {
                    endpoint.condition(format!("no identity: {error}"));
                    if endpoint.file.identity == 0 {
                        endpoint.become_state(State::WaitingForIdentity);
                    }
                    failure = Some(error.to_string());
                }
            }
        }
        self.retry |= failure.is_some();
        self.warnings.set("endpoints", failure);
    }

    /// Takes up the identities of the cluster with the named ports of their pods. Returns whether anything changed.
    fn learn_identities(&mut self) -> bool {
        let mut known: BTreeMap<NumericIdentity, LabelSet> = BTreeMap::new();
        for identity in &self.contents.identities {
            if let Some(number) = identity.number().filter(|number| CLUSTER.contains(number)) {
                known.insert(NumericIdentity(number), labels_of(identity));
            }
        }
        let mut ports: BTreeMap<NumericIdentity, NamedPorts> = BTreeMap::new();
        for endpoint in self.contents.endpoints.iter().filter(|endpoint| !self.addresses.publishes(endpoint))
        {
            let identity = NumericIdentity(endpoint.status.identity.id);
            // An endpoint may arrive before the object of its identity.
            if CLUSTER.contains(&identity.0) && !known.contains_key(&identity) {
                known.insert(identity, parse_labels(&endpoint.status.identity.labels));
            }
            add_ports(ports.entry(identity).or_default(), remote_ports(endpoint));
        }
        for endpoint in self.endpoints.values().filter(|endpoint| endpoint.file.identity != 0) {
            let identity = NumericIdentity(endpoint.file.identity);
            if !endpoint.labels.is_empty() {
                known.insert(identity, endpoint.labels.clone());
            }
            let pod = self.desired.pod(&endpoint.file.pod_namespace, &endpoint.file.pod_name);
            let own = pod.into_iter().flat_map(|pod| pod.named_ports());
            add_ports(ports.entry(identity).or_default(), own.map(|(name, p, n)| (name, p.to_owned(), n)));
        }
        let cluster: Vec<NumericIdentity> = self
            .identities
            .iter()
            .map(|(identity, _)| identity)
            .filter(|id| CLUSTER.contains(&id.0))
            .collect();
        let mut changed = false;
        for identity in cluster.into_iter().filter(|identity| !known.contains_key(identity)) {
            changed |= self.identities.remove(identity);
        }
        for (identity, labels) in known {
            changed |= self.identities.insert(identity, labels);
            changed |= self.identities.set_named_ports(identity, ports.remove(&identity).unwrap_or_default());
        }
        changed
    }

    /// Gives every prefix of the policies in force and of the desired ones an identity. Returns whether one is new.
    fn allocate_prefixes(&mut self) -> anyhow::Result<bool> {
        let mut scratch = Repository::new(self.settings.policy.clone());
        for policy in self.desired.policies.values() {
            scratch.upsert(policy.clone());
        }
        let mut prefixes = self.repository.prefixes();
        prefixes.extend(scratch.prefixes());
        self.local_identities.ensure(&prefixes)?;
        let families = self.settings.families();
        let mut changed = false;
        for (prefix, identity) in self.local_identities.iter() {
            changed |= self.identities.insert(identity, cidr_identity_labels(prefix, families));
        }
        Ok(changed)
    }

    /// Makes the repository equal to the desired policies.
    fn take_policies(&mut self) {
        let gone: Vec<PolicyRef> = self
            .repository
            .iter()
            .map(|stored| stored.object().reference.clone())
            .filter(|reference| !self.desired.policies.contains_key(reference))
            .collect();
        let before = self.repository.revision();
        for reference in gone {
            self.repository.remove(&reference);
        }
        for policy in self.desired.policies.values() {
            self.repository.upsert(policy.clone());
        }
        let revision = self.repository.revision();
        if revision != before {
            tracing::info!(revision, policies = self.repository.len(), "policies changed");
        }
    }

    /// Computes every endpoint's policy and writes what changed. Returns whether the kernel now enforces all of it.
    fn realize(&mut self) -> bool {
        let mut complete = true;
        let mut updates: Vec<(u16, EndpointPolicy, PolicyUpdate)> = Vec::new();
        let ids: Vec<u16> = self.endpoints.keys().copied().collect();
        for id in ids {
            match self.policy_update(id) {
                Ok(Some((policy, update))) => updates.push((id, policy, update)),
                Ok(None) => {}
                Err(error) => {
                    complete = false;
                    self.not_realized(id, &error);
                }
            }
        }
        complete & self.apply(updates)
    }

    /// The policy of an endpoint with the change that realizes it; none when there is nothing to do.
    fn policy_update(&mut self, id: u16) -> anyhow::Result<Option<(EndpointPolicy, PolicyUpdate)>> {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return Ok(None) };
        if !endpoint.is_attached() || endpoint.file.identity == 0 || endpoint.state == State::Invalid {
            return Ok(None);
        }
        if endpoint.labels.is_empty() {
            anyhow::bail!("the labels of identity {} are not in the store", endpoint.file.identity);
        }
        let pod = self.desired.pod(&endpoint.file.pod_namespace, &endpoint.file.pod_name);
        let mut named_ports = NamedPorts::new();
        let own = pod.into_iter().flat_map(|pod| pod.named_ports());
        add_ports(&mut named_ports, own.map(|(name, p, n)| (name, p.to_owned(), n)));
        let subject = Subject {
            labels: endpoint.labels.clone(),
            namespace: endpoint.file.pod_namespace.clone(),
            named_ports,
            is_host: false,
        };
        if matches!(endpoint.state, State::WaitingForIdentity | State::Restoring) {
            endpoint.become_state(State::NotReady);
        }
        let policy = resolve(&self.repository, &subject, &self.identities)?;
        if endpoint.realized.as_ref() == Some(&policy) && endpoint.state == State::Ready {
            return Ok(None);
        }
        let (slot, kernel) = (endpoint.file.slot, &self.kernel);
        let old = endpoint.realized.as_ref().map(|policy| &policy.map);
        let update = entries::update(slot, old, || kernel.policy(slot), &policy, &mut self.cookies)?;
        endpoint.become_state(State::WaitingToRegenerate);
        Ok(Some((policy, update)))
    }

    /// Cookies to disk and into the directory, then the kernel.
    fn apply(&mut self, updates: Vec<(u16, EndpointPolicy, PolicyUpdate)>) -> bool {
        if updates.is_empty() {
            return true;
        }
        if let Err(error) = self.publish_cookies() {
            for (id, ..) in &updates {
                self.not_realized(*id, &error);
            }
            return false;
        }
        for (id, ..) in &updates {
            if let Some(endpoint) = self.endpoints.get_mut(id) {
                endpoint.become_state(State::Regenerating);
            }
        }
        let changes: Vec<PolicyUpdate> = updates.iter().map(|(_, _, update)| update.clone()).collect();
        let started = Instant::now();
        let results = self.kernel.apply_policies(&changes);
        self.metrics.policy_applied(started.elapsed(), changes.len());
        let mut complete = true;
        for ((id, policy, _), result) in updates.into_iter().zip(results) {
            match result {
                Ok(()) => self.realized(id, policy),
                Err(error) => {
                    complete = false;
                    self.not_realized(id, &error);
                }
            }
        }
        complete
    }

    /// Brings the identity in the kernel's records up to date, once policies know it. Returns whether all are.
    fn refresh_records(&mut self) -> bool {
        let mut complete = true;
        let ids: Vec<u16> = self.endpoints.keys().copied().collect();
        for id in ids {
            if let Err(error) = self.refresh_record(id) {
                complete = false;
                self.not_realized(id, &error);
            }
        }
        complete
    }

    fn refresh_record(&mut self, id: u16) -> anyhow::Result<()> {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return Ok(()) };
        let wanted = record(&endpoint.file, endpoint.ifindex);
        if endpoint.is_attached() && endpoint.state != State::Invalid && endpoint.recorded != wanted.identity
        {
            self.kernel.add_endpoint(endpoint.file.slot, &wanted)?;
            endpoint.recorded = wanted.identity;
        }
        Ok(())
    }

    fn publish_cookies(&mut self) -> anyhow::Result<()> {
        let new = self.cookies.commit()?;
        Ok(self.feed.cookies(new.iter().map(|(cookie, origins)| (*cookie, origins)))?)
    }

    fn realized(&mut self, id: u16, policy: EndpointPolicy) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        let first = endpoint.realized.is_none();
        let (revision, entries) = (policy.revision, policy.map.len());
        endpoint.realized = Some(policy);
        endpoint.conditions.clear();
        endpoint.become_state(State::Ready);
        if first {
            tracing::info!(endpoint = id, pod = %endpoint.pod(), revision, entries, "endpoint is ready");
        }
    }

    fn not_realized(&mut self, id: u16, error: &anyhow::Error) {
        self.retry = true;
        self.metrics.regeneration_failed();
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        endpoint
            .condition(format!("policy revision {} is not realized: {error:#}", self.repository.revision()));
        if endpoint.state == State::Regenerating {
            endpoint.become_state(State::NotReady);
        }
    }

    fn wanted_ips(&self) -> HashMap<IpNet, IpInfo> {
        let attached = self.endpoints.values().filter(|endpoint| endpoint.is_attached());
        let local = attached.flat_map(|endpoint| {
            let identity = record(&endpoint.file, endpoint.ifindex).identity;
            let slot = endpoint.file.slot;
            endpoint.file.addresses.iter().map(move |address| LocalAddress { address, identity, slot })
        });
        ips::wanted(
            self.settings.families(),
            self.local_identities.iter(),
            &self.contents,
            &self.settings.node_name,
            &self.addresses,
            local,
        )
    }

    fn upserts(&self, wanted: &HashMap<IpNet, IpInfo>) -> Vec<(IpNet, IpInfo)> {
        let changed = wanted.iter().filter(|(prefix, info)| self.ips.get(*prefix) != Some(*info));
        changed.map(|(prefix, info)| (*prefix, *info)).collect()
    }

    fn upsert_ips(&mut self, changes: Vec<(IpNet, IpInfo)>) -> bool {
        let write = || -> anyhow::Result<()> {
            for (prefix, info) in changes {
                let action = || format!("ipcache entry {prefix}");
                self.kernel.upsert_ip(prefix, info).with_context(action)?;
                self.ips.insert(prefix, info);
            }
            Ok(())
        };
        let result = write();
        let complete = result.is_ok();
        self.note_as("ipcache", result);
        complete
    }

    /// Forgets addresses that nobody has, then the identities of prefixes that no policy names.
    fn forget_stale(&mut self, wanted: &HashMap<IpNet, IpInfo>) -> anyhow::Result<()> {
        let needed = self.repository.prefixes();
        let unneeded: BTreeSet<IpNet> =
            self.local_identities.iter().map(|(prefix, _)| prefix).filter(|p| !needed.contains(p)).collect();
        // A prefix of a policy may be the address of a pod or node as well: that entry stays.
        let local = |info: &IpInfo| NumericIdentity(info.identity) >= NumericIdentity::LOCAL_MIN;
        let stale: Vec<IpNet> = self
            .ips
            .iter()
            .filter(|(prefix, info)| {
                !wanted.contains_key(*prefix) || (unneeded.contains(*prefix) && local(info))
            })
            .map(|(prefix, _)| *prefix)
            .collect();
        for prefix in stale {
            self.kernel.remove_ip(prefix)?;
            self.ips.remove(&prefix);
        }
        let gone = self.local_identities.retain(&needed)?;
        let mut changed = false;
        for number in gone {
            changed |= self.identities.remove(NumericIdentity(number));
        }
        if changed {
            self.realize();
        }
        Ok(())
    }

    pub(super) fn note(&mut self, result: anyhow::Result<()>) {
        self.note_as("node", result);
    }

    fn note_as(&mut self, part: &'static str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.warnings.set(part, None),
            Err(error) => self.fail(part, &error),
        }
    }

    fn fail(&mut self, part: &'static str, error: &anyhow::Error) {
        self.retry = true;
        self.warnings.set(part, Some(format!("{error:#}")));
    }

    fn finish(&mut self, started: Instant) {
        self.metrics.reconciled(started.elapsed());
        self.count();
    }
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

fn add_ports(to: &mut NamedPorts, ports: impl Iterator<Item = (String, String, u16)>) {
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
