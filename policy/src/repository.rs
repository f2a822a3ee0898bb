//! The policies in force, with a revision that grows with every change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use specola_labels::{Family, LabelSet};

use crate::compile::{PeerSelector, compile_peer, peer_prefixes};
use crate::objects::{CidrGroup, Objects, Service};
use crate::origin::{Origin, OriginSet, Section};
use crate::resolve::Atoms;
use crate::rule::{
    Action, AuthMode, AwsGroup, DnsRule, L4, Peer, PolicyObject, PolicyRef, Rule, RuleEntry, RuleSubject,
};
use crate::tier::Rank;

/// What the engine needs to know of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Name of the local cluster.
    pub cluster_name: String,
    /// When policy is enforced.
    pub mode: Mode,
    /// Whether the local node may always reach its endpoints.
    pub allow_localhost: AllowLocalhost,
    /// Address families in use; decides the names of the world labels.
    pub ip_families: IpFamilies,
    /// Whether policies select and govern the host.
    pub host_firewall: bool,
    /// Whether endpoint selectors of peers mean the local cluster unless they say otherwise.
    pub default_local_cluster: bool,
    /// Largest number of entries in one endpoint's map.
    pub max_entries: usize,
}

/// When policy is enforced.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Mode {
    /// Where a policy selects the endpoint.
    #[default]
    Default,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// Whether the local node may always reach its endpoints.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum AllowLocalhost {
    /// As Kubernetes needs it: always.
    #[default]
    Auto,
    /// Always.
    Always,
    /// As policies say.
    Policy,
}

/// Address families in use.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IpFamilies {
    /// IPv4 only; the world is `reserved:world`.
    V4,
    /// IPv6 only; the world is `reserved:world`.
    V6,
    /// Both; the worlds are `reserved:world-ipv4` and `reserved:world-ipv6`.
    Dual,
}

/// All policies in force.
#[derive(Debug)]
pub struct Repository {
    settings: Settings,
    revision: u64,
    policies: BTreeMap<PolicyRef, StoredPolicy>,
    objects: Objects,
    /// Prefixes that policies name, with how often.
    prefixes: BTreeMap<IpNet, usize>,
}

/// A policy with the revision of its last change.
#[derive(Debug)]
pub struct StoredPolicy {
    object: PolicyObject,
    revision: u64,
    rules: Vec<Arc<CompiledRule>>,
}

/// A rule in terms of identities.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) subject: RuleSubject,
    pub(crate) ingress: DirectionRule,
    pub(crate) egress: DirectionRule,
}

/// What a rule has for one direction.
#[derive(Debug)]
pub(crate) struct DirectionRule {
    /// Whether the rule concerns the direction at all.
    pub(crate) present: bool,
    pub(crate) default_deny: bool,
    /// What only this rule drops passes, and is reported as audited.
    pub(crate) audit: bool,
    /// Names the rule where it is the selection that decides.
    pub(crate) selected_by: Arc<Origin>,
    pub(crate) entries: Vec<CompiledEntry>,
}

