//! What an entry asks of protocol and port, as blocks that the map has keys for.

use std::collections::BTreeMap;
use std::sync::Arc;

use specola_labels::NumericIdentity;

use super::{ResolveError, Subject};
use crate::compile::PeerSelector;
use crate::identities::IdentityTable;
use crate::map_state::{Entry, Key, MapBuilder, Saying, byte, port_blocks};
use crate::repository::{CompiledEntry, CompiledRule};
use crate::rule::{Action, AuthMode, L4, L7Rules, ParserKind, Port};
use crate::tier::Levels;

/// Protocols and ports of an entry.
#[derive(Debug, Default)]
pub(crate) struct Atoms {
    fixed: Vec<Atom>,
    /// Ports that pods name.
    named: Vec<NamedAtom>,
}

/// A block of ports of one protocol.
#[derive(Clone, Debug)]
struct Atom {
    proto: u8,
    port: u16,
    port_bits: u8,
    requests: Option<Requests>,
}

#[derive(Debug)]
struct NamedAtom {
    proto: u8,
    name: String,
    requests: Option<Requests>,
}

/// Who looks at requests.
#[derive(Clone, Debug)]
struct Requests {
    parser: ParserKind,
    /// Rank among redirects; the lower number wins.
    priority: u8,
    rules: Arc<L7Rules>,
}

impl Atoms {
    pub(crate) fn new(l4: &L4) -> Self {
        let mut atoms = Self::default();
        let plain = |proto, port, port_bits| Atom { proto, port, port_bits, requests: None };
        match l4 {
            L4::All => atoms.fixed.push(plain(0, 0, 0)),
            L4::Icmp(types) => atoms
                .fixed
                .extend(types.iter().map(|icmp| plain(icmp.family.number(), icmp.icmp_type.into(), 16))),
            L4::Ports(ports) => {
                for port in ports {
                    let requests = port.l7.as_ref().map(Requests::new);
                    for proto in port.protocol.numbers() {
                        atoms.add_port(*proto, &port.port, requests.as_ref());
                    }
                }
            }
        }
        atoms
    }

    fn add_port(&mut self, proto: u8, port: &Port, requests: Option<&Requests>) {
        let requests = requests.cloned();
        match port {
            Port::All => self.fixed.push(Atom { proto, port: 0, port_bits: 0, requests }),
            Port::Range { first, last } => {
                let blocks = port_blocks(*first, *last).into_iter();
                let atom = |(port, port_bits)| Atom { proto, port, port_bits, requests: requests.clone() };
                self.fixed.extend(blocks.map(atom));
            }
            Port::Named(name) => self.named.push(NamedAtom { proto, name: name.clone(), requests }),
        }
    }

    /// Whether some port is one that pods name.
    pub(crate) fn has_named(&self) -> bool {
        !self.named.is_empty()
    }

    /// Whether requests are looked at on some port.
    pub(crate) fn has_requests(&self) -> bool {
        self.fixed.iter().any(|atom| atom.requests.is_some())
            || self.named.iter().any(|atom| atom.requests.is_some())
    }

    /// Blocks that do not depend on the peer: those of numbers, and the subject's own ports for incoming packets.
    fn of_subject<'a>(&'a self, subject: &'a Subject, egress: bool) -> impl Iterator<Item = Atom> + 'a {
        let own = self.named.iter().filter(move |_| !egress).flat_map(|atom| {
            let numbers = subject.named_ports.get(&(atom.name.clone(), atom.proto));
            numbers.into_iter().flatten().map(|number| atom.at(*number))
        });
        self.fixed.iter().cloned().chain(own)
    }

    /// Blocks of the ports that pods of one peer name.
    fn of_peer<'a>(
        &'a self,
        identities: &'a IdentityTable,
        identity: NumericIdentity,
    ) -> impl Iterator<Item = Atom> + 'a {
        let numbers = move |atom: &'a NamedAtom| {
            let numbers = identities.ports_named(identity, &atom.name, atom.proto);
            numbers.into_iter().map(|number| atom.at(number))
        };
        self.named.iter().flat_map(numbers)
    }
}

impl NamedAtom {
    fn at(&self, number: u16) -> Atom {
        Atom { proto: self.proto, port: number, port_bits: 16, requests: self.requests.clone() }
    }
}

impl Requests {
    fn new(rules: &Arc<L7Rules>) -> Self {
        Self { parser: rules.parser(), priority: rules.priority(), rules: Arc::clone(rules) }
    }
}

impl CompiledEntry {
    /// Says of an identity (0 = any) what the entry says of every peer that it selects.
    pub(crate) fn say(
        &self,
        builder: &mut MapBuilder,
        subject: &Subject,
        levels: &Levels,
        egress: bool,
        identity: u32,
    ) {
        for atom in self.atoms.of_subject(subject, egress) {
            self.say_atom(builder, levels, egress, identity, &atom);
        }
    }

