//! Which rules stand behind a policy map entry.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};
use specola_labels::source;

use crate::rule::{PolicyKind, PolicyRef};

/// One rule of one policy object, or a built-in rule.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Origin {
    /// Kind of the object.
    pub kind: OriginKind,
    /// Namespace, empty for cluster-wide and built-in ones.
    pub namespace: String,
    /// Object name, or name of the built-in rule.
    pub name: String,
    /// Object uid, may be empty.
    pub uid: String,
    /// Section of the rule. For a set of policies that select an endpoint: `ingress` or `egress`, the direction.
    pub section: Section,
    /// Index of the rule in its section, from 0. For a set of policies that select an endpoint: index of the spec.
    pub rule_index: u32,
    /// Labels of the rule, sorted, `source:key=value`.
    pub labels: Vec<String>,
    /// Repository revision at which the object was imported.
    pub revision: u64,
    /// `log.value` of the rule, may be empty.
    pub log: String,
}

/// Kind of object that an origin is in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum OriginKind {
    /// `cilium.io/v2`, namespaced.
    CiliumNetworkPolicy,
    /// `cilium.io/v2`, cluster-wide.
    CiliumClusterwideNetworkPolicy,
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2`.
    ClusterNetworkPolicy,
    /// No object: a rule of the engine itself.
    Builtin,
}

/// Section of a rule.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Section {
    /// Incoming, allowed.
    Ingress,
    /// Incoming, denied.
    IngressDeny,
    /// Outgoing, allowed.
    Egress,
    /// Outgoing, denied.
    EgressDeny,
}

/// A sorted set of origins. Cloning copies a pointer; equal sets compare equal whatever made them.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct OriginSet(Arc<Hashed>);

/// Origins with their hash, first: sets are looked up far more often than made.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Hashed {
    hash: u64,
    origins: Box<[Arc<Origin>]>,
}

impl Origin {
    /// The rule that lets everything pass where nothing is enforced, or where default deny is switched off.
    pub fn allow_any(egress: bool) -> Self {
        Self::builtin(if egress { "allow-any-egress" } else { "allow-any-ingress" }, egress)
    }

    /// The rule that drops everything where enforcement is always on and no policy selects the endpoint.
    pub fn deny_any(egress: bool) -> Self {
        Self::builtin(if egress { "deny-any-egress" } else { "deny-any-ingress" }, egress)
    }

    /// The rule that lets the local node reach its own endpoints.
    pub fn allow_localhost() -> Self {
        Self::builtin("allow-localhost-ingress", false)
    }

    /// `namespace/name`, or `name`.
    pub fn object_name(&self) -> String {
        if self.namespace.is_empty() {
            return self.name.clone();
        }
        format!("{}/{}", self.namespace, self.name)
    }

    fn builtin(name: &str, egress: bool) -> Self {
        Self {
            kind: OriginKind::Builtin,
            namespace: String::new(),
            name: name.to_owned(),
            uid: String::new(),
            section: Section::allow(egress),
            rule_index: 0,
            labels: vec![format!("{}:io.cilium.policy.derived-from={name}", source::RESERVED)],
            revision: 0,
            log: String::new(),
        }
    }
}

impl OriginKind {
    /// Name in flows: the object's kind, empty for built-in rules.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CiliumNetworkPolicy => PolicyKind::CiliumNetworkPolicy.as_str(),
            Self::CiliumClusterwideNetworkPolicy => PolicyKind::CiliumClusterwideNetworkPolicy.as_str(),
            Self::NetworkPolicy => PolicyKind::NetworkPolicy.as_str(),
            Self::ClusterNetworkPolicy => PolicyKind::ClusterNetworkPolicy.as_str(),
            Self::Builtin => "",
        }
    }
}

impl Section {
    /// The allow section of a direction.
    pub const fn allow(egress: bool) -> Self {
        if egress { Self::Egress } else { Self::Ingress }
    }

    /// Whether the section is about outgoing packets.
    pub const fn is_egress(self) -> bool {
        matches!(self, Self::Egress | Self::EgressDeny)
    }

    /// Whether the section denies.
    pub const fn is_deny(self) -> bool {
        matches!(self, Self::IngressDeny | Self::EgressDeny)
    }

    /// Field name in policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::IngressDeny => "ingressDeny",
            Self::Egress => "egress",
            Self::EgressDeny => "egressDeny",
        }
    }
}

impl OriginSet {
    /// The set without origins.
    pub fn empty() -> Self {
        static EMPTY: LazyLock<OriginSet> = LazyLock::new(|| OriginSet::sorted(Vec::new()));
        EMPTY.clone()
    }

    /// The set of one origin.
    pub fn of(origin: Arc<Origin>) -> Self {
        Self::sorted(vec![origin])
    }

    /// Origins in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Origin> {
        self.0.origins.iter().map(AsRef::as_ref)
    }

    /// The same as [`Self::iter`], to be kept.
    pub(crate) fn shared(&self) -> impl ExactSizeIterator<Item = &Arc<Origin>> {
        self.0.origins.iter()
    }

    /// Number of origins.
    pub fn len(&self) -> usize {
        self.0.origins.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.origins.is_empty()
    }

    /// Whether the origin is in the set.
    pub fn contains(&self, origin: &Origin) -> bool {
        self.0.origins.binary_search_by(|own| own.as_ref().cmp(origin)).is_ok()
    }

    /// Whether every origin of the set is in the other one.
    pub fn is_subset(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.iter().all(|origin| other.contains(origin))
    }

    /// Both sets together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if other.is_subset(self) {
            return self.clone();
        }
        if self.is_subset(other) {
            return other.clone();
        }
        self.0.origins.iter().chain(&other.0.origins).cloned().collect()
    }

    fn sorted(origins: Vec<Arc<Origin>>) -> Self {
        let mut hasher = DefaultHasher::new();
        origins.hash(&mut hasher);
        Self(Arc::new(Hashed { hash: hasher.finish(), origins: origins.into() }))
    }

    /// Names of the objects, sorted, each once.
    pub fn object_names(&self) -> Vec<String> {
        let names: BTreeSet<String> = self.iter().map(Origin::object_name).collect();
        names.into_iter().collect()
    }
}

impl Hash for OriginSet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl Default for OriginSet {
    fn default() -> Self {
        Self::empty()
    }
}

impl FromIterator<Arc<Origin>> for OriginSet {
    fn from_iter<I: IntoIterator<Item = Arc<Origin>>>(origins: I) -> Self {
        let mut sorted: Vec<Arc<Origin>> = origins.into_iter().collect();
        sorted.sort();
        sorted.dedup();
        Self::sorted(sorted)
    }
}

impl FromIterator<Origin> for OriginSet {
    fn from_iter<I: IntoIterator<Item = Origin>>(origins: I) -> Self {
        origins.into_iter().map(Arc::new).collect()
    }
}

impl Serialize for OriginSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for OriginSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Origin>::deserialize(deserializer)?.into_iter().collect())
    }
}

impl fmt::Display for OriginSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.object_names().join(", "))
    }
}

impl From<PolicyKind> for OriginKind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::CiliumNetworkPolicy => Self::CiliumNetworkPolicy,
            PolicyKind::CiliumClusterwideNetworkPolicy => Self::CiliumClusterwideNetworkPolicy,
            PolicyKind::NetworkPolicy => Self::NetworkPolicy,
            PolicyKind::ClusterNetworkPolicy => Self::ClusterNetworkPolicy,
        }
    }
}

impl Origin {
    /// The policy object, none for built-in rules.
    pub fn policy_ref(&self) -> Option<PolicyRef> {
        let kind = match self.kind {
            OriginKind::CiliumNetworkPolicy => PolicyKind::CiliumNetworkPolicy,
            OriginKind::CiliumClusterwideNetworkPolicy => PolicyKind::CiliumClusterwideNetworkPolicy,
            OriginKind::NetworkPolicy => PolicyKind::NetworkPolicy,
            OriginKind::ClusterNetworkPolicy => PolicyKind::ClusterNetworkPolicy,
            OriginKind::Builtin => return None,
        };
        Some(PolicyRef { kind, namespace: self.namespace.clone(), name: self.name.clone() })
    }
}
