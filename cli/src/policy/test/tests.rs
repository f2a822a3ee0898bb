use super::*;

const CASES: &str = r#"
version: 1
clusters:
  c:
    nodes: {n: {ip: 10.0.0.1}}
    namespaces: {shop: {}}
    pods:
      shop/a: {ip: 10.1.0.1, node: n, labels: {app: a}}
      shop/b: {ip: 10.1.0.2, node: n, labels: {app: b}}
cases:
- id: right
  cluster: c
  policy_files: [closed.yaml]
  probes: [{from: shop/a, to: shop/b, port: 80, proto: TCP, expect: deny, policy: shop/closed}]
- id: wrong
  feature: <odd>
  cluster: c
  policy_files: [closed.yaml]
  probes: [{from: shop/a, to: shop/b, port: 80, proto: TCP, expect: allow}]
- {id: later, cluster: c, skip: not now}
"#;
const CLOSED: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: closed, namespace: shop}\n\
                      spec: {endpointSelector: {matchLabels: {app: b}}, ingress: [{}]}\n";

fn report(filter: Option<&str>) -> Report {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("cases.yaml"), CASES).unwrap();
    fs::write(directory.path().join("closed.yaml"), CLOSED).unwrap();
    Report::new(play(&directory.path().join("cases.yaml"), filter).unwrap())
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_table_says_what_is_wrong() {
    let report = report(None);
    assert!(report.has_failed());
    let table = text(|out| report.write_table(out).unwrap());
    assert!(table.contains("shop/a -> shop/b 80/TCP: expected allow, got deny by shop/closed"), "{table}");
    assert!(table.ends_with("1 passed, 1 failed, 1 skipped\n"), "{table}");
}

#[test]
fn json_has_summary_and_cases() {
    let json = text(|out| report(None).write_json(out).unwrap());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["summary"], serde_json::json!({"passed": 1, "failed": 1, "skipped": 1}));
    assert_eq!(json.as_object().unwrap().len(), 2);
    let wrong = &json["cases"][1];
    assert_eq!((&wrong["id"], &wrong["status"]), (&"wrong".into(), &"failed".into()));
    assert_eq!(wrong.as_object().unwrap().len(), 3);
    assert_eq!(wrong["probes"][0]["got"], "deny");
    assert_eq!(json["cases"][2]["status"], "skipped");
}

#[test]
fn junit_is_escaped() {
    let xml = text(|out| report(None).write_junit(out).unwrap());
    assert!(xml.contains("classname=\"&lt;odd&gt;\" name=\"wrong\""), "{xml}");
    assert!(xml.contains("<skipped message=\"not now\"/>"), "{xml}");
    assert!(xml.contains("tests=\"3\" failures=\"1\" skipped=\"1\""), "{xml}");
}

#[test]
fn cases_are_chosen_by_id_or_feature() {
    assert!(!report(Some("righ")).has_failed());
    assert_eq!(report(Some("odd")).cases().len(), 1);
}
