//! L3 peers.

use std::fmt;

use ipnet::IpNet;
use specola_labels::Selector;

use super::dns::DnsRule;

/// One selector of peers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peer {
    /// Everything, known or not.
    Any,
    /// Endpoints; the selector is already scoped to its namespaces.
    Endpoints(Selector),
    /// A named group.
    Entity(Entity),
    /// Addresses outside the cluster.
    Cidr {
        /// Prefix, host bits cleared.
        prefix: IpNet,
        /// Prefixes inside it that do not match.
        except: Vec<IpNet>,
    },
    /// Other nodes by their labels.
    Nodes(Selector),
    /// Addresses of groups that are kept apart from policies.
    CidrGroup {
        /// The groups.
        groups: CidrGroupSelect,
        /// Prefixes inside them that do not match.
        except: Vec<IpNet>,
    },
    /// What stands behind services.
    Service {
        /// The services.
        services: ServiceSelect,
        /// Their namespace; none for every one.
        namespace: Option<String>,
    },
    /// Addresses that DNS gave for a name.
    Fqdn(DnsRule),
    /// Addresses that a cloud provider gives for a group.
    Group(AwsGroup),
}

/// Instances of AWS: those with all of what is given.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AwsGroup {
    /// Region; empty: that of the node.
    pub region: String,
    /// Tags.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Ids of security groups: one of them.
    pub security_group_ids: std::collections::BTreeSet<String>,
    /// Names of security groups: one of them.
    pub security_group_names: std::collections::BTreeSet<String>,
}

impl AwsGroup {
    /// Its security groups one by one, as the members of any of them are meant; nothing for a group that is one itself.
    pub(crate) fn parts(&self) -> Vec<Self> {
        let one = || Self { region: self.region.clone(), labels: self.labels.clone(), ..Self::default() };
        let ids = self
            .security_group_ids
            .iter()
            .map(|id| Self { security_group_ids: [id.clone()].into(), ..one() });
        let names = self
            .security_group_names
            .iter()
            .map(|name| Self { security_group_names: [name.clone()].into(), ..one() });
        let parts: Vec<Self> = ids.chain(names).collect();
        if parts.len() > 1 { parts } else { Vec::new() }
    }
}

impl fmt::Display for AwsGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend((!self.region.is_empty()).then(|| format!("region {}", self.region)));
        parts.extend(self.labels.iter().map(|(key, value)| format!("tag {key}={value}")));
        parts.extend(self.security_group_ids.iter().map(|id| format!("security group {id}")));
        parts.extend(self.security_group_names.iter().map(|name| format!("security group named {name}")));
        f.write_str(&if parts.is_empty() { "every instance".to_owned() } else { parts.join(", ") })
    }
}

/// Which groups of prefixes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CidrGroupSelect {
    /// The one of this name.
    Name(String),
    /// Those with matching labels.
    Labels(Selector),
}

/// Which services.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServiceSelect {
    /// Those of this name.
    Name(String),
    /// Those with matching labels.
    Labels(Selector),
}

/// Names of `fromEntities` and `toEntities`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Entity {
    /// Everything.
    All,
    /// Outside the cluster.
    World,
    /// Outside the cluster over IPv4.
    WorldIpv4,
    /// Outside the cluster over IPv6.
    WorldIpv6,
    /// The local node.
    Host,
    /// Other nodes.
    RemoteNode,
    /// The Kubernetes API server.
    KubeApiserver,
    /// Health endpoints.
    Health,
    /// Endpoints without labels so far.
    Init,
    /// Ingress proxies.
    Ingress,
    /// Pods of another network plugin.
    Unmanaged,
    /// Everything in the local cluster.
    Cluster,
    /// Nothing.
    None,
}

impl Entity {
    /// The entity of this name, any case.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        ENTITIES.iter().find(|(text, _)| *text == name).map(|(_, entity)| *entity)
    }

    /// Name in policies; also of the reserved label, where the entity is one identity.
    pub fn name(self) -> &'static str {
        ENTITIES.iter().find(|(_, entity)| *entity == self).map_or("none", |(name, _)| name)
    }
}

const ENTITIES: [(&str, Entity); 13] = [
    ("all", Entity::All),
    ("world", Entity::World),
    ("world-ipv4", Entity::WorldIpv4),
    ("world-ipv6", Entity::WorldIpv6),
    ("host", Entity::Host),
    ("remote-node", Entity::RemoteNode),
    ("kube-apiserver", Entity::KubeApiserver),
    ("health", Entity::Health),
    ("init", Entity::Init),
    ("ingress", Entity::Ingress),
    ("unmanaged", Entity::Unmanaged),
    ("cluster", Entity::Cluster),
    ("none", Entity::None),
];
