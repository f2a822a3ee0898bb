//! Plays every case of `policy-cases.yaml`: by the rules, and by the policy map.

use specola_policy::cases::{CaseFile, Status};

#[test]
fn all_cases() {
    let file = CaseFile::parse(include_str!("policy-cases.yaml")).unwrap();
    let mut failures = Vec::new();
    let mut passed = 0;
    for case in file.play(|path| Err(format!("{path}: no file is read here"))) {
        let probes = case.probes.iter().filter_map(|probe| {
            let failure = probe.failure.as_ref()?;
            Some(format!("{} -> {} {}: {failure}", probe.from, probe.to, probe.l4))
        });
        let causes: Vec<String> = case.messages.iter().cloned().chain(probes).collect();
        match case.status {
            Status::Passed => passed += 1,
            Status::Failed | Status::Skipped => {
                failures.push(format!("{} ({}):\n  {}", case.id, case.feature, causes.join("\n  ")));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(passed, file.len());
    assert!(passed >= 237, "{passed} cases");
}

#[test]
fn example_policies_do_what_their_cases_say() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policy-test");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).map_err(|e| format!("{name}: {e}"));
    let file = CaseFile::parse(&read("cases.yaml").unwrap()).unwrap();
    for case in file.play(read) {
        let probes: Vec<_> = case.probes.iter().filter(|probe| probe.failure.is_some()).collect();
        assert_eq!(case.status, Status::Passed, "{}: {:?} {probes:#?}", case.id, case.messages);
    }
}

#[test]
fn a_wrong_expectation_fails() {
    let text = r#"
version: 1
clusters:
  c:
    nodes: {n: {ip: 10.0.0.1}}
    namespaces: {shop: {}}
    pods:
      shop/a: {ip: 10.1.0.1, node: n, labels: {app: a}}
      shop/b: {ip: 10.1.0.2, node: n, labels: {app: b}}
cases:
- id: closed
  cluster: c
  policy_files: [closed.yaml]
  probes:
  - {from: shop/a, to: shop/b, port: 80, proto: TCP, expect: allow}
  - {from: shop/a, to: shop/b, port: 80, proto: TCP, expect: deny, at: egress}
  - {from: shop/a, to: shop/b, port: 80, proto: TCP, expect: deny, policy: shop/other}
  - {from: shop/a, to: shop/b, port: 80, proto: TCP, expect: deny, at: ingress, policy: shop/closed}
  - {from: shop/a, to: shop/none, port: 80, proto: TCP, expect: deny}
  - {from: shop/a, to: shop/b, proto: TCP, expect: deny}
- id: no-file
  cluster: c
  policy_files: [missing.yaml]
- id: not-refused
  cluster: c
  policy_files: [closed.yaml]
  rejected: [{policy: closed, error: unsupported entity}]
- id: not-now
  skip: later
  cluster: c
"#;
    let closed = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: closed, namespace: shop}\n\
                  spec: {endpointSelector: {matchLabels: {app: b}}, ingress: [{}]}\n";
    let read =
        |path: &str| if path == "closed.yaml" { Ok(closed.to_owned()) } else { Err(format!("no {path}")) };
    let played: Vec<_> = CaseFile::parse(text).unwrap().play(read).collect();
    let failures: Vec<String> =
        played[0].probes.iter().map(|probe| probe.failure.clone().unwrap_or_default()).collect();
    let wanted = [
        "expected allow, got deny by shop/closed",
        "expected it to be refused at egress, it is at ingress by shop/closed",
        "expected policy shop/other among those that decide, decided by shop/closed",
        "",
        "pod shop/none is not in the cluster; ends are NAMESPACE/POD",
        "the protocol needs port",
    ];
    for (failure, wanted) in failures.iter().zip(wanted) {
        assert!(
            failure.starts_with(wanted) && failure.is_empty() == wanted.is_empty(),
            "{failure} / {wanted}"
        );
    }
    let statuses: Vec<Status> = played.iter().map(|case| case.status).collect();
    assert_eq!(statuses, [Status::Failed, Status::Failed, Status::Failed, Status::Skipped]);
    assert_eq!(played[1].messages, ["no missing.yaml"]);
    assert!(played[2].messages[0].contains("wanted the error \"unsupported entity\", got none"));
}

#[test]
fn what_is_no_case_file_says_where() {
    let error = |text: &str| CaseFile::parse(text).unwrap_err().to_string();
    assert!(error("version: 1\nclusters: {}\ncases: []\nmore: 1\n").starts_with("line 4: "));
    assert!(error("version: 2\nclusters: {}\ncases: []\n").contains("write version: 1"));
    assert!(
        error("version: 1\nclusters: {}\ncases: [{id: a, cluster: c}]\n").contains("cluster c is not in")
    );
}
