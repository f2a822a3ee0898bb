//! What a proxy must know of the connections that an endpoint sends through it: per direction, protocol and block of
//! ports, which requests of which peers may pass, by all policies together.
//!
//! The rules of one peer and port are merged: lists of one family are joined, and where one rule does not look at
//! requests, every request passes. A peer that several grants name may ask what any of them lets through.

mod merge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use specola_labels::NumericIdentity;

use self::merge::merge;
use crate::compile::PeerSelector;
use crate::eval::RequestFilter;
use crate::identities::IdentityTable;
use crate::origin::{Origin, OriginSet};
use crate::repository::{CompiledEntry, CompiledRule, Repository};
use crate::request::Request;
use crate::resolve::{Enforcement, Subject, enforcement, peers_with_names};
use crate::rule::{Action, L4, L7Rules, ParserKind, Port, PortMatch, Tier};

/// A block of ports whose connections go through the proxy. Blocks of one protocol and direction do not overlap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redirect {
    /// Outgoing.
    pub egress: bool,
    /// IANA protocol number.
    pub proto: u8,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// What may be asked, by peers. Peers that no grant names may ask nothing.
    pub grants: Vec<Grant>,
}

/// What some peers may ask.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// Whose connections.
    pub peers: RedirectPeers,
    /// Parser of the requests; none when all rules behind the grant let every request pass.
    pub parser: Option<ParserKind>,
    /// Requests that pass.
    pub requests: RequestFilter,
    /// Rules that say so.
    pub origins: OriginSet,
}

/// Peers of a grant.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum RedirectPeers {
    /// Every one, known or not.
    Any,
    /// Those of these identities, in order.
    Identities(Vec<NumericIdentity>),
}

impl Redirect {
    /// Whether the request of a peer may pass.
    pub fn allows(&self, peer: NumericIdentity, request: &Request) -> bool {
        self.grants.iter().any(|grant| grant.peers.contains(peer) && grant.requests.allows(request))
    }
}

impl RedirectPeers {
    /// Whether the identity is one of them.
    pub fn contains(&self, peer: NumericIdentity) -> bool {
        match self {
            Self::Any => true,
            Self::Identities(identities) => identities.binary_search(&peer).is_ok(),
        }
    }

    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Identities(few), Self::Identities(others)) => {
                few.iter().any(|identity| others.binary_search(identity).is_ok())
            }
        }
    }
}

/// The redirects of one endpoint, made from nothing: incoming before outgoing, by protocol, then by port.
pub fn redirects(repository: &Repository, subject: &Subject, identities: &IdentityTable) -> Vec<Redirect> {
    let rules: Vec<&CompiledRule> = repository.rules_for(&subject.labels, subject.is_host).collect();
    redirects_of(repository, &rules, subject, identities)
}

/// [`redirects`] by the rules that select the endpoint.
pub(crate) fn redirects_of(
    repository: &Repository,
    rules: &[&CompiledRule],
    subject: &Subject,
    identities: &IdentityTable,
) -> Vec<Redirect> {
    let mut redirects = Vec::new();
    for egress in [false, true] {
        if !rules.iter().any(|rule| rule.has_l7(egress)) {
            continue;
        }
        let enforcement = enforcement(repository, subject, rules, egress);
        if enforcement == Enforcement::Off {
            continue;
        }
        let mut direction =
            Direction { subject, identities, egress, by_proto: BTreeMap::new(), all: Vec::new() };
        for entry in rules.iter().flat_map(|rule| &rule.direction(egress).entries) {
            // Rules about requests are in the normal tier only, so no other decides on a redirected connection.
            if entry.action == Action::Allow && entry.rank.tier == Tier::Normal {
                direction.take(entry);
            }
        }
        if !matches!(enforcement, Enforcement::ClosedByDefault(_)) {
            // Where nothing is closed by default, the proxy rejects nothing either.
            let origins = OriginSet::of(Arc::new(Origin::allow_any(egress)));
            direction.all.push(Saying {
                peers: RedirectPeers::Any,
                first: 0,
                last: u16::MAX,
                l7: None,
                origins,
            });
        }
        redirects.extend(direction.redirects());
    }
    redirects
}

/// What the rules of one direction say.
struct Direction<'a> {
    subject: &'a Subject,
    identities: &'a IdentityTable,
    egress: bool,
    by_proto: BTreeMap<u8, Vec<Saying>>,
    /// What holds for every protocol and port.
    all: Vec<Saying>,
}

/// What one rule says of some peers and ports.
#[derive(Clone, Debug)]
struct Saying {
    peers: RedirectPeers,
    first: u16,
    last: u16,
    l7: Option<Arc<L7Rules>>,
    origins: OriginSet,
}

