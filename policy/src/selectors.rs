//! What selectors select, kept in step with the identities.
//!
//! Each selector that some rule uses is here once, with its identities and the rules. A new identity asks only the
//! selectors that one of its labels points at.

mod index;

use std::collections::HashMap;

use specola_labels::{LabelSet, NumericIdentity, Selector};

pub(crate) use self::index::{Pivot, SelectorIndex, label_pivots, requirement_pivots};
use crate::identities::IdentityTable;

/// Number of a selector while it is used.
pub(crate) type SelectorId = u32;

/// All selectors in use.
#[derive(Debug, Default)]
pub(crate) struct SelectorCache {
    ids: HashMap<Selector, SelectorId>,
    slots: Vec<Option<Slot>>,
    free: Vec<SelectorId>,
    index: SelectorIndex,
}

#[derive(Debug)]
struct Slot {
    selector: Selector,
    /// Identities that it selects, sorted.
    selected: Vec<NumericIdentity>,
    /// Rules that use it, sorted, each as often as it does.
    users: Vec<u32>,
}

/// A selector that selects other identities than before.
#[derive(Debug)]
pub(crate) struct Selected<'a> {
    /// Rules that use it; some more than once.
    pub(crate) users: &'a [u32],
}

impl SelectorCache {
    /// Notes that a rule uses the selector.
    pub(crate) fn acquire(
        &mut self,
        selector: &Selector,
        user: u32,
        identities: &IdentityTable,
    ) -> SelectorId {
        let id = self.ids.get(selector).copied().unwrap_or_else(|| self.insert(selector, identities));
        if let Some(slot) = self.slots.get_mut(id as usize).and_then(Option::as_mut) {
            let at = slot.users.partition_point(|known| *known <= user);
            slot.users.insert(at, user);
        }
        id
    }

    /// Notes that a rule uses the selector once less. The last one takes it away.
    pub(crate) fn release(&mut self, id: SelectorId, user: u32) {
        let Some(place) = self.slots.get_mut(id as usize) else { return };
        let Some(slot) = place else { return };
        if let Ok(at) = slot.users.binary_search(&user) {
            slot.users.remove(at);
        }
        if slot.users.is_empty()
            && let Some(slot) = place.take()
        {
            self.ids.remove(&slot.selector);
            self.index.remove(id);
            self.free.push(id);
        }
    }

    /// Identities that the selector selects, sorted.
    pub(crate) fn selected(&self, id: SelectorId) -> &[NumericIdentity] {
        self.slot(id).map_or(&[], |slot| &slot.selected)
    }

    /// Whether the selector selects the identity.
    pub(crate) fn selects(&self, id: SelectorId, identity: NumericIdentity) -> bool {
        self.selected(id).binary_search(&identity).is_ok()
    }

    /// Follows an identity whose labels are new, others, or gone. Calls `changed` for each selector that selects it now
    /// and did not before, or the other way round.
    pub(crate) fn relabel(
        &mut self,
        identity: NumericIdentity,
        before: Option<&LabelSet>,
        after: Option<&LabelSet>,
        mut changed: impl FnMut(Selected<'_>),
    ) {
        let mut concerned: Vec<SelectorId> = Vec::new();
        for labels in [before, after].into_iter().flatten() {
            self.index.candidates(labels, &mut concerned);
        }
        concerned.sort_unstable();
        concerned.dedup();
        for id in concerned {
            let Some(slot) = self.slots.get_mut(id as usize).and_then(Option::as_mut) else { continue };
            let selects = after.is_some_and(|labels| slot.selector.matches(labels));
            match (slot.selected.binary_search(&identity), selects) {
                (Err(at), true) => slot.selected.insert(at, identity),
                (Ok(at), false) => drop(slot.selected.remove(at)),
                (Ok(_), true) | (Err(_), false) => continue,
            }
            changed(Selected { users: &slot.users });
        }
    }

    /// Number of selectors in use.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    fn insert(&mut self, selector: &Selector, identities: &IdentityTable) -> SelectorId {
        let selected = identities.select(selector);
        let slot = Slot { selector: selector.clone(), selected, users: Vec::new() };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = Some(slot);
                id
            }
            None => {
                self.slots.push(Some(slot));
                u32::try_from(self.slots.len() - 1)
                    .expect("memory ends before four thousand million selectors")
            }
        };
        self.ids.insert(selector.clone(), id);
        self.index.insert(id, selector);
        id
    }

    fn slot(&self, id: SelectorId) -> Option<&Slot> {
        self.slots.get(id as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use specola_labels::{Label, SelectorKey};

    use super::*;

    fn labels(app: &str) -> LabelSet {
        [Label::k8s("app", app)].into_iter().collect()
    }

    #[test]
    fn a_selector_lives_as_long_as_a_rule_uses_it() {
        let mut table = IdentityTable::new();
        table.insert(NumericIdentity(300), labels("web"));
        let mut cache = SelectorCache::default();
        let selector = Selector::equals(SelectorKey::k8s("app"), "web");
        let id = cache.acquire(&selector, 1, &table);
        assert_eq!(cache.acquire(&selector, 2, &table), id);
        assert_eq!(cache.acquire(&selector, 2, &table), id);
        assert_eq!(cache.selected(id), [NumericIdentity(300)]);
        cache.release(id, 2);
        cache.release(id, 1);
        assert_eq!(cache.len(), 1, "rule 2 uses it still");
        cache.release(id, 2);
        assert_eq!((cache.len(), cache.selected(id)), (0, &[][..]));
    }

    #[test]
    fn only_selectors_that_change_are_told() {
        let table = IdentityTable::new();
        let mut cache = SelectorCache::default();
        for (user, app) in [(1, "web"), (2, "db"), (3, "web")] {
            cache.acquire(&Selector::equals(SelectorKey::k8s("app"), app), user, &table);
        }
        let told = |cache: &mut SelectorCache, before: Option<&str>, after: Option<&str>| {
            let (before, after) = (before.map(labels), after.map(labels));
            let mut users = Vec::new();
            let note = |selected: Selected<'_>| users.extend_from_slice(selected.users);
            cache.relabel(NumericIdentity(300), before.as_ref(), after.as_ref(), note);
            users
        };
        assert_eq!(told(&mut cache, None, Some("web")), [1, 3]);
        assert_eq!(told(&mut cache, Some("web"), Some("web")), [0; 0]);
        let mut both = told(&mut cache, Some("web"), Some("db"));
        both.sort_unstable();
        assert_eq!(both, [1, 2, 3]);
        assert_eq!(told(&mut cache, Some("db"), None), [2]);
    }
}
