//! Reply traffic, ICMP echo and errors, IPv6, spoofed sources.

#[path = "common/fixtures.rs"]
mod fixtures;

use fixtures::{ALLOW_CLIENTS, CLUSTER, DENY_ALL, NEAR_EGRESS_ONLY, yaml};
use specola_tests::Sandbox;

const ALLOW_UDP: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-udp, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: client}}]
    toPorts: [{ports: [{port: '9999', protocol: UDP}]}]
";

const ALLOW_PING: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-ping, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: near}}]
    icmps: [{fields: [{type: 8, family: IPv4}, {type: 128, family: IPv6}]}]
";

#[test]
fn replies_pass_an_endpoint_that_nobody_may_reach() {
    let sandbox = Sandbox::up("replies", &yaml(&[CLUSTER, NEAR_EGRESS_ONLY]));
    assert_eq!(sandbox.http("shop/near", "http://server.shop:8080/"), Ok(200));
    let reply = sandbox.wait_flow("the reply", &["--type", "trace"], |flow| {
        flow.is_between("shop/server", "shop/near") && flow.is_reply() == Some(true)
    });
    assert_eq!(reply.verdict(), "FORWARDED");
    let near = sandbox.pod_ip("shop/near", false);
    let (code, said) = sandbox
        .http("shop/far", &format!("http://{near}:8080/"))
        .expect_err("nobody may begin a connection to it, so not even a refusal comes back");
    assert_eq!(code, 28, "{said}");
}

#[test]
fn icmp_echo_follows_the_policy() {
    let sandbox = Sandbox::up("icmp", &yaml(&[CLUSTER, ALLOW_PING]));
    for v6 in [false, true] {
        let server = sandbox.pod_ip("shop/server", v6);
        let ping = |pod: &str| sandbox.exec(pod, &["ping", "-c", "2", "-i", "0.2", "-W", "2", &server]);
        let allowed = ping("shop/near");
        assert!(allowed.status.success(), "{}", String::from_utf8_lossy(&allowed.stdout));
        assert!(!ping("shop/far").status.success(), "far may not ping {server}");
        let protocol = if v6 { "icmpv6" } else { "icmpv4" };
        let flow =
            sandbox.wait_flow("the denied echo", &["--verdict", "DROPPED", "--protocol", protocol], |flow| {
                flow.is_between("shop/far", "shop/server")
            });
        let wanted = if v6 { "ICMPv6 EchoRequest" } else { "ICMPv4 EchoRequest" };
        assert_eq!(flow.text("/Summary"), wanted, "{}", flow.json());
        let flow = sandbox.wait_flow(
            "the allowed echo",
            &["--type", "policy-verdict", "--protocol", protocol],
            |flow| flow.is_between("shop/near", "shop/server") && flow.direction() == "INGRESS",
        );
        assert_eq!(flow.policies("ingress_allowed_by"), ["allow-ping"], "{}", flow.json());
    }
}

#[test]
fn an_icmp_error_about_an_allowed_connection_comes_back() {
    // Nothing listens on 9999, so the server's stack answers "port unreachable"; near accepts no new connections.
    let sandbox = Sandbox::up("icmp-error", &yaml(&[CLUSTER, ALLOW_UDP, NEAR_EGRESS_ONLY]));
    let server = sandbox.pod_ip("shop/server", false);
    let script = format!(
        "exec 3<>/dev/udp/{server}/9999; for i in $(seq 50); do echo hello >&3 || exit 7; sleep 0.1; done; exit 0"
    );
    let output = sandbox.exec("shop/near", &["bash", "-c", &script]);
    assert_eq!(output.status.code(), Some(7), "the error was not delivered: {output:?}");
    let flow = sandbox.wait_flow("the ICMP error", &["--protocol", "icmpv4"], |flow| {
        flow.is_between("shop/server", "shop/near")
    });
    assert_eq!(flow.verdict(), "FORWARDED", "{}", flow.json());
    assert_eq!(flow.text("/trace_reason"), "RELATED", "{}", flow.json());
}

#[test]
fn ipv6_is_policed_like_ipv4_on_the_same_node_and_across() {
    let sandbox = Sandbox::up("ipv6", &yaml(&[CLUSTER, ALLOW_CLIENTS]));
    let url = format!("http://[{}]:8080/", sandbox.pod_ip("shop/server", true));
    for client in ["shop/near", "shop/far"] {
        assert_eq!(sandbox.http(client, &url), Ok(200), "{client}");
        let flow = sandbox.wait_flow("the IPv6 verdict", &["--type", "policy-verdict", "-6"], |flow| {
            flow.is_between(client, "shop/server") && flow.direction() == "INGRESS"
        });
        assert_eq!(flow.text("/IP/ipVersion"), "IPv6");
        assert_eq!(flow.policies("ingress_allowed_by"), ["allow-clients"], "{}", flow.json());
    }
    sandbox.apply(&DENY_ALL.replace("deny-all", "deny-more"));
    sandbox.delete("CiliumNetworkPolicy/shop/allow-clients");
    specola_testkit::eventually("IPv6 is closed", specola_tests::sandbox::PATIENCE, || {
        sandbox.http("shop/far", &url).map_or_else(|_| Ok(()), Err)
    });
    let flow = sandbox.wait_flow("the IPv6 drop", &["--verdict", "DROPPED", "-6"], |flow| {
        flow.is_between("shop/far", "shop/server")
    });
    assert_eq!(flow.drop_reason(), "POLICY_DENIED", "{}", flow.json());
}

#[test]
fn a_spoofed_source_is_dropped_at_the_sender() {
    let sandbox = Sandbox::up("spoof", CLUSTER);
    let victim = sandbox.pod_ip("shop/far", false);
    let add = sandbox.exec("shop/near", &["ip", "addr", "add", &format!("{victim}/32"), "dev", "lo"]);
    assert!(add.status.success(), "{add:?}");
    let spoofed = sandbox.exec(
        "shop/near",
        &["curl", "-sS", "--interface", &victim, "--connect-timeout", "2", "http://server.shop:8080/"],
    );
    assert_eq!(spoofed.status.code(), Some(28), "{spoofed:?}");
    let flow = sandbox.wait_flow("the spoofing drop", &["--verdict", "DROPPED", "--type", "drop"], |flow| {
        flow.drop_reason() == "INVALID_SOURCE_IP"
    });
    assert_eq!(flow.text("/IP/source"), victim, "{}", flow.json());
    assert_eq!(sandbox.http("shop/near", "http://server.shop:8080/"), Ok(200), "its own address still works");
}