impl Direction<'_> {
    fn take(&mut self, entry: &CompiledEntry) {
        for peer in &entry.peers {
            let peers = self.peers(peer);
            match &entry.l4 {
                L4::All => self.all.push(saying(entry, peers, 0, u16::MAX, None)),
                // Requests are not looked at in ICMP.
                L4::Icmp(_) => {}
                L4::Ports(ports) => {
                    for port in ports {
                        self.take_port(entry, peer, &peers, port);
                    }
                }
            }
        }
    }

    fn take_port(
        &mut self,
        entry: &CompiledEntry,
        peer: &PeerSelector,
        peers: &RedirectPeers,
        port: &PortMatch,
    ) {
        for proto in port.protocol.numbers() {
            let mut found = Vec::new();
            let say = |peers, first, last| saying(entry, peers, first, last, port.l7.clone());
            match &port.port {
                Port::All => found.push(say(peers.clone(), 0, u16::MAX)),
                Port::Range { first, last } => found.push(say(peers.clone(), *first, *last)),
                Port::Named(name) if self.egress => {
                    let mut by_number: BTreeMap<u16, Vec<NumericIdentity>> = BTreeMap::new();
                    for identity in peers_with_names(peer, self.identities) {
                        for number in self.identities.ports_named(identity, name, *proto) {
                            by_number.entry(number).or_default().push(identity);
                        }
                    }
                    found.extend(by_number.into_iter().map(|(number, mut identities)| {
                        identities.sort_unstable();
                        say(RedirectPeers::Identities(identities), number, number)
                    }));
                }
                Port::Named(name) => {
                    let own = self.subject.named_ports.get(&(name.clone(), *proto));
                    found
                        .extend(own.into_iter().flatten().map(|number| say(peers.clone(), *number, *number)));
                }
            }
            self.by_proto.entry(*proto).or_default().extend(found);
        }
    }

    fn peers(&self, peer: &PeerSelector) -> RedirectPeers {
        match peer {
            PeerSelector::Any => RedirectPeers::Any,
            PeerSelector::Labels(selector) => RedirectPeers::Identities(self.identities.select(selector)),
        }
    }

    fn redirects(mut self) -> Vec<Redirect> {
        let mut redirects: Vec<Redirect> = Vec::new();
        for (proto, mut sayings) in std::mem::take(&mut self.by_proto) {
            if !sayings.iter().any(|saying| saying.l7.is_some()) {
                continue;
            }
            sayings.extend(self.all.iter().cloned());
            let begin = redirects.len();
            for Block { first, last, sayings } in blocks(&sayings) {
                let grants = grants(&sayings);
                if grants.is_empty() {
                    continue;
                }
                match redirects.get_mut(begin..).and_then(<[Redirect]>::last_mut) {
                    Some(before) if before.last.checked_add(1) == Some(first) && before.grants == grants => {
                        before.last = last;
                    }
                    _ => redirects.push(Redirect { egress: self.egress, proto, first, last, grants }),
                }
            }
        }
        redirects
    }
}

impl CompiledRule {
    fn has_l7(&self, egress: bool) -> bool {
        self.direction(egress).entries.iter().any(|entry| entry.atoms.has_requests())
    }
}

fn saying(
    entry: &CompiledEntry,
    peers: RedirectPeers,
    first: u16,
    last: u16,
    l7: Option<Arc<L7Rules>>,
) -> Saying {
    Saying { peers, first, last, l7, origins: entry.origins.clone() }
}

/// Ports for which the same rules count.
struct Block<'a> {
    first: u16,
    last: u16,
    sayings: Vec<&'a Saying>,
}

/// All ports, as blocks in order.
fn blocks(sayings: &[Saying]) -> Vec<Block<'_>> {
    let mut turns: BTreeMap<u16, Vec<(usize, bool)>> = BTreeMap::from([(0, Vec::new())]);
    for (index, saying) in sayings.iter().enumerate() {
        turns.entry(saying.first).or_default().push((index, true));
        if let Some(next) = saying.last.checked_add(1) {
            turns.entry(next).or_default().push((index, false));
        }
    }
    let lasts: Vec<u16> = turns.keys().skip(1).map(|next| next - 1).chain([u16::MAX]).collect();
    let mut open = BTreeSet::new();
    let mut blocks = Vec::new();
    for ((first, turns), last) in turns.into_iter().zip(lasts) {
        for (index, opens) in turns {
            if opens {
                open.insert(index)
            } else {
                open.remove(&index)
            };
        }
        let sayings = open.iter().filter_map(|index| sayings.get(*index)).collect();
        blocks.push(Block { first, last, sayings });
    }
    blocks
}

/// What all rules of one block say together; nothing when none of them looks at requests.
fn grants(sayings: &[&Saying]) -> Vec<Grant> {
    let mut by_peers: BTreeMap<&RedirectPeers, Vec<&Saying>> = BTreeMap::new();
    for saying in sayings {
        by_peers.entry(&saying.peers).or_default().push(saying);
    }
    let looks = |said: &Vec<&Saying>| said.iter().any(|saying| saying.l7.is_some());
    let redirected: Vec<&RedirectPeers> =
        by_peers.iter().filter(|(_, said)| looks(said)).map(|(peers, _)| *peers).collect();
    let mut grants = Vec::new();
    for (peers, said) in &by_peers {
        if !redirected.iter().any(|redirected| redirected.meets(peers)) {
            continue;
        }
        let (parser, requests) = merge(said.iter().map(|saying| saying.l7.as_ref()));
        let origins = said.iter().flat_map(|saying| saying.origins.shared()).cloned().collect();
        grants.push(Grant { peers: (*peers).clone(), parser, requests, origins });
    }
    grants
}
