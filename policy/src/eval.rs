//! Decides one packet straight from the rules, without a map: slow, simple, and the measure of what the map does.

use std::sync::Arc;

use specola_labels::NumericIdentity;

use crate::compile::PeerSelector;
use crate::identities::IdentityTable;
use crate::map_state::{Entry, mask, port_blocks};
use crate::origin::{Origin, OriginSet};
use crate::repository::{CompiledEntry, CompiledRule, Repository};
use crate::request::Request;
use crate::resolve::{Enforcement, Subject, enforcement, localhost_allowed};
use crate::rule::{Action, AuthMode, IcmpMatch, L4, L7Rules, Port, PortMatch, Tier};

/// What policy sees of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Identity of the other side.
    pub peer: u32,
    /// Whether the subject sends it.
    pub egress: bool,
    /// IANA protocol number.
    pub proto: u8,
    /// Destination port, or ICMP type.
    pub port: u16,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// Passes.
    Allow,
    /// Passes to the L7 proxy.
    Redirect,
    /// Dropped until both ends have authenticated.
    AuthRequired,
    /// Dropped by a deny rule.
    Deny,
    /// Dropped as nothing allows it.
    DefaultDeny,
}

/// A verdict and the rules behind it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// The packet passes all the same: only policies in audit mode deny it.
    pub audited: bool,
    /// All rules that ask for it; for [`Verdict::DefaultDeny`] those that select the endpoint.
    pub origins: OriginSet,
    /// Which requests pass on the connection.
    pub requests: RequestFilter,
}

/// Which requests pass on a connection that itself may pass.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum RequestFilter {
    /// Every one: some rule allows the connection whatever is said on it.
    #[default]
    All,
    /// Those that one of these lets through.
    AnyOf(Vec<Arc<L7Rules>>),
}

/// Decides a packet of a subject.
pub fn evaluate(
    repository: &Repository,
    subject: &Subject,
    identities: &IdentityTable,
    packet: Packet,
) -> Decision {
    let rules: Vec<&CompiledRule> = repository.rules_for(&subject.labels, subject.is_host).collect();
    let allow_any = || decision(Verdict::Allow, [Arc::new(Origin::allow_any(packet.egress))]);
    let enforcement = enforcement(repository, subject, &rules, packet.egress);
    if enforcement == Enforcement::Off {
        return allow_any();
    }
    let question = Question { subject, identities, packet };
    let matching: Vec<Match<'_>> = rules
        .iter()
        .flat_map(|rule| &rule.direction(packet.egress).entries)
        .flat_map(|entry| question.matches(entry))
        .collect();
    let closed = matches!(enforcement, Enforcement::ClosedByDefault(_));
    let is_local = packet.peer == NumericIdentity::HOST.0;
    let asked =
        Asked { closed, localhost: is_local && localhost_allowed(repository, subject, packet.egress) };
    let enforced: Vec<&Match<'_>> = matching.iter().filter(|one| !one.is_audited_deny()).collect();
    let real = asked.first_tier_that_decides(&enforced).unwrap_or_else(|| match enforcement {
        Enforcement::ClosedByDefault(selected_by) => {
            Decision { origins: selected_by, ..decision(Verdict::DefaultDeny, []) }
        }
        Enforcement::AuditedByDefault(selected_by) => {
            Decision { audited: true, origins: selected_by, ..decision(Verdict::DefaultDeny, []) }
        }
        Enforcement::OpenByDefault | Enforcement::Off => allow_any(),
    });
    if enforced.len() == matching.len() || !(real.audited || real.verdict == Verdict::Allow) {
        return real;
    }
    // What is only audited counts where the packet would pass, and as it is.
    let all: Vec<&Match<'_>> = matching.iter().collect();
    match asked.first_tier_that_decides(&all) {
        Some(would_be) if would_be.verdict == Verdict::Deny => Decision { audited: true, ..would_be },
        _ => real,
    }
}

/// One way in which an entry matches the packet.
struct Match<'a> {
    entry: &'a CompiledEntry,
    l7: Option<Arc<L7Rules>>,
    /// How specific it is: bits of protocol and port that are given, then whether the peer is.
    specific: (u8, bool),
}

impl Match<'_> {
    fn is_audited_deny(&self) -> bool {
        self.entry.audit && self.entry.action == Action::Deny
    }
}

struct Asked {
    closed: bool,
    /// The sender is the local node, which the normal tier always lets in.
    localhost: bool,
}

