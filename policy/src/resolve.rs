//! Resolution: rules, a subject and the known identities give the map of one endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use specola_labels::{LabelSet, NumericIdentity};

use crate::compile::PeerSelector;
use crate::identities::{IdentityTable, NamedPorts};
use crate::map_state::{Entry, Key, MapBuilder, MapState, PRECEDENCE_ALLOW_ANY, Saying, byte, port_blocks};
use crate::origin::{Origin, OriginSet};
use crate::repository::{AllowLocalhost, CompiledEntry, CompiledRule, DirectionRule, Mode, Repository};
use crate::rule::{Action, AuthMode, L4, L7Rules, ParserKind, Port, PortMatch, Tier};
use crate::tier::{Levels, Rank};

/// The endpoint that a map is for.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// Identity labels.
    pub labels: LabelSet,
    /// Namespace of the pod, empty where there is none. For messages.
    pub namespace: String,
    /// The endpoint's own container ports.
    pub named_ports: NamedPorts,
    /// Whether it is the host endpoint.
    pub is_host: bool,
}

/// What one endpoint enforces.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EndpointPolicy {
    /// Repository revision that it was made from.
    pub revision: u64,
    /// Entries of both directions.
    pub map: MapState,
    /// Whether incoming packets without an entry are dropped. If not, an entry lets all of them pass.
    pub ingress_enforced: bool,
    /// The same for outgoing packets.
    pub egress_enforced: bool,
    /// What drops incoming packets without an entry: policies that select the endpoint, or the mode.
    pub ingress_selected_by: OriginSet,
    /// The same for outgoing packets.
    pub egress_selected_by: OriginSet,
}

/// Why an endpoint cannot get a map. It keeps the one it has.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ResolveError {
    /// More entries than the kernel's map holds.
    #[error(
        "policy needs {}{need} map entries, {max} fit{}; select fewer identities or use wider port ranges",
        if *is_exact { "" } else { "at least " },
        most_from(policies)
    )]
    TooManyEntries {
        /// Entries that the rules need.
        need: usize,
        /// Whether `need` is all of them: counting stops at some multiple of `max`.
        is_exact: bool,
        /// Size of the map.
        max: usize,
        /// The policies that add most, with the number of entries that each has a part in; most first.
        policies: Vec<(String, usize)>,
    },
    /// One port and peer with rules of two request parsers.
    #[error("cannot merge conflicting L7 parsers: {first} and {second} rules for the same peer and port")]
    ConflictingParsers {
        /// Parser of the one rule.
        first: String,
        /// Parser of the other rule.
        second: String,
    },
    /// One port and peer with two authentication modes.
    #[error("cannot merge conflicting authentication modes for the same peer and port; use one of them")]
    ConflictingAuth,
}

/// How a direction is enforced for a subject.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Enforcement {
    /// Everything passes, whatever rules say.
    Off,
    /// Rules count, what they do not name passes.
    OpenByDefault,
    /// Rules count, what they do not name is dropped because of these.
    ClosedByDefault(OriginSet),
    /// Rules count, what they do not name would be dropped because of these, but they are only audited.
    AuditedByDefault(OriginSet),
}

/// Makes the policy of one endpoint.
///
/// # Errors
/// The rules contradict each other, or need more entries than a map holds.
pub fn resolve(
    repository: &Repository,
    subject: &Subject,
    identities: &IdentityTable,
) -> Result<EndpointPolicy, ResolveError> {
    let rules: Vec<&CompiledRule> = repository.rules_for(&subject.labels, subject.is_host).collect();
    let mut resolver = Resolver {
        subject,
        identities,
        max_entries: repository.settings().max_entries,
        builder: MapBuilder::default(),
        levels: Levels::new(&[], false),
        agreed: BTreeMap::new(),
    };
    let ingress = resolver.direction(repository, &rules, false)?;
    let egress = resolver.direction(repository, &rules, true)?;
    let max = resolver.max_entries;
    let limit = max.saturating_mul(COUNTED);
    let Some(map) = resolver.builder.finish(max / 2, limit) else {
        return Err(too_many(limit, false, max, resolver.builder.entries()));
    };
    if map.len() > resolver.max_entries {
        return Err(too_many(map.len(), true, resolver.max_entries, map.iter().map(|(_, entry)| entry)));
    }
    Ok(EndpointPolicy {
        revision: repository.revision(),
        map,
        ingress_enforced: ingress.is_some(),
        egress_enforced: egress.is_some(),
        ingress_selected_by: ingress.unwrap_or_default(),
        egress_selected_by: egress.unwrap_or_default(),
    })
}

