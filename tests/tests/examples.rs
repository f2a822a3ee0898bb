//! The policies of `examples/policies`, with real traffic for each: allowed and refused.
//!
//! Requests are not judged yet, for want of a proxy: what needs one is refused with its own reason.

use std::process::Command;

use specola_tests::sandbox::{check, specola};
use specola_tests::{Flow, Sandbox};

/// Pods that the examples are about, one server port for each.
const CLUSTER: &str = "\
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Service
metadata: {name: api-server, namespace: backend}
spec: {selector: {app: api}, ports: [{port: 8080}]}
---
apiVersion: specola.io/v1alpha1
kind: FQDNCache
metadata: {name: learned}
spec:
  names:
  - {name: api.github.com, addresses: [140.82.112.6]}
  - {name: s3.amazonaws.com, addresses: [52.216.0.1]}
  - {name: a.b.amazonaws.com, addresses: [52.216.0.2]}
";

/// Name, labels, workload and node.
const PODS: [(&str, &str, &str, &str); 15] = [
    ("default/frontend", "app: frontend", "", "n1"),
    ("default/client", "app: client", "", "n1"),
    ("default/crawler", "app: crawler", "", "n1"),
    ("default/orders", "app: order-service", "", "n1"),
    ("default/resolver", "app: resolver", "", "n1"),
    ("default/other", "app: other", "http-server port=443", "n1"),
    ("default/backend", "app: backend", "http-server port=8080", "n2"),
    ("default/web", "app: web", "http-server port=443", "n2"),
    ("default/gateway", "app: api-gateway", "http-server port=8443; http-server port=8444", "n2"),
    ("default/api", "app: api-server", "http-server port=8080", "n2"),
    ("default/kafka", "app: kafka-broker", "tcp-echo port=9092", "n2"),
    ("default/database", "app: internal-db", "http-server port=5432", "n2"),
    ("backend/api", "app: api", "http-server port=8080", "n2"),
    ("kube-system/dns", "k8s-app: kube-dns", "udp-echo port=53", "n2"),
    ("default/plain", "app: plain", "http-server port=8080", "n2"),
];

/// Those that an agent enforces without further options.
const POLICIES: [&str; 10] = [
    include_str!("../../examples/policies/l3-endpoint-based.yaml"),
    include_str!("../../examples/policies/l3-service-based.yaml"),
    include_str!("../../examples/policies/l3-entity-based.yaml"),
    include_str!("../../examples/policies/l3-cidr-based.yaml"),
    include_str!("../../examples/policies/l3-dns-based.yaml"),
    include_str!("../../examples/policies/l4-port-policy.yaml"),
    include_str!("../../examples/policies/l7-http-policy.yaml"),
    include_str!("../../examples/policies/l7-kafka-policy.yaml"),
    include_str!("../../examples/policies/l7-dns-policy.yaml"),
    include_str!("../../examples/policies/deny-external-access.yaml"),
];

#[test]
fn example_policies_allow_and_refuse_real_traffic() {
    let sandbox = Sandbox::up("examples", &cluster());
    between_pods(&sandbox);
    to_the_world(&sandbox);
    without_a_proxy(&sandbox);
    in_audit_mode(&sandbox);
}

/// Rules, policy maps and kernel programs give one answer in every conformance case.
#[test]
fn conformance_cases_agree_with_the_kernel_programs() {
    specola_testkit::require_root();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for file in ["policy/tests/policy-cases.yaml", "examples/policy-test/cases.yaml"] {
        let said = check(
            Command::new(specola()).args(["policy", "test", "--datapath"]).arg(format!("{root}/{file}")),
        );
        assert!(said.contains(" 0 failed, 0 skipped"), "{said}");
        assert!(said.contains(" decisions asked, 0 probes disagree"), "{said}");
    }
}

/// Endpoints, services, entities, ports, denies: connections succeed or time out.
fn between_pods(sandbox: &Sandbox) {
    for (client, url, policy) in [
        ("default/frontend", "http://backend.default:8080/", "l3-endpoint-based"),
        ("default/client", "http://api.backend:8080/", "l3-service-based"),
        ("default/frontend", "http://gateway.default:8443/", "l4-port-policy"),
    ] {
        assert_eq!(sandbox.http(client, url), Ok(200), "{client} to {url} by {policy}");
    }
    for (client, url, policy) in [
        ("default/other", "http://backend.default:8080/", "l3-endpoint-based"),
        ("default/client", "http://plain.default:8080/", "l3-service-based"),
        ("default/other", "http://web.default:443/", "l3-entity-based"),
        ("default/frontend", "http://gateway.default:8444/", "l4-port-policy"),
        ("default/other", "http://database.default:5432/", "deny-external-access"),
    ] {
        let (code, said) = sandbox.http(client, url).expect_err(policy);
        assert_eq!(code, 28, "{client} to {url} by {policy}: {said}");
    }
}

