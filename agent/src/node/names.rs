//! What policies refer to besides labels and prefixes: groups, services, names of DNS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use specola_labels::Label;
use specola_policy::rule::{DnsRule, Peer};
use specola_policy::{Engine, PolicyObject};

use crate::desired::Desired;

/// Makes groups and services of the engine equal to the desired ones. `before` is what it has them from.
pub(super) fn take_objects(engine: &mut Engine, before: Option<&Desired>, desired: &Desired) {
    for name in before.iter().flat_map(|before| before.cidr_groups.keys()) {
        if !desired.cidr_groups.contains_key(name) {
            engine.remove_cidr_group(name);
        }
    }
    for (name, group) in &desired.cidr_groups {
        if before.and_then(|before| before.cidr_groups.get(name)) != Some(group) {
            engine.upsert_cidr_group(group.clone());
        }
    }
    for key in before.iter().flat_map(|before| before.services.keys()) {
        if !desired.services.contains_key(key) {
            engine.remove_service(&key.0, &key.1);
        }
    }
    for (key, service) in &desired.services {
        if before.and_then(|before| before.services.get(key)) != Some(service) {
            engine.upsert_service(service.clone());
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

/// Names and patterns that a policy selects by.
pub(super) fn selectors(policy: &PolicyObject) -> impl Iterator<Item = &DnsRule> {
    let peers = policy.rules.iter().flat_map(|rule| &rule.entries).flat_map(|entry| &entry.peers);
    peers.filter_map(|peer| if let Peer::Fqdn(name) = peer { Some(name) } else { None })
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
