//! One endpoint's policy, kept in step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use specola_labels::NumericIdentity;

use super::World;
use super::rules::{RuleId, RuleSlot, Use};
use crate::map_state::{Diff, MapBuilder, MapState};
use crate::origin::OriginSet;
use crate::repository::CompiledRule;
use crate::resolve::{
    Enforcement, ResolveError, Subject, check_agreement, check_raw_size, enforcement, say_builtin, settle,
};
use crate::selectors::SelectorId;
use crate::tier::Levels;

/// An endpoint, or several that are alike, with what they enforce.
#[derive(Debug)]
pub(super) struct SubjectState {
    pub(super) subject: Arc<Subject>,
    /// How many endpoints are like this.
    pub(super) references: usize,
    pub(super) rules: BTreeSet<RuleId>,
    /// By selector (none: any identity), what rules say of whom it selects.
    uses: BTreeMap<Option<SelectorId>, Vec<(RuleId, Use)>>,
    enforcement: [Enforcement; 2],
    levels: [Levels; 2],
    builder: MapBuilder,
    /// Whether an entry for outgoing packets has ports that pods name.
    pub(super) names_ports: bool,
    /// Whether such an entry has request rules as well.
    names_requests: bool,
    /// Grows with each change of what is enforced; 0 = not computed yet.
    pub(super) version: u64,
    /// Revision of the policies of the last change.
    pub(super) revision: u64,
    /// What turned the map of the version before into this one; none when that is not known.
    pub(super) diff: Option<Diff>,
    pub(super) error: Option<ResolveError>,
    pub(super) pending: Pending,
}

/// What must be computed anew.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) everything: bool,
    /// Rules came or went.
    pub(super) rules: bool,
    /// Identities (0 = any) of which rules say something else now.
    pub(super) identities: BTreeSet<u32>,
}

impl SubjectState {
    pub(super) fn new(subject: Arc<Subject>) -> Self {
        Self {
            subject,
            references: 0,
            rules: BTreeSet::new(),
            uses: BTreeMap::new(),
            enforcement: [Enforcement::Off, Enforcement::Off],
            levels: [false, true].map(|egress| Levels::new(&[], egress)),
            builder: MapBuilder::default(),
            names_ports: false,
            names_requests: false,
            version: 0,
            revision: 0,
            diff: None,
            error: None,
            pending: Pending { everything: true, ..Pending::default() },
        }
    }

    /// Takes up a rule.
    pub(super) fn add_rule(&mut self, id: RuleId, slot: &RuleSlot) {
        self.rules.insert(id);
        self.pending.rules = true;
        for used in &slot.uses {
            self.names_ports |= used.egress && slot.entry(*used).is_some_and(|entry| entry.atoms.has_named());
            self.uses.entry(used.selector).or_default().push((id, *used));
        }
    }

    /// Forgets a rule.
    pub(super) fn remove_rule(&mut self, id: RuleId, slot: &RuleSlot) {
        self.rules.remove(&id);
        self.pending.rules = true;
        for used in &slot.uses {
            if let Some(list) = self.uses.get_mut(&used.selector) {
                list.retain(|(rule, _)| *rule != id);
                if list.is_empty() {
                    self.uses.remove(&used.selector);
                }
            }
        }
    }

    pub(super) fn map(&self) -> &MapState {
        self.builder.state()
    }

    /// What drops packets of the direction that have no entry.
    pub(super) fn closed_by(&self, egress: bool) -> Option<OriginSet> {
        self.enforcement[usize::from(egress)].closed_by()
    }

    /// Computes what is pending. Returns whether something else is enforced now.
    pub(super) fn update(&mut self, world: World<'_>) -> bool {
        let mut pending = std::mem::take(&mut self.pending);
        pending.everything |= self.version == 0 || self.error.is_some();
        let before = self.enforcement.clone();
        if pending.rules || pending.everything {
            self.enforcement = self.enforcement_now(world);
            for (old, new) in before.iter().zip(&self.enforcement) {
                if old == new {
                    continue;
                }
                pending.everything |= *old == Enforcement::Off || *new == Enforcement::Off;
                pending.identities.insert(0);
            }
            let levels = self.levels_now(world);
            pending.everything |= levels != self.levels;
            self.levels = levels;
        }
        let diff = self.recompute(&pending, world);
        let error = diff.as_ref().err().cloned();
        let unchanged = self.version != 0
            && self.error == error
            && self.enforcement == before
            && diff.as_ref().is_ok_and(|diff| diff.as_ref().is_some_and(Diff::is_empty));
        if unchanged {
            return false;
        }
        self.diff = diff.ok().flatten();
        self.error = error;
        self.version += 1;
        self.revision = world.repository.revision();
        true
    }

