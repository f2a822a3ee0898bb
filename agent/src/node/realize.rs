//! From policies and identities to what the kernel enforces for each endpoint.

use std::time::Instant;

use specola_datapath::PolicyUpdate;
use specola_labels::LabelSet;
use specola_policy::{NamedPorts, Origin, ResolveError, Subject};

use super::Node;
use super::endpoints::record;
use super::entries::{self, Step};
use super::identities::add_ports;
use super::life::{Endpoint, Made, Realized};
use crate::config::PolicyOverflow;
use crate::desired::{Pod, Shared};
use crate::endpoint::State;

impl Node {
    /// Computes what changes concern and writes what is other than the kernel has. Returns whether the kernel now
    /// enforces all of it.
    pub(super) fn realize(&mut self) -> bool {
        let mut complete = self.follow_subjects();
        self.follow_host();
        self.engine.update();
        let mut steps: Vec<(u16, Step)> = Vec::new();
        let ids: Vec<u16> = self.endpoints.keys().copied().collect();
        for id in ids {
            match self.step(id) {
                Ok(Some(step)) => steps.push((id, step)),
                Ok(None) => {}
                Err(error) => {
                    complete = false;
                    self.not_realized(id, &error);
                }
            }
        }
        let complete = complete & self.apply(steps) & self.realize_host();
        complete && self.endpoints.values().all(|endpoint| endpoint.overflowed.is_none())
    }

    /// Gives the engine's number to every endpoint that can have a policy. Returns whether all have one.
    fn follow_subjects(&mut self) -> bool {
        let mut unlabelled = Vec::new();
        for (id, endpoint) in self.endpoints.iter_mut().filter(|(_, endpoint)| takes_policy(endpoint)) {
            if endpoint.labels.is_empty() {
                unlabelled.push(*id);
                continue;
            }
            let pod = self.desired.pod(&endpoint.file.pod_namespace, &endpoint.file.pod_name);
            let (labels, old_pod) = &endpoint.subject_of;
            if endpoint.subject.is_some() && old_pod.as_ref() == pod && *labels == endpoint.labels {
                continue;
            }
            let namespace = &endpoint.file.pod_namespace;
            let subject = self.engine.add_subject(subject(&endpoint.labels, namespace, pod));
            if let Some(old) = endpoint.subject.replace(subject) {
                self.engine.drop_subject(old);
            }
            endpoint.subject_of = (endpoint.labels.clone(), pod.cloned());
        }
        for id in &unlabelled {
            let identity = self.endpoints.get(id).map_or(0, |endpoint| endpoint.file.identity);
            self.not_realized(
                *id,
                &anyhow::anyhow!("the labels of identity {identity} are not in the store"),
            );
        }
        unlabelled.is_empty()
    }