/// An entry in terms of identities.
#[derive(Debug)]
pub(crate) struct CompiledEntry {
    pub(crate) action: Action,
    pub(crate) rank: Rank,
    pub(crate) auth: Option<AuthMode>,
    /// A deny by this entry alone is only reported.
    pub(crate) audit: bool,
    pub(crate) peers: Vec<PeerSelector>,
    pub(crate) l4: L4,
    /// The same as blocks of ports.
    pub(crate) atoms: Atoms,
    pub(crate) origin: Arc<Origin>,
    /// The set of this one origin.
    pub(crate) origins: OriginSet,
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
        let rules = compile_object(&object, self.revision, &self.settings, &self.objects);
        self.count_prefixes(&object, true);
        let stored = StoredPolicy { object, revision: self.revision, rules };
        if let Some(old) = self.policies.insert(stored.object.reference.clone(), stored) {
            self.count_prefixes(&old.object, false);
        }
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
        let rules = compile_object(&object, revision, &self.settings, &self.objects);
        self.count_prefixes(&object, true);
        self.policies.insert(object.reference.clone(), StoredPolicy { object, revision, rules });
        revision
    }

    /// Removes a policy and returns the new revision; none when it was not there.
    pub fn remove(&mut self, reference: &PolicyRef) -> Option<u64> {
        let old = self.policies.remove(reference)?;
        self.count_prefixes(&old.object, false);
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
        let mut selectors: Vec<&DnsRule> = Vec::new();
        for peer in self.peers() {
            if let Peer::Fqdn(name) = peer
                && !selectors.contains(&name)
            {
                selectors.push(name);
            }
        }
        selectors
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
            for stored in self.policies.values_mut().filter(|stored| stored.object.refers_to_objects()) {
                stored.rules = compile_object(&stored.object, stored.revision, &self.settings, &self.objects);
            }
        }
        self.revision
    }

    fn count_prefixes(&mut self, object: &PolicyObject, more: bool) {
        for prefix in self.prefixes_of(object) {
            let count = self.prefixes.entry(prefix).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.prefixes.remove(&prefix);
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
    pub(crate) fn copy(&self) -> Self {
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

impl CompiledEntry {
    fn new(entry: &RuleEntry, rank: Rank, audit: bool, peers: Vec<PeerSelector>, origin: Origin) -> Self {
        let origin = Arc::new(origin);
        Self {
            action: entry.action,
            rank,
            auth: entry.auth,
            audit,
            peers,
            l4: entry.l4.clone(),
            atoms: Atoms::new(&entry.l4),
            origins: OriginSet::of(Arc::clone(&origin)),
            origin,
        }
    }
}

impl CompiledRule {
    pub(crate) fn direction(&self, egress: bool) -> &DirectionRule {
        if egress { &self.egress } else { &self.ingress }
    }

    /// Whether an entry of the direction looks at requests.
    pub(crate) fn has_requests(&self, egress: bool) -> bool {
        self.direction(egress).entries.iter().any(|entry| entry.needs_agreement())
    }

    pub(crate) fn selects(&self, labels: &LabelSet, is_host: bool) -> bool {
        match &self.subject {
            RuleSubject::Endpoints(selector) => !is_host && selector.matches(labels),
            RuleSubject::Nodes(selector) => is_host && selector.matches(labels),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_name: "default".to_owned(),
            mode: Mode::Default,
            allow_localhost: AllowLocalhost::Auto,
            ip_families: IpFamilies::Dual,
            host_firewall: false,
            default_local_cluster: true,
            max_entries: 16_384,
        }
    }
}

impl IpFamilies {
    /// Whether the family is in use.
    pub const fn has(self, family: Family) -> bool {
        matches!((self, family), (Self::Dual, _) | (Self::V4, Family::V4) | (Self::V6, Family::V6))
    }
}

fn compile_object(
    object: &PolicyObject,
    revision: u64,
    settings: &Settings,
    objects: &Objects,
) -> Vec<Arc<CompiledRule>> {
    let compile = |(index, rule): (usize, &Rule)| {
        let origin = |section, rule_index| Origin {
            kind: object.reference.kind.into(),
            namespace: object.reference.namespace.clone(),
            name: object.reference.name.clone(),
            uid: object.uid.clone(),
            section,
            rule_index,
            labels: rule_labels(object, rule),
            revision,
            log: rule.log.clone(),
        };
        let direction = |egress: bool| DirectionRule {
            present: if egress { rule.has_egress } else { rule.has_ingress },
            default_deny: if egress { rule.default_deny_egress } else { rule.default_deny_ingress },
            audit: object.audit,
            selected_by: Arc::new(origin(Section::allow(egress), u32::try_from(index).unwrap_or(u32::MAX))),
            entries: rule
                .entries
                .iter()
                .filter(|entry| entry.section.is_egress() == egress)
                .map(|entry| {
                    let peers = entry.peers.iter().flat_map(|peer| compile_peer(peer, settings, objects));
                    let rank = Rank::new(rule.tier, rule.priority, entry.index);
                    let origin = origin(entry.section, entry.index);
                    CompiledEntry::new(entry, rank, object.audit, peers.collect(), origin)
                })
                .collect(),
        };
        let (ingress, egress) = (direction(false), direction(true));
        Arc::new(CompiledRule { subject: rule.subject.clone(), ingress, egress })
    };
    object.rules.iter().enumerate().map(compile).collect()
}

/// Labels that say which object a rule comes from, then the rule's own.
fn rule_labels(object: &PolicyObject, rule: &Rule) -> Vec<String> {
    let reference = &object.reference;
    let derived = [
        ("derived-from", reference.kind.as_str()),
        ("name", reference.name.as_str()),
        ("namespace", reference.namespace.as_str()),
        ("uid", object.uid.as_str()),
    ];
    let mut labels: Vec<String> = derived
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("k8s:io.cilium.k8s.policy.{key}={value}"))
        .collect();
    let mut own: Vec<String> = rule.labels.iter().map(ToString::to_string).collect();
    own.sort();
    labels.extend(own);
    labels
}
