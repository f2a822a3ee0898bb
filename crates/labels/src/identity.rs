//! Numeric security identities.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::label::Label;
use crate::set::LabelSet;

/// A 32-bit number that stands for one label set.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct NumericIdentity(pub u32);

/// Where a number is valid.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scope {
    /// Reserved, or allocated for the whole cluster.
    Global,
    /// This node's own numbers for prefixes outside the cluster.
    Local,
    /// This node's own numbers for other nodes.
    RemoteNode,
    /// No scope that is known.
    Unknown,
}

/// Why a text is not an identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("\"{0}\" is neither an identity number nor a reserved name such as host or world")]
pub struct InvalidIdentity(pub String);

impl NumericIdentity {
    /// Not known; in policy keys: any peer.
    pub const UNKNOWN: Self = Self(0);
    /// The local node.
    pub const HOST: Self = Self(1);
    /// Outside the cluster, single-stack.
    pub const WORLD: Self = Self(2);
    /// Pods that another network plugin runs.
    pub const UNMANAGED: Self = Self(3);
    /// Health endpoints.
    pub const HEALTH: Self = Self(4);
    /// Endpoints without labels so far.
    pub const INIT: Self = Self(5);
    /// Other nodes.
    pub const REMOTE_NODE: Self = Self(6);
    /// Nodes that run the API server.
    pub const KUBE_APISERVER: Self = Self(7);
    /// Ingress proxies.
    pub const INGRESS: Self = Self(8);
    /// Outside the cluster over IPv4, dual-stack.
    pub const WORLD_IPV4: Self = Self(9);
    /// Outside the cluster over IPv6, dual-stack.
    pub const WORLD_IPV6: Self = Self(10);
    /// Overlay traffic that is to be encrypted.
    pub const OVERLAY_TO_ENCRYPT: Self = Self(11);

    /// First number for user identities.
    pub const USER_MIN: Self = Self(256);
    /// Last number for user identities in a cluster of id 0.
    pub const USER_MAX: Self = Self(65_535);
    /// First number of the local scope.
    pub const LOCAL_MIN: Self = Self(LOCAL_SCOPE | 1);
    /// Last number of the local scope.
    pub const LOCAL_MAX: Self = Self(LOCAL_SCOPE | 0x00ff_ffff);
    /// First number of the remote-node scope.
    pub const REMOTE_NODE_MIN: Self = Self(REMOTE_NODE_SCOPE | 1);
    /// Last number of the remote-node scope.
    pub const REMOTE_NODE_MAX: Self = Self(REMOTE_NODE_SCOPE | 0x00ff_ffff);

    /// Scope of the number.
    pub const fn scope(self) -> Scope {
        match self.0 & SCOPE_MASK {
            0 => Scope::Global,
            LOCAL_SCOPE => Scope::Local,
            REMOTE_NODE_SCOPE => Scope::RemoteNode,
            _ => Scope::Unknown,
        }
    }

    /// Whether the number is one of the fixed ones below [`Self::USER_MIN`].
    pub const fn is_reserved(self) -> bool {
        self.0 < Self::USER_MIN.0
    }

    /// Whether the number stands for addresses outside the cluster.
    pub const fn is_world(self) -> bool {
        matches!(self, Self::WORLD | Self::WORLD_IPV4 | Self::WORLD_IPV6)
            || matches!(self.scope(), Scope::Local)
    }

    /// Whether the number stands for a node: this one or another.
    pub const fn is_node(self) -> bool {
        matches!(self, Self::HOST | Self::REMOTE_NODE | Self::KUBE_APISERVER)
            || matches!(self.scope(), Scope::RemoteNode)
    }