/// How a direction of a subject is enforced.
pub(crate) fn enforcement(
    repository: &Repository,
    subject: &Subject,
    rules: &[&CompiledRule],
    egress: bool,
) -> Enforcement {
    let settings = repository.settings();
    if settings.mode == Mode::Never || (subject.is_host && !settings.host_firewall) {
        return Enforcement::Off;
    }
    let mut present =
        rules.iter().map(|rule| rule.direction(egress)).filter(|direction| direction.present).peekable();
    let always = settings.mode == Mode::Always || subject.labels.has_reserved("init");
    if present.peek().is_none() && !always {
        return Enforcement::Off;
    }
    let (audited, closing): (Vec<_>, Vec<_>) =
        present.filter(|direction| direction.default_deny).partition(|direction| direction.audit);
    let names = |directions: &[&DirectionRule]| -> OriginSet {
        directions.iter().map(|direction| Arc::clone(&direction.selected_by)).collect()
    };
    match (closing.is_empty(), always, audited.is_empty()) {
        (false, ..) => Enforcement::ClosedByDefault(names(&closing)),
        (true, true, _) => Enforcement::ClosedByDefault(OriginSet::of(Arc::new(Origin::deny_any(egress)))),
        (true, false, false) => Enforcement::AuditedByDefault(names(&audited)),
        (true, false, true) => Enforcement::OpenByDefault,
    }
}

/// Whether the local node may reach the subject whatever allow rules say.
pub(crate) fn localhost_allowed(repository: &Repository, subject: &Subject, egress: bool) -> bool {
    !egress && !subject.is_host && repository.settings().allow_localhost != AllowLocalhost::Policy
}

/// Names the policies that most of the entries come from.
fn too_many<'a>(
    need: usize,
    is_exact: bool,
    max: usize,
    entries: impl Iterator<Item = &'a Entry>,
) -> ResolveError {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in entries.flat_map(|entry| entry.origins.object_names()) {
        *counts.entry(name).or_default() += 1;
    }
    let mut policies: Vec<(String, usize)> = counts.into_iter().collect();
    policies.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    policies.truncate(NAMED);
    ResolveError::TooManyEntries { need, is_exact, max, policies }
}

fn most_from(policies: &[(String, usize)]) -> String {
    let named: Vec<String> = policies.iter().map(|(name, count)| format!("{name} ({count})")).collect();
    if named.is_empty() { String::new() } else { format!(", most are from {}", named.join(", ")) }
}

/// Entries are counted up to this multiple of what fits.
const COUNTED: usize = 4;
/// Policies that are named when entries do not fit.
const NAMED: usize = 3;

struct Resolver<'a> {
    subject: &'a Subject,
    identities: &'a IdentityTable,
    max_entries: usize,
    builder: MapBuilder,
    /// Levels of the direction that is being resolved.
    levels: Levels,
    /// What allow entries ask for, which must agree.
    agreed: BTreeMap<(bool, u8, PortKey, PeerSelector), Agreed>,
}

/// What allow entries of one peer and port ask for.
#[derive(Debug, Default)]
struct Agreed {
    parser: Option<ParserKind>,
    auth: Option<AuthMode>,
}

