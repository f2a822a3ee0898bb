//! Who lives at which address, and which identity that is.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use specola_datapath::abi::ipcache::{IpInfo, ip_flags};
use specola_labels::{LabelFilter, LabelSet, NumericIdentity, PodLabels};
use specola_policy::{IdentityTable, IpFamilies, NamedPorts, Repository, cidr_identity_labels};

/// A pod elsewhere in the cluster: `app` label and namespace. The first one's identity is 256.
const PODS: [(&str, &str); 6] = [
    ("a", "default"),
    ("b", "default"),
    ("c", "default"),
    ("a", "other"),
    ("subject", "default"),
    ("d", "other"),
];

/// Reserved identities that have addresses, besides the world.
const RESERVED: [NumericIdentity; 5] = [
    NumericIdentity::REMOTE_NODE,
    NumericIdentity::KUBE_APISERVER,
    NumericIdentity::HEALTH,
    NumericIdentity::INGRESS,
    NumericIdentity::UNMANAGED,
];

/// Prefixes that policies name.
pub(crate) const NETS: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
];

/// Where packets come from and go to: in the cluster, then inside and just outside of [`NETS`].
pub(crate) const ENDS: [&str; 21] = [
    "172.16.0.0/24",
    "172.16.1.7/32",
    "172.16.2.0/24",
    "172.16.3.0/24",
    "172.16.4.0/24",
    "172.16.5.0/24",
    "172.17.0.0/24",
    "172.17.1.0/24",
    "172.17.2.0/24",
    "172.17.3.0/24",
    "fd00:0:0:1::/64",
    "fd00:0:0:2::7/128",
    "fd00:1::/64",
    "172.31.0.1/32",
    "fd00:ff::1/128",
    "10.1.2.3/32",
    "10.1.2.128/25",
    "10.1.77.0/24",
    "198.51.100.0/24",
    "2001:db8:1::/64",
    "2001:db8:2::/64",
];

/// The cluster under certain policies: these decide which prefixes have identities of their own.
pub(crate) struct Cluster {
    identities: IdentityTable,
    addresses: Vec<(IpNet, IpInfo)>,
}

impl Cluster {
    pub(crate) fn new(repository: &Repository) -> Self {
        let mut identities = IdentityTable::with_reserved();
        let mut addresses: Vec<(IpNet, IpInfo)> = vec![
            (Ipv4Net::default().into(), info(NumericIdentity::WORLD_IPV4)),
            (Ipv6Net::default().into(), info(NumericIdentity::WORLD_IPV6)),
        ];
        for (index, (app, namespace)) in PODS.into_iter().enumerate() {
            let identity = NumericIdentity(256 + u32::try_from(index).expect("few pods"));
            identities.insert(identity, pod_labels(app, namespace));
            let number = if index % 2 == 0 { 80 } else { 81 };
            identities.set_named_ports(identity, named_port(number));
            let v4 = if index == 1 { format!("172.16.{index}.7/32") } else { format!("172.16.{index}.0/24") };
            let v6 = if index == 1 {
                "fd00:0:0:2::7/128".to_owned()
            } else {
                format!("fd00:0:0:{}::/64", index + 1)
            };
            addresses.extend([v4, v6].map(|text| (net(&text), info(identity))));
        }
        for (index, identity) in RESERVED.into_iter().enumerate() {
            addresses.push((net(&format!("172.17.{index}.0/24")), info(identity)));
            addresses.push((net(&format!("fd00:{}::/64", index + 1)), info(identity)));
        }
        for (number, prefix) in (NumericIdentity::LOCAL_MIN.0..).zip(repository.prefixes()) {
            identities.insert(NumericIdentity(number), cidr_identity_labels(prefix, IpFamilies::Dual));
            addresses.push((prefix, info(NumericIdentity(number))));
        }
        let host = IpInfo { flags: ip_flags::LOCAL_NODE, ..info(NumericIdentity::HOST) };
        addresses.extend(["172.31.0.1/32", "fd00:ff::1/128"].map(|text| (net(text), host)));
        Self { identities, addresses }
    }

    pub(crate) fn identities(&self) -> &IdentityTable {
        &self.identities
    }

    /// Identity of an address: that of the longest prefix, found by looking at all.
    pub(crate) fn identity(&self, address: IpAddr) -> u32 {
        self.longest(address).identity
    }

    pub(crate) fn is_local_node(&self, address: IpAddr) -> bool {
        self.longest(address).flags & ip_flags::LOCAL_NODE != 0
    }

    /// What the kernel shall know.
    pub(crate) fn addresses(&self) -> HashMap<IpNet, IpInfo> {
        self.addresses.iter().copied().collect()
    }

    fn longest(&self, address: IpAddr) -> IpInfo {
        let covering = self.addresses.iter().filter(|(prefix, _)| prefix.contains(&address));
        let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len());
        longest.expect("the world covers everything").1
    }
}

/// Identity labels of a pod.
pub(crate) fn pod_labels(app: &str, namespace: &str) -> LabelSet {
    let parts = PodLabels {
        labels: &[("app".to_owned(), app.to_owned())].into(),
        namespace,
        namespace_labels: &[("team".to_owned(), format!("{namespace}-team"))].into(),
        service_account: "",
        cluster: "default",
    };
    LabelSet::from_k8s(&parts, &FILTER)
}

/// The agent's default; it compiles patterns, once.
static FILTER: LazyLock<LabelFilter> = LazyLock::new(LabelFilter::default);

/// The container port `web`, TCP.
pub(crate) fn named_port(number: u16) -> NamedPorts {
    NamedPorts::from([(("web".to_owned(), 6), BTreeSet::from([number]))])
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn info(identity: NumericIdentity) -> IpInfo {
    IpInfo { identity: identity.0, ..IpInfo::default() }
}
