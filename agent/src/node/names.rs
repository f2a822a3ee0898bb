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

/// Prefixes of all groups, and addresses behind services without a selector.
pub(crate) fn prefixes(desired: &Desired) -> BTreeSet<IpNet> {
    let groups = desired.cidr_groups.values().flat_map(|group| &group.prefixes).map(IpNet::trunc);
    let external = desired.services.values().filter(|service| service.selector.is_empty());
    let backends = external.flat_map(|service| &service.backends).map(|address| IpNet::from(*address));
    groups.chain(backends).filter(|prefix| prefix.prefix_len() > 0).collect()
}

/// Labels that addresses have for the names that policies select by.
pub(crate) fn labels<'a>(
    names: impl Iterator<Item = (&'a String, &'a BTreeSet<IpAddr>)>,
    selectors: &[&DnsRule],
) -> BTreeMap<IpNet, BTreeSet<Label>> {
    let mut labels: BTreeMap<IpNet, BTreeSet<Label>> = BTreeMap::new();
    for (name, addresses) in names {
        for rule in selectors.iter().filter(|rule| rule.matches(name)) {
            for address in addresses {
                labels.entry(IpNet::from(*address)).or_default().insert(rule.label());
            }
        }
    }
    labels
}
