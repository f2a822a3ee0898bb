//! Who is who, and what each endpoint enforces: the agent's own way from documents to map entries, without a kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use anyhow::Context;
use ipnet::IpNet;
use specola_datapath::abi::endpoint::{EndpointRecord, policy_flags};
use specola_datapath::abi::ipcache::{IpInfo, IpPrefixKey, ip_flags};
use specola_datapath::abi::v4_mapped;
use specola_directory::DirectoryWriter;
use specola_flow::{EndpointMeta, Workload};
use specola_labels::{LabelFilter, LabelSet, NumericIdentity, PodLabels};
use specola_policy::{
    IdentityTable, IpFamilies, MapState, NamedPorts, Repository, Settings, Subject, cidr_identity_labels,
    resolve,
};
use specola_replay::{Config, Datapath, Endpoint, Policy};

use super::IngestOptions;
use super::endpoints::{EndpointsFile, PodEntry};
use crate::cookie::CookieTable;
use crate::desired::Desired;
use crate::node::feed::{DirectoryFeed, IpMeta};
use crate::node::{ips, names, policy_update};

/// A pod of the file, with what the documents say of it.
struct Pod {
    identity: NumericIdentity,
    meta: EndpointMeta,
    subject: Subject,
    addresses: Vec<IpAddr>,
    /// 0 = it is on another node.
    slot: u16,
}

/// Makes a datapath of the documents and fills the directory.
pub(super) fn build(
    options: &IngestOptions,
    file: &EndpointsFile,
    desired: &Desired,
    directory: DirectoryWriter,
) -> anyhow::Result<(Datapath, DirectoryFeed)> {
    let families = families(file);
    let settings =
        Settings { cluster_name: file.cluster_name.clone(), ip_families: families, ..Settings::default() };
    let mut repository = Repository::new(settings);
    for group in desired.cidr_groups.values() {
        repository.upsert_cidr_group(group.clone());
    }
    for service in desired.services.values() {
        repository.upsert_service(service.clone());
    }
    for policy in desired.policies.values() {
        repository.upsert((***policy).clone());
    }
    let mut identities = IdentityTable::with_reserved();
    let pods = pods(options, file, desired, &mut identities)?;
    let prefixes = prefixes(&repository, desired, families, &mut identities);

    let mut datapath = Datapath::new(Config {
        trace_interval_ms: options.trace_interval_ms,
        dual_stack: families == IpFamilies::Dual,
        connections: options.connections,
        host_device: true,
    });
    let mut feed = DirectoryFeed::new(directory, &file.cluster_name);
    realize(options, &mut datapath, &mut feed, &repository, &identities, &pods)?;
    let known = addresses(options, file, families, &prefixes, &pods);
    for (prefix, (info, _)) in &known {
        datapath.set_address(key(*prefix), *info);
    }
    publish(&mut feed, &identities, known, pods)?;
    Ok((datapath, feed))
}

fn families(file: &EndpointsFile) -> IpFamilies {
    let addresses = || file.pods.values().flat_map(PodEntry::addresses);
    match (addresses().any(|address| address.is_ipv4()), addresses().any(|address| address.is_ipv6())) {
        (true, false) | (false, false) => IpFamilies::V4,
        (false, true) => IpFamilies::V6,
        (true, true) => IpFamilies::Dual,
    }
}

