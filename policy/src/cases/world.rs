//! A cluster as a case describes it: who has which identity, and what both ends of a probe say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use specola_labels::{Label, LabelFilter, LabelSet, NumericIdentity, PodLabels, source};

use super::decision::{Answer, Question, Subjects};
use super::file::{Case, Cluster, Ct, MatchMode, Pod, Probe, Side};
use crate::objects::{CidrGroup, Service};
use crate::resolve::Subject;
use crate::{IdentityTable, NamedPorts, Repository, cidr_identity_labels};

/// A cluster with the policies of a case in force.
#[derive(Debug)]
pub(super) struct World<'a> {
    cluster: &'a Cluster,
    case: &'a Case,
    repository: &'a Repository,
    filter: LabelFilter,
    pods: BTreeMap<&'a str, NumericIdentity>,
    prefixes: BTreeMap<IpNet, NumericIdentity>,
    /// Prefixes that policies name.
    named: BTreeSet<IpNet>,
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

/// Gives the repository the groups and services of a cluster.
pub(super) fn add_objects(cluster: &Cluster, repository: &mut Repository) -> Result<(), String> {
    for (name, group) in &cluster.cidr_groups {
        repository.upsert_cidr_group(CidrGroup {
            name: name.clone(),
            labels: group.labels.clone(),
            prefixes: group.cidrs.clone(),
        });
    }
    for (name, service) in &cluster.services {
        let (namespace, name) = split_name(name)?;
        repository.upsert_service(Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: service.labels.clone(),
            selector: service.selector.clone(),
            backends: service.endpoints.clone(),
        });
    }
    Ok(())
}

/// Answers for a cloud provider about the groups that policies name.
pub(super) fn answer_groups(cluster: &Cluster, repository: &mut Repository) {
    let groups: Vec<_> = repository.provider_groups().into_iter().cloned().collect();
    for group in groups {
        let ids = group.security_group_ids.iter();
        let addresses = ids.filter_map(|id| cluster.aws_groups.get(id)).flatten();
        let prefixes = addresses.map(|address| IpNet::from(*address)).collect();
        repository.set_provider_group(group, prefixes);
    }
}

