//! How policies are understood.

use specola_policy::{AllowLocalhost, ParseOptions};

/// Parts of the policy language that are off unless asked for, and what is allowed without a policy.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct PolicyLanguage {
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
            node_selector_labels: false,
            extended_protocols: false,
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
