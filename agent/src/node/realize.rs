//! From policies and identities to what the kernel enforces for each endpoint.

use std::time::Instant;

use specola_datapath::PolicyUpdate;
use specola_policy::{EndpointPolicy, NamedPorts, Origin, ResolveError, Subject, resolve};

use super::endpoints::record;
use super::identities::add_ports;
use super::{Node, entries};
use crate::config::PolicyOverflow;
use crate::endpoint::State;

impl Node {
    /// Computes every endpoint's policy and writes what changed. Returns whether the kernel now enforces all of it.
    pub(super) fn realize(&mut self) -> bool {
        let mut complete = true;
        let mut updates: Vec<(u16, EndpointPolicy, PolicyUpdate)> = Vec::new();
        let ids: Vec<u16> = self.endpoints.keys().copied().collect();
        for id in ids {
            match self.policy_update(id) {
                Ok(Some((policy, update))) => updates.push((id, policy, update)),
                Ok(None) => {}
                Err(error) => {
                    complete = false;
                    self.not_realized(id, &error);
                }
            }
        }
        let complete = complete & self.apply(updates);
        complete && self.endpoints.values().all(|endpoint| endpoint.overflowed.is_none())
    }

    /// The policy of an endpoint with the change that realizes it; none when there is nothing to do.
    fn policy_update(&mut self, id: u16) -> anyhow::Result<Option<(EndpointPolicy, PolicyUpdate)>> {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return Ok(None) };
        if !endpoint.is_attached() || endpoint.file.identity == 0 || endpoint.state == State::Invalid {
            return Ok(None);
        }
        let made_from = (self.repository.revision(), self.generation);
        if endpoint.made_from == Some(made_from) && endpoint.state == State::Ready {
            return Ok(None);
        }
        let is_kept = self.settings.overflow == PolicyOverflow::Keep;
        let closed = closed(made_from.0);
        if endpoint.overflowed == Some(made_from) && (is_kept || endpoint.realized.as_ref() == Some(&closed))
        {
            // Neither the policies nor the identities are others: they do not fit this time either.
            return Ok(None);
        }
        if endpoint.labels.is_empty() {
            anyhow::bail!("the labels of identity {} are not in the store", endpoint.file.identity);
        }
        let pod = self.desired.pod(&endpoint.file.pod_namespace, &endpoint.file.pod_name);
        let mut named_ports = NamedPorts::new();
        let own = pod.into_iter().flat_map(|pod| pod.named_ports());
        add_ports(&mut named_ports, own.map(|(name, p, n)| (name, p.to_owned(), n)));
        let subject = Subject {
            labels: endpoint.labels.clone(),
            namespace: endpoint.file.pod_namespace.clone(),
            named_ports,
            is_host: false,
        };
        if matches!(endpoint.state, State::WaitingForIdentity | State::Restoring) {
            endpoint.become_state(State::NotReady);
        }
        let policy = match resolve(&self.repository, &subject, &self.identities) {
            Ok(policy) => {
                endpoint.overflowed = None;
                policy
            }
            Err(error @ ResolveError::TooManyEntries { .. }) => {
                endpoint.overflowed = Some(made_from);
                endpoint.made_from = None;
                endpoint.conditions.clear();
                endpoint.condition(format!("policy revision {} is not realized: {error}", made_from.0));
                endpoint.become_state(State::NotReady);
                self.metrics.policy_overflowed();
                if is_kept {
                    return Ok(None);
                }
                closed
            }
            Err(error) => return Err(error.into()),
        };
        endpoint.made_from = None;
        let is_whole = endpoint.overflowed.is_none();
        if endpoint.realized.as_ref() == Some(&policy) && (endpoint.state == State::Ready || !is_whole) {
            endpoint.made_from = is_whole.then_some(made_from);
            return Ok(None);
        }
        let (slot, kernel) = (endpoint.file.slot, &self.kernel);
        let old = endpoint.realized.as_ref().map(|policy| &policy.map);
        let update = entries::update(slot, old, || kernel.policy(slot), &policy, &mut self.cookies)?;
        endpoint.become_state(State::WaitingToRegenerate);
        Ok(Some((policy, update)))
    }

    /// Cookies to disk and into the directory, then the kernel.
    fn apply(&mut self, updates: Vec<(u16, EndpointPolicy, PolicyUpdate)>) -> bool {
        if updates.is_empty() {
            return true;
        }
        if let Err(error) = self.publish_cookies() {
            for (id, ..) in &updates {
                self.not_realized(*id, &error);
            }
            return false;
        }
        for (id, ..) in &updates {
            if let Some(endpoint) = self.endpoints.get_mut(id) {
                endpoint.become_state(State::Regenerating);
            }
        }
        let changes: Vec<PolicyUpdate> = updates.iter().map(|(_, _, update)| update.clone()).collect();
        let started = Instant::now();
        let results = self.kernel.apply_policies(&changes);
        self.metrics.policy_applied(started.elapsed(), changes.len());
        let mut complete = true;
        for ((id, policy, _), result) in updates.into_iter().zip(results) {
            match result {
                Ok(()) => self.realized(id, policy),
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

    fn publish_cookies(&mut self) -> anyhow::Result<()> {
        let new = self.cookies.commit()?;
        Ok(self.feed.cookies(new.iter().map(|(cookie, origins)| (*cookie, origins)))?)
    }

    fn realized(&mut self, id: u16, policy: EndpointPolicy) {
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        let first = endpoint.realized.is_none();
        let (revision, entries) = (policy.revision, policy.map.len());
        endpoint.realized = Some(policy);
        if endpoint.overflowed.is_some() {
            // Closed because its policies do not fit; the condition says so.
            endpoint.become_state(State::NotReady);
            return;
        }
        endpoint.made_from = Some((revision, self.generation));
        endpoint.conditions.clear();
        endpoint.become_state(State::Ready);
        if first {
            tracing::info!(endpoint = id, pod = %endpoint.pod(), revision, entries, "endpoint is ready");
        }
    }

    fn not_realized(&mut self, id: u16, error: &anyhow::Error) {
        self.retry = true;
        self.metrics.regeneration_failed();
        let Some(endpoint) = self.endpoints.get_mut(&id) else { return };
        endpoint
            .condition(format!("policy revision {} is not realized: {error:#}", self.repository.revision()));
        if endpoint.state == State::Regenerating {
            endpoint.become_state(State::NotReady);
        }
    }
}

/// What an endpoint enforces that is to pass nothing.
fn closed(revision: u64) -> EndpointPolicy {
    let nothing = |egress| std::iter::once(Origin::deny_any(egress)).collect();
    EndpointPolicy {
        revision,
        ingress_enforced: true,
        egress_enforced: true,
        ingress_selected_by: nothing(false),
        egress_selected_by: nothing(true),
        ..EndpointPolicy::default()
    }
}
