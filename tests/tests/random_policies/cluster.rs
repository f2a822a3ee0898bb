//! The cluster that the policies are about.

use serde_json::{Value, json};

/// One pod; its labels tell it from every other one.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: &'static str,
    pub(crate) app: &'static str,
    pub(crate) node: &'static str,
    /// Number of its TCP port `web`.
    pub(crate) web: u16,
}

pub(crate) const NAMESPACES: [&str; 3] = ["blue", "green", "red"];
pub(crate) const APPS: [&str; 5] = ["a", "b", "c", "d", "e"];
pub(crate) const NODES: [&str; 2] = ["n1", "n2"];
/// Ports with a server in every pod.
pub(crate) const TCP: [u16; 4] = [80, 443, 8080, 9090];
pub(crate) const UDP: [u16; 3] = [53, 5353, 8080];
/// Number of the UDP port `dns` of every pod.
pub(crate) const DNS: u16 = 5353;
/// Addresses outside the cluster.
pub(crate) const OUTSIDE: [&str; 8] = [
    "10.9.9.9",
    "192.168.1.7",
    "192.168.7.7",
    "198.51.100.7",
    "203.0.113.200",
    "2001:db8:1::7",
    "2001:db8:2::7",
    "2001:db8:3::7",
];
/// Names of DNS with their addresses, some of [`OUTSIDE`].
pub(crate) const NAMES: [(&str, &[&str]); 3] = [
    ("api.example.org", &["198.51.100.7", "2001:db8:1::7"]),
    ("www.example.org", &["192.168.7.7"]),
    ("www.other.test", &["2001:db8:2::7", "198.51.100.7"]),
];
/// All services.
pub(crate) const SERVICES: [Service; 3] = [
    Service { namespace: "blue", name: "pods", app: Some("b"), addresses: &[] },
    Service { namespace: "green", name: "pods", app: Some("c"), addresses: &[] },
    Service {
        namespace: "green",
        name: "outside",
        app: None,
        addresses: &["203.0.113.200", "2001:db8:3::7"],
    },
];
/// What the annotation of audit mode is called.
pub(crate) const AUDIT: &str = "specola.io/policy-audit-mode";

/// A service with what stands behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    /// Label `app` of its pods; none: it has no selector.
    pub(crate) app: Option<&'static str>,
    /// Addresses outside.
    pub(crate) addresses: &'static [&'static str],
}

/// All pods.
pub(crate) fn pods() -> Vec<Pod> {
    let mut pods = Vec::new();
    for (number, namespace) in NAMESPACES.into_iter().enumerate() {
        for (index, app) in APPS.into_iter().enumerate() {
            let (node, web) = (NODES[(number + index) % 2], if index % 2 == 0 { 8080 } else { 9090 });
            pods.push(Pod { namespace, app, node, web });
        }
    }
    pods
}

impl Pod {
    /// Labels: source, key, value.
    pub(crate) fn labels(&self) -> Vec<(&'static str, String, String)> {
        let own = |key: &str, value: &str| ("k8s", key.to_owned(), value.to_owned());
        vec![
            own("app", self.app),
            own("io.kubernetes.pod.namespace", self.namespace),
            own("io.cilium.k8s.namespace.labels.team", team(self.namespace)),
            own("io.cilium.k8s.policy.cluster", "default"),
        ]
    }

    /// What policies would drop at the pod passes.
    pub(crate) fn is_audited(&self) -> bool {
        (self.namespace, self.app) == ("green", "e")
    }

    fn object(&self) -> Value {
        let annotations = if self.is_audited() { json!({AUDIT: "enabled"}) } else { json!({}) };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.app, "namespace": self.namespace, "labels": {"app": self.app},
                "annotations": annotations,
            },
            "spec": {"nodeName": self.node, "containers": [{"name": "c", "ports": [
                {"name": "web", "containerPort": self.web, "protocol": "TCP"},
                {"name": "dns", "containerPort": DNS, "protocol": "UDP"},
            ]}]},
        })
    }
}

impl Service {
    fn objects(&self) -> Vec<Value> {
        let metadata = json!({"name": self.name, "namespace": self.namespace});
        let spec = self.app.map_or_else(|| json!({}), |app| json!({"selector": {"app": app}}));
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        if self.app.is_some() {
            return vec![service];
        }
        let addresses: Vec<Value> = self.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let subsets = json!([{"addresses": addresses}]);
        vec![
            service,
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}),
        ]
    }
}

/// Label `team` of a namespace.
pub(crate) fn team(namespace: &str) -> &'static str {
    if namespace == "red" { "far" } else { "near" }
}

/// The objects but policies.
pub(crate) fn objects() -> Vec<Value> {
    let nodes = NODES.map(|name| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
    let namespaces = NAMESPACES.map(|name| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team(name)}}})
    });
    let names = NAMES.map(|(name, addresses)| json!({"name": name, "addresses": addresses}));
    let names = json!({
        "apiVersion": "specola.io/v1alpha1", "kind": "FQDNCache", "metadata": {"name": "names"},
        "spec": {"names": names},
    });
    let services = SERVICES.iter().flat_map(Service::objects);
    let pods: Vec<Value> = pods().iter().map(Pod::object).collect();
    nodes.into_iter().chain(namespaces).chain([names]).chain(services).chain(pods).collect()
}
