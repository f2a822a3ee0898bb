//! The rules in force, with the selectors and the endpoints that each concerns.

use std::collections::BTreeMap;
use std::sync::Arc;

use specola_labels::LabelSet;

use super::SubjectId;
use crate::compile::PeerSelector;
use crate::identities::IdentityTable;
use crate::repository::{CompiledEntry, CompiledRule};
use crate::resolve::Subject;
use crate::rule::{PolicyRef, RuleSubject};
use crate::selectors::{SelectorCache, SelectorId, SelectorIndex};

/// Number of a rule while it is in force.
pub(super) type RuleId = u32;

/// All rules, by policy and by whom they are for.
#[derive(Debug, Default)]
pub(super) struct RuleTable {
    slots: Vec<Option<RuleSlot>>,
    free: Vec<RuleId>,
    by_policy: BTreeMap<PolicyRef, Vec<RuleId>>,
    by_subject: SelectorIndex,
}

/// One rule.
#[derive(Debug)]
pub(super) struct RuleSlot {
    pub(super) rule: Arc<CompiledRule>,
    /// Who its entries are about.
    pub(super) uses: Vec<Use>,
    /// Endpoints that it is for, sorted.
    pub(super) subjects: Vec<SubjectId>,
}

/// One peer of one entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// None: any identity.
    pub(super) selector: Option<SelectorId>,
    pub(super) egress: bool,
    /// Index of the entry in its direction.
    pub(super) entry: usize,
}

impl RuleTable {
    /// Puts the rules of a policy into force.
    pub(super) fn insert(
        &mut self,
        reference: &PolicyRef,
        rules: &[Arc<CompiledRule>],
        selectors: &mut SelectorCache,
        identities: &IdentityTable,
        subjects_of: impl Fn(&CompiledRule) -> Vec<SubjectId>,
    ) -> Vec<RuleId> {
        let mut ids = Vec::new();
        for rule in rules {
            let id = self.reserve();
            let mut uses = Vec::new();
            for egress in [false, true] {
                for (entry, compiled) in rule.direction(egress).entries.iter().enumerate() {
                    for peer in &compiled.peers {
                        let selector = match peer {
                            PeerSelector::Any => None,
                            PeerSelector::Labels(selector) => {
                                Some(selectors.acquire(selector, id, identities))
                            }
                        };
                        uses.push(Use { selector, egress, entry });
                    }
                }
            }
            let (RuleSubject::Endpoints(selector) | RuleSubject::Nodes(selector)) = &rule.subject;
            self.by_subject.insert(id, selector);
            let subjects = subjects_of(rule);
            self.slots[id as usize] = Some(RuleSlot { rule: Arc::clone(rule), uses, subjects });
            ids.push(id);
        }
        self.by_policy.insert(reference.clone(), ids.clone());
        ids
    }

    /// Takes the rules of a policy out of force, and returns them.
    pub(super) fn remove(
        &mut self,
        reference: &PolicyRef,
        selectors: &mut SelectorCache,
    ) -> Vec<(RuleId, RuleSlot)> {
        let mut removed = Vec::new();
        for id in self.by_policy.remove(reference).unwrap_or_default() {
            let Some(slot) = self.slots.get_mut(id as usize).and_then(Option::take) else { continue };
            self.by_subject.remove(id);
            self.free.push(id);
            for selector in slot.uses.iter().filter_map(|used| used.selector) {
                selectors.release(selector, id);
            }
            removed.push((id, slot));
        }
        removed
    }

    /// A rule in force.
    pub(super) fn get(&self, id: RuleId) -> Option<&RuleSlot> {
        self.slots.get(id as usize)?.as_ref()
    }

    /// Rules in force of a policy.
    pub(super) fn of_policy(&self, reference: &PolicyRef) -> impl Iterator<Item = (RuleId, &RuleSlot)> {
        let ids = self.by_policy.get(reference).map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(|id| Some((*id, self.get(*id)?)))
    }

    /// Notes an endpoint, and returns the rules that are for it.
    pub(super) fn add_subject(&mut self, id: SubjectId, subject: &Subject) -> Vec<RuleId> {
        let mut rules = self.for_labels(&subject.labels);
        rules.retain(|rule| {
            let Some(slot) = self.slots.get_mut(*rule as usize).and_then(Option::as_mut) else {
                return false;
            };
            let selects = slot.rule.selects(&subject.labels, subject.is_host);
            if selects && let Err(at) = slot.subjects.binary_search(&id) {
                slot.subjects.insert(at, id);
            }
            selects
        });
        rules
    }

    /// Forgets an endpoint.
    pub(super) fn remove_subject(&mut self, id: SubjectId, rules: impl Iterator<Item = RuleId>) {
        for rule in rules {
            if let Some(slot) = self.slots.get_mut(rule as usize).and_then(Option::as_mut)
                && let Ok(at) = slot.subjects.binary_search(&id)
            {
                slot.subjects.remove(at);
            }
        }
    }

    fn for_labels(&self, labels: &LabelSet) -> Vec<RuleId> {
        let mut rules = Vec::new();
        self.by_subject.candidates(labels, &mut rules);
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    fn reserve(&mut self) -> RuleId {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("memory ends before four thousand million rules")
        })
    }
}

impl RuleSlot {
    /// The entry that a use is of.
    pub(super) fn entry(&self, used: Use) -> Option<&CompiledEntry> {
        self.rule.direction(used.egress).entries.get(used.entry)
    }
}
