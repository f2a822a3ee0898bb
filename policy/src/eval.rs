//! Decides one packet straight from the rules, without a map: slow, simple, and the measure of what the map does.

use std::sync::Arc;

use specola_labels::NumericIdentity;

use crate::compile::PeerSelector;
use crate::identities::IdentityTable;
use crate::origin::{Origin, OriginSet};
use crate::repository::{CompiledEntry, CompiledRule, Repository};
use crate::request::Request;
use crate::resolve::{Enforcement, Subject, enforcement, localhost_allowed};
use crate::rule::{L4, L7Rules, Port, PortMatch};

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
    let matching: Vec<(&CompiledEntry, Option<Arc<L7Rules>>)> = rules
        .iter()
        .flat_map(|rule| &rule.direction(packet.egress).entries)
        .flat_map(|entry| matches(entry, subject, identities, packet).into_iter().map(move |l7| (entry, l7)))
        .collect();
    let origins_of = |deny: bool| {
        matching
            .iter()
            .filter(move |(entry, _)| entry.deny == deny)
            .map(|(entry, _)| Arc::clone(&entry.origin))
    };
    if matching.iter().any(|(entry, _)| entry.deny) {
        return decision(Verdict::Deny, origins_of(true));
    }
    let from_localhost = packet.peer == NumericIdentity::HOST.0;
    if from_localhost && localhost_allowed(repository, subject, packet.egress) {
        let localhost = Arc::new(Origin::allow_localhost());
        return decision(Verdict::Allow, origins_of(false).chain([localhost]));
    }
    if !matching.is_empty() {
        let redirect = matching.iter().any(|(_, l7)| l7.is_some());
        let verdict = if redirect { Verdict::Redirect } else { Verdict::Allow };
        let closed = matches!(enforcement, Enforcement::ClosedByDefault(_));
        let filters: Option<Vec<Arc<L7Rules>>> = matching.iter().map(|(_, l7)| l7.clone()).collect();
        // Where the direction is open by default, the proxy rejects nothing either.
        let requests = filters.filter(|_| closed).map_or(RequestFilter::All, RequestFilter::AnyOf);
        return Decision { requests, ..decision(verdict, origins_of(false)) };
    }
    match enforcement {
        Enforcement::ClosedByDefault(selected_by) => {
            Decision { verdict: Verdict::DefaultDeny, origins: selected_by, requests: RequestFilter::All }
        }
        Enforcement::OpenByDefault | Enforcement::Off => allow_any(),
    }
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

impl Verdict {
    /// Whether the packet goes on.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Allow | Self::Redirect)
    }
}

fn decision(verdict: Verdict, origins: impl IntoIterator<Item = Arc<Origin>>) -> Decision {
    Decision { verdict, origins: origins.into_iter().collect(), requests: RequestFilter::All }
}

/// One element per way in which the entry matches, with the request rules of the port.
fn matches(
    entry: &CompiledEntry,
    subject: &Subject,
    identities: &IdentityTable,
    packet: Packet,
) -> Vec<Option<Arc<L7Rules>>> {
    let labels = identities.labels(NumericIdentity(packet.peer));
    let peer_matches = entry.peers.iter().any(|selector| match labels {
        Some(labels) => selector.matches(labels),
        // An identity that is not known has no labels that a selector could match, not even by their absence.
        None => *selector == PeerSelector::Any,
    });
    if !peer_matches {
        return Vec::new();
    }
    match &entry.l4 {
        L4::All => vec![None],
        L4::Icmp(types) => {
            let hit = types
                .iter()
                .any(|icmp| icmp.family.number() == packet.proto && u16::from(icmp.icmp_type) == packet.port);
            hit.then_some(None).into_iter().collect()
        }
        L4::Ports(ports) => ports
            .iter()
            .filter(|port| port_matches(port, subject, identities, packet))
            .map(|port| port.l7.clone())
            .collect(),
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
