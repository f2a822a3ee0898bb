//! Who is on the made-up node and around it.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use specola_datapath_common::{direction, v4_mapped};
use specola_directory::Change;
use specola_flow::{DropReason, EndpointMeta, PolicyOrigin, Workload};
use specola_labels::{Label, LabelSet, NumericIdentity};

/// Applications: name, namespace, port.
const APPS: [(&str, &str, u16); 16] = [
    ("frontend", "shop", 8080),
    ("cart", "shop", 7070),
    ("catalog", "shop", 3550),
    ("checkout", "shop", 5050),
    ("payment", "shop", 50051),
    ("orders-db", "shop", 5432),
    ("session-cache", "shop", 6379),
    ("api-gateway", "bank", 8443),
    ("accounts", "bank", 9090),
    ("ledger", "bank", 9091),
    ("ledger-db", "bank", 5432),
    ("ingest", "media", 1935),
    ("transcode", "media", 8000),
    ("prometheus", "monitoring", 9090),
    ("loki", "monitoring", 3100),
    ("coredns", "kube-system", 53),
];
/// Pods of each application, on this node and on another.
const REPLICAS: usize = 8;
/// Pods on each of the two nodes.
const PODS: usize = APPS.len() * REPLICAS;
/// Identity of the first application.
const FIRST_IDENTITY: u32 = 20_000;
/// Id of the first endpoint.
const FIRST_ENDPOINT: u16 = 100;
/// Addresses outside.
const OUTSIDE: usize = 64;
const CLUSTER: &str = "default";

/// A pod or an address outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Pod {
    /// On this node.
    Local(u16),
    /// On another node.
    Remote(u16),
    /// In the world.
    Outside(u16),
}

