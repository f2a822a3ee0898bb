//! The policies in force, with a revision that grows with every change.

mod compiled;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use specola_labels::LabelSet;

pub(crate) use self::compiled::{CompiledEntry, CompiledRule, DirectionRule};
use crate::compile::peer_prefixes;
use crate::objects::{CidrGroup, Objects, Service};
use crate::rule::{AwsGroup, DnsRule, Peer, PolicyObject, PolicyRef};
use crate::settings::Settings;

/// All policies in force.
#[derive(Debug)]
pub struct Repository {
    settings: Settings,
    revision: u64,
    policies: BTreeMap<PolicyRef, StoredPolicy>,
    objects: Objects,
    /// Prefixes that policies name, with how often.
    prefixes: BTreeMap<IpNet, usize>,
    /// Names and patterns of DNS that policies select by, with how often.
    names: BTreeMap<(String, bool), (DnsRule, usize)>,
    /// Number of times that the last policy that named such a prefix or name went.
    forgotten: u64,
}

/// A policy with the revision of its last change.
#[derive(Debug)]
pub struct StoredPolicy {
    object: PolicyObject,
    revision: u64,
    rules: Vec<Arc<CompiledRule>>,
}

impl Repository {
    /// An empty repository at revision 1.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            revision: 1,
            policies: BTreeMap::new(),
            objects: Objects::default(),
            prefixes: BTreeMap::new(),
            names: BTreeMap::new(),
            forgotten: 0,
        }
    }

    /// Adds a policy or replaces the one of the same name, and returns the revision that holds it.
    ///
    /// A policy that asks for the same as before changes no revision.
    pub fn upsert(&mut self, object: PolicyObject) -> u64 {
        if let Some(stored) = self.policies.get_mut(&object.reference)
            && stored.object.same_policy(&object)
        {
            stored.object = object;
            return stored.revision;
        }
        self.revision += 1;
        let rules = compiled::compile(&object, self.revision, &self.settings, &self.objects);
        self.insert(StoredPolicy { object, revision: self.revision, rules });
        self.revision
    }

    /// Goes on from the revision of an earlier process, if that is higher. Never goes back.
    pub fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// [`Self::upsert`] of a policy that has had this revision since an earlier process: it is no change. One that is
    /// there already, or a revision that was not reached yet, makes it an ordinary change.
    pub fn restore(&mut self, object: PolicyObject, revision: u64) -> u64 {
        if revision > self.revision || self.policies.contains_key(&object.reference) {
            return self.upsert(object);
        }
        let rules = compiled::compile(&object, revision, &self.settings, &self.objects);
        self.insert(StoredPolicy { object, revision, rules });
        revision
    }

    /// Removes a policy and returns the new revision; none when it was not there.
    pub fn remove(&mut self, reference: &PolicyRef) -> Option<u64> {
        let old = self.policies.remove(reference)?;
        self.count(&old.object, false);
        self.revision += 1;
        Some(self.revision)
    }

    /// Adds or replaces a group of prefixes, and returns the revision that holds it.
    pub fn upsert_cidr_group(&mut self, group: CidrGroup) -> u64 {
        let changed = self.objects.set_group(group);
        self.objects_changed(changed)
    }

    /// Removes a group of prefixes and returns the revision without it.
    pub fn remove_cidr_group(&mut self, name: &str) -> u64 {
        let changed = self.objects.remove_group(name);
        self.objects_changed(changed)
    }

    /// Adds or replaces a service, and returns the revision that holds it.
    pub fn upsert_service(&mut self, service: Service) -> u64 {
        let changed = self.objects.set_service(service);
        self.objects_changed(changed)
    }

    /// Removes a service and returns the revision without it.
    pub fn remove_service(&mut self, namespace: &str, name: &str) -> u64 {
        let changed = self.objects.remove_service(namespace, name);
        self.objects_changed(changed)
    }

    /// Sets the addresses that a cloud provider has for a group, and returns the revision that holds them.
    pub fn set_provider_group(&mut self, group: AwsGroup, prefixes: Vec<IpNet>) -> u64 {
        let changed = self.objects.set_provider_group(group, prefixes);
        self.objects_changed(changed)
    }

    /// Groups of a cloud provider that some policy names; their addresses are given by [`Self::set_provider_group`].
    pub fn provider_groups(&self) -> BTreeSet<&AwsGroup> {
        let mut groups = BTreeSet::new();
        for peer in self.peers() {
            if let Peer::Group(group) = peer {
                groups.insert(group);
            }
        }
        groups
    }

    /// Groups of prefixes that policies may refer to, in order.
    pub fn cidr_groups(&self) -> impl Iterator<Item = &CidrGroup> {
        self.objects.all_groups()
    }

    /// Groups of cloud providers with their addresses, in order.
    pub fn known_provider_groups(&self) -> impl Iterator<Item = (&AwsGroup, &[IpNet])> {
        self.objects.all_provider_groups()
    }

    /// Services that policies may refer to, in order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.objects.all_services()
    }

    /// Number of the last change, from 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What the repository was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A policy by name.
    pub fn get(&self, reference: &PolicyRef) -> Option<&StoredPolicy> {
        self.policies.get(reference)
    }

    /// All policies in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &StoredPolicy> {
        self.policies.values()
    }

    /// Number of policies.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there is no policy.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Prefixes that some policy names, exceptions included. Each needs an identity of its own (see
    /// [`crate::cidr_identity_labels`]) before the policies are enforced. Prefixes of length 0 are left out: they are
    /// the world.
    pub fn prefixes(&self) -> BTreeSet<IpNet> {
        self.prefixes.keys().copied().collect()
    }

    /// Whether some policy names the prefix.
    pub fn names_prefix(&self, prefix: &IpNet) -> bool {
        self.prefixes.contains_key(prefix)
    }

    /// What [`Self::prefixes`] would have more if the policy were in force.
    pub fn prefixes_of(&self, object: &PolicyObject) -> BTreeSet<IpNet> {
        let entries = object.rules.iter().flat_map(|rule| &rule.entries);
        entries
            .flat_map(|entry| &entry.peers)
            .flat_map(|peer| peer_prefixes(peer, &self.objects))
            .filter(|prefix| prefix.prefix_len() > 0)
            .collect()
    }

    /// Names and patterns of DNS that some policy selects by. An address that DNS gave for a matching name needs an
    /// identity with [`DnsRule::label`].
    pub fn dns_selectors(&self) -> Vec<&DnsRule> {
        self.names.values().map(|(name, _)| name).collect()
    }

    /// Grows when a prefix of [`Self::prefixes`], or one of [`Self::dns_selectors`], is named by no policy any more.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    fn peers(&self) -> impl Iterator<Item = &Peer> {
        let rules = self.iter().flat_map(|stored| &stored.object.rules);
        rules.flat_map(|rule| &rule.entries).flat_map(|entry| &entry.peers)
    }

    /// Policies that refer to other objects mean something else now; who wrote them and when stays.
    fn objects_changed(&mut self, changed: bool) -> u64 {
        if changed {
            self.revision += 1;
            self.prefixes = self.count_all_prefixes();
            self.forgotten += 1;
            for stored in self.policies.values_mut().filter(|stored| stored.object.refers_to_objects()) {
                stored.rules =
                    compiled::compile(&stored.object, stored.revision, &self.settings, &self.objects);
            }
        }
        self.revision
    }

    fn insert(&mut self, stored: StoredPolicy) {
        self.count(&stored.object, true);
        if let Some(old) = self.policies.insert(stored.object.reference.clone(), stored) {
            self.count(&old.object, false);
        }
    }

    /// Counts the prefixes and names of a policy that comes, or goes.
    fn count(&mut self, object: &PolicyObject, more: bool) {
        let step = |count: &mut usize| {
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            *count == 0
        };
        for prefix in self.prefixes_of(object) {
            if step(self.prefixes.entry(prefix).or_default()) {
                self.prefixes.remove(&prefix);
                self.forgotten += 1;
            }
        }
        for name in object.dns_selectors() {
            let key = name.key();
            if step(&mut self.names.entry(key.clone()).or_insert_with(|| (name.clone(), 0)).1) {
                self.names.remove(&key);
                self.forgotten += 1;
            }
        }
    }

    fn count_all_prefixes(&self) -> BTreeMap<IpNet, usize> {
        let mut counts = BTreeMap::new();
        for prefix in self.iter().flat_map(|stored| self.prefixes_of(&stored.object)) {
            *counts.entry(prefix).or_default() += 1;
        }
        counts
    }

    /// The same policies and objects, to try changes on.
    #[must_use]
    pub fn copy(&self) -> Self {
        let stored = |stored: &StoredPolicy| StoredPolicy {
            object: stored.object.clone(),
            revision: stored.revision,
            rules: stored.rules.clone(),
        };
        Self {
            settings: self.settings.clone(),
            revision: self.revision,
            policies: self.policies.iter().map(|(name, policy)| (name.clone(), stored(policy))).collect(),
            objects: self.objects.clone(),
            prefixes: self.prefixes.clone(),
            names: self.names.clone(),
            forgotten: self.forgotten,
        }
    }

    /// Rules that select the subject.
    pub(crate) fn rules_for<'a>(
        &'a self,
        labels: &'a LabelSet,
        is_host: bool,
    ) -> impl Iterator<Item = &'a CompiledRule> {
        self.iter()
            .flat_map(|stored| &stored.rules)
            .map(AsRef::as_ref)
            .filter(move |rule| rule.selects(labels, is_host))
    }
}

impl StoredPolicy {
    /// The object.
    pub fn object(&self) -> &PolicyObject {
        &self.object
    }

    /// Revision of its last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn rules(&self) -> &[Arc<CompiledRule>] {
        &self.rules
    }
}
