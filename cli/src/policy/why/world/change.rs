//! The same cluster under other policies.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use specola_labels::{Label, NumericIdentity};
use specola_policy::compare::{Comparison, Side, compare};
use specola_policy::{IdentityTable, PolicyRef, cidr_identity_labels};

use super::files::Files;
use super::{View, World};

/// Prefixes that policies name, with the labels of names that their addresses have.
pub(super) type Prefixes = BTreeMap<IpNet, BTreeSet<Label>>;

/// What would be other for an endpoint.
#[derive(Debug)]
pub(in crate::policy) struct Compared {
    /// `namespace/name`, or `node:name`.
    pub(in crate::policy) endpoint: String,
    /// Its node; empty offline.
    pub(in crate::policy) node: String,
    /// What would be other.
    pub(in crate::policy) comparison: Comparison,
}

impl World {
    /// The same with the objects of files; `is_complete`: with no other policies than those.
    pub(in crate::policy) fn with(&self, files: &Files, is_complete: bool) -> Self {
        let mut repository = self.repository.copy();
        if is_complete {
            let all: Vec<PolicyRef> =
                repository.iter().map(|stored| stored.object().reference.clone()).collect();
            for reference in all {
                repository.remove(&reference);
            }
        }
        files.put_into(&mut repository);
        // Audit mode that was switched on stays on for another version of the policy.
        for reference in &self.audited {
            let other = repository.get(reference).map(|stored| stored.object().clone());
            if let Some(mut object) = other.filter(|object| !object.audit) {
                object.audit = true;
                repository.upsert(object);
            }
        }
        let names = self.names.iter().chain(&files.names).cloned().collect();
        Self {
            repository,
            identities: self.identities.clone(),
            nodes: self.nodes.clone(),
            endpoints: self.endpoints.clone(),
            names,
            audited: self.audited.clone(),
        }
    }

    /// Gives what either names identities in both, the same ones.
    pub(in crate::policy) fn align(before: &mut Self, after: &mut Self) {
        let mut prefixes = before.named_prefixes();
        for (prefix, names) in after.named_prefixes() {
            prefixes.entry(prefix).or_default().extend(names);
        }
        before.know(&prefixes);
        after.know(&prefixes);
    }

    /// Prefixes that the policies name, and addresses of names that they select by.
    pub(super) fn named_prefixes(&self) -> Prefixes {
        let named = self.repository.prefixes().into_iter().map(|prefix| (prefix, BTreeSet::new()));
        let mut prefixes: Prefixes = named.collect();
        for rule in self.repository.dns_selectors() {
            let matching = self.names.iter().filter(|(name, _)| rule.matches(name));
            for address in matching.flat_map(|(_, addresses)| addresses) {
                prefixes.entry(IpNet::from(*address)).or_default().insert(rule.label());
            }
        }
        prefixes
    }

    /// Gives prefixes identities where they have none.
    pub(super) fn know(&mut self, prefixes: &Prefixes) {
        let families = self.repository.settings().ip_families;
        for node in 0..self.nodes.len() {
            for (prefix, names) in prefixes {
                let own = self.nodes[node].addresses.iter().find(|(known, _)| known == prefix);
                let identity = match own {
                    // A pod or node has the address: that counts more.
                    Some((_, identity)) if *identity < NumericIdentity::LOCAL_MIN => continue,
                    Some((_, identity)) => *identity,
                    None => {
                        let number = self.free_number();
                        self.nodes[node].addresses.push((*prefix, number));
                        number
                    }
                };
                let known = self.identities.labels(identity).cloned();
                let labels = known.unwrap_or_else(|| cidr_identity_labels(*prefix, families));
                self.identities.insert(identity, labels.with(names.iter().cloned()));
            }
        }
    }

    /// What other policies would change, for every endpoint.
    pub(in crate::policy) fn compare(before: &Self, after: &Self) -> Vec<Compared> {
        let tables: Vec<[IdentityTable; 2]> =
            (0..before.nodes.len()).map(|node| [before.seen_by(node), after.seen_by(node)]).collect();
        let compared = before.endpoints.iter().filter_map(|(name, old)| {
            let new = after.endpoints.get(name)?;
            let [of_old, of_new] = tables.get(old.node)?;
            let (subject, other) = (old.subject(name), new.subject(name));
            let side =
                |world, subject, identities, audit| Side { repository: world, subject, identities, audit };
            let comparison = compare(
                side(&before.repository, &subject, of_old, old.audit),
                side(&after.repository, &other, of_new, new.audit),
            );
            let node = before.nodes.get(old.node).map(|view: &View| view.name.clone()).unwrap_or_default();
            Some(Compared { endpoint: name.clone(), node, comparison })
        });
        compared.collect()
    }

    /// Identities as a node has them: those of the cluster, and its own.
    fn seen_by(&self, node: usize) -> IdentityTable {
        let own: BTreeSet<NumericIdentity> =
            self.nodes.get(node).into_iter().flat_map(|view| &view.addresses).map(|(_, own)| *own).collect();
        let mut table = self.identities.clone();
        let foreign = self.identities.iter().map(|(identity, _)| identity);
        let foreign: Vec<NumericIdentity> = foreign
            .filter(|identity| *identity >= NumericIdentity::LOCAL_MIN && !own.contains(identity))
            .collect();
        for identity in foreign {
            table.remove(identity);
        }
        table
    }

    /// Endpoints that have an identity.
    pub(in crate::policy) fn endpoints_of(&self, identity: u32) -> Vec<&str> {
        let all = self.endpoints.iter().filter(|(_, endpoint)| endpoint.identity.0 == identity);
        all.map(|(name, _)| name.as_str()).collect()
    }
}