/// Block of ports in a form that orders.
type PortKey = (u16, u8);

impl Resolver<'_> {
    /// Adds the entries of a direction. Returns what closes it, none when unnamed packets pass.
    fn direction(
        &mut self,
        repository: &Repository,
        rules: &[&CompiledRule],
        egress: bool,
    ) -> Result<Option<OriginSet>, ResolveError> {
        let enforcement = enforcement(repository, self.subject, rules, egress);
        self.levels = Levels::new(rules, egress);
        if enforcement != Enforcement::Off {
            for rule in rules {
                for entry in &rule.direction(egress).entries {
                    self.entry(entry, egress)?;
                }
            }
            if localhost_allowed(repository, self.subject, egress) {
                self.localhost();
            }
        }
        match enforcement {
            Enforcement::ClosedByDefault(selected_by) => {
                self.builder.close(egress, selected_by.clone());
                Ok(Some(selected_by))
            }
            Enforcement::AuditedByDefault(selected_by) => {
                let entry = Entry {
                    deny: true,
                    audit: true,
                    by_default: true,
                    origins: selected_by,
                    ..plain_allow(PRECEDENCE_ALLOW_ANY, Origin::allow_any(egress))
                };
                self.builder.add(Key::all(0, egress), Saying { entry, tier: None, pass: false, auth: None });
                Ok(None)
            }
            Enforcement::Off | Enforcement::OpenByDefault => {
                self.allow_any(egress);
                Ok(None)
            }
        }
    }

    fn entry(&mut self, entry: &CompiledEntry, egress: bool) -> Result<(), ResolveError> {
        for peer in &entry.peers {
            match &entry.l4 {
                L4::All => self.add(peer, entry, egress, 0, (0, 0), None)?,
                L4::Icmp(types) => {
                    for icmp in types {
                        let port = (u16::from(icmp.icmp_type), 16);
                        self.add(peer, entry, egress, icmp.family.number(), port, None)?;
                    }
                }
                L4::Ports(ports) => {
                    for port in ports {
                        self.port(peer, entry, egress, port)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn port(
        &mut self,
        peer: &PeerSelector,
        entry: &CompiledEntry,
        egress: bool,
        port: &PortMatch,
    ) -> Result<(), ResolveError> {
        let l7 = port.l7.as_deref();
        for &proto in port.protocol.numbers() {
            match &port.port {
                Port::All => self.add(peer, entry, egress, proto, (0, 0), l7)?,
                Port::Range { first, last } => {
                    for block in port_blocks(*first, *last) {
                        self.add(peer, entry, egress, proto, block, l7)?;
                    }
                }
                Port::Named(name) if egress => {
                    self.named_port_of_peers(peer, entry, proto, name, l7)?;
                }
                Port::Named(name) => {
                    let own = self.subject.named_ports.get(&(name.clone(), proto));
                    for number in own.into_iter().flatten() {
                        self.add(peer, entry, egress, proto, (*number, 16), l7)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A name means what each peer's own pods call so.
    fn named_port_of_peers(
        &mut self,
        peer: &PeerSelector,
        entry: &CompiledEntry,
        proto: u8,
        name: &str,
        l7: Option<&L7Rules>,
    ) -> Result<(), ResolveError> {
        let peers: Vec<NumericIdentity> = self
            .identities
            .with_named_ports()
            .filter(|identity| {
                let labels = self.identities.labels(*identity);
                labels.is_some_and(|labels| peer.matches(labels))
            })
            .collect();
        for identity in peers {
            for number in self.identities.ports_named(identity, name, proto) {
                self.check_agreement(peer, entry, true, proto, (number, 16), l7)?;
                self.insert(identity.0, entry, true, proto, (number, 16), l7)?;
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        peer: &PeerSelector,
        entry: &CompiledEntry,
        egress: bool,
        proto: u8,
        block: PortKey,
        l7: Option<&L7Rules>,
    ) -> Result<(), ResolveError> {
        self.check_agreement(peer, entry, egress, proto, block, l7)?;
        let PeerSelector::Labels(selector) = peer else {
            return self.insert(0, entry, egress, proto, block, l7);
        };
        for identity in self.identities.select(selector).iter() {
            self.insert(identity.0, entry, egress, proto, block, l7)?;
        }
        Ok(())
    }

    fn insert(
        &mut self,
        identity: u32,
        entry: &CompiledEntry,
        egress: bool,
        proto: u8,
        (port, port_bits): PortKey,
        l7: Option<&L7Rules>,
    ) -> Result<(), ResolveError> {
        let key = Key { identity, egress, proto, port, port_bits };
        let deny = entry.action == Action::Deny;
        let byte = match (entry.action, l7) {
            (Action::Deny, _) => byte::DENY,
            (Action::Pass, _) => byte::PASS,
            (Action::Allow, Some(rules)) => byte::DENY - rules.priority(),
            (Action::Allow, None) => byte::ALLOW,
        };
        self.builder.add(
            key,
            Saying {
                entry: Entry {
                    deny,
                    audit: deny && entry.audit,
                    by_default: false,
                    redirect: l7.is_some() && entry.action == Action::Allow,
                    auth: 0,
                    precedence: self.levels.precedence(entry.rank, byte),
                    origins: OriginSet::of(Arc::clone(&entry.origin)),
                },
                tier: Some(entry.rank.tier),
                pass: entry.action == Action::Pass,
                auth: entry.auth,
            },
        );
        // Some of them may turn out to be redundant.
        let (need, max) = (self.builder.len(), self.max_entries);
        if need > max.saturating_mul(COUNTED) {
            return Err(too_many(need, false, max, self.builder.entries()));
        }
        Ok(())
    }

    /// Allow entries of one peer and port need one parser and one authentication mode.
    fn check_agreement(
        &mut self,
        peer: &PeerSelector,
        entry: &CompiledEntry,
        egress: bool,
        proto: u8,
        block: PortKey,
        l7: Option<&L7Rules>,
    ) -> Result<(), ResolveError> {
        let (parser, auth) = (l7.map(L7Rules::parser), entry.auth);
        if entry.action != Action::Allow || (parser.is_none() && auth.is_none()) {
            return Ok(());
        }
        let agreed = self.agreed.entry((egress, proto, block, peer.clone())).or_default();
        agreed.parser = match (agreed.parser.take(), parser) {
            (Some(first), Some(second)) => {
                let merged = first.merge(&second);
                let conflict = || ResolveError::ConflictingParsers {
                    first: first.to_string(),
                    second: second.to_string(),
                };
                Some(merged.ok_or_else(conflict)?)
            }
            (first, second) => first.or(second),
        };
        if agreed.auth.is_some() && auth.is_some() && agreed.auth != auth {
            return Err(ResolveError::ConflictingAuth);
        }
        agreed.auth = agreed.auth.or(auth);
        Ok(())
    }

    fn localhost(&mut self) {
        let key = Key::all(NumericIdentity::HOST.0, false);
        let precedence = self.levels.precedence(Rank::NORMAL, byte::LOCALHOST);
        let entry = plain_allow(precedence, Origin::allow_localhost());
        self.builder.add(key, Saying { entry, tier: Some(Tier::Normal), pass: false, auth: None });
    }

    fn allow_any(&mut self, egress: bool) {
        let entry = plain_allow(PRECEDENCE_ALLOW_ANY, Origin::allow_any(egress));
        self.builder.add(Key::all(0, egress), Saying { entry, tier: None, pass: false, auth: None });
    }
}

fn plain_allow(precedence: u32, origin: Origin) -> Entry {
    Entry {
        deny: false,
        audit: false,
        by_default: false,
        redirect: false,
        auth: 0,
        precedence,
        origins: OriginSet::of(Arc::new(origin)),
    }
}
