//! A cluster as the cases describe it: who has which identity, and what both ends of a probe say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use specola_labels::{Label, LabelFilter, LabelSet, NumericIdentity, PodLabels, source};
use specola_policy::eval::{Packet, RequestFilter, Verdict, evaluate};
use specola_policy::{
    CidrGroup, EndpointPolicy, IdentityTable, MapState, NamedPorts, Repository, Service, Subject,
    cidr_identity_labels, resolve,
};

use crate::cases::{Case, Cluster, Expect, Pod, Probe, Side};

/// What became of a probe.
pub(crate) struct Outcome {
    pub(crate) expect: Expect,
    /// Side that denied.
    pub(crate) side: Option<Side>,
    pub(crate) audited: bool,
    /// Policies behind the decisions of both sides.
    pub(crate) policies: Vec<String>,
}

/// Gives the repository the groups and services of a cluster.
pub(crate) fn add_objects(cluster: &Cluster, repository: &mut Repository) {
    for (name, group) in &cluster.cidr_groups {
        repository.upsert_cidr_group(CidrGroup {
            name: name.clone(),
            labels: group.labels.clone(),
            prefixes: group.cidrs.clone(),
        });
    }
    for (name, service) in &cluster.services {
        let (namespace, name) = name.split_once('/').unwrap();
        repository.upsert_service(Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: service.labels.clone(),
            selector: service.selector.clone(),
            backends: service.endpoints.clone(),
        });
    }
}

/// Answers for a cloud provider about the groups that policies name.
pub(crate) fn answer_groups(cluster: &Cluster, repository: &mut Repository) {
    let groups: Vec<_> = repository.provider_groups().into_iter().cloned().collect();
    for group in groups {
        let ids = group.security_group_ids.iter();
        let addresses = ids.filter_map(|id| cluster.aws_groups.get(id)).flatten();
        let prefixes = addresses.map(|address| IpNet::from(*address)).collect();
        repository.set_provider_group(group, prefixes);
    }
}

pub(crate) struct World<'a> {
    cluster: &'a Cluster,
    case: &'a Case,
    repository: &'a Repository,
    pods: BTreeMap<&'a str, NumericIdentity>,
    prefixes: BTreeMap<IpNet, NumericIdentity>,
    /// Identities but those of nodes, which differ from node to node.
    common: IdentityTable,
}

