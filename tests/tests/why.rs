//! `policy why` against real connections: what it names is what decides, and what it proposes works.

use serde_json::Value;
use specola_testkit::eventually;
use specola_tests::Sandbox;
use specola_tests::sandbox::{PATIENCE, check};

const SHOP: &str = include_str!("../../examples/sandbox/shop.yaml");
/// A deny of its own, beside the default deny of the shop.
const NO_ROGUE: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: no-rogue-at-db, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingressDeny:
  - fromEndpoints:
    - matchLabels: {\"k8s:io.kubernetes.pod.namespace\": other, app: rogue}
";
const ROGUE: &str = "other/rogue";

#[test]
fn the_change_that_why_proposes_opens_the_connection_and_nothing_less_does() {
    let sandbox = Sandbox::up("why", &format!("{SHOP}---\n{NO_ROGUE}"));
    let db = sandbox.pod_ip("shop/db", false);
    assert!(!connects(&sandbox, &db), "the shop is closed to the rogue");
    let text = check(sandbox.specola(&question()).args(["--sandbox", sandbox.name()]));
    assert!(text.contains("DROPPED") && text.contains("ingress of shop/db: DENIED by a rule"), "{text}");
    assert!(
        text.contains("ingressDeny[0]") && text.contains("app: rogue"),
        "the lines of the rule are shown: {text}"
    );

    let answer = why(&sandbox, &question());
    assert_eq!(answer["passes"], false, "{answer:#}");
    assert_eq!(answer["warnings"].as_array().map(Vec::len), Some(0), "{answer:#}");
    let selects: Vec<&str> = names(&answer["steps"][1]["selected_by"]);
    for name in ["default-deny", "backend-to-db"] {
        assert!(selects.contains(&name), "{selects:?}");
    }
    let apply = answer["change"]["apply"].as_str().expect("objects to apply");
    let delete = answer["change"]["delete"].as_array().expect("a list");
    assert!(!apply.is_empty() && !delete.is_empty(), "a deny goes, and an allow comes: {answer:#}");

    // Each part alone changes nothing.
    sandbox.apply(apply);
    settled(&sandbox, "allow-shop-db-from-other-rogue", true);
    assert!(!connects(&sandbox, &db), "the deny is still there");
    for reference in delete {
        let field = |name: &str| reference[name].as_str().expect("text").to_owned();
        sandbox.delete(&format!("{}/{}/{}", field("kind"), field("namespace"), field("name")));
    }
    eventually("the rogue gets in", PATIENCE, || {
        connects(&sandbox, &db).then_some(()).ok_or_else(|| why(&sandbox, &question()))
    });
    assert_eq!(why(&sandbox, &question())["passes"], true);

    // The allow is no wider than it must be.
    for (part, other) in [
        ("port: \"5432\"", "port: \"5433\""),
        ("app: rogue", "app: other"),
        ("TCP", "UDP"),
        ("app: db", "app: none"),
    ] {
        assert!(apply.contains(part), "{apply}");
        sandbox.apply(&apply.replacen(part, other, usize::MAX));
        eventually("the rogue is out again", PATIENCE, || {
            if connects(&sandbox, &db) { Err(part) } else { Ok(()) }
        });
        sandbox.apply(apply);
        eventually("the rogue is back", PATIENCE, || connects(&sandbox, &db).then_some(()).ok_or(part));
    }
}

#[test]
fn why_names_the_rules_that_a_flow_carries() {
    let sandbox = Sandbox::up("why-flow", SHOP);
    sandbox.wait_flow("a denied flow", &["--verdict", "DROPPED"], |flow| flow.destination_pod() == "shop/db");
    sandbox.wait_flow("an allowed flow", &["--type", "policy-verdict"], |flow| {
        flow.verdict() == "FORWARDED" && flow.destination_pod() == "shop/db"
    });
    let mut checked = 0;
    for flow in sandbox.observe(&["--type", "policy-verdict"]).iter().rev().take(12) {
        let answer = why(&sandbox, &["policy", "why", flow.text("/uuid")]);
        let direction = flow.direction().to_ascii_lowercase();
        let steps = answer["steps"].as_array().expect("a list");
        let step = steps.iter().find(|step| step["direction"] == direction.as_str());
        let Some(step) = step else { continue };
        let denied = flow.verdict() == "DROPPED";
        let list = format!("{direction}_{}_by", if denied { "denied" } else { "allowed" });
        let mut carried: Vec<&str> = flow.policies(&list);
        let mut named: Vec<&str> = names(&step["rules"]);
        carried.retain(|name| !name.is_empty());
        for list in [&mut carried, &mut named] {
            list.sort_unstable();
            list.dedup();
        }
        let builtin = named.iter().all(|name| name.starts_with("allow-any"));
        assert!(named == carried || (builtin && carried.is_empty()), "{named:?} {carried:?} {}", flow.json());
        checked += 1;
    }
    assert!(checked >= 4, "only {checked} flows had a governed end");
}

fn question() -> [&'static str; 8] {
    ["policy", "why", "--from", ROGUE, "--to", "shop/db", "--port", "5432/tcp"]
}

fn why(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    let said = check(sandbox.specola(arguments).args(["--sandbox", sandbox.name(), "-o", "json"]));
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Waits until the agents have (or no longer have) a policy whose name starts so.
fn settled(sandbox: &Sandbox, start: &str, there: bool) {
    eventually("the policies are in force", PATIENCE, || {
        let list = check(&mut sandbox.specola(&["policy", "get", "--sandbox", sandbox.name()]));
        if list.contains(start) == there { Ok(()) } else { Err(list) }
    });
}

fn connects(sandbox: &Sandbox, address: &str) -> bool {
    let script = format!("exec 3<>/dev/tcp/{address}/5432");
    sandbox.exec(ROGUE, &["timeout", "1", "bash", "-c", &script]).status.success()
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|item| item["name"].as_str()).collect()
}