    /// The change that realizes an endpoint's policy; none when there is nothing to do.
    fn step(&mut self, id: u16) -> anyhow::Result<Option<Step>> {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return Ok(None) };
        let Some(subject) = endpoint.subject.filter(|_| takes_policy(endpoint)) else { return Ok(None) };
        let made = (subject, self.engine.version(subject));
        let in_force = endpoint.realized.as_ref().and_then(|realized| realized.made_from);
        let file = &endpoint.file;
        let audit = self.settings.audit_mode
            || self.desired.is_audited(&file.pod_namespace, &file.pod_name)
            || self.overrides.audited_namespaces().contains(&file.pod_namespace);
        let is_same_mode = endpoint.realized.as_ref().is_some_and(|realized| realized.audit == audit);
        if in_force == Some(made) && endpoint.state == State::Ready && is_same_mode {
            return Ok(None);
        }
        if matches!(endpoint.state, State::WaitingForIdentity | State::Restoring) {
            endpoint.become_state(State::NotReady);
        }
        let (slot, kernel) = (endpoint.file.slot, &self.kernel);
        let policy = match self.engine.policy(subject) {
            Some(Ok(policy)) => policy,
            Some(Err(error @ ResolveError::TooManyEntries { .. })) => {
                let error = error.clone();
                return self.overflow(id, made, &error);
            }
            Some(Err(error)) => return Err(error.clone().into()),
            None => return Ok(None),
        };
        endpoint.overflowed = None;
        let diff = match in_force {
            Some((known, version)) if known == subject => policy.diff_from(version),
            _ => None,
        };
        let realized = Realized::of(subject, policy, audit);
        let step = entries::follow(slot, diff, || kernel.policy(slot), policy, realized, &mut self.cookies)?;
        endpoint.become_state(State::WaitingToRegenerate);
        Ok(Some(step))
    }

    /// The policy needs more entries than the kernel's map has: the last one stays, or everything is closed.
    fn overflow(&mut self, id: u16, made: Made, error: &ResolveError) -> anyhow::Result<Option<Step>> {
        let revision = self.engine.repository().revision();
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return Ok(None) };
        let is_kept = self.settings.overflow == PolicyOverflow::Keep;
        let is_closed = endpoint.realized.as_ref().is_some_and(|realized| realized.made_from.is_none());
        if endpoint.overflowed == Some(made) && (is_kept || is_closed) {
            // Neither the policies nor the identities are others: they do not fit this time either.
            return Ok(None);
        }
        endpoint.overflowed = Some(made);
        endpoint.conditions.clear();
        endpoint.condition(format!("policy revision {revision} is not realized: {error}"));
        endpoint.become_state(State::NotReady);
        self.metrics.policy_overflowed();
        self.seen.unpublished = true;
        if is_kept || is_closed {
            return Ok(None);
        }
        let slot = endpoint.file.slot;
        let step = entries::close(slot, &self.kernel.policy(slot), closed(revision), &mut self.cookies)?;
        endpoint.become_state(State::WaitingToRegenerate);
        Ok(Some(step))
    }

    /// Cookies to disk and into the directory, then the kernel.
    fn apply(&mut self, steps: Vec<(u16, Step)>) -> bool {
        if steps.is_empty() {
            return true;
        }
        if let Err(error) = self.publish_cookies() {
            for (id, ..) in &steps {
                self.not_realized(*id, &error);
            }
            return false;
        }
        let mut updates: Vec<PolicyUpdate> = Vec::new();
        let mut realized: Vec<(u16, Realized)> = Vec::new();
        for (id, step) in steps {
            if let Some(endpoint) = self.endpoints.get_mut(&id) {
                endpoint.become_state(State::Regenerating);
            }
            updates.push(step.update);
            realized.push((id, step.realized));
        }
        let started = Instant::now();
        let results = self.kernel.apply_policies(&updates);
        self.metrics.policy_applied(started.elapsed(), updates.len());
        let mut complete = true;
        for ((id, realized), result) in realized.into_iter().zip(results) {
            match result {
                Ok(()) => self.realized(id, realized),
                Err(error) => {
                    complete = false;
                    self.not_realized(id, &error);
                }
            }
        }
        complete
    }

    /// Brings the identity in the kernel's records up to date, once policies know it. Returns whether all are.
    pub(super) fn refresh_records(&mut self) -> bool {
        let mut complete = true;
        let ids: Vec<u16> = self.endpoints.keys().copied().collect();
        for id in ids {
            if let Err(error) = self.refresh_record(id) {
                complete = false;
                self.not_realized(id, &error);
            }
        }
        complete
    }

    fn refresh_record(&mut self, id: u16) -> anyhow::Result<()> {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return Ok(()) };
        let wanted = record(&endpoint.file, endpoint.ifindex);
        if endpoint.is_attached() && endpoint.state != State::Invalid && endpoint.recorded != wanted.identity
        {
            self.kernel.add_endpoint(endpoint.file.slot, &wanted)?;
            endpoint.recorded = wanted.identity;
        }
        Ok(())
    }

    pub(super) fn publish_cookies(&mut self) -> anyhow::Result<()> {
        let new = self.cookies.commit()?;
        Ok(self.feed.cookies(new.iter().map(|(cookie, origins)| (*cookie, origins)))?)
    }

    fn realized(&mut self, id: u16, realized: Realized) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        let (revision, entries) = (realized.revision, realized.entries);
        let enforces = |realized: &Realized| [realized.enforces(false), realized.enforces(true)];
        let before = endpoint.realized.as_ref().map(enforces);
        self.seen.unpublished |= before != Some(enforces(&realized)) || !endpoint.conditions.is_empty();
        let first = endpoint.realized.is_none();
        endpoint.realized = Some(realized);
        if endpoint.overflowed.is_some() {
            // Closed because its policies do not fit; the condition says so.
            endpoint.become_state(State::NotReady);
            return;
        }
        endpoint.conditions.clear();
        endpoint.become_state(State::Ready);
        self.notices.regenerated(endpoint);
        if first {
            tracing::info!(endpoint = id, pod = %endpoint.pod(), revision, entries, "endpoint is ready");
        }
    }

    fn not_realized(&mut self, id: u16, error: &anyhow::Error) {
        self.retry = true;
        self.seen.unpublished = true;
        self.metrics.regeneration_failed();
        let revision = self.engine.repository().revision();
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        self.notices.regeneration_failed(endpoint, error);
        endpoint.condition(format!("policy revision {revision} is not realized: {error:#}"));
        if endpoint.state == State::Regenerating {
            endpoint.become_state(State::NotReady);
        }
    }
}

fn takes_policy(endpoint: &Endpoint) -> bool {
    endpoint.is_attached() && endpoint.file.identity != 0 && endpoint.state != State::Invalid
}

fn subject(labels: &LabelSet, namespace: &str, pod: Option<&Shared<Pod>>) -> Subject {
    let mut named_ports = NamedPorts::new();
    let own = pod.into_iter().flat_map(|pod| pod.named_ports());
    add_ports(&mut named_ports, own.map(|(name, p, n)| (name, p.to_owned(), n)));
    Subject { labels: labels.clone(), namespace: namespace.to_owned(), named_ports, is_host: false }
}

/// What an endpoint enforces that is to pass nothing.
fn closed(revision: u64) -> Realized {
    let nothing = |egress| Some(std::iter::once(Origin::deny_any(egress)).collect());
    Realized {
        made_from: None,
        revision,
        entries: 0,
        closed_by: [nothing(false), nothing(true)],
        audit: false,
    }
}
