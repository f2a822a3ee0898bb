//! Validated policy objects: what the repository stores. A value of these types cannot be wrong in itself.

mod dns;
mod l4;
mod l7;
mod peer;
mod tls;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use specola_labels::{Label, Selector};

pub use self::dns::{DnsRule, InvalidDnsRule};
pub use self::l4::{IcmpFamily, IcmpMatch, L4, Port, PortMatch, Protocol};
pub use self::l7::{HeaderMatch, HttpRule, KafkaRule, L7Rules, MismatchAction, ParserKind};
pub use self::peer::{AwsGroup, CidrGroupSelect, Entity, Peer, ServiceSelect};
pub use self::tls::{Listener, ListenerConfig, ServerName, TlsContext, TlsRules};
use crate::origin::Section;

/// Kind of a policy object.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum PolicyKind {
    /// `cilium.io/v2`, namespaced.
    CiliumNetworkPolicy,
    /// `cilium.io/v2`, cluster-wide.
    CiliumClusterwideNetworkPolicy,
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2`, cluster-wide, in tiers.
    ClusterNetworkPolicy,
}

/// When a rule is asked: each tier before the next.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Tier {
    /// Before all others.
    Admin,
    /// CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and NetworkPolicy.
    #[default]
    Normal,
    /// What no rule of the other tiers decides.
    Baseline,
}

/// What an entry does with packets that match it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Lets them pass.
    Allow,
    /// Drops them.
    Deny,
    /// Leaves them to the tiers that follow.
    Pass,
}

/// Mutual authentication that an entry asks for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum AuthMode {
    /// None, whatever broader entries ask for.
    Disabled,
    /// Both ends must have authenticated.
    Required,
    /// For tests: never succeeds.
    AlwaysFail,
}

/// Name of a policy object.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct PolicyRef {
    /// Kind.
    pub kind: PolicyKind,
    /// Namespace; empty for cluster-wide policies.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// One policy object as it was read.
#[derive(Clone, Debug)]
pub struct PolicyObject {
    /// Kind, namespace and name.
    pub reference: PolicyRef,
    /// `metadata.uid`, empty for objects from files that have none.
    pub uid: String,
    /// What only this policy would drop passes, and is reported as audited.
    pub audit: bool,
    /// Rules of `spec` and `specs`, in order.
    pub rules: Vec<Rule>,
    /// File that it was read from.
    pub file: String,
    /// Line of the document in the file, from 1.
    pub line: u32,
    /// The document as it was written.
    pub text: Arc<str>,
}

/// One `spec`, or one element of `specs`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Endpoints that the rule is for.
    pub subject: RuleSubject,
    /// Tier of all entries.
    pub tier: Tier,
    /// Among rules of a tier but [`Tier::Normal`]: lower ones, and in these earlier entries, are asked first.
    pub priority: u16,
    /// Entries of all sections.
    pub entries: Vec<RuleEntry>,
    /// Whether an unmatched incoming packet of the subject is dropped because of this rule.
    pub default_deny_ingress: bool,
    /// The same for outgoing packets.
    pub default_deny_egress: bool,
    /// Whether the rule has anything to say on incoming packets.
    pub has_ingress: bool,
    /// The same for outgoing packets.
    pub has_egress: bool,
    /// Labels of the rule itself.
    pub labels: Vec<Label>,
    /// Free text for people.
    pub description: String,
    /// `log.value`.
    pub log: String,
}

/// Who a rule is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RuleSubject {
    /// Pods and other endpoints, never the host.
    Endpoints(Selector),
    /// The host endpoint of matching nodes.
    Nodes(Selector),
}

/// One element of `ingress`, `ingressDeny`, `egress` or `egressDeny`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleEntry {
    /// Section that the entry is in.
    pub section: Section,
    /// Index in that section, counted through all of `specs`.
    pub index: u32,
    /// Peers; the entry matches when one of them does. Empty: matches nothing.
    pub peers: Vec<Peer>,
    /// Protocols and ports.
    pub l4: L4,
    /// What happens to packets that match.
    pub action: Action,
    /// Authentication that is asked for; none: what broader entries ask for.
    pub auth: Option<AuthMode>,
}

impl RuleEntry {
    /// An entry that does what its section says, without authentication.
    pub fn new(section: Section, index: u32, peers: Vec<Peer>, l4: L4) -> Self {
        let action = if section.is_deny() { Action::Deny } else { Action::Allow };
        Self { section, index, peers, l4, action, auth: None }
    }
}

impl AuthMode {
    /// Number in policy maps.
    pub const fn number(self) -> u8 {
        match self {
            Self::Disabled => 0,
            Self::Required => 1,
            Self::AlwaysFail => 2,
        }
    }
}

impl PolicyObject {
    /// Whether both objects ask for the same; where they were read does not count.
    pub fn same_policy(&self, other: &Self) -> bool {
        self.reference == other.reference
            && self.uid == other.uid
            && self.audit == other.audit
            && self.rules == other.rules
    }
}

impl PolicyObject {
    /// Names and patterns of DNS that the policy selects by.
    pub fn dns_selectors(&self) -> impl Iterator<Item = &DnsRule> {
        let peers = self.rules.iter().flat_map(|rule| &rule.entries).flat_map(|entry| &entry.peers);
        peers.filter_map(|peer| if let Peer::Fqdn(name) = peer { Some(name) } else { None })
    }

    /// Whether the meaning depends on groups of prefixes or on services.
    pub(crate) fn refers_to_objects(&self) -> bool {
        let peers = self.rules.iter().flat_map(|rule| &rule.entries).flat_map(|entry| &entry.peers);
        peers
            .into_iter()
            .any(|peer| matches!(peer, Peer::CidrGroup { .. } | Peer::Service { .. } | Peer::Group(_)))
    }
}

impl PolicyKind {
    /// Name of the kind in objects.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::CiliumClusterwideNetworkPolicy | Self::ClusterNetworkPolicy)
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for PolicyRef {
    /// `namespace/name`, or `name` for cluster-wide policies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