impl<'a> World<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        case: &'a Case,
        repository: &'a Repository,
    ) -> Result<Self, String> {
        let mut world = Self {
            cluster,
            case,
            repository,
            filter: LabelFilter::default(),
            pods: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            named: repository.prefixes(),
            common: IdentityTable::with_reserved(),
        };
        world.add_pods()?;
        world.add_prefixes();
        Ok(world)
    }

    /// What both sides are asked about a probe, sender first. Empty where policy has no say.
    pub(super) fn questions(&self, probe: &'a Probe) -> Result<Vec<Question>, String> {
        let (from, (to, port)) = (self.end(&probe.from)?, self.target(probe)?);
        let proto = probe.l4()?.0;
        if from == to || matches!(probe.ct, Ct::Reply | Ct::Related) {
            return Ok(Vec::new());
        }
        let mut questions = Vec::new();
        for (subject, peer, side) in [(from, to, Side::Egress), (to, from, Side::Ingress)] {
            let Some((node, endpoint)) = self.subject(subject)? else {
                continue;
            };
            let packet = crate::eval::Packet {
                peer: self.identity(node, peer)?.0,
                egress: side == Side::Egress,
                proto,
                port,
            };
            questions.push(Question { side, node: node.to_owned(), subject: endpoint, packet });
        }
        Ok(questions)
    }

    /// Asks one side, by the rules and by the map, which must agree.
    pub(super) fn answer(&self, question: &Question, subjects: &mut Subjects) -> Result<Answer, String> {
        let identities = self.seen_from(&question.node)?;
        subjects.answer(self.repository, question, &identities)
    }

    fn add_pods(&mut self) -> Result<(), String> {
        let mut known: BTreeMap<LabelSet, NumericIdentity> = BTreeMap::new();
        let mut ports: BTreeMap<NumericIdentity, NamedPorts> = BTreeMap::new();
        for (name, pod) in self.cluster.pods.iter().filter(|(_, pod)| !pod.host_network) {
            let labels = self.pod_labels(name, pod)?;
            let next = NumericIdentity(NumericIdentity::USER_MIN.0 + number(known.len()));
            let identity = *known.entry(labels.clone()).or_insert(next);
            self.common.insert(identity, labels);
            for (port, numbers) in named_ports(pod) {
                ports.entry(identity).or_default().entry(port).or_default().extend(numbers);
            }
            self.pods.insert(name, identity);
        }
        for (identity, ports) in ports {
            self.common.set_named_ports(identity, ports);
        }
        Ok(())
    }

    fn add_prefixes(&mut self) {
        let external = &self.cluster.external_apiservers;
        let learned = self.cluster.fqdn.values().flatten().filter(|address| self.is_outside(**address));
        let mut prefixes = self.named.clone();
        prefixes.extend(external.iter().chain(learned).map(|address| IpNet::from(*address)));
        for (index, prefix) in prefixes.into_iter().enumerate() {
            let identity = NumericIdentity(NumericIdentity::LOCAL_MIN.0 + number(index));
            self.common.insert(identity, self.prefix_labels(prefix));
            self.prefixes.insert(prefix, identity);
        }
    }

    /// The longest prefix that policies name around another one.
    fn longest_named(&self, prefix: IpNet) -> Option<IpNet> {
        let covering = self.named.iter().filter(|net| net.contains(&prefix));
        covering.max_by_key(|net| net.prefix_len()).copied()
    }

    /// Labels of a prefix: the longest one that policies name, the world, and what is known of the address.
    fn prefix_labels(&self, prefix: IpNet) -> LabelSet {
        let families = self.repository.settings().ip_families;
        let world = match prefix {
            IpNet::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpNet::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        let longest = self.longest_named(prefix).unwrap_or(world);
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

    fn pod_labels(&self, name: &str, pod: &Pod) -> Result<LabelSet, String> {
        let (namespace, _) = split_name(name)?;
        let unknown = || format!("pod {name}: namespace {namespace} is not in the cluster");
        let own = self.cluster.namespaces.get(namespace).ok_or_else(unknown)?;
        let parts = PodLabels {
            labels: &pod.labels,
            namespace,
            namespace_labels: own,
            service_account: &pod.serviceaccount,
            cluster: pod.cluster.as_ref().unwrap_or(&self.cluster.cluster_name),
        };
        Ok(LabelSet::from_k8s(&parts, &self.filter))
    }

    /// Identities as the agent of a node has them.
    fn seen_from(&self, local: &str) -> Result<IdentityTable, String> {
        let mut identities = self.common.clone();
        for name in self.cluster.nodes.keys() {
            let identity = self.identity(local, End::Node(name))?;
            identities.insert(identity, self.node_labels(name, name == local)?);
        }
        Ok(identities)
    }

    fn node_labels(&self, name: &str, local: bool) -> Result<LabelSet, String> {
        let node = self.cluster.nodes.get(name).ok_or_else(|| no_node(name))?;
        let own = Label::reserved(if local { "host" } else { "remote-node" });
        let apiserver = node.apiserver.then(|| Label::reserved("kube-apiserver"));
        let mut labels: Vec<Label> = [own].into_iter().chain(apiserver).collect();
        if local || self.case.options.node_selector_labels {
            for (key, value) in &node.labels {
                labels.push(Label::new(source::NODE, key, value));
            }
        }
        if self.nodes_have_prefixes() {
            labels.extend(self.longest_named(node.ip.into()).and_then(Label::cidr));
        }
        Ok(labels.into_iter().collect())
    }

    fn nodes_have_prefixes(&self) -> bool {
        self.case.options.cidr_match_mode.contains(&MatchMode::Nodes)
    }

    fn identity(&self, local: &str, end: End<'_>) -> Result<NumericIdentity, String> {
        Ok(match end {
            End::Pod(name, pod) if !pod.host_network => {
                self.pods.get(name).copied().ok_or_else(|| no_end(name))?
            }
            End::Pod(_, pod) => self.identity(local, End::Node(&pod.node))?,
            End::Node(name) if name == local => NumericIdentity::HOST,
            End::Node(name) => {
                let node = self.cluster.nodes.get(name).ok_or_else(|| no_node(name))?;
                let place = self.cluster.nodes.keys().position(|node| node == name);
                if self.case.options.node_selector_labels || self.nodes_have_prefixes() {
                    NumericIdentity(NumericIdentity::REMOTE_NODE_MIN.0 + number(place.unwrap_or(0)))
                } else if node.apiserver {
                    NumericIdentity::KUBE_APISERVER
                } else {
                    NumericIdentity::REMOTE_NODE
                }
            }
            End::Special(identity, _) => identity,
            End::Outside(address) => {
                let longest = self
                    .prefixes
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(&address))
                    .max_by_key(|(prefix, _)| prefix.prefix_len());
                longest.map_or_else(|| self.world(address), |(_, identity)| *identity)
            }
        })
    }

    fn world(&self, address: IpAddr) -> NumericIdentity {
        match (self.case.options.dual_stack, address) {
            (false, _) => NumericIdentity::WORLD,
            (true, IpAddr::V4(_)) => NumericIdentity::WORLD_IPV4,
            (true, IpAddr::V6(_)) => NumericIdentity::WORLD_IPV6,
        }
    }

    /// The endpoint that enforces policy at an end, with its node; none outside.
    fn subject(&self, end: End<'a>) -> Result<Option<(&'a str, Subject)>, String> {
        Ok(match end {
            End::Pod(_, pod) if pod.host_network => self.subject(End::Node(&pod.node))?,
            End::Pod(name, pod) => Some((
                &pod.node,
                Subject {
                    labels: self.pod_labels(name, pod)?,
                    namespace: split_name(name)?.0.to_owned(),
                    named_ports: named_ports(pod),
                    ..Subject::default()
                },
            )),
            End::Node(name) => Some((
                name,
                Subject { labels: self.node_labels(name, true)?, is_host: true, ..Subject::default() },
            )),
            End::Special(NumericIdentity::UNMANAGED, _) | End::Outside(_) => None,
            End::Special(identity, node) => {
                let labels = identity.reserved_labels().unwrap_or_default();
                Some((node, Subject { labels, ..Subject::default() }))
            }
        })
    }

    fn end(&self, text: &'a str) -> Result<End<'a>, String> {
        if let Some(address) = text.strip_prefix("ip:") {
            let address = address.parse().map_err(|error| format!("{text}: {error}"))?;
            return Ok(self.address(address));
        }
        if let Some(name) = text.strip_prefix("node:") {
            let node = self.cluster.nodes.get_key_value(name).ok_or_else(|| no_node(name))?;
            return Ok(End::Node(node.0));
        }
        if let Some(special) = text.strip_prefix("entity:") {
            let known = special.split_once('@').and_then(|(name, node)| {
                let (node, _) = self.cluster.nodes.get_key_value(node)?;
                Some(End::Special(NumericIdentity::from_reserved_name(name)?, node))
            });
            return known.ok_or_else(|| format!("{text} is not entity:NAME@NODE of a known name and node"));
        }
        let (name, pod) = self.cluster.pods.get_key_value(text).ok_or_else(|| no_end(text))?;
        Ok(End::Pod(name, pod))
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
    fn target(&self, probe: &'a Probe) -> Result<(End<'a>, u16), String> {
        let port = probe.l4()?.1;
        let Some(name) = probe.to.strip_prefix("svc:") else {
            return Ok((self.end(&probe.to)?, port));
        };
        let none = || format!("service {name} is not in the cluster, or has no port {port} or no backend");
        let service = self.cluster.services.get(name).ok_or_else(none)?;
        let target = service.ports.iter().find(|p| p.port == port).ok_or_else(none)?.target;
        let namespace = split_name(name)?.0;
        if let Some(backend) = service.endpoints.first() {
            return Ok((self.address(*backend), target));
        }
        let backend = self.cluster.pods.iter().find(|(name, pod)| {
            split_name(name).is_ok_and(|(own, _)| own == namespace)
                && service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
        });
        let (name, pod) = backend.ok_or_else(none)?;
        Ok((End::Pod(name, pod), target))
    }
}

fn named_ports(pod: &Pod) -> NamedPorts {
    let mut ports = NamedPorts::new();
    for (name, port) in &pod.ports {
        ports.entry((name.to_ascii_lowercase(), port.proto)).or_default().insert(port.number);
    }
    ports
}

fn split_name(name: &str) -> Result<(&str, &str), String> {
    name.split_once('/').ok_or_else(|| format!("\"{name}\" is no NAMESPACE/NAME"))
}

fn no_node(name: &str) -> String {
    format!("node {name} is not in the cluster")
}

fn no_end(name: &str) -> String {
    format!(
        "pod {name} is not in the cluster; ends are NAMESPACE/POD, ip:ADDRESS, node:NAME, entity:NAME@NODE, svc:NAMESPACE/NAME"
    )
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
