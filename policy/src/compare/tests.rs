use specola_labels::{Label, LabelSet, NumericIdentity};

use super::*;
use crate::api::parse_policies;
use crate::settings::Settings;

const WEB: u32 = 300;
const ROGUE: u32 = 301;

fn repository(documents: &[String]) -> Repository {
    let mut repository = Repository::new(Settings::default());
    for object in parse_policies("p", &documents.join("---\n")).objects {
        repository.upsert(object);
    }
    assert_eq!(repository.len(), documents.len());
    repository
}

/// A policy of `db` that lets `peer` in, or keeps it out, at some ports.
fn rule(name: &str, section: &str, peer: &str, ports: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: db}}}}\n  {section}:\n  - fromEndpoints: [{{matchLabels: {{app: {peer}}}}}]\n    \
         toPorts: [{{ports: [{ports}]}}]\n"
    )
}

fn labels(app: &str) -> LabelSet {
    let own =
        [("app", app), ("io.kubernetes.pod.namespace", "shop"), ("io.cilium.k8s.policy.cluster", "default")];
    own.into_iter().map(|(key, value)| Label::k8s(key, value)).collect()
}

fn identities() -> IdentityTable {
    let mut identities = IdentityTable::with_reserved();
    for (number, app) in [(WEB, "web"), (ROGUE, "rogue"), (302, "db")] {
        identities.insert(NumericIdentity(number), labels(app));
    }
    identities
}

fn compared(before: &[String], after: &[String]) -> Comparison {
    let (before, after, identities) = (repository(before), repository(after), identities());
    let subject = Subject { labels: labels("db"), namespace: "shop".to_owned(), ..Subject::default() };
    let side = |repository| Side { repository, subject: &subject, identities: &identities, audit: false };
    compare(side(&before), side(&after))
}

/// `direction peer protocol first-last: before > after`.
fn lines(comparison: &Comparison) -> Vec<String> {
    let outcome = |outcome: &Outcome| {
        let rules: Vec<String> = outcome.rules.iter().map(|rule| rule.name.clone()).collect();
        format!("{:?} by {}", outcome.verdict, rules.join("+"))
    };
    let line = |change: &Change| {
        let direction = if change.egress { "egress" } else { "ingress" };
        let Change { identity, protocols, first_port, last_port, .. } = change;
        let (before, after) = (outcome(&change.before), outcome(&change.after));
        format!("{direction} {identity} {protocols:?} {first_port}-{last_port}: {before} > {after}")
    };
    comparison.changes.iter().map(line).collect()
}

/// [`lines`] of those that change a verdict.
fn verdict_lines(comparison: &Comparison) -> Vec<String> {
    let all = comparison.changes.iter().zip(lines(comparison));
    all.filter(|(change, _)| change.is_of_verdict()).map(|(_, line)| line).collect()
}

#[test]
fn the_same_rules_written_at_another_revision_are_no_change() {
    let web = || rule("web", "ingress", "web", "{port: '5432', protocol: TCP}");
    let other = || rule("other", "ingress", "rogue", "{port: '1', protocol: TCP}");
    let comparison = compared(&[web(), other()], &[other(), web()]);
    assert!(comparison.is_empty(), "{comparison:?}");
}

#[test]
fn a_new_peer_is_a_change_of_its_ports_only() {
    let web = || rule("web", "ingress", "web", "{port: '5432', protocol: TCP}");
    let rogue = rule("rogue", "ingress", "rogue", "{port: '1000', endPort: 1999, protocol: TCP}");
    let comparison = compared(&[web()], &[web(), rogue]);
    assert_eq!(
        verdict_lines(&comparison),
        ["ingress 301 One(6) 1000-1999: DefaultDeny by web > Allow by rogue"]
    );
    let closed = "ingress 0 All 0-65535: DefaultDeny by web > DefaultDeny by rogue+web".to_owned();
    assert!(lines(&comparison).contains(&closed), "both close it for everybody else now");
    assert!(comparison.entries.removed.is_empty() && comparison.entries.changed.is_empty());
    assert!(comparison.entries.added.len() > 1, "a range is several entries");
}

#[test]
fn the_first_policy_closes_everybody_else() {
    let web = rule("web", "ingress", "web", "{port: '5432', protocol: TCP}");
    let comparison = compared(&[], &[web]);
    let any = "Allow by allow-any-ingress";
    assert_eq!(
        verdict_lines(&comparison),
        [
            format!("ingress 0 All 0-65535: {any} > DefaultDeny by web"),
            format!("ingress 300 One(6) 0-5431: {any} > DefaultDeny by web"),
            format!("ingress 300 One(6) 5433-65535: {any} > DefaultDeny by web"),
            format!("ingress 300 Others 0-65535: {any} > DefaultDeny by web"),
        ]
    );
}

#[test]
fn another_deciding_rule_is_a_change_too() {
    let one = rule("one", "ingress", "web", "{port: '80', protocol: TCP}");
    let other = rule("other", "ingress", "web", "{port: '80', protocol: TCP}");
    let lines = lines(&compared(std::slice::from_ref(&one), &[one.clone(), other]));
    assert!(
        lines.contains(&"ingress 300 One(6) 80-80: Allow by one > Allow by one+other".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn other_requests_on_the_same_connection_are_a_change() {
    let http = |path: &str| {
        rule("web", "ingress", "web", "{port: '80', protocol: TCP}")
            .replace("]}]\n", &format!("], rules: {{http: [{{path: {path}}}]}}}}]\n"))
    };
    assert!(compared(&[http("/a")], &[http("/a")]).is_empty());
    let comparison = compared(&[http("/a")], &[http("/b")]);
    let [change] = comparison.changes.as_slice() else { panic!("{:?}", comparison.changes) };
    assert!(change.requests && change.before == change.after, "{change:?}");
    assert_eq!((change.identity, change.first_port, change.last_port), (WEB, 80, 80));
}

#[test]
fn an_audited_endpoint_passes_what_it_would_drop() {
    let web = [rule("web", "ingressDeny", "web", "{port: '80', protocol: TCP}")];
    let (repository, identities) = (repository(&web), identities());
    let subject = Subject { labels: labels("db"), ..Subject::default() };
    let side = |audit| Side { repository: &repository, subject: &subject, identities: &identities, audit };
    let comparison = compare(side(false), side(true));
    let deny = comparison.changes.iter().find(|change| change.identity == WEB && change.first_port == 80);
    let deny = deny.expect("the deny is audited now");
    assert!(
        (deny.before.verdict, deny.after.verdict) == (Verdict::Deny, Verdict::Deny) && deny.after.audited
    );
    assert!(comparison.entries.is_empty(), "the map is the same");
}

#[test]
fn what_does_not_fit_is_an_error_of_its_side() {
    let conflict = [
        rule("one", "ingress", "web", "{port: '80', protocol: TCP}")
            .replace("]}]\n", "], rules: {http: [{path: /a}]}}]\n"),
        rule("two", "ingress", "web", "{port: '80', protocol: TCP}")
            .replace("]}]\n", "], rules: {kafka: [{topic: a}]}}]\n"),
    ];
    let comparison = compared(&conflict[..1], &conflict);
    assert!(!comparison.is_empty() && comparison.errors[0].is_none());
    assert!(matches!(comparison.errors[1], Some(ResolveError::ConflictingParsers { .. })), "{comparison:?}");
}
