use std::path::Path;

use insta::assert_snapshot;

use super::*;

const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
---
apiVersion: v1
kind: Pod
metadata: {name: rogue, namespace: other, labels: {app: rogue}}
";

const DB: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: '5432', protocol: TCP}]}]
";

const ROGUE: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: rogue, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  enableDefaultDeny: {ingress: false}
  ingress:
  - fromEndpoints: [{matchLabels: {app: rogue, 'k8s:io.kubernetes.pod.namespace': other}}]
    toPorts: [{ports: [{port: '5432', protocol: TCP}]}]
  - fromCIDR: [192.0.2.0/24]
";

const TO_NAME: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toFQDNs: [{matchName: api.example.org}]
---
apiVersion: specola.io/v1alpha1
kind: FQDNCache
metadata: {name: names}
spec: {names: [{name: api.example.org, addresses: [198.51.100.7]}]}
";

fn write(dir: &Path, name: &str, documents: &[&str]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, documents.join("---\n")).expect("writes");
    path
}

/// Text and JSON of the differences between two sets of documents.
fn compared(before: &[&str], after: &[&str]) -> (String, serde_json::Value) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (before, after) = (write(dir.path(), "a.yaml", before), write(dir.path(), "b.yaml", after));
    let (before, after) = World::offline_pair(&[before], &[after], Default::default()).expect("reads");
    let compared = World::compare(&before, &after);
    let mut out = Vec::new();
    show::text(&mut out, &after, &compared, false).expect("writes");
    (String::from_utf8(out).expect("text"), show::json(&after, &compared))
}

#[test]
fn equal_policies_in_another_order_are_no_difference() {
    let (text, json) = compared(&[PODS, DB, ROGUE], &[ROGUE, DB, PODS]);
    assert_eq!(text, "the verdicts of all 3 endpoints stay as they are\n");
    assert_eq!(json["different"], false);
    assert_eq!(json["endpoints"], serde_json::json!([]));
}

#[test]
fn a_new_policy_names_the_peers_and_ports_that_it_opens() {
    let (text, json) = compared(&[PODS, DB], &[DB, ROGUE]);
    assert_snapshot!(text, @r"
    shop/db
      ingress all protocols from 192.0.2.0/24
        - denied, as nothing allows it: CiliumNetworkPolicy shop/db
        + allowed: CiliumNetworkPolicy shop/rogue ingress[1]
      ingress tcp 5432 from other/rogue
        - denied, as nothing allows it: CiliumNetworkPolicy shop/db
        + allowed: CiliumNetworkPolicy shop/rogue ingress[0]
      map entries: 2 added, 0 removed, 0 changed
    the verdicts of 1 of 3 endpoints change
    ");
    let changes = json["endpoints"][0]["changes"].as_array().expect("a list");
    let rogue = changes.iter().find(|change| change["peers"][0]["name"] == "other/rogue").expect("is there");
    assert_eq!((&rogue["first_port"], &rogue["protocol"]), (&5432.into(), &"tcp".into()));
    assert_eq!(
        (&rogue["before"]["verdict"], &rogue["after"]["verdict"]),
        (&"default-deny".into(), &"allow".into())
    );
    assert_eq!(json["endpoints"][0]["entries"]["removed"], serde_json::json!([]));
}

#[test]
fn addresses_of_names_are_peers() {
    let (text, _) = compared(&[PODS], &[PODS, TO_NAME]);
    assert_snapshot!(text, @r"
    shop/web
      egress all protocols to everybody else
        - allowed: built-in rule allow-any-egress
        + denied, as nothing allows it: CiliumNetworkPolicy shop/names
      decided alike by other rules: 1 (--rules shows them)
      map entries: 1 added, 1 removed, 0 changed
    the verdicts of 1 of 3 endpoints change
    ");
}

#[test]
fn every_error_of_a_file_is_told() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let bad = [DB.replace("5432", "70000"), ROGUE.replace("192.0.2.0/24", "192.0.2.0/99")];
    let file = write(dir.path(), "bad.yaml", &[&bad[0], &bad[1]]);
    let error = World::offline(&[file], Default::default()).expect_err("is wrong").to_string();
    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(error.contains("bad.yaml:8: ") && error.contains("spec.ingress[1].fromCIDR[0]"), "{error}");
}

#[test]
fn addresses_of_a_providers_group_are_peers() {
    let policy = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: groups, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toGroups: [{aws: {securityGroupsIds: [sg-1]}}]
";
    let group = "\
apiVersion: specola.io/v1alpha1
kind: ProviderGroup
metadata: {name: g}
spec: {aws: {securityGroupsIds: [sg-1]}, addresses: [198.51.100.9]}
";
    let (text, _) = compared(&[PODS, policy], &[PODS, policy, group]);
    assert!(text.contains("egress all protocols to 198.51.100.9"), "{text}");
    assert!(text.contains("+ allowed: CiliumNetworkPolicy shop/groups egress[0]"), "{text}");
}
