//! Resolution: rules, a subject and the known identities give the map of one endpoint.

mod atoms;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use specola_labels::{LabelSet, NumericIdentity};

pub(crate) use self::atoms::{Atoms, check_agreement, peers_with_names};
use crate::compile::PeerSelector;
use crate::identities::{IdentityTable, NamedPorts};
use crate::map_state::{Diff, Entry, Key, MapBuilder, MapState, PRECEDENCE_ALLOW_ANY, Saying, byte};
use crate::origin::{Origin, OriginSet};
use crate::repository::{CompiledEntry, CompiledRule, DirectionRule, Repository};
use crate::rule::Tier;
use crate::settings::{AllowLocalhost, Mode, Settings};
use crate::tier::{Levels, Rank};

/// The endpoint that a map is for.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
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
    /// What would be dropped passes, and is reported as audited.
    pub audit: bool,
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
    /// One port and peer with TLS material from two places.
    #[error(
        "cannot merge conflicting TLS contexts for the same peer and port; name the same secrets in both rules"
    )]
    ConflictingTls,
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

/// Makes the policy of one endpoint from nothing. [`crate::Engine`] keeps it up to date.
///
/// # Errors
/// The rules contradict each other, or need more entries than a map holds.
pub fn resolve(
    repository: &Repository,
    subject: &Subject,
    identities: &IdentityTable,
) -> Result<EndpointPolicy, ResolveError> {
    let rules: Vec<&CompiledRule> = repository.rules_for(&subject.labels, subject.is_host).collect();
    let settings = repository.settings();
    let mut builder = MapBuilder::default();
    let mut closed_by = [None, None];
    for egress in [false, true] {
        let enforcement = enforcement(repository, subject, &rules, egress);
        let levels = Levels::new(&rules, egress);
        if enforcement != Enforcement::Off {
            check_agreement(rules.iter().copied(), subject, identities, egress)?;
            for entry in rules.iter().flat_map(|rule| &rule.direction(egress).entries) {
                say_all(entry, &mut builder, subject, identities, &levels, egress, settings)?;
            }
        }
        say_builtin(&mut builder, repository, subject, &levels, &enforcement, egress);
        builder.close(egress, enforcement.closed_by().unwrap_or_default());
        closed_by[usize::from(egress)] = enforcement.closed_by();
    }
    settle(&mut builder, settings)?;
    let [ingress, egress] = closed_by;
    Ok(EndpointPolicy {
        revision: repository.revision(),
        audit: false,
        map: builder.into_state(),
        ingress_enforced: ingress.is_some(),
        egress_enforced: egress.is_some(),
        ingress_selected_by: ingress.unwrap_or_default(),
        egress_selected_by: egress.unwrap_or_default(),
    })
}

/// Everything that an entry says.
fn say_all(
    entry: &CompiledEntry,
    builder: &mut MapBuilder,
    subject: &Subject,
    identities: &IdentityTable,
    levels: &Levels,
    egress: bool,
    settings: &Settings,
) -> Result<(), ResolveError> {
    for peer in &entry.peers {
        let PeerSelector::Labels(selector) = peer else {
            entry.say(builder, subject, levels, egress, 0);
            continue;
        };
        for identity in identities.select(selector) {
            entry.say(builder, subject, levels, egress, identity.0);
            check_raw_size(builder, settings)?;
        }
    }
    if egress && entry.atoms.has_named() {
        for identity in entry.peers.iter().flat_map(|peer| peers_with_names(peer, identities)) {
            entry.say_named(builder, identities, levels, identity);
            check_raw_size(builder, settings)?;
        }
    }
    Ok(())
}

/// What the engine's own rules say.
pub(crate) fn say_builtin(
    builder: &mut MapBuilder,
    repository: &Repository,
    subject: &Subject,
    levels: &Levels,
    enforcement: &Enforcement,
    egress: bool,
) {
    if *enforcement != Enforcement::Off && localhost_allowed(repository, subject, egress) {
        static LOCALHOST: LazyLock<OriginSet> =
            LazyLock::new(|| OriginSet::of(Arc::new(Origin::allow_localhost())));
        let precedence = levels.precedence(Rank::NORMAL, byte::LOCALHOST);
        let entry = Entry::plain_allow(precedence, LOCALHOST.clone());
        let saying = Saying { entry, tier: Some(Tier::Normal), pass: false, auth: None };
        builder.add(Key::all(NumericIdentity::HOST.0, false), saying);
    }
    let entry = match enforcement {
        Enforcement::ClosedByDefault(_) => return,
        Enforcement::AuditedByDefault(selected_by) => Entry {
            deny: true,
            audit: true,
            by_default: true,
            ..Entry::plain_allow(PRECEDENCE_ALLOW_ANY, selected_by.clone())
        },
        Enforcement::Off | Enforcement::OpenByDefault => {
            Entry::plain_allow(PRECEDENCE_ALLOW_ANY, OriginSet::of(Arc::new(Origin::allow_any(egress))))
        }
    };
    builder.add(Key::all(0, egress), Saying { entry, tier: None, pass: false, auth: None });
}

impl Enforcement {
    /// What drops packets that no rule names; none when they pass.
    pub(crate) fn closed_by(&self) -> Option<OriginSet> {
        match self {
            Self::ClosedByDefault(selected_by) => Some(selected_by.clone()),
            Self::Off | Self::OpenByDefault | Self::AuditedByDefault(_) => None,
        }
    }
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

/// Brings the map in step and returns what changed in it; refuses one that the kernel cannot hold.
pub(crate) fn settle(builder: &mut MapBuilder, settings: &Settings) -> Result<Diff, ResolveError> {
    check_raw_size(builder, settings)?;
    let max = settings.max_entries;
    let limit = max.saturating_mul(COUNTED);
    let Some(diff) = builder.settle(max / 2, limit) else {
        return Err(too_many(limit, false, max, builder.entries()));
    };
    let map = builder.state();
    if map.len() > max {
        return Err(too_many(map.len(), true, max, map.iter().map(|(_, entry)| entry)));
    }
    Ok(diff)
}

/// Refuses before the entries fill the memory. Some of them may turn out to be redundant.
pub(crate) fn check_raw_size(builder: &MapBuilder, settings: &Settings) -> Result<(), ResolveError> {
    let (need, max) = (builder.len(), settings.max_entries);
    if need > max.saturating_mul(COUNTED) {
        return Err(too_many(need, false, max, builder.entries()));
    }
    Ok(())
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
