//! What two sets of policies decide differently for one endpoint.
//!
//! Both are resolved to policy maps, as the kernel gets them, and asked about every peer, protocol and port at which
//! either map has an edge: what is not listed is decided alike, by the same rules.

mod spans;

use std::collections::BTreeSet;

use self::spans::Spans;
use crate::eval::{Packet, Verdict, evaluate};
use crate::identities::IdentityTable;
use crate::map_state::{Entry, Key};
use crate::origin::{Origin, OriginKind, OriginSet, Section};
use crate::repository::Repository;
use crate::resolve::{EndpointPolicy, ResolveError, Subject, resolve};

/// An endpoint under one set of policies.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The policies.
    pub repository: &'a Repository,
    /// The endpoint.
    pub subject: &'a Subject,
    /// Identities. Numbers must mean the same on both sides.
    pub identities: &'a IdentityTable,
    /// What policies would drop at the endpoint passes, and is reported as audited.
    pub audit: bool,
}

/// A rule without what changes whenever its object is written anew.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct RuleName {
    /// Kind of the object.
    pub kind: OriginKind,
    /// Its namespace, may be empty.
    pub namespace: String,
    /// Its name, or that of a built-in rule.
    pub name: String,
    /// Section of the rule.
    pub section: Section,
    /// Index of the rule in its section, from 0; of a policy that decides by selecting the endpoint, of its spec.
    pub rule_index: u32,
}

/// What happens to packets, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The packets pass all the same: the verdict is only reported.
    pub audited: bool,
    /// The rules that ask for it.
    pub rules: BTreeSet<RuleName>,
}

/// Which protocols a change is about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Protocols {
    /// Every one.
    All,
    /// This one, by its IANA number.
    One(u8),
    /// Those that neither side has an entry for.
    Others,
}

/// Packets that the sides decide differently.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// What the endpoint sends.
    pub egress: bool,
    /// Identity of the peer; 0 = every one that no entry of either side names.
    pub identity: u32,
    /// Protocols.
    pub protocols: Protocols,
    /// First port, or ICMP type.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
    /// Before.
    pub before: Outcome,
    /// After.
    pub after: Outcome,
    /// The connection goes through the proxy on both sides, and other requests pass.
    pub requests: bool,
}

/// Entries of the policy map that differ; what differs in revisions only is the same.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EntryChanges {
    /// New ones.
    pub added: Vec<(Key, Entry)>,
    /// Those that are gone.
    pub removed: Vec<(Key, Entry)>,
    /// Before and after.
    pub changed: Vec<(Key, Entry, Entry)>,
}

/// What differs for an endpoint.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Comparison {
    /// By direction, peer, protocol and port.
    pub changes: Vec<Change>,
    /// What the kernel's map would be written.
    pub entries: EntryChanges,
    /// Why one of the sides has no map; then nothing else is known.
    pub errors: [Option<ResolveError>; 2],
}

impl Comparison {
    /// Whether the sides are alike.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.entries.is_empty() && self.errors[0] == self.errors[1]
    }
}

impl Change {
    /// Whether other packets or requests pass, or something is audited that was not, or the other way round. If not,
    /// only the rules behind the verdict are others.
    pub fn is_of_verdict(&self) -> bool {
        let verdict = |outcome: &Outcome| (outcome.verdict, outcome.audited);
        self.requests || verdict(&self.before) != verdict(&self.after)
    }
}

impl EntryChanges {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Compares what an endpoint enforces under two sets of policies.
pub fn compare(before: Side<'_>, after: Side<'_>) -> Comparison {
    let maps = [before, after].map(|side| resolve(side.repository, side.subject, side.identities));
    match maps {
        [Ok(old), Ok(new)] => {
            let sides = [Resolved { side: before, policy: &old }, Resolved { side: after, policy: &new }];
            Comparison { changes: changes(&sides), entries: entry_changes(&old, &new), errors: [None, None] }
        }
        maps => Comparison { errors: maps.map(Result::err), ..Comparison::default() },
    }
}

/// A side with its map.
#[derive(Clone, Copy, Debug)]
struct Resolved<'a> {
    side: Side<'a>,
    policy: &'a EndpointPolicy,
}

impl Resolved<'_> {
    fn outcome(&self, packet: Packet) -> Outcome {
        let Packet { peer, egress, proto, port } = packet;
        let (verdict, audited, rules) = match self.policy.map.lookup(peer, egress, proto, port) {
            Some((_, entry)) => (entry.verdict(), entry.audit, names(&entry.origins)),
            None => {
                let policy = self.policy;
                let closed_by = if egress { &policy.egress_selected_by } else { &policy.ingress_selected_by };
                (Verdict::DefaultDeny, false, names(closed_by))
            }
        };
        let audited = (audited || self.side.audit) && !verdict.passes();
        Outcome { verdict, audited, rules }
    }
}

