//! Parts of the policy language that are off unless asked for: nodes by label, ClusterNetworkPolicy; and what needs more
//! than a node has: groups of a cloud provider, a proxy, secrets.

#[path = "common/fixtures.rs"]
mod fixtures;

use fixtures::{ALLOW_CLIENTS, CLUSTER, yaml};
use serde_json::Value;
use specola_tests::Sandbox;
use specola_tests::sandbox::check;

const SERVER: &str = "http://server.shop:8080/";

const EDGE_NODE: &str = "\
apiVersion: v1
kind: Node
metadata: {name: n3, labels: {role: edge}}
";

const FROM_EDGE: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: from-edge, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromNodes: [{matchLabels: {role: edge}}]
";

/// Denies what ALLOW_CLIENTS allows.
const ADMIN: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-far}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: server}}}}
  ingress:
  - action: Deny
    from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: far}}}}]
";

const HTTP: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: http, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: client}}]
    toPorts:
    - ports: [{port: '8080', protocol: TCP}]
      terminatingTLS: {secret: {namespace: shop, name: own}}
      rules: {http: [{method: GET}]}
";

const GROUP: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: group, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: near}}
  enableDefaultDeny: {egress: false}
  egressDeny:
  - toGroups: [{aws: {securityGroupsNames: [old]}}]
";

/// What a node sees when it asks the server, as curl's exit code.
fn from_node(sandbox: &Sandbox, node: &str) -> Option<i32> {
    let ip = sandbox.pod_ip("shop/server", false);
    let url = format!("http://{ip}:8080/");
    let arguments = ["sandbox", "exec", "--name", sandbox.name(), "--node", node, "--"];
    let curl = ["curl", "-s", "-o", "/dev/null", "--max-time", "2", &url];
    let output = sandbox.specola(&arguments).args(curl).output().expect("runs");
    output.status.code()
}

fn conditions(sandbox: &Sandbox, policy: &str) -> String {
    let arguments = ["policy", "list", "--sandbox", sandbox.name(), "-o", "json"];
    let list: Value = serde_json::from_str(&check(&mut sandbox.specola(&arguments))).expect("is JSON");
    let text = list.to_string();
    assert!(text.contains(policy), "{text}");
    text
}

#[test]
fn nodes_by_label_and_tiers() {
    let flags = [
        "--enable-node-selector-labels",
        "--enable-k8s-cluster-network-policy",
        "--allow-localhost",
        "policy",
        "--ring-size",
        "8192",
    ];
    let sandbox = Sandbox::up_with("language", &yaml(&[CLUSTER, EDGE_NODE, FROM_EDGE]), &flags);
    assert_eq!(from_node(&sandbox, "n3"), Some(0), "the policy names its label");
    assert_eq!(from_node(&sandbox, "n2"), Some(28), "another node is dropped");
    assert_eq!(from_node(&sandbox, "n1"), Some(28), "the own node is no exception here");
    let dropped = sandbox.wait_flow("the denied node", &["--verdict", "DROPPED"], |flow| {
        flow.destination_pod() == "shop/server" && flow.source_pod() == "/"
    });
    assert_eq!(dropped.policies("ingress_denied_by"), ["from-edge"], "{}", dropped.json());

    sandbox.apply(ALLOW_CLIENTS);
    sandbox.apply(ADMIN);
    sandbox.wait_flow("the admin tier's deny", &["--verdict", "DROPPED"], |flow| {
        // Asked again until the policy is in force.
        sandbox.http("shop/far", SERVER).is_err()
            && flow.is_between("shop/far", "shop/server")
            && flow.policies("ingress_denied_by") == ["no-far"]
    });
    assert_eq!(sandbox.http("shop/near", SERVER), Ok(200));
}

#[test]
fn what_is_missing_is_a_condition_and_nothing_passes_for_it() {
    let sandbox = Sandbox::up("missing", &yaml(&[CLUSTER, HTTP, GROUP]));
    let (code, said) = sandbox.http("shop/near", SERVER).expect_err("there is no proxy");
    assert_eq!(code, 28, "{said}");
    let flow = sandbox.wait_flow("the refused connection", &["--verdict", "DROPPED"], |flow| {
        flow.is_between("shop/near", "shop/server")
    });
    assert_eq!(flow.drop_reason(), "PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL", "{}", flow.json());
    let told = conditions(&sandbox, "http");
    for part in [
        "terminatingTLS names secret shop/own",
        "drop reason 180",
        "security group named old",
        "ProviderGroup",
    ] {
        assert!(told.contains(part), "{told} lacks {part}");
    }
    let endpoint = sandbox
        .specola(&["endpoint", "get", "shop/server", "--sandbox", sandbox.name(), "-o", "json"])
        .output();
    let endpoint: Value = serde_json::from_slice(&endpoint.expect("runs").stdout).expect("is JSON");
    let rule = &endpoint["redirects"][0]["grants"][0]["rules"][0]["tls"]["inner"]["http"]["rules"][0];
    assert_eq!(rule["method"], "GET", "{endpoint}");
}
