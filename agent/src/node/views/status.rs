//! Which policies are in force where.

use std::collections::BTreeMap;

use specola_policy::{PolicyRef, StoredPolicy, SubjectId};
use specola_proto::specola::v1 as pb;

use super::super::Node;
use super::super::life::{Endpoint, Realized};

/// An endpoint that policies may select, and how far its kernel policy is.
struct Selectable {
    name: String,
    /// Revision of all policies that the kernel has for it; 0 = none.
    revision: u64,
    /// The newest reason why that is not the present one.
    condition: Option<String>,
}

impl Node {
    /// What the admin API shows of policies.
    pub(super) fn show_chosen<'a>(&self, chosen: impl Iterator<Item = &'a StoredPolicy>) -> Vec<pb::Policy> {
        let selectable = self.selectable();
        chosen.map(|stored| self.show_policy(stored, &selectable)).collect()
    }

    /// Policies that select an endpoint; `revision` is that of all policies that its kernel policy has.
    pub(super) fn show_applied(&self, subject: SubjectId, revision: u64) -> Vec<pb::AppliedPolicy> {
        let stored = self.engine.repository().iter();
        let selecting =
            stored.filter(|stored| self.engine.selected_by(&stored.object().reference).contains(&subject));
        let show = |stored: &StoredPolicy| {
            let PolicyRef { kind, namespace, name } = stored.object().reference.clone();
            pb::AppliedPolicy {
                kind: kind.as_str().to_owned(),
                namespace,
                name,
                revision: stored.revision(),
                realized: stored.revision() <= revision,
            }
        };
        selecting.map(show).collect()
    }

    /// The subject that an endpoint is, and the newest revision that the kernel has for it.
    pub(super) fn realized_revision(&self, endpoint: &Endpoint) -> Option<(SubjectId, u64)> {
        let subject = endpoint.subject?;
        // Closed as policies do not fit: no policy is in force as it is.
        let realized = endpoint.realized.as_ref().filter(|realized| realized.made_from.is_some());
        Some((subject, realized.map_or(0, |realized| self.newest_revision(Some(subject), realized))))
    }

    /// The same of the node itself.
    pub(in super::super) fn host_realized(&self) -> Option<(SubjectId, u64)> {
        let (subject, realized) = self.host_policy()?;
        Some((subject, realized.map_or(0, |realized| self.newest_revision(Some(subject), realized))))
    }

    /// The newest revision that a subject enforces: that of all policies, when they ask nothing else of it.
    pub(in super::super) fn newest_revision(&self, subject: Option<SubjectId>, realized: &Realized) -> u64 {
        if self.is_newest(subject, realized) {
            self.engine.repository().revision()
        } else {
            realized.revision
        }
    }

    fn is_newest(&self, subject: Option<SubjectId>, realized: &Realized) -> bool {
        let present = subject.map(|subject| (subject, self.engine.version(subject)));
        realized.made_from.is_some() && realized.made_from == present && !self.engine.is_pending()
    }

    /// Whether the kernel enforces what policies ask of an endpoint.
    pub(super) fn policy_status(&self, endpoint: &Endpoint) -> pb::PolicyStatus {
        match &endpoint.realized {
            None => pb::PolicyStatus::None,
            Some(realized) if realized.made_from.is_none() => pb::PolicyStatus::Closed,
            Some(realized) if self.is_newest(endpoint.subject, realized) => pb::PolicyStatus::Realized,
            Some(_) => pb::PolicyStatus::Outdated,
        }
    }

    /// The same of the node itself.
    pub(in super::super) fn host_policy_status(&self) -> pb::PolicyStatus {
        match self.host_policy() {
            Some((subject, Some(realized))) if self.is_newest(Some(subject), realized) => {
                pb::PolicyStatus::Realized
            }
            Some((_, Some(_))) => pb::PolicyStatus::Outdated,
            Some((_, None)) | None => pb::PolicyStatus::None,
        }
    }

    /// All endpoints by what policies select them by.
    fn selectable(&self) -> BTreeMap<SubjectId, Vec<Selectable>> {
        let mut all: BTreeMap<SubjectId, Vec<Selectable>> = BTreeMap::new();
        for endpoint in self.endpoints.values() {
            let Some((subject, revision)) = self.realized_revision(endpoint) else { continue };
            let condition = endpoint.conditions.back().cloned();
            let one = Selectable { name: format!("endpoint {}", endpoint.pod()), revision, condition };
            all.entry(subject).or_default().push(one);
        }
        if let Some((subject, revision)) = self.host_realized() {
            let one = Selectable { name: "the node itself".to_owned(), revision, condition: None };
            all.entry(subject).or_default().push(one);
        }
        all
    }

    fn show_policy(
        &self,
        stored: &StoredPolicy,
        selectable: &BTreeMap<SubjectId, Vec<Selectable>>,
    ) -> pb::Policy {
        let object = stored.object();
        let subjects = self.engine.selected_by(&object.reference);
        let selected: Vec<&Selectable> =
            subjects.iter().filter_map(|subject| selectable.get(subject)).flatten().collect();
        let behind: Vec<&Selectable> =
            selected.iter().copied().filter(|one| one.revision < stored.revision()).collect();
        let mut conditions = self.refusals(&object.reference);
        let cannot = self.engine.repository().conditions(object);
        conditions.extend(cannot.iter().map(ToString::to_string));
        conditions.extend(behind.iter().take(NAMED).map(|one| one.text()));
        if behind.len() > NAMED {
            conditions.push(format!("{} more endpoints do not have it yet", behind.len() - NAMED));
        }
        pb::Policy {
            kind: object.reference.kind.as_str().to_owned(),
            namespace: object.reference.namespace.clone(),
            name: object.reference.name.clone(),
            uid: object.uid.clone(),
            revision: stored.revision(),
            source: format!("{}:{}", object.file, object.line),
            yaml: object.text.to_string(),
            endpoints_selected: super::number(selected.len()),
            endpoints_realized: super::number(selected.len() - behind.len()),
            conditions,
            audit: object.audit,
        }
    }

    /// What policies mean to deny and cannot, for want of what they refer to.
    pub(super) fn open_denies(&self) -> impl Iterator<Item = String> {
        let open = self.engine.open_denies();
        open.map(|(reference, condition)| format!("{} {reference}: {condition}", reference.kind))
    }

    /// Newer documents of the policy that are not in force.
    fn refusals(&self, reference: &PolicyRef) -> Vec<String> {
        let object = format!("{} {reference}", reference.kind);
        let refused = self.desired.refused.iter().filter(|refused| refused.object == object);
        let text = |refused: &crate::desired::Refused| {
            let (file, line, errors) = (&refused.file, refused.line, refused.errors.join("; "));
            format!("{file}:{line} is refused: {errors}")
        };
        refused.map(text).collect()
    }
}

impl Selectable {
    fn text(&self) -> String {
        let cause = self.condition.as_deref().unwrap_or("not realized yet");
        format!("{}: {cause}", self.name)
    }
}

/// Endpoints that a policy's conditions name.
const NAMED: usize = 3;
