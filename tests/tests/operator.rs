//! What an operator does besides writing policies: audit mode, addresses of names, and a look at what a change would do.

use serde_json::{Value, json};
use specola_testkit::eventually;
use specola_tests::sandbox::{PATIENCE, check};
use specola_tests::{Flow, Sandbox};

const CLUSTER: &str = "\
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec:
  nodeName: n1
  containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]
---
";
const CLOSED: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: nobody}}]
";
const TO_NAMES: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toEndpoints: [{}]
  - toFQDNs: [{matchPattern: '*.example.org'}]
";
const OPEN: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: open, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: sql}]}]
";

/// An address outside that a name stands for.
const OUTSIDE: &str = "198.51.100.7";

#[test]
fn audit_mode_names_and_differences() {
    let sandbox = Sandbox::up("operator", &format!("{CLUSTER}{CLOSED}---\n{TO_NAMES}"));
    let db = sandbox.pod_ip("shop/db", false);
    assert_eq!(verdict(&sandbox, &db, 5432, "INGRESS").verdict(), "DROPPED");
    audit_of_policy_and_namespace(&sandbox, &db);
    names(&sandbox);
    differences(&sandbox);
}

/// Switches are in force at once and after a restart; each verdict names the rule.
fn audit_of_policy_and_namespace(sandbox: &Sandbox, db: &str) {
    for target in [&["shop/closed"][..], &["--namespace", "shop"]] {
        run(sandbox, &[&["policy", "audit", "on"], target].concat());
        let flow = verdict(sandbox, db, 5432, "INGRESS");
        assert_eq!(flow.verdict(), "AUDIT", "{}", flow.json());
        assert_eq!(flow.policies("ingress_denied_by"), ["closed"], "{}", flow.json());
        let why = why(sandbox, &["--from", "shop/web", "--to", "shop/db", "--port", "5432/tcp"]);
        assert_eq!((&why["passes"], &why["steps"][1]["audited"]), (&true.into(), &true.into()), "{why:#}");
        sandbox.kill_agent("n1");
        sandbox.start_agent("n1");
        assert_eq!(verdict(sandbox, db, 5432, "INGRESS").verdict(), "AUDIT", "it survives the agent");
        let list = run(sandbox, &["policy", "audit", "list"]);
        assert!(list.contains("admin"), "{list}");
        run(sandbox, &[&["policy", "audit", "off"], target].concat());
        assert_eq!(verdict(sandbox, db, 5432, "INGRESS").verdict(), "DROPPED");
    }
    for (target, says) in
        [(&["shop/none"][..], "no policy shop/none"), (&["-n", "shpo"], "no namespace \"shpo\"")]
    {
        let output =
            sandbox.specola(&["policy", "audit", "on", "--sandbox", sandbox.name()]).args(target).output();
        let output = output.expect("specola starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{said}");
    }
}

/// A name opens its addresses, also for questions, until it is taken back.
fn names(sandbox: &Sandbox) {
    let why_name = || why(sandbox, &["--from", "shop/web", "--to", "api.example.org", "--port", "443/tcp"]);
    assert_eq!(verdict(sandbox, OUTSIDE, 443, "EGRESS").verdict(), "DROPPED");
    run(sandbox, &["fqdn", "cache", "set", "api.example.org", OUTSIDE]);
    let flow = verdict(sandbox, OUTSIDE, 443, "EGRESS");
    assert_eq!((flow.verdict(), flow.policies("egress_allowed_by")), ("FORWARDED", vec!["names"]));
    assert_eq!(why_name()["passes"], true);
    let list = run(sandbox, &["fqdn", "cache", "list"]);
    assert!(list.contains("api.example.org") && list.contains("*.example.org"), "{list}");
    run(sandbox, &["fqdn", "cache", "delete", "*.example.org"]);
    assert_eq!(verdict(sandbox, OUTSIDE, 443, "EGRESS").verdict(), "DROPPED");
}

fn differences(sandbox: &Sandbox) {
    let diff = |text: &str, arguments: &[&str]| {
        let file = sandbox.file("diff.yaml", text);
        let mut command = sandbox.specola(&["policy", "diff", "-o", "json", "--sandbox", sandbox.name()]);
        let output = command.args(arguments).arg(file).output().expect("specola starts");
        let code = output.status.code().expect("it ends by itself");
        let json = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (code, json, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, json, said) = diff(CLOSED, &[]);
    assert_eq!((code, &json["different"]), (0, &false.into()), "{said} {json:#}");
    let (code, json, said) = diff(OPEN, &[]);
    assert_eq!(code, 1, "{said}");
    let [db] = json["endpoints"].as_array().expect("a list").as_slice() else { panic!("{json:#}") };
    assert_eq!(db["endpoint"], "shop/db");
    let changes = db["changes"].as_array().expect("a list");
    let web = changes.iter().find(|change| change["other_verdict"] == true).expect("a verdict changes");
    assert_eq!(web["peers"][0]["name"], "shop/web");
    assert_eq!(
        json!([
            web["direction"],
            web["protocol"],
            web["first_port"],
            web["last_port"],
            web["before"]["verdict"]
        ]),
        json!(["ingress", "tcp", 5432, 5432, "default-deny"]),
    );
    assert_eq!(web["after"]["rules"][0]["name"], "open");
    let (code, json, _) = diff(CLOSED, &["--complete"]);
    assert_eq!((code, &json["endpoints"][0]["endpoint"]), (1, &"shop/web".into()), "the other one would go");
    let (code, _, said) = diff(&CLOSED.replace("fromEndpoints", "fromNobody"), &[]);
    assert!(code == 2 && said.contains("fromNobody"), "{code}: {said}");
    let output = sandbox.specola(&["policy", "diff", "--admin-socket", "/nonexistent/admin.sock"]);
    let code =
        { output }.arg(sandbox.file("diff.yaml", CLOSED)).output().expect("specola starts").status.code();
    assert_eq!(code, Some(2), "an absent agent is no difference");
}

/// The verdict of a new connection of web.
fn verdict(sandbox: &Sandbox, to: &str, port: u16, direction: &str) -> Flow {
    let own = |flow: &Flow| {
        flow.direction() == direction
            && flow.text("/IP/destination") == to
            && flow.destination_port() == u64::from(port)
    };
    let arguments = ["--type", "policy-verdict"];
    let known =
        |sandbox: &Sandbox| -> Vec<Flow> { sandbox.observe(&arguments).into_iter().filter(own).collect() };
    let before = known(sandbox).len();
    let script = format!("exec 3<>/dev/tcp/{to}/{port}");
    eventually("a verdict is seen", PATIENCE, || {
        sandbox.exec("shop/web", &["timeout", "0.5", "bash", "-c", &script]);
        let now = known(sandbox);
        if now.len() > before { Ok(now.into_iter().next_back()) } else { Err(now.len()) }
    })
    .expect("there is one more than before")
}

fn why(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    let mut command = sandbox.specola(&["policy", "why", "-o", "json", "--sandbox", sandbox.name()]);
    let said = check(command.args(arguments));
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn run(sandbox: &Sandbox, arguments: &[&str]) -> String {
    check(sandbox.specola(arguments).args(["--sandbox", sandbox.name()]))
}
