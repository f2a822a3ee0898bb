//! The objects of a large node, as YAML.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Endpoints of the node, besides the prober.
pub(crate) const ENDPOINTS: usize = 500;
/// Identities of pods on other nodes. The range for them has room for the node's own pods and for newcomers besides.
pub(crate) const IDENTITIES: u32 = 64_000;
/// Number of the first of them.
pub(crate) const FIRST_IDENTITY: u32 = 1_000;
/// Number of the first newcomer.
pub(crate) const FIRST_NEWCOMER: u32 = FIRST_IDENTITY + IDENTITIES;
/// Numbers of newcomers, which are used in turn.
pub(crate) const NEWCOMERS: u32 = 65_536 - FIRST_NEWCOMER;
/// Policies that have the selectors which a newcomer matches: one for each namespace, on all of its pods.
pub(crate) const MATCHING: usize = NAMESPACES;
/// Selectors of each of them: 1,000 in all.
const SELECTORS: usize = 10;
const NAMESPACES: usize = 100;
/// Where newcomers are.
pub(crate) const NEWCOMERS_NAMESPACE: &str = "newcomers";
const APPS: usize = 10;

/// The Node objects of this node and of the one that the other pods are on.
pub(crate) const NODES: &str = "\
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.7.0.0/16, 'fd07::/64']}
status: {addresses: [{type: InternalIP, address: 172.30.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: prober, namespace: probers, labels: {app: prober}}
";

/// Namespace and name of an endpoint's pod.
pub(crate) fn pod_name(index: usize) -> (String, String) {
    (namespace(index), format!("pod-{index}"))
}

/// The Pod objects of all endpoints.
pub(crate) fn pods() -> String {
    let mut text = String::new();
    for index in 0..ENDPOINTS {
        let ((namespace, name), app) = (pod_name(index), app(index));
        write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}, tier: local}}}}\n"
        )
        .expect("text grows");
    }
    text
}

/// Policy `index`. The first have the selectors that a newcomer matches; the others have ordinary ones.
pub(crate) fn policy(index: usize) -> String {
    let namespace = namespace(index);
    let head = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{index}, namespace: {namespace}}}\nspec:\n"
    );
    if index >= MATCHING {
        return head + &ordinary(index);
    }
    let selectors: String =
        (0..SELECTORS).map(|number| newcomers_selector(index * SELECTORS + number)).collect();
    format!(
        "{head}  endpointSelector: {{}}
  ingress:
  - fromEndpoints:
{selectors}    toPorts: [{{ports: [{{port: '7100', protocol: UDP}}, {{port: '8000', endPort: 8080, protocol: TCP}}]}}]
"
    )
}

/// Differs from all others, and matches every newcomer.
fn newcomers_selector(number: usize) -> String {
    format!(
        "    - matchExpressions:
      - {{key: team, operator: In, values: [red]}}
      - {{key: other, operator: NotIn, values: [v{number}]}}
      - {{key: 'k8s:io.kubernetes.pod.namespace', operator: Exists}}
"
    )
}

fn ordinary(index: usize) -> String {
    let (app, peer) = (app(index), index / NAMESPACES % APPS + 1);
    let prefix = index % NAMESPACES;
    format!(
        "  endpointSelector: {{matchLabels: {{app: {app}}}}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{app: app-{}}}}}]
    toPorts: [{{ports: [{{port: '443', protocol: TCP}}, {{port: '9000', endPort: 9080, protocol: TCP}}]}}]
  - fromEntities: [host]
  egress:
  - toEndpoints: [{{matchLabels: {{app: app-{}, tier: backend}}}}]
  - toCIDR: [10.{prefix}.0.0/16]
    toPorts: [{{ports: [{{port: '443', protocol: TCP}}]}}]
",
        peer % APPS,
        peer % APPS
    )
}

/// The policy that lets the prober send to one port of the server, and of the other pods of its namespace.
pub(crate) fn open_port(port: u16) -> String {
    let namespace = namespace(0);
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: probed, namespace: {namespace}}}
spec:
  endpointSelector: {{}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{app: prober, 'k8s:io.kubernetes.pod.namespace': probers}}}}]
    toPorts: [{{ports: [{{port: '{port}', protocol: UDP}}]}}]
"
    )
}

/// The object of the identity of a pod on another node.
pub(crate) fn identity(number: u32) -> String {
    let index = usize::try_from(number - FIRST_IDENTITY).expect("small");
    let tier = ["frontend", "backend", "cache"][index % 3];
    identity_object(number, &namespace(index), &[("app", &app(index)), ("tier", tier)])
}

/// The object of a newcomer's identity.
pub(crate) fn newcomer_identity(number: u32) -> String {
    identity_object(number, NEWCOMERS_NAMESPACE, &[("team", "red")])
}

/// The object that says where the newcomer's pod is.
pub(crate) fn newcomer_endpoint(number: u32, address: Ipv4Addr) -> String {
    let name = newcomer_name(number);
    let labels: String = labels_of(number, NEWCOMERS_NAMESPACE, &[("team", "red")])
        .iter()
        .map(|(key, value)| format!("    - {key}={value}\n"))
        .collect();
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumEndpoint
metadata: {{name: {name}, namespace: {NEWCOMERS_NAMESPACE}}}
status:
  id: 7
  identity:
    id: {number}
    labels:
{labels}  networking:
    addressing:
    - ipv4: {address}
    node: 172.30.0.3
"
    )
}

/// Name of the pod of a newcomer.
pub(crate) fn newcomer_name(number: u32) -> String {
    format!("pod-{number}")
}

fn identity_object(number: u32, namespace: &str, own: &[(&str, &str)]) -> String {
    let labels: String = labels_of(number, namespace, own)
        .iter()
        .map(|(key, value)| format!("  {key}: '{value}'\n"))
        .collect();
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {{name: '{number}'}}\nsecurity-labels:\n{labels}"
    )
}

fn labels_of(number: u32, namespace: &str, own: &[(&str, &str)]) -> Vec<(String, String)> {
    let number = number.to_string();
    let general = [
        ("instance", number.as_str()),
        ("io.kubernetes.pod.namespace", namespace),
        ("io.cilium.k8s.policy.cluster", "default"),
        ("io.cilium.k8s.policy.serviceaccount", "default"),
    ];
    let all = own.iter().chain(&general);
    all.map(|(key, value)| (format!("k8s:{key}"), (*value).to_owned())).collect()
}

fn namespace(index: usize) -> String {
    format!("ns-{}", index % NAMESPACES)
}

fn app(index: usize) -> String {
    format!("app-{}", index / NAMESPACES % APPS)
}