/// The pods in the order of their names, with identities in the same order.
fn pods(
    options: &IngestOptions,
    file: &EndpointsFile,
    desired: &Desired,
    identities: &mut IdentityTable,
) -> anyhow::Result<Vec<Pod>> {
    let filter = LabelFilter::default();
    let mut numbers: BTreeMap<LabelSet, NumericIdentity> = BTreeMap::new();
    let mut ports: BTreeMap<NumericIdentity, NamedPorts> = BTreeMap::new();
    let (mut pods, mut slots) = (Vec::new(), 0_u16);
    for (full_name, entry) in &file.pods {
        let (namespace, name) = full_name.split_once('/').context("a pod has a namespace")?;
        let object = desired.pod(namespace, name);
        let own = entry.labels.as_ref().or(object.map(|pod| &pod.metadata.labels));
        let account = entry.serviceaccount.as_ref().or(object.map(|pod| &pod.spec.service_account_name));
        let labels = LabelSet::from_k8s(
            &PodLabels {
                labels: own.unwrap_or(&BTreeMap::new()),
                namespace,
                namespace_labels: file
                    .namespaces
                    .get(namespace)
                    .unwrap_or(&desired.namespace_labels(namespace)),
                service_account: account.map_or("", String::as_str),
                cluster: &file.cluster_name,
            },
            &filter,
        );
        let count = u32::try_from(numbers.len()).context("too many identities")?;
        let next = NumericIdentity(NumericIdentity::USER_MIN.0 + count);
        anyhow::ensure!(next <= NumericIdentity::USER_MAX, "more different pods than there are identities");
        let identity = *numbers.entry(labels.clone()).or_insert(next);
        identities.insert(identity, labels.clone());
        let mut named_ports = entry_ports(full_name, entry)?;
        let of_object = object.into_iter().flat_map(|pod| pod.named_ports());
        crate::node::add_ports(&mut named_ports, of_object.map(|(name, p, n)| (name, p.to_owned(), n)));
        for (port, numbers) in &named_ports {
            ports.entry(identity).or_default().entry(port.clone()).or_default().extend(numbers);
        }
        let is_local = options.node.as_ref().is_none_or(|node| *node == entry.node);
        if is_local {
            slots = slots
                .checked_add(1)
                .filter(|slot| *slot < u16::MAX)
                .context("more than 65,000 local pods; use --node")?;
        }
        let owner = object.and_then(|pod| pod.workload());
        let meta = EndpointMeta {
            id: if is_local { slots } else { 0 },
            identity,
            namespace: namespace.to_owned(),
            pod_name: name.to_owned(),
            labels: labels.clone(),
            workloads: owner.map(|(kind, name)| Workload { name, kind }).into_iter().collect(),
            cluster_name: file.cluster_name.clone(),
        };
        let subject = Subject { labels, namespace: namespace.to_owned(), named_ports, is_host: false };
        let slot = if is_local { slots } else { 0 };
        pods.push(Pod { identity, meta, subject, addresses: entry.addresses().collect(), slot });
    }
    for (identity, ports) in ports {
        identities.set_named_ports(identity, ports);
    }
    Ok(pods)
}

fn entry_ports(pod: &str, entry: &PodEntry) -> anyhow::Result<NamedPorts> {
    let mut ports = NamedPorts::new();
    for (name, text) in &entry.ports {
        let wrong = || format!("{pod}: port \"{text}\" is none; write number/PROTOCOL, such as 80/TCP");
        let (number, protocol) = text.split_once('/').with_context(wrong)?;
        let number: u16 = number.parse().with_context(wrong)?;
        anyhow::ensure!(matches!(protocol, "TCP" | "UDP" | "SCTP"), wrong());
        let one = (name.to_ascii_lowercase(), protocol.to_owned(), number);
        crate::node::add_ports(&mut ports, std::iter::once(one));
    }
    Ok(ports)
}

/// Gives every prefix of the policies an identity, in their order.
fn prefixes(
    repository: &Repository,
    desired: &Desired,
    families: IpFamilies,
    identities: &mut IdentityTable,
) -> BTreeMap<IpNet, NumericIdentity> {
    let by_name = names::labels(desired.fqdn.iter(), &repository.dns_selectors(), desired.api_servers());
    let mut prefixes: BTreeSet<IpNet> = repository.prefixes();
    prefixes.extend(by_name.keys());
    prefixes.extend(names::prefixes(desired));
    let mut numbered = BTreeMap::new();
    for (prefix, number) in prefixes.into_iter().zip(NumericIdentity::LOCAL_MIN.0..) {
        let names = by_name.get(&prefix).into_iter().flatten().cloned();
        identities.insert(NumericIdentity(number), cidr_identity_labels(prefix, families).with(names));
        numbered.insert(prefix, NumericIdentity(number));
    }
    numbered
}

