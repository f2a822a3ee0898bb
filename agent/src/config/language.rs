//! How policies are understood.

use specola_policy::{AllowLocalhost, ParseOptions};

/// Parts of the policy language that are off unless asked for, and what is allowed without a policy.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct PolicyLanguage {
    /// Accept fromNodes and toNodes in policies: other nodes get identities by their labels.
    #[arg(long)]
    pub enable_node_selector_labels: bool,
    /// Accept the protocols VRRP and IGMP in policies.
    #[arg(long)]
    pub enable_extended_ip_protocols: bool,
    /// Accept ClusterNetworkPolicy of Kubernetes (policy.networking.k8s.io/v1alpha2).
    #[arg(long)]
    pub enable_k8s_cluster_network_policy: bool,
    /// Whether this node may always reach its pods: auto and always = yes, policy = as policies say.
    #[arg(long, value_enum, default_value_t)]
    pub allow_localhost: LocalhostRule,
}

/// Whether the node may always reach its pods.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum LocalhostRule {
    /// As Kubernetes needs it: always.
    #[default]
    Auto,
    /// Always.
    Always,
    /// As policies say.
    Policy,
}

impl PolicyLanguage {
    /// The parts that are on.
    pub(crate) const fn options(self) -> ParseOptions {
        ParseOptions {
            node_selector_labels: self.enable_node_selector_labels,
            extended_protocols: self.enable_extended_ip_protocols,
            cluster_network_policy: self.enable_k8s_cluster_network_policy,
        }
    }
}

impl From<LocalhostRule> for AllowLocalhost {
    fn from(rule: LocalhostRule) -> Self {
        match rule {
            LocalhostRule::Auto => Self::Auto,
            LocalhostRule::Always => Self::Always,
            LocalhostRule::Policy => Self::Policy,
        }
    }
}
