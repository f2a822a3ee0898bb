//! The cluster that the end-to-end cases share: two nodes, a client beside the server and one across.
#![expect(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

/// `shop/server` (http 8080) and `shop/near` on n1, `shop/far` on n2.
pub const CLUSTER: &str = "\
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata:
  name: server
  namespace: shop
  labels: {app: server}
  annotations: {sandbox.specola.io/workload: http-server port=8080; udp-echo port=5353}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata:
  name: near
  namespace: shop
  labels: {app: near, role: client}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata:
  name: far
  namespace: shop
  labels: {app: far, role: client}
spec: {nodeName: n2}
";

/// Ingress to the server from one label on 8080.
pub const ALLOW_CLIENTS: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-clients, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: client}}]
    toPorts: [{ports: [{port: '8080', protocol: TCP}]}]
";

/// Default deny for ingress to the server.
pub const DENY_ALL: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: shop}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
";

/// Explicit deny of the far client.
pub const DENY_FAR: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: deny-far, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: far}}]
";

/// Egress of the near client to the server only, ingress to it from nobody.
pub const NEAR_EGRESS_ONLY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: near-egress, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: near}}
  ingress: [{}]
  egress:
  - toEndpoints: [{matchLabels: {app: server}}]
";

/// Joins documents to one YAML stream.
pub fn yaml(documents: &[&str]) -> String {
    documents.join("---\n")
}
