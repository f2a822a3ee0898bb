//! What the kernel shall know of addresses.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use specola_datapath::abi::ipcache::{IpInfo, ip_flags};
use specola_labels::NumericIdentity;
use specola_policy::IpFamilies;

use crate::ipam::Addresses;
use crate::store::{CiliumEndpoint, Contents};

/// Addresses of this node, in two groups: where a [`CiliumEndpoint`] says its pod lives, and all the node answers to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct NodeAddresses {
    /// `InternalIP` addresses of the Node object.
    pub(super) internal: Vec<IpAddr>,
    /// These, the routers, and the addresses of the node's devices; sorted.
    pub(super) all: Vec<IpAddr>,
}

impl NodeAddresses {
    pub(super) fn new(internal: &[IpAddr], routers: Addresses, mut devices: Vec<IpAddr>) -> Self {
        devices.extend(internal.iter().copied().chain(routers.iter()));
        devices.sort_unstable();
        devices.dedup();
        Self { internal: internal.to_vec(), all: devices }
    }

    /// Whether the endpoint was published by this node.
    pub(super) fn publishes(&self, endpoint: &CiliumEndpoint) -> bool {
        endpoint.status.networking.node.is_some_and(|node| self.internal.contains(&node))
    }
}

/// A local pod's address.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalAddress {
    pub(super) address: IpAddr,
    pub(super) identity: u32,
    pub(super) slot: u16,
}

/// Everything that the ipcache shall hold. What stands later wins: a pod over a node, a local one over a remote one,
/// anything in the cluster over a prefix of a policy.
pub(super) fn wanted(
    families: IpFamilies,
    prefixes: impl Iterator<Item = (IpNet, NumericIdentity)>,
    contents: &Contents,
    node_name: &str,
    node: &NodeAddresses,
    local: impl Iterator<Item = LocalAddress>,
) -> HashMap<IpNet, IpInfo> {
    let mut wanted: HashMap<IpNet, IpInfo> = worlds(families).into_iter().collect();
    for (prefix, identity) in prefixes {
        wanted.insert(prefix, IpInfo { identity: identity.0, ..IpInfo::default() });
    }
    for endpoint in contents.endpoints.iter().filter(|endpoint| !node.publishes(endpoint)) {
        let node_ipv4 = match endpoint.status.networking.node {
            Some(IpAddr::V4(address)) => address.octets(),
            _ => Ipv4Addr::UNSPECIFIED.octets(),
        };
        let identity = endpoint.status.identity.id;
        for address in endpoint.ips() {
            wanted.insert(address.into(), IpInfo { identity, node_ipv4, ..IpInfo::default() });
        }
    }
    for peer in contents.nodes.iter().filter(|peer| peer.metadata.name != node_name) {
        let info = IpInfo { identity: NumericIdentity::REMOTE_NODE.0, ..IpInfo::default() };
        wanted.extend(peer.spec.addresses.iter().map(|address| (IpNet::from(address.ip), info)));
    }
    let host = IpInfo { identity: NumericIdentity::HOST.0, flags: ip_flags::LOCAL_NODE, ..IpInfo::default() };
    wanted.extend(node.all.iter().map(|address| (IpNet::from(*address), host)));
    for LocalAddress { address, identity, slot } in local {
        wanted.insert(address.into(), IpInfo { identity, slot, ..IpInfo::default() });
    }
    wanted
}

pub(crate) fn worlds(families: IpFamilies) -> [(IpNet, IpInfo); 2] {
    let (ipv4, ipv6) = match families {
        IpFamilies::Dual => (NumericIdentity::WORLD_IPV4, NumericIdentity::WORLD_IPV6),
        IpFamilies::V4 | IpFamilies::V6 => (NumericIdentity::WORLD, NumericIdentity::WORLD),
    };
    let info = |identity: NumericIdentity| IpInfo { identity: identity.0, ..IpInfo::default() };
    [(Ipv4Net::default().into(), info(ipv4)), (Ipv6Net::default().into(), info(ipv6))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Addressing, CiliumNode, EndpointStatus, NodeAddress, NodeSpec, ObjectMeta, Objects};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn remote(address: &str, node: &str, identity: u32) -> CiliumEndpoint {
        let mut status = EndpointStatus::default();
        status.identity.id = identity;
        status.networking.node = Some(ip(node));
        status.networking.addressing = vec![Addressing { ipv4: address.parse().ok(), ipv6: None }];
        CiliumEndpoint::new(ObjectMeta::default(), status)
    }

    fn peer(name: &str, address: &str) -> CiliumNode {
        let addresses = vec![NodeAddress { kind: "InternalIP".to_owned(), ip: ip(address) }];
        CiliumNode::new(name, NodeSpec { addresses, ..NodeSpec::default() })
    }

    #[test]
    fn each_address_has_its_most_certain_owner() {
        let contents = Contents {
            endpoints: Objects::unnamed([
                remote("10.0.2.5", "172.30.0.3", 300),
                remote("10.0.1.9", "172.30.0.2", 301),
                remote("10.0.1.5", "172.30.0.3", 999),
            ]),
            nodes: Objects::unnamed([peer("n1", "172.30.0.2"), peer("n2", "172.30.0.3")]),
            ..Contents::default()
        };
        let node =
            NodeAddresses { internal: vec![ip("172.30.0.2")], all: vec![ip("172.30.0.2"), ip("10.0.1.1")] };
        let prefixes = [
            (net("10.0.0.0/8"), NumericIdentity(1 << 24 | 1)),
            (net("10.0.2.5/32"), NumericIdentity(1 << 24 | 2)),
        ];
        let local = LocalAddress { address: ip("10.0.1.5"), identity: 302, slot: 4 };
        let wanted =
            wanted(IpFamilies::Dual, prefixes.into_iter(), &contents, "n1", &node, [local].into_iter());
        let identity = |prefix: &str| wanted.get(&net(prefix)).map(|info| info.identity);
        assert_eq!(identity("0.0.0.0/0"), Some(9));
        assert_eq!(identity("::/0"), Some(10));
        assert_eq!(identity("10.0.0.0/8"), Some(1 << 24 | 1));
        assert_eq!(identity("10.0.2.5/32"), Some(300), "a pod is never a prefix of a policy");
        assert_eq!(wanted[&net("10.0.2.5/32")].node_ipv4, [172, 30, 0, 3]);
        assert_eq!(identity("10.0.1.9/32"), None, "an endpoint of this node that is not there");
        assert_eq!((identity("10.0.1.5/32"), wanted[&net("10.0.1.5/32")].slot), (Some(302), 4));
        assert_eq!(identity("172.30.0.3/32"), Some(6));
        assert_eq!(wanted[&net("10.0.1.1/32")].flags, ip_flags::LOCAL_NODE);
        assert_eq!(identity("172.30.0.2/32"), Some(1));
    }

    #[test]
    fn one_family_has_one_world() {
        let none = || std::iter::empty();
        let wanted = wanted(
            IpFamilies::V4,
            none(),
            &Contents::default(),
            "n",
            &NodeAddresses::default(),
            std::iter::empty(),
        );
        assert_eq!(wanted[&net("0.0.0.0/0")].identity, 2);
    }
}
