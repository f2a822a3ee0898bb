//! What the engine needs to know of the cluster.

use specola_labels::Family;

/// What the engine needs to know of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Name of the local cluster.
    pub cluster_name: String,
    /// When policy is enforced.
    pub mode: Mode,
    /// Whether the local node may always reach its endpoints.
    pub allow_localhost: AllowLocalhost,
    /// Address families in use; decides the names of the world labels.
    pub ip_families: IpFamilies,
    /// Whether policies select and govern the host.
    pub host_firewall: bool,
    /// Whether endpoint selectors of peers mean the local cluster unless they say otherwise.
    pub default_local_cluster: bool,
    /// Largest number of entries in one endpoint's map.
    pub max_entries: usize,
}

/// When policy is enforced.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Mode {
    /// Where a policy selects the endpoint.
    #[default]
    Default,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// Whether the local node may always reach its endpoints.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum AllowLocalhost {
    /// As Kubernetes needs it: always.
    #[default]
    Auto,
    /// Always.
    Always,
    /// As policies say.
    Policy,
}

/// Address families in use.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IpFamilies {
    /// IPv4 only; the world is `reserved:world`.
    V4,
    /// IPv6 only; the world is `reserved:world`.
    V6,
    /// Both; the worlds are `reserved:world-ipv4` and `reserved:world-ipv6`.
    Dual,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_name: "default".to_owned(),
            mode: Mode::Default,
            allow_localhost: AllowLocalhost::Auto,
            ip_families: IpFamilies::Dual,
            host_firewall: false,
            default_local_cluster: true,
            max_entries: 16_384,
        }
    }
}

impl IpFamilies {
    /// Whether the family is in use.
    pub const fn has(self, family: Family) -> bool {
        matches!((self, family), (Self::Dual, _) | (Self::V4, Family::V4) | (Self::V6, Family::V6))
    }
}