/// Asks both sides about everything that either has an edge at.
fn changes(sides: &[Resolved<'_>; 2]) -> Vec<Change> {
    let mut found = Vec::new();
    for egress in [false, true] {
        let spans = Spans::new(sides.iter().flat_map(|side| side.policy.map.iter()), egress);
        for identity in spans.identities() {
            let mut of_peer = Vec::new();
            for (protocols, proto) in spans.protocols() {
                let of_protocol = spans.ports(identity, proto).into_iter().filter_map(|(first, last)| {
                    let packet = Packet { peer: identity, egress, proto, port: first };
                    change(sides, packet, protocols, last)
                });
                merge_ports(&mut of_peer, of_protocol);
            }
            found.extend(merge_protocols(of_peer, spans.protocols().len()));
        }
    }
    found
}

fn change(sides: &[Resolved<'_>; 2], packet: Packet, protocols: Protocols, last: u16) -> Option<Change> {
    let [before, after] = sides.map(|side| side.outcome(packet));
    let is_redirect = |outcome: &Outcome| outcome.verdict == Verdict::Redirect;
    let requests = is_redirect(&before) && is_redirect(&after) && {
        let asked = |side: &Resolved<'_>| {
            let Side { repository, subject, identities, .. } = side.side;
            evaluate(repository, subject, identities, packet).requests
        };
        asked(&sides[0]) != asked(&sides[1])
    };
    if before == after && !requests {
        return None;
    }
    Some(Change {
        egress: packet.egress,
        identity: packet.peer,
        protocols,
        first_port: packet.port,
        last_port: last,
        before,
        after,
        requests,
    })
}

/// Joins what follows each other and is the same.
fn merge_ports(changes: &mut Vec<Change>, more: impl Iterator<Item = Change>) {
    for next in more {
        match changes.last_mut() {
            Some(last)
                if last.protocols == next.protocols
                    && last.last_port.checked_add(1) == Some(next.first_port)
                    && same_change(last, &next) =>
            {
                last.last_port = next.last_port;
            }
            _ => changes.push(next),
        }
    }
}

/// One change instead of one for each protocol, where all of them are the same.
fn merge_protocols(changes: Vec<Change>, protocols: usize) -> Vec<Change> {
    let Some(first) = changes.first() else { return changes };
    let is_whole = |change: &Change| (change.first_port, change.last_port) == (0, u16::MAX);
    let all_alike = changes.len() == protocols
        && changes.iter().all(|change| is_whole(change) && same_change(first, change));
    if all_alike { vec![Change { protocols: Protocols::All, ..first.clone() }] } else { changes }
}

fn same_change(one: &Change, other: &Change) -> bool {
    (&one.before, &one.after, one.requests) == (&other.before, &other.after, other.requests)
}

fn entry_changes(old: &EndpointPolicy, new: &EndpointPolicy) -> EntryChanges {
    let mut entries = EntryChanges::default();
    for (key, entry) in new.map.iter() {
        match old.map.get(key) {
            None => entries.added.push((*key, entry.clone())),
            Some(known) if !same_entry(known, entry) => {
                entries.changed.push((*key, known.clone(), entry.clone()));
            }
            Some(_) => {}
        }
    }
    let gone = old.map.iter().filter(|(key, _)| new.map.get(key).is_none());
    entries.removed = gone.map(|(key, entry)| (*key, entry.clone())).collect();
    entries
}

fn same_entry(one: &Entry, other: &Entry) -> bool {
    let plain = |entry: &Entry| {
        let Entry { deny, audit, by_default, redirect, auth, precedence, .. } = *entry;
        (deny, audit, by_default, redirect, auth, precedence)
    };
    plain(one) == plain(other) && names(&one.origins) == names(&other.origins)
}

/// The rules of a set.
pub fn names(origins: &OriginSet) -> BTreeSet<RuleName> {
    origins.iter().map(RuleName::of).collect()
}

impl RuleName {
    fn of(origin: &Origin) -> Self {
        Self {
            kind: origin.kind,
            namespace: origin.namespace.clone(),
            name: origin.name.clone(),
            section: origin.section,
            rule_index: origin.rule_index,
        }
    }
}

#[cfg(test)]
mod tests;