    /// Says of a peer what the entry says of the ports that the peer's pods name. Outgoing packets only.
    pub(crate) fn say_named(
        &self,
        builder: &mut MapBuilder,
        identities: &IdentityTable,
        levels: &Levels,
        identity: NumericIdentity,
    ) {
        for atom in self.atoms.of_peer(identities, identity) {
            self.say_atom(builder, levels, true, identity.0, &atom);
        }
    }

    /// Whether other entries may contradict it: see [`check_agreement`].
    pub(crate) fn needs_agreement(&self) -> bool {
        self.action == Action::Allow && (self.auth.is_some() || self.atoms.has_requests())
    }

    fn say_atom(&self, builder: &mut MapBuilder, levels: &Levels, egress: bool, identity: u32, atom: &Atom) {
        let Atom { proto, port, port_bits, requests } = atom;
        let key = Key { identity, egress, proto: *proto, port: *port, port_bits: *port_bits };
        let byte = match (self.action, requests) {
            (Action::Deny, _) => byte::DENY,
            (Action::Pass, _) => byte::PASS,
            (Action::Allow, Some(requests)) => byte::DENY - requests.priority,
            (Action::Allow, None) => byte::ALLOW,
        };
        let deny = self.action == Action::Deny;
        let entry = Entry {
            deny,
            audit: deny && self.audit,
            redirect: requests.is_some() && self.action == Action::Allow,
            ..Entry::plain_allow(levels.precedence(self.rank, byte), self.origins.clone())
        };
        let pass = self.action == Action::Pass;
        builder.add(key, Saying { entry, tier: Some(self.rank.tier), pass, auth: self.auth });
    }
}

/// What allow entries of one peer and port ask for.
#[derive(Debug, Default)]
struct Agreed {
    parser: Option<ParserKind>,
    /// Rules with the TLS secrets that the first of them names.
    tls: Option<Arc<L7Rules>>,
    auth: Option<AuthMode>,
}

/// Refuses allow entries of one peer and port that need two parsers or two authentication modes.
pub(crate) fn check_agreement<'a>(
    rules: impl Iterator<Item = &'a CompiledRule>,
    subject: &Subject,
    identities: &IdentityTable,
    egress: bool,
) -> Result<(), ResolveError> {
    let mut agreed: BTreeMap<(u8, u16, u8, &PeerSelector), Agreed> = BTreeMap::new();
    for entry in rules.flat_map(|rule| &rule.direction(egress).entries).filter(|e| e.needs_agreement()) {
        let mut atoms: Vec<Atom> = entry.atoms.of_subject(subject, egress).collect();
        for peer in &entry.peers {
            let own = atoms.len();
            if egress && entry.atoms.has_named() {
                let peers = peers_with_names(peer, identities);
                atoms.extend(peers.flat_map(|identity| entry.atoms.of_peer(identities, identity)));
            }
            for Atom { proto, port, port_bits, requests } in &atoms {
                let known = agreed.entry((*proto, *port, *port_bits, peer)).or_default();
                known.join(requests.as_ref(), entry.auth)?;
            }
            atoms.truncate(own);
        }
    }
    Ok(())
}

impl Agreed {
    fn join(&mut self, requests: Option<&Requests>, auth: Option<AuthMode>) -> Result<(), ResolveError> {
        let parser = requests.map(|requests| requests.parser.clone());
        self.parser = match (self.parser.take(), parser) {
            (Some(first), Some(second)) => {
                let conflict = || ResolveError::ConflictingParsers {
                    first: first.to_string(),
                    second: second.to_string(),
                };
                Some(first.merge(&second).ok_or_else(conflict)?)
            }
            (first, second) => first.or(second),
        };
        if let Some(requests) = requests.filter(|requests| requests.rules.tls_secrets().is_some()) {
            let known = self.tls.get_or_insert_with(|| Arc::clone(&requests.rules));
            if known.tls_secrets() != requests.rules.tls_secrets() {
                return Err(ResolveError::ConflictingTls);
            }
        }
        if self.auth.is_some() && auth.is_some() && self.auth != auth {
            return Err(ResolveError::ConflictingAuth);
        }
        self.auth = self.auth.or(auth);
        Ok(())
    }
}

/// Identities whose pods name ports and that the peer selects.
pub(crate) fn peers_with_names(
    peer: &PeerSelector,
    identities: &IdentityTable,
) -> impl Iterator<Item = NumericIdentity> {
    identities
        .with_named_ports()
        .filter(|identity| identities.labels(*identity).is_some_and(|labels| peer.matches(labels)))
}