/// One end of a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End<'a> {
    Pod(&'a str, &'a Pod),
    Node(&'a str),
    /// A special endpoint on a node.
    Special(NumericIdentity, &'a str),
    Outside(IpAddr),
}

impl<'a> World<'a> {
    pub(crate) fn new(cluster: &'a Cluster, case: &'a Case, repository: &'a Repository) -> Self {
        let mut world = Self {
            cluster,
            case,
            repository,
            pods: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            common: IdentityTable::with_reserved(),
        };
        world.add_pods();
        world.add_prefixes();
        world
    }

    /// Asks both sides about a probe.
    pub(crate) fn outcome(&self, probe: &'a Probe) -> Result<Outcome, String> {
        let (from, (to, port)) = (self.end(&probe.from), self.target(probe));
        let mut outcome = Outcome { expect: Expect::Allow, side: None, audited: false, policies: Vec::new() };
        if from == to || matches!(probe.ct.as_deref(), Some("reply" | "related")) {
            return Ok(outcome);
        }
        for (subject, peer, side) in [(from, to, Side::Egress), (to, from, Side::Ingress)] {
            let Some((node, endpoint)) = self.subject(subject) else {
                continue;
            };
            let (verdict, requests, policies) = self.decide(node, &endpoint, peer, probe, port, side)?;
            outcome.policies.extend(policies);
            match verdict {
                Verdict::Allow => {}
                Verdict::Redirect => {
                    let Some(l7) = &probe.l7 else { continue };
                    let request = l7.request().ok_or("no such request is judged")?;
                    if !requests.allows(&request) {
                        outcome.expect = Expect::DenyL7;
                        outcome.side = Some(side);
                        return Ok(outcome);
                    }
                }
                Verdict::Deny | Verdict::DefaultDeny | Verdict::AuthRequired
                    if self.case.options.audit_mode =>
                {
                    outcome.audited = true;
                }
                Verdict::Deny | Verdict::DefaultDeny | Verdict::AuthRequired => {
                    outcome.expect = Expect::Deny;
                    outcome.side = Some(side);
                    return Ok(outcome);
                }
            }
        }
        Ok(outcome)
    }

    /// What one side says, by the rules and by the map, which must agree.
    fn decide(
        &self,
        node: &str,
        subject: &Subject,
        peer: End<'_>,
        probe: &Probe,
        port: u16,
        side: Side,
    ) -> Result<(Verdict, RequestFilter, Vec<String>), String> {
        let identities = self.seen_from(node);
        let packet = Packet {
            peer: self.identity(node, peer).0,
            egress: side == Side::Egress,
            proto: probe.l4().0,
            port,
        };
        let by_rules = evaluate(self.repository, subject, &identities, packet);
        let policy = resolve(self.repository, subject, &identities).map_err(|error| error.to_string())?;
        let (verdict, origins) = look_up(&policy, packet);
        if verdict != by_rules.verdict {
            return Err(format!("{side:?}: rules say {:?}, the map says {verdict:?}", by_rules.verdict));
        }
        Ok((verdict, by_rules.requests, origins))
    }

    fn add_pods(&mut self) {
        let mut known: BTreeMap<LabelSet, NumericIdentity> = BTreeMap::new();
        for (name, pod) in self.cluster.pods.iter().filter(|(_, pod)| !pod.host_network) {
            let labels = self.pod_labels(name, pod);
            let next = NumericIdentity(256 + u32::try_from(known.len()).unwrap());
            let identity = *known.entry(labels.clone()).or_insert(next);
            self.common.insert(identity, labels);
            self.common.set_named_ports(identity, named_ports(pod));
            self.pods.insert(name, identity);
        }
    }

    fn add_prefixes(&mut self) {
        let external = &self.cluster.external_apiservers;
        let learned = self.cluster.fqdn.values().flatten().filter(|address| self.is_outside(**address));
        let mut prefixes = self.repository.prefixes();
        let named = prefixes.clone();
        prefixes.extend(external.iter().chain(learned).map(|address| IpNet::from(*address)));
        for (number, prefix) in (1..).zip(prefixes) {
            let identity = NumericIdentity(NumericIdentity::LOCAL_MIN.0 + number);
            self.common.insert(identity, self.prefix_labels(prefix, &named));
            self.prefixes.insert(prefix, identity);
        }
    }

    /// Labels of a prefix: the longest one that policies name, the world, and what is known of the address.
    fn prefix_labels(&self, prefix: IpNet, named: &BTreeSet<IpNet>) -> LabelSet {
        let families = self.repository.settings().ip_families;
        let covering = named.iter().filter(|net| net.contains(&prefix));
        let world = match prefix {
            IpNet::V4(_) => IpNet::from_str("0.0.0.0/0").unwrap(),
            IpNet::V6(_) => IpNet::from_str("::/0").unwrap(),
        };
        let longest = covering.max_by_key(|net| net.prefix_len()).copied().unwrap_or(world);
        let is_external = self.cluster.external_apiservers.iter().any(|a| IpNet::from(*a) == prefix);
        let apiserver = is_external.then(|| Label::reserved("kube-apiserver"));
        let names = self
            .cluster
            .fqdn
            .iter()
            .filter(|(_, addresses)| addresses.iter().any(|address| IpNet::from(*address) == prefix));
        let names: Vec<&String> = names.map(|(name, _)| name).collect();
        let selectors = self.repository.dns_selectors();
        let dns = selectors.iter().filter(|rule| names.iter().any(|name| rule.matches(name)));
        cidr_identity_labels(longest, families)
            .with(apiserver.into_iter().chain(dns.map(|rule| rule.label())))
    }

    fn is_outside(&self, address: IpAddr) -> bool {
        matches!(self.address(address), End::Outside(_))
    }

    fn pod_labels(&self, name: &str, pod: &Pod) -> LabelSet {
        let (namespace, _) = name.split_once('/').unwrap();
        let parts = PodLabels {
            labels: &pod.labels,
            namespace,
            namespace_labels: &self.cluster.namespaces[namespace],
            service_account: &pod.serviceaccount,
            cluster: pod.cluster.as_ref().unwrap_or(&self.cluster.cluster_name),
        };
        LabelSet::from_k8s(&parts, &LabelFilter::default())
    }

    /// Identities as the agent of a node has them.
    fn seen_from(&self, local: &str) -> IdentityTable {
        let mut identities = self.common.clone();
        for name in self.cluster.nodes.keys() {
            let identity = self.identity(local, End::Node(name));
            identities.insert(identity, self.node_labels(name, name == local));
        }
        identities
    }

    fn node_labels(&self, name: &str, local: bool) -> LabelSet {
        let node = &self.cluster.nodes[name];
        let own = Label::reserved(if local { "host" } else { "remote-node" });
        let apiserver = node.apiserver.then(|| Label::reserved("kube-apiserver"));
        let mut labels: Vec<Label> = [own].into_iter().chain(apiserver).collect();
        if local || self.case.options.node_selector_labels {
            for (key, value) in &node.labels {
                labels.push(Label::new(source::NODE, key, value));
            }
        }
        labels.into_iter().collect()
    }

    fn identity(&self, local: &str, end: End<'_>) -> NumericIdentity {
        match end {
            End::Pod(name, pod) if !pod.host_network => self.pods[name],
            End::Pod(_, pod) => self.identity(local, End::Node(&pod.node)),
            End::Node(name) if name == local => NumericIdentity::HOST,
            End::Node(name) if self.case.options.node_selector_labels => {
                let index = self.cluster.nodes.keys().position(|node| node == name);
                NumericIdentity(NumericIdentity::REMOTE_NODE_MIN.0 + index.unwrap() as u32)
            }
            End::Node(name) if self.cluster.nodes[name].apiserver => NumericIdentity::KUBE_APISERVER,
            End::Node(_) => NumericIdentity::REMOTE_NODE,
            End::Special(identity, _) => identity,
            End::Outside(address) => {
                let longest = self
                    .prefixes
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(&address))
                    .max_by_key(|(prefix, _)| prefix.prefix_len());
                longest.map_or_else(|| self.world(address), |(_, identity)| *identity)
            }
        }
    }

    fn world(&self, address: IpAddr) -> NumericIdentity {
        match (self.case.options.dual_stack, address) {
            (false, _) => NumericIdentity::WORLD,
            (true, IpAddr::V4(_)) => NumericIdentity::WORLD_IPV4,
            (true, IpAddr::V6(_)) => NumericIdentity::WORLD_IPV6,
        }
    }

    /// The endpoint that enforces policy at an end, with its node; none outside.
    fn subject(&self, end: End<'a>) -> Option<(&'a str, Subject)> {
        match end {
            End::Pod(_, pod) if pod.host_network => self.subject(End::Node(&pod.node)),
            End::Pod(name, pod) => Some((
                &pod.node,
                Subject {
                    labels: self.pod_labels(name, pod),
                    namespace: name.split_once('/').unwrap().0.to_owned(),
                    named_ports: named_ports(pod),
                    is_host: false,
                },
            )),
            End::Node(name) => Some((
                name,
                Subject { labels: self.node_labels(name, true), is_host: true, ..Subject::default() },
            )),
            End::Special(NumericIdentity::UNMANAGED, _) | End::Outside(_) => None,
            End::Special(identity, node) => {
                Some((node, Subject { labels: identity.reserved_labels().unwrap(), ..Subject::default() }))
            }
        }
    }

    fn end(&self, text: &'a str) -> End<'a> {
        if let Some(address) = text.strip_prefix("ip:") {
            return self.address(address.parse().unwrap());
        }
        if let Some(name) = text.strip_prefix("node:") {
            return End::Node(name);
        }
        if let Some(special) = text.strip_prefix("entity:") {
            let (name, node) = special.split_once('@').unwrap();
            return End::Special(NumericIdentity::from_reserved_name(name).unwrap(), node);
        }
        let (name, pod) = self.cluster.pods.get_key_value(text).unwrap();
        End::Pod(name, pod)
    }

    fn address(&self, address: IpAddr) -> End<'a> {
        let pod = self.cluster.pods.iter().find(|(_, pod)| pod.ip == address);
        let node = self.cluster.nodes.iter().find(|(_, node)| node.ip == address);
        match (pod, node) {
            (_, Some((name, _))) => End::Node(name),
            (Some((name, pod)), None) => End::Pod(name, pod),
            (None, None) => End::Outside(address),
        }
    }

    /// Receiver and port as policy sees them: behind a service, one of its backends.
    fn target(&self, probe: &'a Probe) -> (End<'a>, u16) {
        let port = probe.l4().1;
        let Some(name) = probe.to.strip_prefix("svc:") else {
            return (self.end(&probe.to), port);
        };
        let service = &self.cluster.services[name];
        let target = service.ports.iter().find(|p| p.port == port).unwrap().target;
        let namespace = name.split_once('/').unwrap().0;
        if let Some(backend) = service.endpoints.first() {
            return (self.address(*backend), target);
        }
        let backend = self.cluster.pods.iter().find(|(name, pod)| {
            name.split_once('/').unwrap().0 == namespace
                && service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
        });
        let (name, pod) = backend.unwrap();
        (End::Pod(name, pod), target)
    }
}

