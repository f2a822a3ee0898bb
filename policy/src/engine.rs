//! The policies of all endpoints of a node, kept in step with rules and identities.
//!
//! [`resolve`](crate::resolve) makes one endpoint's policy from nothing; this gives the same, and touches only what a
//! change concerns: a new identity asks the selectors that its labels point at, and those name the rules, and those the
//! endpoints; a changed policy touches the endpoints that it selects, and in their maps the peers that it names.

mod follow;
mod rules;
mod subject;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use specola_labels::{LabelSet, NumericIdentity};

use self::rules::{RuleId, RuleSlot, RuleTable};
use self::subject::SubjectState;
use crate::condition::Condition;
use crate::identities::{IdentityTable, NamedPorts};
use crate::map_state::{Diff, MapState};
use crate::objects::{CidrGroup, Service};
use crate::redirect::{Redirect, redirects_of};
use crate::repository::{CompiledRule, Repository};
use crate::resolve::{EndpointPolicy, ResolveError, Subject, peers_with_names};
use crate::rule::{AwsGroup, PolicyObject, PolicyRef};
use crate::selectors::SelectorCache;
use crate::settings::Settings;

/// Number of a subject while it is held.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SubjectId(u32);

/// Policies, identities and endpoints of a node.
#[derive(Debug)]
pub struct Engine {
    repository: Repository,
    identities: IdentityTable,
    selectors: SelectorCache,
    rules: RuleTable,
    /// Policies that mean something else when groups of prefixes or services change.
    referring: BTreeSet<PolicyRef>,
    subjects: Vec<Option<SubjectState>>,
    free: Vec<SubjectId>,
    by_subject: HashMap<Arc<Subject>, SubjectId>,
    /// Subjects with something to compute.
    pending: BTreeSet<SubjectId>,
}

/// What a subject's policy is made from.
#[derive(Clone, Copy, Debug)]
struct World<'a> {
    repository: &'a Repository,
    identities: &'a IdentityTable,
    selectors: &'a SelectorCache,
    rules: &'a RuleTable,
}

impl Engine {
    /// An engine without policies that knows the reserved identities.
    pub fn new(settings: Settings) -> Self {
        Self {
            repository: Repository::new(settings),
            identities: IdentityTable::with_reserved(),
            selectors: SelectorCache::default(),
            rules: RuleTable::default(),
            referring: BTreeSet::new(),
            subjects: Vec::new(),
            free: Vec::new(),
            by_subject: HashMap::new(),
            pending: BTreeSet::new(),
        }
    }

    /// Adds a policy or replaces the one of the same name, and returns the revision that holds it.
    pub fn upsert(&mut self, object: PolicyObject) -> u64 {
        let reference = object.reference.clone();
        if object.refers_to_objects() {
            self.referring.insert(reference.clone());
        } else {
            self.referring.remove(&reference);
        }
        let revision = self.repository.upsert(object);
        self.follow(&reference);
        revision
    }

    /// Goes on from the revision of an earlier process; see [`Repository::advance`].
    pub fn advance(&mut self, revision: u64) {
        self.repository.advance(revision);
    }

    /// [`Self::upsert`] of a policy that has had this revision since an earlier process; see [`Repository::restore`].
    pub fn restore(&mut self, object: PolicyObject, revision: u64) -> u64 {
        let reference = object.reference.clone();
        if object.refers_to_objects() {
            self.referring.insert(reference.clone());
        }
        let revision = self.repository.restore(object, revision);
        self.follow(&reference);
        revision
    }

    /// Removes a policy and returns the new revision; none when it was not there.
    pub fn remove(&mut self, reference: &PolicyRef) -> Option<u64> {
        let revision = self.repository.remove(reference)?;
        self.referring.remove(reference);
        self.follow(reference);
        Some(revision)
    }

    /// Adds or replaces a group of prefixes, and returns the revision that holds it.
    pub fn upsert_cidr_group(&mut self, group: CidrGroup) -> u64 {
        let revision = self.repository.upsert_cidr_group(group);
        self.follow_objects();
        revision
    }

    /// Sets the addresses that a cloud provider has for a group, none to forget it; see
    /// [`Repository::set_provider_group`].
    pub fn set_provider_group(&mut self, group: AwsGroup, prefixes: Vec<IpNet>) -> u64 {
        let revision = self.repository.set_provider_group(group, prefixes);
        self.follow_objects();
        revision
    }

    /// Removes a group of prefixes and returns the revision without it.
    pub fn remove_cidr_group(&mut self, name: &str) -> u64 {
        let revision = self.repository.remove_cidr_group(name);
        self.follow_objects();
        revision
    }

    /// Adds or replaces a service, and returns the revision that holds it.
    pub fn upsert_service(&mut self, service: Service) -> u64 {
        let revision = self.repository.upsert_service(service);
        self.follow_objects();
        revision
    }

    /// Removes a service and returns the revision without it.
    pub fn remove_service(&mut self, namespace: &str, name: &str) -> u64 {
        let revision = self.repository.remove_service(namespace, name);
        self.follow_objects();
        revision
    }

    /// Adds an identity or replaces its labels. Returns whether that changed anything.
    pub fn insert_identity(&mut self, identity: NumericIdentity, labels: LabelSet) -> bool {
        let before = self.identities.labels(identity).cloned();
        if !self.identities.insert(identity, labels.clone()) {
            return false;
        }
        self.relabel(identity, before.as_ref(), Some(&labels));
        true
    }

    /// Removes an identity. Returns whether it was there.
    pub fn remove_identity(&mut self, identity: NumericIdentity) -> bool {
        let before = self.identities.labels(identity).cloned();
        let removed = self.identities.remove(identity);
        self.relabel(identity, before.as_ref(), None);
        removed
    }

