use specola_labels::{Label, LabelSet};

use super::*;
use crate::api::parse_policies;
use crate::settings::Settings;

const DENY_ALL: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db-closed, namespace: shop}
spec:
  endpointSelector:
    matchLabels:
      app: db
  ingress:
  - fromEndpoints:
    - matchLabels: {app: api}
    toPorts:
    - ports:
      - {port: \"5432\", protocol: TCP}
";

const DENY_ROGUE: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: no-rogue, namespace: shop}
spec:
  endpointSelector: {}
  ingressDeny:
  - fromEndpoints:
    - matchLabels: {app: other}
  - fromEndpoints:
    - matchLabels: {\"k8s:io.kubernetes.pod.namespace\": other, app: rogue}
";

fn labels(namespace: &str, app: &str) -> LabelSet {
    let pairs = [
        ("app", app),
        ("tier", "x"),
        ("io.kubernetes.pod.namespace", namespace),
        ("io.cilium.k8s.policy.cluster", "default"),
    ];
    pairs.into_iter().map(|(key, value)| Label::k8s(key, value)).collect()
}

fn with(texts: &[&str]) -> Repository {
    let mut repository = Repository::new(Settings::default());
    for text in texts {
        let parsed = parse_policies("policies.yaml", text);
        assert!(parsed.is_valid(), "{text}: {:?}", parsed.errors);
        for object in parsed.objects {
            repository.upsert(object);
        }
    }
    repository
}

fn pods() -> (IdentityTable, Vec<End>) {
    let mut table = IdentityTable::with_reserved();
    let mut ends = Vec::new();
    for (number, namespace, app) in [(300, "shop", "db"), (301, "shop", "api"), (302, "other", "rogue")] {
        let labels = labels(namespace, app);
        table.insert(NumericIdentity(number), labels.clone());
        ends.push(End {
            name: format!("{namespace}/{app}"),
            identity: NumericIdentity(number),
            subject: Some(Subject { labels, namespace: namespace.to_owned(), ..Subject::default() }),
            audit: false,
        });
    }
    (table, ends)
}

fn asked(ends: &[End], from: usize, to: usize) -> Connection {
    Connection { from: ends[from].clone(), to: ends[to].clone(), proto: 6, port: 5432 }
}

fn explain(repository: &Repository, identities: &IdentityTable, connection: &Connection) -> Explanation {
    Explainer::new(repository, identities).explain(connection)
}

fn change(repository: &Repository, identities: &IdentityTable, connection: &Connection) -> Change {
    let found = Explainer::new(repository, identities).smallest_change(connection);
    found.expect("something can be done")
}

#[test]
fn a_default_deny_names_who_selects_and_what_would_allow() {
    let (identities, ends) = pods();
    let repository = with(&[DENY_ALL]);
    let connection = asked(&ends, 2, 0);
    let explanation = explain(&repository, &identities, &connection);
    assert!(!explanation.passes);
    let [out, into] = &explanation.steps[..] else { panic!("{:?}", explanation.steps) };
    assert!(out.passes() && out.egress && out.selected_by.is_empty());
    assert_eq!(into.decision.verdict, Verdict::DefaultDeny);
    assert_eq!(into.selected_by.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/db-closed"]);
    let place = into.places[0].1.as_ref().expect("it is in a document");
    assert_eq!((place.first, place.last), (5, 7));
    assert!(place.text.contains("app: db"));
    let change = change(&repository, &identities, &connection);
    assert_eq!(change.delete, []);
    assert!(change.apply.contains("k8s:io.kubernetes.pod.namespace: other"), "{}", change.apply);
    let mut opened = with(&[DENY_ALL, &change.apply]);
    assert!(explain(&opened, &identities, &connection).passes);
    // It says no more than is asked: another port and another sender stay closed.
    assert!(!explain(&opened, &identities, &Connection { port: 5433, ..connection.clone() }).passes);
    opened.remove(&into.selected_by[0]);
    assert!(!explain(&opened, &identities, &asked(&ends, 1, 0)).passes);
}

#[test]
fn a_deny_is_taken_out_and_the_rest_stays() {
    let (identities, ends) = pods();
    let repository = with(&[DENY_ALL, DENY_ROGUE]);
    let connection = asked(&ends, 2, 0);
    let explanation = explain(&repository, &identities, &connection);
    let into = &explanation.steps[1];
    assert_eq!(into.decision.verdict, Verdict::Deny);
    let place = into.places[0].1.as_ref().expect("it is in a document");
    assert_eq!((place.file.as_str(), place.first, place.last), ("policies.yaml", 9, 10));
    assert!(place.text.contains("app: rogue"));
    let change = change(&repository, &identities, &connection);
    assert_eq!(change.delete, []);
    let changed = with(&[DENY_ALL, DENY_ROGUE, &change.apply]);
    assert!(explain(&changed, &identities, &connection).passes, "{}", change.apply);
    let kept = changed.iter().find(|stored| stored.object().reference.name == "no-rogue");
    assert_eq!(kept.expect("it has a rule left").object().rules[0].entries.len(), 1);
}

#[test]
fn what_passes_can_be_denied_without_closing_the_rest() {
    let (identities, ends) = pods();
    let repository = with(&[]);
    let explanation = explain(&repository, &identities, &asked(&ends, 2, 0));
    assert!(explanation.passes);
    let change = change(&repository, &identities, &asked(&ends, 2, 0));
    let closed = with(&[&change.apply]);
    assert!(!explain(&closed, &identities, &asked(&ends, 2, 0)).passes);
    assert!(explain(&closed, &identities, &asked(&ends, 1, 0)).passes, "{}", change.apply);
}

#[test]
fn a_policy_without_a_rule_left_is_to_be_deleted() {
    let (identities, ends) = pods();
    let one = DENY_ROGUE.replace("  - fromEndpoints:\n    - matchLabels: {app: other}\n", "");
    let change = change(&with(&[&one]), &identities, &asked(&ends, 2, 0));
    assert_eq!(change.delete.iter().map(ToString::to_string).collect::<Vec<_>>(), ["shop/no-rogue"]);
    assert_eq!(change.apply, "");
}
