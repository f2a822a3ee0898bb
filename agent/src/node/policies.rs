//! From the desired policies to those of the engine.

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use specola_policy::{PolicyObject, PolicyRef};

use super::Node;
use super::names::take_objects;
use crate::desired::{Desired, Shared};

/// What makes the engine's policies equal to the desired ones.
#[derive(Debug, Default)]
pub(super) struct PolicyChanges {
    pub(super) gone: Vec<PolicyRef>,
    pub(super) new: Vec<Shared<PolicyObject>>,
}

/// What decides which prefixes need an identity: as long as it is the same, so are they.
#[derive(Debug)]
pub(super) struct Named {
    forgotten: u64,
    prefixes: usize,
    desired: Arc<Desired>,
}

impl Named {
    pub(super) fn of(node: &Node) -> Self {
        Self {
            forgotten: node.engine.repository().forgotten(),
            prefixes: node.local_identities.len(),
            desired: Arc::clone(&node.desired),
        }
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.forgotten == other.forgotten
            && self.prefixes == other.prefixes
            && self.desired.same_names(&other.desired)
    }
}

impl Node {
    pub(super) fn has_new_policies(&self) -> bool {
        self.taken.as_ref().is_none_or(|taken| !Arc::ptr_eq(taken, &self.desired))
    }

    /// What the engine does not have as it is desired. When it is not known what the engine has, everything is new.
    pub(super) fn policy_changes(&self) -> PolicyChanges {
        let Some(taken) = &self.taken else {
            let known = self.engine.repository().iter().map(|stored| &stored.object().reference);
            let gone = known.filter(|reference| !self.desired.policies.contains_key(*reference));
            return PolicyChanges {
                gone: gone.cloned().collect(),
                new: self.desired.policies.values().cloned().collect(),
            };
        };
        let mut changes = PolicyChanges::default();
        for change in taken.policies.diff(&self.desired.policies) {
            match change {
                DiffItem::Add(_, policy) | DiffItem::Update { new: (_, policy), .. } => {
                    changes.new.push(policy.clone());
                }
                DiffItem::Remove(reference, _) => changes.gone.push(reference.clone()),
            }
        }
        changes
    }

    /// Makes the engine's policies equal to the desired ones.
    pub(super) fn take_policies(&mut self) -> anyhow::Result<()> {
        if !self.has_new_policies() {
            return Ok(());
        }
        let changes = self.policy_changes();
        let before = self.engine.repository().revision();
        // Until all of it is done, the engine may have any of them.
        self.taken = None;
        take_objects(&mut self.engine, &self.objects, &self.desired);
        self.objects = Arc::clone(&self.desired);
        for reference in changes.gone {
            self.drop_policy(&reference)?;
        }
        for policy in changes.new {
            self.take_policy(&policy)?;
        }
        for reference in self.revisions.take_forgotten() {
            // Removed while no agent ran, or another one now, which has said so itself.
            if self.engine.repository().get(&reference).is_none() {
                self.engine.advance(self.engine.repository().revision() + 1);
                self.revisions.note_gone(&reference, self.engine.repository().revision())?;
            }
        }
        self.revisions.commit(self.engine.repository().revision())?;
        self.overrides.retain_policies(|policy| self.desired.policies.contains_key(policy))?;
        self.taken = Some(Arc::clone(&self.desired));
        let repository = self.engine.repository();
        if repository.revision() != before {
            tracing::info!(revision = repository.revision(), policies = repository.len(), "policies changed");
        }
        Ok(())
    }

    fn drop_policy(&mut self, reference: &PolicyRef) -> anyhow::Result<()> {
        let object = self.engine.repository().get(reference).map(|stored| stored.object().clone());
        if let Some(revision) = self.engine.remove(reference) {
            self.revisions.note_gone(reference, revision)?;
        }
        if let Some(object) = object {
            self.notices.policy_deleted(&object, self.engine.repository().revision());
        }
        Ok(())
    }

    fn take_policy(&mut self, policy: &PolicyObject) -> anyhow::Result<()> {
        let known = self.engine.repository().revision();
        match self.revisions.recall(policy) {
            Some(revision) => self.engine.restore(self.overridden(policy), revision),
            None => self.engine.upsert(self.overridden(policy)),
        };
        let revision = self.engine.repository().revision();
        if revision > known {
            self.revisions.note(policy, revision)?;
            self.notices.policy_updated(policy, revision);
        }
        Ok(())
    }
}