/// Prefixes and names outside the cluster: nobody answers there, the verdict tells.
fn to_the_world(sandbox: &Sandbox) {
    for (client, address, allowed, policy) in [
        ("default/backend", "10.9.9.9", true, "l3-cidr-based"),
        ("default/backend", "192.168.7.7", true, "l3-cidr-based"),
        ("default/backend", "192.168.1.7", false, "l3-cidr-based"),
        ("default/crawler", "140.82.112.6", true, "l3-dns-based"),
        ("default/crawler", "52.216.0.1", true, "l3-dns-based"),
        ("default/crawler", "52.216.0.2", false, "l3-dns-based"),
        ("default/gateway", "198.51.100.7", true, "l4-port-policy"),
        ("default/database", "198.51.100.7", false, "deny-external-access"),
    ] {
        // No one is there: only what the policy says of the first packet matters.
        drop(sandbox.http(client, &format!("http://{address}:443/")));
        let verdict = if allowed { "FORWARDED" } else { "DROPPED" };
        let list = if allowed { "egress_allowed_by" } else { "egress_denied_by" };
        let arguments = ["--type", "policy-verdict", "--to-ip", address, "--from-pod", client];
        sandbox.wait_flow(&format!("{client} to {address}: {verdict} by {policy}"), &arguments, |flow| {
            flow.verdict() == verdict && flow.policies(list) == [policy]
        });
    }
}

/// What a proxy would judge does not pass, and says why; what the ports do not name is a default deny.
fn without_a_proxy(sandbox: &Sandbox) {
    let (code, said) =
        sandbox.http("default/frontend", "http://api.default:8080/api/v1/users").expect_err("no proxy");
    assert_eq!(code, 28, "{said}");
    drop(sandbox.http("default/orders", "http://kafka.default:9092/"));
    drop(sandbox.http("default/other", "http://api.default:8080/"));
    drop(sandbox.exec("default/resolver", &["bash", "-c", "echo x > /dev/udp/dns.kube-system/53"]));
    let dropped = |from: &str, to: &str, reason: &str| {
        let wanted = |flow: &Flow| flow.is_between(from, to) && flow.drop_reason() == reason;
        sandbox.wait_flow(&format!("{from} to {to}: {reason}"), &["--verdict", "DROPPED"], wanted);
    };
    dropped("default/frontend", "default/api", NO_PROXY);
    dropped("default/orders", "default/kafka", NO_PROXY);
    dropped("default/resolver", "kube-system/dns", NO_PROXY);
    dropped("default/other", "default/api", "POLICY_DENIED");
}

/// The same policy as a dry run.
fn in_audit_mode(sandbox: &Sandbox) {
    let policy = POLICIES[0]
        .replace("metadata:\n", "metadata:\n  annotations: {specola.io/policy-audit-mode: enabled}\n");
    let ingress_of_backend = POLICIES[3].replace("  ingress:\n  - fromCIDR:\n    - 172.16.0.0/12\n", "");
    sandbox.apply(&[policy, ingress_of_backend].join("---\n"));
    specola_testkit::eventually("the audited policy lets pass", specola_tests::sandbox::PATIENCE, || {
        sandbox.http("default/other", "http://backend.default:8080/").map(drop)
    });
    let flow = sandbox.wait_flow("the audited verdict", &["--verdict", "AUDIT"], |flow| {
        flow.is_between("default/other", "default/backend")
    });
    assert_eq!(flow.policies("ingress_denied_by"), ["l3-endpoint-based"], "{}", flow.json());
}

fn cluster() -> String {
    let pods = PODS.map(|(name, labels, workload, node)| {
        let (namespace, name) = name.split_once('/').expect("a namespace");
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  labels: {{{labels}}}\n  \
             annotations: {{sandbox.specola.io/workload: '{workload}'}}\nspec: {{nodeName: {node}}}\n"
        )
    });
    [CLUSTER.to_owned()]
        .into_iter()
        .chain(pods)
        .chain(POLICIES.map(str::to_owned))
        .collect::<Vec<_>>()
        .join("---\n")
}

const NO_PROXY: &str = "PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL";