    /// Name of a reserved identity.
    pub fn reserved_name(self) -> Option<&'static str> {
        RESERVED.iter().find(|(id, _)| *id == self).map(|(_, name)| *name)
    }

    /// The reserved identity of this name.
    pub fn from_reserved_name(name: &str) -> Option<Self> {
        RESERVED.iter().find(|(_, reserved)| *reserved == name).map(|(id, _)| *id)
    }

    /// Every reserved identity with a name, but `unknown`.
    pub fn all_reserved() -> impl Iterator<Item = Self> {
        RESERVED.iter().map(|(id, _)| *id).filter(|id| *id != Self::UNKNOWN)
    }

    /// Labels of a reserved identity: `reserved:<name>`, and for API server nodes `reserved:remote-node` too.
    pub fn reserved_labels(self) -> Option<LabelSet> {
        if self == Self::UNKNOWN {
            return None;
        }
        let own = Label::reserved(self.reserved_name()?);
        let node = (self == Self::KUBE_APISERVER).then(|| Label::reserved("remote-node"));
        Some([own].into_iter().chain(node).collect())
    }
}

impl fmt::Display for NumericIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reserved_name() {
            Some(name) => f.pad(name),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl FromStr for NumericIdentity {
    type Err = InvalidIdentity;

    /// Reads a number, a reserved name, or `reserved:<name>`.
    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let name = text.strip_prefix("reserved:").unwrap_or(text);
        if let Some(identity) = Self::from_reserved_name(name) {
            return Ok(identity);
        }
        match text.parse() {
            Ok(number) => Ok(Self(number)),
            Err(_) => Err(InvalidIdentity(text.to_owned())),
        }
    }
}

impl From<u32> for NumericIdentity {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

impl From<NumericIdentity> for u32 {
    fn from(identity: NumericIdentity) -> Self {
        identity.0
    }
}

const SCOPE_MASK: u32 = 0xff00_0000;
const LOCAL_SCOPE: u32 = 1 << 24;
const REMOTE_NODE_SCOPE: u32 = 2 << 24;

const RESERVED: [(NumericIdentity, &str); 12] = [
    (NumericIdentity::UNKNOWN, "unknown"),
    (NumericIdentity::HOST, "host"),
    (NumericIdentity::WORLD, "world"),
    (NumericIdentity::UNMANAGED, "unmanaged"),
    (NumericIdentity::HEALTH, "health"),
    (NumericIdentity::INIT, "init"),
    (NumericIdentity::REMOTE_NODE, "remote-node"),
    (NumericIdentity::KUBE_APISERVER, "kube-apiserver"),
    (NumericIdentity::INGRESS, "ingress"),
    (NumericIdentity::WORLD_IPV4, "world-ipv4"),
    (NumericIdentity::WORLD_IPV6, "world-ipv6"),
    (NumericIdentity::OVERLAY_TO_ENCRYPT, "overlay-to-encrypt"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (number, name) in [(1, "host"), (2, "world"), (7, "kube-apiserver"), (10, "world-ipv6")] {
            assert_eq!(NumericIdentity(number).to_string(), name);
            assert_eq!(name.parse(), Ok(NumericIdentity(number)));
        }
        assert_eq!(NumericIdentity(4711).to_string(), "4711");
        assert_eq!("4711".parse(), Ok(NumericIdentity(4711)));
        assert_eq!("reserved:world".parse(), Ok(NumericIdentity::WORLD));
        assert!("wold".parse::<NumericIdentity>().is_err());
    }

    #[test]
    fn scopes() {
        assert_eq!(NumericIdentity(300).scope(), Scope::Global);
        assert_eq!(NumericIdentity(16_777_217).scope(), Scope::Local);
        assert_eq!(NumericIdentity::LOCAL_MAX.0, 33_554_431);
        assert_eq!(NumericIdentity::REMOTE_NODE_MIN.scope(), Scope::RemoteNode);
        assert_eq!(NumericIdentity(9 << 24).scope(), Scope::Unknown);
    }

    #[test]
    fn api_server_nodes_are_remote_nodes_too() {
        let labels = NumericIdentity::KUBE_APISERVER.reserved_labels().unwrap();
        assert_eq!(labels.to_string(), "reserved:kube-apiserver,reserved:remote-node");
        assert_eq!(NumericIdentity(300).reserved_labels(), None);
    }
}
