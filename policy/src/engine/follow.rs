//! From a change to the subjects and the peers that it concerns.

use super::{
    Arc, CompiledRule, Engine, LabelSet, NumericIdentity, PolicyRef, RuleId, RuleSlot, Subject, SubjectId,
    SubjectState, peers_with_names,
};
use crate::compile::PeerSelector;

impl Engine {
    /// Brings the rules of a policy in line with the repository.
    pub(super) fn follow(&mut self, reference: &PolicyRef) {
        let rules = self.repository.get(reference).map_or(&[][..], |stored| stored.rules());
        let old: Vec<&Arc<CompiledRule>> =
            self.rules.of_policy(reference).map(|(_, slot)| &slot.rule).collect();
        if old.len() == rules.len() && old.iter().zip(rules).all(|(old, new)| Arc::ptr_eq(old, new)) {
            return;
        }
        let concerned: Vec<Vec<u32>> =
            self.rules.of_policy(reference).map(|(_, slot)| self.concerns(slot)).collect();
        let removed = self.rules.remove(reference, &mut self.selectors);
        for ((id, slot), identities) in removed.into_iter().zip(concerned) {
            for subject in &slot.subjects {
                if let Some(state) = self.touch(*subject) {
                    state.remove_rule(id, &slot);
                    state.pending.identities.extend(&identities);
                }
            }
        }
        let Some(stored) = self.repository.get(reference) else { return };
        let subjects = &self.subjects;
        let subjects_of = |rule: &CompiledRule| selected_by(subjects, rule);
        let (selectors, identities) = (&mut self.selectors, &self.identities);
        let added = self.rules.insert(reference, stored.rules(), selectors, identities, subjects_of);
        for id in added {
            let Some(slot) = self.rules.get(id) else { continue };
            let identities = self.concerns(slot);
            for subject in &slot.subjects {
                let state = self.subjects.get_mut(subject.0 as usize).and_then(Option::as_mut);
                let Some(state) = state else { continue };
                self.pending.insert(*subject);
                state.add_rule(id, slot);
                state.pending.identities.extend(&identities);
            }
        }
    }

    /// Brings the rules of all policies that refer to other objects in line with the repository.
    pub(super) fn follow_objects(&mut self) {
        for reference in self.referring.clone() {
            self.follow(&reference);
        }
    }

    pub(super) fn relabel(
        &mut self,
        identity: NumericIdentity,
        before: Option<&LabelSet>,
        after: Option<&LabelSet>,
    ) {
        let mut users: Vec<RuleId> = Vec::new();
        let note = |selected: crate::selectors::Selected<'_>| users.extend_from_slice(selected.users);
        self.selectors.relabel(identity, before, after, note);
        users.sort_unstable();
        users.dedup();
        for rule in users {
            let Some(slot) = self.rules.get(rule) else { continue };
            for subject in &slot.subjects {
                if let Some(state) = self.subjects.get_mut(subject.0 as usize).and_then(Option::as_mut) {
                    state.pending.identities.insert(identity.0);
                    self.pending.insert(*subject);
                }
            }
        }
        self.rename_ports(identity);
    }

    /// Those who name ports may mean others now.
    pub(super) fn rename_ports(&mut self, identity: NumericIdentity) {
        for (index, state) in (0..).zip(&mut self.subjects) {
            if let Some(state) = state.as_mut().filter(|state| state.names_ports) {
                state.pending.identities.insert(identity.0);
                self.pending.insert(SubjectId(index));
            }
        }
    }

    pub(super) fn insert_subject(&mut self, subject: Subject) -> SubjectId {
        let subject = Arc::new(subject);
        let id = self.free.pop().unwrap_or_else(|| {
            self.subjects.push(None);
            let last = self.subjects.len() - 1;
            SubjectId(u32::try_from(last).expect("memory ends before four thousand million subjects"))
        });
        let mut state = SubjectState::new(Arc::clone(&subject));
        for rule in self.rules.add_subject(id, &subject) {
            if let Some(slot) = self.rules.get(rule) {
                state.add_rule(rule, slot);
            }
        }
        self.subjects[id.0 as usize] = Some(state);
        self.by_subject.insert(subject, id);
        self.pending.insert(id);
        id
    }

    pub(super) fn state(&self, id: SubjectId) -> Option<&SubjectState> {
        self.subjects.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn state_mut(&mut self, id: SubjectId) -> Option<&mut SubjectState> {
        self.subjects.get_mut(id.0 as usize)?.as_mut()
    }

    /// The subject, to be computed at the next update.
    fn touch(&mut self, id: SubjectId) -> Option<&mut SubjectState> {
        self.pending.insert(id);
        self.state_mut(id)
    }

    /// Identities (0 = any) that the rule says something of.
    fn concerns(&self, slot: &RuleSlot) -> Vec<u32> {
        let mut concerned = Vec::new();
        for used in &slot.uses {
            match used.selector {
                None => concerned.push(0),
                Some(id) => {
                    concerned.extend(self.selectors.selected(id).iter().map(|identity| identity.0));
                }
            }
            let names = slot.entry(*used).is_some_and(|entry| entry.atoms.has_named());
            if names && used.egress && used.selector.is_none() {
                let peers = peers_with_names(&PeerSelector::Any, &self.identities);
                concerned.extend(peers.map(|identity| identity.0));
            }
        }
        concerned.sort_unstable();
        concerned.dedup();
        concerned
    }
}

/// Subjects that a rule is for, sorted.
fn selected_by(subjects: &[Option<SubjectState>], rule: &CompiledRule) -> Vec<SubjectId> {
    let all = (0..).zip(subjects).filter_map(|(index, state)| Some((SubjectId(index), state.as_ref()?)));
    let selected = all.filter(|(_, state)| rule.selects(&state.subject.labels, state.subject.is_host));
    selected.map(|(id, _)| id).collect()
}
