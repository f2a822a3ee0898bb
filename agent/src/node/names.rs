//! What policies refer to besides labels and prefixes: groups, services, names of DNS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use specola_labels::Label;
use specola_policy::Engine;
use specola_policy::rule::DnsRule;

use crate::desired::Desired;

/// Makes groups and services of the engine, which has those of `before`, equal to the desired ones.
pub(super) fn take_objects(engine: &mut Engine, before: &Desired, desired: &Desired) {
    for change in before.cidr_groups.diff(&desired.cidr_groups) {
        match change {
            DiffItem::Add(_, group) | DiffItem::Update { new: (_, group), .. } => {
                engine.upsert_cidr_group(group.clone());
            }
            DiffItem::Remove(name, _) => {
                engine.remove_cidr_group(name);
            }
        }
    }
    for change in before.provider_groups.diff(&desired.provider_groups) {
        match change {
            DiffItem::Add(group, prefixes) | DiffItem::Update { new: (group, prefixes), .. } => {
                engine.set_provider_group(group.clone(), prefixes.iter().copied().collect());
            }
            DiffItem::Remove(group, _) => {
                engine.set_provider_group(group.clone(), Vec::new());
            }
        }
    }
    for change in before.services.diff(&desired.services) {
        match change {
            DiffItem::Add(_, service) | DiffItem::Update { new: (_, service), .. } => {
                engine.upsert_service(service.clone());
            }
            DiffItem::Remove((namespace, name), _) => {
                engine.remove_service(namespace, name);
            }
        }
    }
}

/// Prefixes of all groups, those of cloud providers too, and addresses behind services without a selector.
pub(crate) fn prefixes(desired: &Desired) -> BTreeSet<IpNet> {
    let groups = desired.cidr_groups.values().flat_map(|group| &group.prefixes).map(IpNet::trunc);
    let external = desired.services.values().filter(|service| service.selector.is_empty());
    let backends = external.flat_map(|service| &service.backends).map(|address| IpNet::from(*address));
    let provided = desired.provider_groups.values().flatten().copied();
    groups.chain(backends).chain(provided).filter(|prefix| prefix.prefix_len() > 0).collect()
}

/// Labels that addresses outside the cluster have for the names that policies select by, and those of the API server.
pub(crate) fn labels<'a>(
    names: impl Iterator<Item = (&'a String, &'a BTreeSet<IpAddr>)>,
    selectors: &[&DnsRule],
    api_servers: &[IpAddr],
) -> BTreeMap<IpNet, BTreeSet<Label>> {
    let mut labels: BTreeMap<IpNet, BTreeSet<Label>> = BTreeMap::new();
    for (name, addresses) in names {
        for rule in selectors.iter().filter(|rule| rule.matches(name)) {
            for address in addresses {
                labels.entry(IpNet::from(*address)).or_default().insert(rule.label());
            }
        }
    }
    for address in api_servers {
        labels.entry(IpNet::from(*address)).or_default().insert(Label::reserved(API_SERVER));
    }
    labels
}

/// Name of the reserved label of the API server's addresses.
pub(super) const API_SERVER: &str = "kube-apiserver";
