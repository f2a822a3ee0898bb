//! Allowed, denied, deny over allow, same node and cross node, and what `observe` says of each.

#[path = "common/fixtures.rs"]
mod fixtures;

use fixtures::{ALLOW_CLIENTS, CLUSTER, DENY_ALL, DENY_FAR, yaml};
use specola_tests::Sandbox;

const SERVER: &str = "http://server.shop:8080/";
const VERDICT: u64 = 5;
const DROP: u64 = 1;

#[test]
fn allowed_on_the_same_node_and_across_nodes() {
    allowed("allowed", &[]);
}

#[test]
fn allowed_on_the_same_node_and_across_nodes_with_clsact() {
    allowed("clsact", &["--attach", "clsact"]);
}

fn allowed(name: &str, arguments: &[&str]) {
    let sandbox = Sandbox::up_with(name, &yaml(&[CLUSTER, ALLOW_CLIENTS]), arguments);
    for client in ["shop/near", "shop/far"] {
        assert_eq!(sandbox.http(client, SERVER), Ok(200), "{client}");
        let verdict =
            sandbox.wait_flow("the allowed ingress verdict", &["--type", "policy-verdict"], |flow| {
                flow.is_between(client, "shop/server") && flow.direction() == "INGRESS"
            });
        assert_eq!(verdict.verdict(), "FORWARDED", "{}", verdict.line());
        assert_eq!(verdict.policies("ingress_allowed_by"), ["allow-clients"], "{}", verdict.json());
        sandbox.wait_flow("a reply trace", &["--type", "trace"], |flow| {
            flow.is_between("shop/server", client) && flow.is_reply() == Some(true)
        });
    }
    let dropped = sandbox.observe(&["--verdict", "DROPPED", "--port", "8080"]);
    assert!(dropped.is_empty(), "{}", dropped[0].line());
}

#[test]
fn denied_by_default_deny_names_the_policy_that_selects_the_endpoint() {
    let sandbox = Sandbox::up("default-deny", &yaml(&[CLUSTER, DENY_ALL]));
    for client in ["shop/near", "shop/far"] {
        let (code, said) = sandbox.http(client, SERVER).expect_err("a default deny lets nobody in");
        assert_eq!(code, 28, "{client}: {said}");
        for kind in [VERDICT, DROP] {
            let flow = sandbox.wait_flow("the denied flow", &["--verdict", "DROPPED"], |flow| {
                flow.is_between(client, "shop/server") && flow.event_type() == kind
            });
            assert_eq!(flow.drop_reason(), "POLICY_DENIED", "{}", flow.line());
            assert_eq!(flow.policies("ingress_denied_by"), ["deny-all"], "{}", flow.json());
            assert_eq!(flow.destination_port(), 8080, "{}", flow.line());
        }
    }
}

#[test]
fn a_deny_rule_beats_an_allow_rule_and_only_for_its_peer() {
    let sandbox = Sandbox::up("deny-over-allow", &yaml(&[CLUSTER, ALLOW_CLIENTS, DENY_FAR]));
    assert_eq!(sandbox.http("shop/near", SERVER), Ok(200));
    let (code, said) = sandbox.http("shop/far", SERVER).expect_err("the deny rule wins");
    assert_eq!(code, 28, "{said}");
    let flow = sandbox.wait_flow("the explicit deny", &["--verdict", "DROPPED"], |flow| {
        flow.is_between("shop/far", "shop/server") && flow.event_type() == VERDICT
    });
    assert_eq!(flow.drop_reason(), "POLICY_DENY", "{}", flow.line());
    assert_eq!(flow.policies("ingress_denied_by"), ["deny-far"], "{}", flow.json());
}

#[test]
fn deleting_the_deciding_policy_changes_the_result_and_the_names() {
    let second = ALLOW_CLIENTS.replace("allow-clients", "allow-clients-too");
    let sandbox = Sandbox::up("names", &yaml(&[CLUSTER, DENY_ALL, ALLOW_CLIENTS, &second]));
    assert_eq!(sandbox.http("shop/near", SERVER), Ok(200));
    let both = sandbox.wait_flow("both names", &["--type", "policy-verdict"], |flow| {
        flow.is_between("shop/near", "shop/server") && flow.direction() == "INGRESS"
    });
    let mut names = both.policies("ingress_allowed_by");
    names.sort_unstable();
    assert_eq!(names, ["allow-clients", "allow-clients-too"], "{}", both.json());

    sandbox.delete("CiliumNetworkPolicy/shop/allow-clients");
    specola_testkit::eventually("one name is left", specola_tests::sandbox::PATIENCE, || {
        sandbox.http("shop/near", SERVER).map_err(|error| format!("{error:?}"))?;
        let flows = sandbox.observe(&["--type", "policy-verdict", "--to-pod", "shop/server"]);
        let last = flows.iter().rev().find(|flow| flow.direction() == "INGRESS").ok_or("no verdict")?;
        if last.policies("ingress_allowed_by") == ["allow-clients-too"] { Ok(()) } else { Err(last.line()) }
    });

    sandbox.delete("CiliumNetworkPolicy/shop/allow-clients-too");
    specola_testkit::eventually("the server is closed", specola_tests::sandbox::PATIENCE, || {
        sandbox.http("shop/near", SERVER).map_or_else(|_| Ok(()), Err)
    });
    let flow = sandbox.wait_flow("the default deny", &["--verdict", "DROPPED"], |flow| {
        flow.is_between("shop/near", "shop/server") && flow.event_type() == VERDICT
    });
    assert_eq!(flow.policies("ingress_denied_by"), ["deny-all"], "{}", flow.json());
}
