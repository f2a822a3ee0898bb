//! Validated policy objects: what the repository stores. A value of these types cannot be wrong in itself.

mod dns;
mod l4;
mod l7;
mod peer;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use specola_labels::{Label, Selector};

pub use self::dns::{DnsRule, InvalidDnsRule};
pub use self::l4::{IcmpFamily, IcmpMatch, L4, Port, PortMatch, Protocol};
pub use self::l7::{HeaderMatch, HttpRule, KafkaRule, L7Rules, MismatchAction, ParserKind};
pub use self::peer::{CidrGroupSelect, Entity, Peer, ServiceSelect};
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
}

impl PolicyObject {
    /// Whether both objects ask for the same; where they were read does not count.
    pub fn same_policy(&self, other: &Self) -> bool {
        self.reference == other.reference && self.uid == other.uid && self.rules == other.rules
    }
}

impl PolicyObject {
    /// Whether the meaning depends on groups of prefixes or on services.
    pub(crate) fn refers_to_objects(&self) -> bool {
        let peers = self.rules.iter().flat_map(|rule| &rule.entries).flat_map(|entry| &entry.peers);
        peers.into_iter().any(|peer| matches!(peer, Peer::CidrGroup { .. } | Peer::Service { .. }))
    }
}

impl PolicyKind {
    /// Name of the kind in objects.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::CiliumClusterwideNetworkPolicy)
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