/// What the kernel would do, and the policies that it would name.
fn look_up(policy: &EndpointPolicy, packet: Packet) -> (Verdict, Vec<String>) {
    let hit = MapState::lookup(&policy.map, packet.peer, packet.egress, packet.proto, packet.port);
    let Some((_, entry)) = hit else {
        let selected_by =
            if packet.egress { &policy.egress_selected_by } else { &policy.ingress_selected_by };
        return (Verdict::DefaultDeny, selected_by.object_names());
    };
    let verdict = match (entry.deny, entry.redirect) {
        (true, _) if entry.by_default => Verdict::DefaultDeny,
        (true, _) => Verdict::Deny,
        (false, _) if entry.auth != 0 => Verdict::AuthRequired,
        (false, true) => Verdict::Redirect,
        (false, false) => Verdict::Allow,
    };
    (verdict, entry.origins.object_names())
}

fn named_ports(pod: &Pod) -> NamedPorts {
    let mut ports = NamedPorts::new();
    for (name, text) in &pod.ports {
        let (number, proto) = text.split_once('/').unwrap();
        let proto = match proto {
            "TCP" => 6,
            "UDP" => 17,
            other => panic!("{other}"),
        };
        ports.entry((name.clone(), proto)).or_default().insert(number.parse().unwrap());
    }
    ports
}
