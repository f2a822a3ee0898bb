//! Rules in terms of identities.

use std::sync::Arc;

use specola_labels::LabelSet;

use crate::compile::{PeerSelector, compile_peer};
use crate::objects::Objects;
use crate::origin::{Origin, OriginSet, Section};
use crate::resolve::Atoms;
use crate::rule::{Action, AuthMode, L4, PolicyObject, Rule, RuleEntry, RuleSubject};
use crate::settings::Settings;
use crate::tier::Rank;

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

/// The rules of an object.
pub(super) fn compile(
    object: &PolicyObject,
    revision: u64,
    settings: &Settings,
    objects: &Objects,
) -> Vec<Arc<CompiledRule>> {
    let rule = |(index, rule): (usize, &Rule)| {
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
    object.rules.iter().enumerate().map(rule).collect()
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