impl Pod {
    pub(super) const fn is_local(self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Endpoint id; 0 for one that is not on this node.
    pub(super) const fn id(self) -> u16 {
        match self {
            Self::Local(index) => FIRST_ENDPOINT + index,
            Self::Remote(_) | Self::Outside(_) => 0,
        }
    }

    /// The pod's interface on this node, or the node's device.
    pub(super) fn ifindex(self) -> u32 {
        match self {
            Self::Local(index) => 10 + u32::from(index),
            Self::Remote(_) | Self::Outside(_) => DEVICE,
        }
    }

    pub(super) fn identity(self) -> u32 {
        match self.app() {
            Some(app) => FIRST_IDENTITY + app as u32,
            None => NumericIdentity::WORLD.0,
        }
    }

    /// The port that it serves.
    pub(super) fn port(self) -> u16 {
        self.app().and_then(|app| APPS.get(app)).map_or(443, |(_, _, port)| *port)
    }

    pub(super) fn address(self, is_v6: bool) -> [u8; 16] {
        let (net, [high, low]) = match self {
            Self::Local(index) => (0, (index + 2).to_be_bytes()),
            Self::Remote(index) => (1, (index + 2).to_be_bytes()),
            Self::Outside(index) => (2, (index + 1).to_be_bytes()),
        };
        match (self, is_v6) {
            (Self::Outside(_), false) => v4_mapped([203, 0, 113, low]),
            (_, false) => v4_mapped([10, 42, net, low]),
            (Self::Outside(_), true) => [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low],
            (_, true) => [0xfd, 0, 0x42, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low],
        }
    }

    pub(super) fn mac(self) -> [u8; 6] {
        let [high, low] = self.id().to_be_bytes();
        [0x02, 0x5a, 0x10, 0, high, low]
    }

    /// Name and namespace of its application; `None` outside.
    pub(super) fn app_name(self) -> Option<(&'static str, &'static str)> {
        APPS.get(self.app()?).map(|(name, namespace, _)| (*name, *namespace))
    }

    fn app(self) -> Option<usize> {
        match self {
            Self::Local(index) | Self::Remote(index) => Some(usize::from(index) % APPS.len()),
            Self::Outside(_) => None,
        }
    }

    /// Who it is; `None` outside.
    fn meta(self) -> Option<EndpointMeta> {
        let (Self::Local(index) | Self::Remote(index)) = self else {
            return None;
        };
        let (name, namespace, _) = APPS.get(self.app()?)?;
        // Looks like what a ReplicaSet makes, and differs between the nodes.
        let suffix = u32::from(index) * 2_654_435 + u32::from(!self.is_local());
        let pod_name = format!("{name}-6d4cf56db6-{suffix:05x}");
        Some(EndpointMeta {
            id: self.id(),
            identity: NumericIdentity(self.identity()),
            namespace: (*namespace).to_owned(),
            pod_name,
            labels: labels(name, namespace),
            workloads: vec![Workload { name: (*name).to_owned(), kind: "Deployment".into() }],
            cluster_name: CLUSTER.into(),
        })
    }
}

/// Index of the node's device.
const DEVICE: u32 = 2;

/// Eight labels, as pods of a Deployment have them.
fn labels(name: &str, namespace: &str) -> LabelSet {
    [
        ("app.kubernetes.io/name", name),
        ("app.kubernetes.io/component", "server"),
        ("app.kubernetes.io/part-of", namespace),
        ("app.kubernetes.io/version", "1.27.3"),
        ("io.kubernetes.pod.namespace", namespace),
        ("io.cilium.k8s.policy.cluster", CLUSTER),
        ("io.cilium.k8s.policy.serviceaccount", name),
        ("tier", "backend"),
    ]
    .into_iter()
    .map(|(key, value)| Label::k8s(key, value))
    .collect()
}

/// A pod of this node.
pub(super) const fn local(number: usize) -> Pod {
    Pod::Local((number % PODS) as u16)
}

/// A pod of another node.
pub(super) const fn remote(number: usize) -> Pod {
    Pod::Remote((number % PODS) as u16)
}

/// An address outside.
pub(super) const fn outside(number: usize) -> Pod {
    Pod::Outside((number % OUTSIDE) as u16)
}

/// A pod of this node that answers DNS queries.
pub(super) const fn resolver(number: usize) -> Pod {
    local(number % REPLICAS * APPS.len() + APPS.len() - 1)
}

/// Sections of an application's policy, by how far their cookies are from its first one.
const SECTIONS: [&str; 4] = ["egress", "ingress", "egressDeny", "egress"];
/// Place of the default deny in [`SECTIONS`].
const DEFAULT_DENY: u32 = 3;

/// The cookie of the rules that let a pod's packets pass.
pub(super) fn allow_cookie(pod: Pod, direction: u8) -> u32 {
    cookie(pod, u32::from(direction == direction::INGRESS))
}

/// The cookie of the rules that do not let a pod's packets leave.
pub(super) fn deny_cookie(pod: Pod, reason: DropReason) -> u32 {
    cookie(pod, if reason == DropReason::POLICY_DENY { 2 } else { DEFAULT_DENY })
}

fn cookie(pod: Pod, section: u32) -> u32 {
    pod.app().map_or(0, |app| 1 + app as u32 * SECTIONS.len() as u32 + section)
}

/// What the directory must know.
pub(super) fn changes() -> Vec<Change> {
    let mut changes = vec![Change::UpsertInterface { ifindex: DEVICE, name: "eth0".into() }];
    for index in 0..APPS.len() {
        add_app(local(index), &mut changes);
    }
    for index in 0..PODS {
        add_local(local(index), &mut changes);
        add_remote(remote(index), &mut changes);
    }
    changes
}

/// Identity and rules of a pod's application.
fn add_app(pod: Pod, changes: &mut Vec<Change>) {
    let Some(EndpointMeta { identity, labels, cluster_name, namespace, .. }) = pod.meta() else {
        return;
    };
    changes.push(Change::UpsertIdentity { identity, labels, cluster_name });
    for (number, section) in (0..).zip(SECTIONS) {
        let name = format!("{namespace}-default");
        let origin = PolicyOrigin {
            kind: "CiliumNetworkPolicy".into(),
            namespace: namespace.clone(),
            uid: format!("7b0f3c5e-0000-4000-8000-{:012x}", cookie(pod, number)),
            section: section.to_owned(),
            rule_index: number,
            labels: vec![
                "k8s:io.cilium.k8s.policy.derived-from=CiliumNetworkPolicy".into(),
                format!("k8s:io.cilium.k8s.policy.name={name}"),
                format!("k8s:io.cilium.k8s.policy.namespace={namespace}"),
            ],
            name,
            revision: 5,
            log: String::new(),
        };
        changes.push(Change::UpsertOrigins { cookie: cookie(pod, number), origins: [origin].into() });
    }
}

fn add_local(pod: Pod, changes: &mut Vec<Change>) {
    let Some(meta) = pod.meta() else {
        return;
    };
    let name: Arc<str> = format!("lxc{:08x}", u32::from(pod.id()) * 40_503).into();
    changes.push(Change::UpsertInterface { ifindex: pod.ifindex(), name });
    changes
        .push(Change::UpsertEndpoint { meta, addresses: [false, true].map(|is_v6| ip(pod, is_v6)).into() });
}

fn add_remote(pod: Pod, changes: &mut Vec<Change>) {
    for is_v6 in [false, true] {
        let identity = NumericIdentity(pod.identity());
        changes.push(Change::UpsertIp { prefix: ip(pod, is_v6).into(), identity, meta: pod.meta() });
    }
}

fn ip(pod: Pod, is_v6: bool) -> IpAddr {
    Ipv6Addr::from(pod.address(is_v6)).to_canonical()
}