impl Asked {
    /// Asks tier after tier. None when no rule decides.
    fn first_tier_that_decides(&self, matching: &[&Match<'_>]) -> Option<Decision> {
        [Tier::Admin, Tier::Normal, Tier::Baseline].into_iter().find_map(|tier| {
            let mut here: Vec<&Match<'_>> =
                matching.iter().copied().filter(|one| one.entry.rank.tier == tier).collect();
            // In the order of priorities, then of the object; in the normal tier all rules are equal.
            let first = here.iter().map(|one| one.entry.rank).min();
            here.retain(|one| Some(one.entry.rank) == first);
            self.tier(&here, tier)
        })
    }

    fn tier(&self, here: &[&Match<'_>], tier: Tier) -> Option<Decision> {
        let of = |action| here.iter().copied().filter(move |one| one.entry.action == action);
        let origins = |action| of(action).map(|one| Arc::clone(&one.entry.origin));
        if of(Action::Deny).next().is_some() {
            return Some(decision(Verdict::Deny, origins(Action::Deny)));
        }
        if self.localhost && tier == Tier::Normal {
            let localhost = Arc::new(Origin::allow_localhost());
            return Some(decision(Verdict::Allow, origins(Action::Allow).chain([localhost])));
        }
        let allows: Vec<&Match<'_>> = of(Action::Allow).collect();
        let verdict = if allows.is_empty() {
            return None;
        } else if authentication(&allows).is_some_and(|mode| mode != AuthMode::Disabled) {
            Verdict::AuthRequired
        } else if allows.iter().any(|one| one.l7.is_some()) {
            Verdict::Redirect
        } else {
            Verdict::Allow
        };
        let filters: Option<Vec<Arc<L7Rules>>> = allows.iter().map(|one| one.l7.clone()).collect();
        // Where the direction is open by default, the proxy rejects nothing either.
        let requests = filters.filter(|_| self.closed).map_or(RequestFilter::All, RequestFilter::AnyOf);
        Some(Decision { requests, ..decision(verdict, origins(Action::Allow)) })
    }
}

/// The entry that decides is the redirect of the best priority, else the most specific one. It has its own mode, or
/// that of the most specific broader one of the same peer.
fn authentication(allows: &[&Match<'_>]) -> Option<AuthMode> {
    let redirect = |one: &Match<'_>| one.l7.as_ref().map(|rules| u8::MAX - rules.priority());
    let (_, specific) = allows.iter().map(|one| (redirect(one), one.specific)).max()?;
    let asks = allows.iter().filter(|one| {
        one.specific.1 == specific.1 && one.specific.0 <= specific.0 && one.entry.auth.is_some()
    });
    asks.max_by_key(|one| (one.specific.0, one.entry.auth)).and_then(|one| one.entry.auth)
}

impl RequestFilter {
    /// Whether the request passes.
    pub fn allows(&self, request: &Request) -> bool {
        match self {
            Self::All => true,
            Self::AnyOf(rules) => rules.iter().any(|rules| rules.allow(request)),
        }
    }
}

impl Entry {
    /// What happens to packets that the entry decides; with `audit` they pass all the same.
    pub const fn verdict(&self) -> Verdict {
        match (self.deny, self.redirect) {
            (true, _) if self.by_default => Verdict::DefaultDeny,
            (true, _) => Verdict::Deny,
            (false, _) if self.auth != 0 => Verdict::AuthRequired,
            (false, true) => Verdict::Redirect,
            (false, false) => Verdict::Allow,
        }
    }
}

impl Verdict {
    /// Whether the packet goes on.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Allow | Self::Redirect)
    }
}

fn decision(verdict: Verdict, origins: impl IntoIterator<Item = Arc<Origin>>) -> Decision {
    let requests = RequestFilter::All;
    Decision { verdict, audited: false, origins: origins.into_iter().collect(), requests }
}

struct Question<'a> {
    subject: &'a Subject,
    identities: &'a IdentityTable,
    packet: Packet,
}

impl Question<'_> {
    /// One element per way in which the entry matches.
    fn matches<'e>(&self, entry: &'e CompiledEntry) -> Vec<Match<'e>> {
        let labels = self.identities.labels(NumericIdentity(self.packet.peer));
        let selects = |selector: &&PeerSelector| match labels {
            Some(labels) => selector.matches(labels),
            // An identity that is not known has no labels that a selector could match, not even by their absence.
            None => **selector == PeerSelector::Any,
        };
        let mut matches = Vec::new();
        for peer in entry.peers.iter().filter(selects) {
            let named = |bits| (bits, *peer != PeerSelector::Any);
            match &entry.l4 {
                L4::All => matches.push(Match { entry, l7: None, specific: named(0) }),
                L4::Icmp(types) => {
                    let hit = |icmp: &&IcmpMatch| {
                        icmp.family.number() == self.packet.proto
                            && u16::from(icmp.icmp_type) == self.packet.port
                    };
                    let hits = types.iter().filter(hit);
                    matches.extend(hits.map(|_| Match { entry, l7: None, specific: named(24) }));
                }
                L4::Ports(ports) => {
                    let hits = ports
                        .iter()
                        .filter(|port| port_matches(port, self.subject, self.identities, self.packet));
                    matches.extend(hits.map(|port| Match {
                        entry,
                        l7: port.l7.clone(),
                        specific: (self.bits(port), named(0).1 || self.is_by_name(port)),
                    }));
                }
            }
        }
        matches
    }

    /// Bits of protocol and port that the map gives for it: the length of the aligned block around the port.
    fn bits(&self, port: &PortMatch) -> u8 {
        match &port.port {
            Port::All => 8,
            Port::Named(_) => 24,
            Port::Range { first, last } => {
                let inside = |block: &(u16, u8)| self.packet.port & mask(block.1) == block.0;
                8 + port_blocks(*first, *last).into_iter().find(inside).map_or(0, |(_, bits)| bits)
            }
        }
    }

    /// A name of other pods' ports stands for the identities that have it.
    fn is_by_name(&self, port: &PortMatch) -> bool {
        self.packet.egress && matches!(port.port, Port::Named(_))
    }
}

fn port_matches(port: &PortMatch, subject: &Subject, identities: &IdentityTable, packet: Packet) -> bool {
    if !port.protocol.numbers().contains(&packet.proto) {
        return false;
    }
    match &port.port {
        Port::All => true,
        Port::Range { first, last } => (*first..=*last).contains(&packet.port),
        Port::Named(name) if packet.egress => {
            identities.ports_named(NumericIdentity(packet.peer), name, packet.proto).contains(&packet.port)
        }
        Port::Named(name) => subject
            .named_ports
            .get(&(name.clone(), packet.proto))
            .is_some_and(|numbers| numbers.contains(&packet.port)),
    }
}
