//! Where a policy decision comes from.

/// One rule that took part in a decision.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PolicyOrigin {
    /// Kind of the policy object, such as `CiliumNetworkPolicy`; empty = no policy, such as when nothing is enforced.
    pub kind: String,
    /// Its namespace; empty for a cluster-wide one.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// `ingress`, `egress`, `ingressDeny` or `egressDeny`.
    pub section: String,
    /// Index of the rule in its section, from 0.
    pub rule_index: u32,
    /// Labels of the rule, `source:key=value`.
    pub labels: Vec<String>,
    /// Repository revision at which the policy was last changed.
    pub revision: u64,
    /// The policy's log text; empty = none.
    pub log: String,
}