/// Puts the policy of each local pod into force. Pods that are alike have it made once.
fn realize(
    options: &IngestOptions,
    datapath: &mut Datapath,
    feed: &mut DirectoryFeed,
    repository: &Repository,
    identities: &IdentityTable,
    pods: &[Pod],
) -> anyhow::Result<()> {
    let mut cookies = CookieTable::in_memory();
    let mut made: HashMap<&Subject, Policy> = HashMap::new();
    for pod in pods.iter().filter(|pod| pod.slot != 0) {
        let policy = match made.get(&pod.subject) {
            Some(policy) => policy.clone(),
            None => {
                let who = || format!("policy of {}/{}", pod.meta.namespace, pod.meta.pod_name);
                let resolved = resolve(repository, &pod.subject, identities).with_context(who)?;
                let mut update = policy_update(pod.slot, &MapState::default(), &resolved, &mut cookies)?;
                if options.audit_mode {
                    update.state.flags |= policy_flags::AUDIT;
                }
                let policy = Policy::new(update.state, update.upserts);
                made.insert(&pod.subject, policy.clone());
                policy
            }
        };
        let record = EndpointRecord {
            word: EndpointRecord::word_of(0, 1),
            identity: pod.identity.0,
            id: pod.meta.id,
            ..EndpointRecord::default()
        };
        datapath.set_endpoint(pod.slot, Endpoint { record, policy });
    }
    let given = cookies.commit()?;
    feed.cookies(given.iter().map(|(cookie, origins)| (*cookie, origins)))?;
    Ok(())
}

/// What is known of addresses. What stands later wins, as in the agent: a pod over a node, anything in the cluster over a
/// prefix of a policy.
fn addresses(
    options: &IngestOptions,
    file: &EndpointsFile,
    families: IpFamilies,
    prefixes: &BTreeMap<IpNet, NumericIdentity>,
    pods: &[Pod],
) -> HashMap<IpNet, (IpInfo, Option<EndpointMeta>)> {
    let mut known: HashMap<IpNet, (IpInfo, Option<EndpointMeta>)> =
        ips::worlds(families).into_iter().map(|(prefix, info)| (prefix, (info, None))).collect();
    for (prefix, identity) in prefixes {
        known.insert(*prefix, (IpInfo { identity: identity.0, ..IpInfo::default() }, None));
    }
    for (name, node) in &file.nodes {
        let is_local = options.node.as_ref().map_or(file.nodes.len() == 1, |local| local == name);
        let info = if is_local {
            IpInfo { identity: NumericIdentity::HOST.0, flags: ip_flags::LOCAL_NODE, ..IpInfo::default() }
        } else {
            IpInfo { identity: NumericIdentity::REMOTE_NODE.0, ..IpInfo::default() }
        };
        known.extend(node.addresses().map(|address| (IpNet::from(address), (info, None))));
    }
    for pod in pods {
        let info = IpInfo { identity: pod.identity.0, slot: pod.slot, ..IpInfo::default() };
        for address in &pod.addresses {
            known.insert(IpNet::from(*address), (info, Some(pod.meta.clone())));
        }
    }
    known
}

fn publish(
    feed: &mut DirectoryFeed,
    identities: &IdentityTable,
    known: HashMap<IpNet, (IpInfo, Option<EndpointMeta>)>,
    pods: Vec<Pod>,
) -> anyhow::Result<()> {
    let local = pods.into_iter().filter(|pod| pod.slot != 0);
    let endpoints = local.map(|pod| (pod.meta.id, (pod.meta, pod.addresses))).collect();
    let remote = known.into_iter().filter(|(_, (info, _))| info.slot == 0);
    let ips: HashMap<IpNet, IpMeta> =
        remote.map(|(prefix, (info, meta))| (prefix, (NumericIdentity(info.identity), meta))).collect();
    feed.publish(identities, None, ips, endpoints).context("filling the directory")
}

/// The kernel's form of a prefix.
fn key(prefix: IpNet) -> IpPrefixKey {
    match prefix {
        IpNet::V4(net) => IpPrefixKey {
            prefix_len: 96 + u32::from(net.prefix_len()),
            addr: v4_mapped(net.network().octets()),
        },
        IpNet::V6(net) => {
            IpPrefixKey { prefix_len: u32::from(net.prefix_len()), addr: net.network().octets() }
        }
    }
}