    /// Brings the map in step. Returns what changed in it, if that is known.
    fn recompute(&mut self, pending: &Pending, world: World<'_>) -> Result<Option<Diff>, ResolveError> {
        let settings = world.repository.settings();
        if pending.rules || pending.everything || self.names_requests {
            self.check(world)?;
        }
        if pending.everything {
            return self.rebuild(world);
        }
        for identity in &pending.identities {
            self.builder.clear(*identity);
            self.say_of(*identity, world);
            check_raw_size(&self.builder, settings)?;
        }
        self.close();
        settle(&mut self.builder, settings).map(Some)
    }

    /// Makes the map from nothing.
    fn rebuild(&mut self, world: World<'_>) -> Result<Option<Diff>, ResolveError> {
        let settings = world.repository.settings();
        let old = std::mem::take(&mut self.builder).into_state();
        let knows_old = self.version != 0 && self.error.is_none();
        let mut identities = BTreeSet::from([0, NumericIdentity::HOST.0]);
        for selector in self.uses.keys().flatten() {
            identities.extend(world.selectors.selected(*selector).iter().map(|identity| identity.0));
        }
        if self.names_ports {
            identities.extend(world.identities.with_named_ports().map(|identity| identity.0));
        }
        for identity in identities {
            self.say_of(identity, world);
            check_raw_size(&self.builder, settings)?;
        }
        self.close();
        settle(&mut self.builder, settings)?;
        Ok(knows_old.then(|| MapState::diff(&old, self.builder.state())))
    }

    /// Says what all rules say of one identity (0 = any).
    fn say_of(&mut self, identity: u32, world: World<'_>) {
        let peer = NumericIdentity(identity);
        let is_known = identity != 0 && world.identities.labels(peer).is_some();
        for (selector, uses) in &self.uses {
            let selects = match selector {
                None => identity == 0,
                Some(selector) => identity != 0 && world.selectors.selects(*selector, peer),
            };
            let names = self.names_ports && is_known && (selects || selector.is_none());
            if !selects && !names {
                continue;
            }
            for (rule, used) in uses {
                let enforced = self.enforcement[usize::from(used.egress)] != Enforcement::Off;
                let entry = world.rules.get(*rule).and_then(|slot| slot.entry(*used));
                let Some(entry) = entry.filter(|_| enforced) else { continue };
                let levels = &self.levels[usize::from(used.egress)];
                if selects {
                    entry.say(&mut self.builder, &self.subject, levels, used.egress, identity);
                }
                if names && used.egress {
                    entry.say_named(&mut self.builder, world.identities, levels, peer);
                }
            }
        }
        if identity == 0 || peer == NumericIdentity::HOST {
            for egress in [false, true] {
                let direction = usize::from(egress);
                let (levels, enforcement) = (&self.levels[direction], &self.enforcement[direction]);
                say_builtin(&mut self.builder, world.repository, &self.subject, levels, enforcement, egress);
            }
        }
    }

    /// Names what closes each direction.
    fn close(&mut self) {
        for egress in [false, true] {
            self.builder.close(egress, self.closed_by(egress).unwrap_or_default());
        }
    }

    /// Refuses rules that contradict each other.
    fn check(&mut self, world: World<'_>) -> Result<(), ResolveError> {
        let rules = self.rules_now(world);
        let named = |rule: &&CompiledRule| rule.egress.entries.iter().any(|entry| entry.atoms.has_named());
        self.names_ports = rules.iter().any(named);
        self.names_requests = self.names_ports && rules.iter().any(|rule| rule.has_requests(true));
        for egress in [false, true] {
            if self.enforcement[usize::from(egress)] != Enforcement::Off {
                check_agreement(rules.iter().copied(), &self.subject, world.identities, egress)?;
            }
        }
        Ok(())
    }

    fn enforcement_now(&self, world: World<'_>) -> [Enforcement; 2] {
        let rules = self.rules_now(world);
        [false, true].map(|egress| enforcement(world.repository, &self.subject, &rules, egress))
    }

    fn levels_now(&self, world: World<'_>) -> [Levels; 2] {
        let rules = self.rules_now(world);
        [false, true].map(|egress| Levels::new(&rules, egress))
    }

    fn rules_now<'a>(&self, world: World<'a>) -> Vec<&'a CompiledRule> {
        self.rules.iter().filter_map(|id| Some(&*world.rules.get(*id)?.rule)).collect()
    }
}