    /// Sets the named ports of the identity's pods. Returns whether that changed anything.
    pub fn set_named_ports(&mut self, identity: NumericIdentity, ports: NamedPorts) -> bool {
        let changed = self.identities.set_named_ports(identity, ports);
        if changed {
            self.rename_ports(identity);
        }
        changed
    }

    /// Holds the policy of an endpoint from now on. Endpoints that are alike have one number.
    pub fn add_subject(&mut self, subject: Subject) -> SubjectId {
        let known = self.by_subject.get(&subject).copied();
        let id = known.unwrap_or_else(|| self.insert_subject(subject));
        if let Some(state) = self.state_mut(id) {
            state.references += 1;
        }
        id
    }

    /// One endpoint less of this kind. The last one takes the policy away.
    pub fn drop_subject(&mut self, id: SubjectId) {
        let Some(state) = self.state_mut(id) else { return };
        state.references = state.references.saturating_sub(1);
        if state.references > 0 {
            return;
        }
        if let Some(state) = self.subjects.get_mut(id.0 as usize).and_then(Option::take) {
            self.by_subject.remove(&state.subject);
            self.rules.remove_subject(id, state.rules.iter().copied());
            self.pending.remove(&id);
            self.free.push(id);
        }
    }

    /// Computes what changes since the last call concern, and returns the subjects that enforce something else now.
    pub fn update(&mut self) -> Vec<SubjectId> {
        let Self { repository, identities, selectors, rules, subjects, pending, .. } = self;
        let world = World { repository, identities, selectors, rules };
        let mut changed = Vec::new();
        for id in std::mem::take(pending) {
            let state = subjects.get_mut(id.0 as usize).and_then(Option::as_mut);
            if state.is_some_and(|state| state.update(world)) {
                changed.push(id);
            }
        }
        changed
    }

    /// The policy that a subject is to enforce, as of the last [`Self::update`].
    ///
    /// # Errors
    /// Its rules contradict each other, or need more entries than a map holds.
    pub fn policy(&self, id: SubjectId) -> Option<Result<SubjectPolicy<'_>, &ResolveError>> {
        let state = self.state(id)?;
        Some(match &state.error {
            Some(error) => Err(error),
            None => Ok(SubjectPolicy { state }),
        })
    }

    /// What a proxy must know of the subject's connections; changes only together with its policy. Nothing while the
    /// policy has an error.
    pub fn redirects(&self, id: SubjectId) -> Vec<Redirect> {
        let Some(state) = self.state(id).filter(|state| state.error.is_none()) else { return Vec::new() };
        let slots = state.rules.iter().filter_map(|rule| self.rules.get(*rule));
        let rules: Vec<&CompiledRule> = slots.map(|slot| &*slot.rule).collect();
        redirects_of(&self.repository, &rules, &state.subject, &self.identities)
    }

    /// Policies that mean to deny somebody and cannot, for want of what they refer to.
    pub fn open_denies(&self) -> impl Iterator<Item = (&PolicyRef, Condition)> {
        let stored = self.referring.iter().filter_map(|reference| self.repository.get(reference));
        stored.flat_map(|stored| {
            let conditions = self.repository.conditions(stored.object()).into_iter();
            let open = conditions.filter(Condition::leaves_open);
            open.map(|condition| (&stored.object().reference, condition))
        })
    }

    /// Number of the subject's policy; grows with each change, also to and from one that does not fit.
    pub fn version(&self, id: SubjectId) -> u64 {
        self.state(id).map_or(0, |state| state.version)
    }

    /// Subjects that a policy selects.
    pub fn selected_by(&self, reference: &PolicyRef) -> BTreeSet<SubjectId> {
        self.rules.of_policy(reference).flat_map(|(_, slot)| &slot.subjects).copied().collect()
    }

    /// Whether something waits for [`Self::update`].
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Policies in force.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Identities that selectors are resolved against.
    pub fn identities(&self) -> &IdentityTable {
        &self.identities
    }

    /// Number of different selectors in the policies.
    pub fn selectors(&self) -> usize {
        self.selectors.len()
    }
}

/// What one subject is to enforce.
#[derive(Clone, Copy, Debug)]
pub struct SubjectPolicy<'a> {
    state: &'a SubjectState,
}

impl<'a> SubjectPolicy<'a> {
    /// Grows with each change of the policy.
    pub fn version(&self) -> u64 {
        self.state.version
    }

    /// What leads from a version to this one; none when that is not known.
    pub fn diff_from(&self, version: u64) -> Option<&'a Diff> {
        self.state.diff.as_ref().filter(|_| version != 0 && version + 1 == self.state.version)
    }

    /// Entries of both directions.
    pub fn map(&self) -> &'a MapState {
        self.state.map()
    }

    /// Repository revision of the last change.
    pub fn revision(&self) -> u64 {
        self.state.revision
    }

    /// What drops packets of the direction that have no entry; none when they pass.
    pub fn closed_by(&self, egress: bool) -> Option<crate::OriginSet> {
        self.state.closed_by(egress)
    }

    /// A copy.
    pub fn to_owned(&self) -> EndpointPolicy {
        let (ingress, egress) = (self.closed_by(false), self.closed_by(true));
        EndpointPolicy {
            revision: self.revision(),
            audit: false,
            map: self.map().clone(),
            ingress_enforced: ingress.is_some(),
            egress_enforced: egress.is_some(),
            ingress_selected_by: ingress.unwrap_or_default(),
            egress_selected_by: egress.unwrap_or_default(),
        }
    }
}
