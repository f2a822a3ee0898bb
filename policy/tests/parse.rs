//! What policies are read as, and how wrong ones are refused.

use std::collections::BTreeMap;

use proptest::prelude::*;
use specola_labels::NumericIdentity;
use specola_policy::document::split_documents;
use specola_policy::eval::{Packet, Verdict, evaluate};
use specola_policy::{
    CidrGroup, IdentityTable, IpFamilies, ParseOptions, ParsedFile, PolicyKind, Repository, Section, Service,
    Settings, Subject, cidr_identity_labels, parse_policies, parse_policies_with, parse_policy_document,
};

const HEAD: &str =
    "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: shop}\n";

/// Errors as "line field: message".
fn errors(parsed: &ParsedFile) -> Vec<String> {
    let text = |e: &specola_policy::DocumentError| format!("{} {}: {}", e.line, e.field, e.message);
    parsed.errors.iter().map(text).collect()
}

#[test]
fn every_error_has_its_line_and_field() {
    let yaml = r#"# two policies
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: good
spec:
  endpointSelector: {}
  ingress:
  - fromEntities: [world]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: bad
  namespace: shop
spec:
  endpointSelector:
    matchLabels:
      app: -x
  ingress:
  - fromEntities: [galaxy]
    fromCIDR:
    - 10.0.0.0/33
    toPorts:
    - ports:
      - port: 80
      - port: "99999"
        protocl: TCP
  egressDeny:
  - toFQDNs: []
"#;
    let parsed = parse_policies("x.yaml", yaml);
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.objects[0].reference.to_string(), "default/good");
    assert_eq!(parsed.objects[0].line, 1);
    let expected = [
        "19 spec.endpointSelector.matchLabels.app: invalid label selector: \"-x\" is not a label value",
        "21 spec.ingress[0].fromEntities[0]: unsupported entity: galaxy",
        "23 spec.ingress[0].fromCIDR[0]: unable to parse CIDR: \"10.0.0.0/33\"",
        "21 spec.ingress[0]: combining FromEntities and FromCIDR is not supported yet",
        "26 spec.ingress[0].toPorts[0].ports[0].port: must be a string, this is an integer; put it in quotes",
        "28 spec.ingress[0].toPorts[0].ports[1].protocl: unknown field; known here: endPort, port, protocol",
        "27 spec.ingress[0].toPorts[0].ports[1].port: unable to parse port: \"99999\"",
        "30 spec.egressDeny[0].toFQDNs: unknown field",
    ];
    let found = errors(&parsed);
    for expected in expected {
        assert!(found.iter().any(|e| e.starts_with(expected)), "{expected}\nin {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    let first = parsed.errors[1].to_string();
    assert_eq!(
        first,
        "x.yaml:21: CiliumNetworkPolicy shop/bad: spec.ingress[0].fromEntities[0]: unsupported entity: galaxy"
    );
}

#[test]
fn wrong_tls_listeners_groups_and_authentication_are_refused() {
    let ports = |rest: &str| format!("toPorts: [{{ports: [{{port: '443', protocol: TCP}}], {rest}}}]");
    for (entry, message) in [
        (ports("serverNames: ['']"), "empty server name is not allowed"),
        (ports("serverNames: ['a*.b']"), "is no server name"),
        (ports("serverNames: [x.org], rules: {http: [{}]}"), "ServerNames are not allowed with L7 rules"),
        (ports("terminatingTLS: {}"), "secret must be given"),
        (ports("originatingTLS: {secret: {namespace: a}}"), "Secret name missing"),
        (ports("listener: {name: x}"), "envoyConfig must be given"),
        (ports("listener: {name: x, priority: 101, envoyConfig: {name: e}}"), "101 is not in 1 to 100"),
        (ports("listener: {name: x, envoyConfig: {kind: Pod, name: e}}"), "unknown kind \"Pod\""),
        (
            ports("listener: {name: x, envoyConfig: {name: e}}, rules: {http: [{}]}"),
            "not allowed with L7 rules (x)",
        ),
        ("authentication: {mode: sometimes}".to_owned(), "unknown authentication mode"),
        ("toGroups: [{}]".to_owned(), "a group needs a provider"),
        ("toGroups: [{aws: {securityGroups: []}}]".to_owned(), "unknown field"),
    ] {
        let yaml = format!("{HEAD}spec:\n  endpointSelector: {{}}\n  egress:\n  - {entry}\n");
        let parsed = parse_policies("f", &yaml);
        assert!(parsed.objects.is_empty(), "{entry}");
        assert!(errors(&parsed).iter().any(|e| e.contains(message)), "{entry}: {:?}", errors(&parsed));
    }
}

#[test]
fn cluster_network_policies_are_checked() {
    const TIERED: &str =
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: x}\n";
    let options = ParseOptions { cluster_network_policy: true, ..ParseOptions::default() };
    let read = |spec: &str, options| parse_policies_with("f", &format!("{TIERED}spec: {spec}\n"), options);
    let with = |ingress: &str| {
        format!("{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, ingress: [{ingress}]}}")
    };
    let good = with(
        "{action: Deny, from: [{pods: {podSelector: {}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}",
    );
    assert_eq!(errors(&read(&good, options)), [] as [String; 0]);
    let off = read(&good, ParseOptions::default());
    assert!(errors(&off)[0].contains("enable-k8s-cluster-network-policy"), "{:?}", errors(&off));
    for (spec, message) in [
        ("{}".to_owned(), "tier must be given"),
        (good.replace("Admin", "Normal"), "unknown tier"),
        (good.replace("priority: 1", "priority: 1001"), "1001 is not in 0 to 1000"),
        (good.replace("{namespaces: {}}", "{}"), "exactly one of namespaces and pods"),
        (good.replace("Deny", "Drop"), "unknown action"),
        (with("{action: Deny, from: []}"), "at least one peer"),
        (with("{action: Deny, from: [{networks: [10.0.0.0/8]}]}"), "unknown field"),
        (good.replace("number: 80", "range: {start: 80}"), "start and end must be given"),
        (good.replace("number: 80", "range: {start: 80, end: 79}"), "start 80 is above end 79"),
        (good.replace("tcp", "icmp"), "unknown field"),
        (
            good.replace("ingress", "egress")
                .replace("from", "to")
                .replace("pods: {podSelector: {}}", "domainNames: [x.org]"),
            "only be used with the action Accept",
        ),
    ] {
        let parsed = read(&spec, options);
        assert!(parsed.objects.is_empty(), "{spec}");
        assert!(errors(&parsed).iter().any(|e| e.contains(message)), "{spec}: {:?}", errors(&parsed));
    }
}

#[test]
fn other_kinds_are_passed_over_and_old_versions_refused() {
    let parsed = parse_policies("f", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n");
    assert!(parsed.objects.is_empty() && parsed.is_valid());
    let old = HEAD.replace("cilium.io/v2", "cilium.io/v1");
    let found = errors(&parse_policies("f", &old));
    assert!(found[0].contains("has apiVersion cilium.io/v2, not \"cilium.io/v1\""), "{found:?}");
}

#[test]
fn kinds_names_and_sections() {
    let yaml = format!(
        "{HEAD}specs:\n\
         - endpointSelector: {{}}\n  ingress: [{{}}, {{fromEntities: [all]}}]\n\
         - endpointSelector: {{}}\n  ingress: [{{}}]\n  egressDeny: [{{toEntities: [world]}}]\n\
         ---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: k, namespace: shop}}\n\
         spec: {{podSelector: {{}}, policyTypes: [Egress]}}\n\
         ---\n\
         apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: c}}\n\
         spec: {{endpointSelector: {{}}, ingress: [{{}}]}}\n"
    );
    let parsed = parse_policies("f", &yaml);
    assert_eq!(errors(&parsed), [] as [String; 0]);
    let names: Vec<(PolicyKind, String)> =
        parsed.objects.iter().map(|object| (object.reference.kind, object.reference.to_string())).collect();
    assert_eq!(
        names,
        [
            (PolicyKind::CiliumNetworkPolicy, "shop/p".to_owned()),
            (PolicyKind::NetworkPolicy, "shop/k".to_owned()),
            (PolicyKind::CiliumClusterwideNetworkPolicy, "c".to_owned()),
        ]
    );
    let sections: Vec<(Section, u32)> = parsed.objects[0]
        .rules
        .iter()
        .flat_map(|rule| rule.entries.iter().map(|entry| (entry.section, entry.index)))
        .collect();
    assert_eq!(
        sections,
        [(Section::Ingress, 0), (Section::Ingress, 1), (Section::Ingress, 2), (Section::EgressDeny, 0)]
    );
    let kubernetes = &parsed.objects[1].rules[0];
    assert!(!kubernetes.has_ingress && kubernetes.default_deny_egress);
}

#[test]
fn a_revision_per_change_and_origins_that_name_it() {
    let object = |yaml: &str| parse_policies("f", yaml).objects.remove(0);
    let open = format!(
        "{HEAD}spec:\n  endpointSelector: {{}}\n  log: {{value: hello}}\n  labels: [{{key: team, value: a}}]\n  ingress:\n  - {{}}\n  - fromEntities: [world]\n"
    );
    let mut repository = Repository::new(Settings::default());
    assert_eq!(repository.revision(), 1);
    assert_eq!(repository.upsert(object(&open)), 2);
    assert_eq!(repository.upsert(object(&format!("# moved\n{open}"))), 2, "same policy");
    assert_eq!(repository.upsert(object(&open.replace("world", "host"))), 3);
    assert_eq!(repository.upsert(object(&open)), 4);

    let subject = Subject {
        labels: ["k8s:io.kubernetes.pod.namespace=shop".parse().unwrap()].into_iter().collect(),
        ..Subject::default()
    };
    let identities = IdentityTable::with_reserved();
    let packet = |peer: NumericIdentity| Packet { peer: peer.0, egress: false, proto: 6, port: 80 };
    let allowed = evaluate(&repository, &subject, &identities, packet(NumericIdentity::WORLD_IPV4));
    assert_eq!(allowed.verdict, Verdict::Allow);
    let origin = allowed.origins.iter().next().unwrap();
    assert_eq!(
        (origin.section, origin.rule_index, origin.revision, origin.log.as_str()),
        (Section::Ingress, 1, 4, "hello")
    );
    assert_eq!(
        origin.labels,
        [
            "k8s:io.cilium.k8s.policy.derived-from=CiliumNetworkPolicy",
            "k8s:io.cilium.k8s.policy.name=p",
            "k8s:io.cilium.k8s.policy.namespace=shop",
            "unspec:team=a"
        ]
    );
    let refused = evaluate(&repository, &subject, &identities, packet(NumericIdentity::REMOTE_NODE));
    assert_eq!(refused.verdict, Verdict::DefaultDeny);
    assert_eq!(refused.origins.object_names(), ["shop/p"]);
    let json = serde_json::to_string(&refused.origins).unwrap();
    assert_eq!(serde_json::from_str::<specola_policy::OriginSet>(&json).unwrap(), refused.origins);

    let reference = object(&open).reference;
    assert_eq!(repository.remove(&reference), Some(5));
    assert_eq!(repository.remove(&reference), None);
    let open_now = evaluate(&repository, &subject, &identities, packet(NumericIdentity::REMOTE_NODE));
    assert_eq!(open_now.verdict, Verdict::Allow);
    assert_eq!(open_now.origins.object_names(), ["allow-any-ingress"]);
}

#[test]
fn groups_and_services_change_what_policies_mean() {
    let options = ParseOptions::default();
    let yaml = format!(
        "{HEAD}spec:\n  endpointSelector: {{}}\n  egress:\n  - toCIDRSet: [{{cidrGroupRef: g, except: [10.1.0.0/16]}}]\n  - toServices: [{{k8sService: {{serviceName: s}}}}]\n"
    );
    let object = parse_policies_with("f", &yaml, options).objects.remove(0);
    let mut repository = Repository::new(Settings::default());
    repository.upsert(object);
    let nets =
        |repository: &Repository| repository.prefixes().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(nets(&repository), ["10.1.0.0/16"]);
    let group = |prefix: &str| CidrGroup {
        name: "g".to_owned(),
        labels: BTreeMap::new(),
        prefixes: vec![prefix.parse().unwrap()],
    };
    assert_eq!(repository.upsert_cidr_group(group("10.0.0.0/8")), 3);
    assert_eq!(repository.upsert_cidr_group(group("10.0.0.0/8")), 3, "no change");
    let service = Service {
        namespace: "x".to_owned(),
        name: "s".to_owned(),
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        backends: vec!["192.0.2.1".parse().unwrap()],
    };
    assert_eq!(repository.upsert_service(service), 4);
    assert_eq!(nets(&repository), ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32"]);

    let mut identities = IdentityTable::with_reserved();
    let subject = Subject {
        labels: ["k8s:io.kubernetes.pod.namespace=shop".parse().unwrap()].into_iter().collect(),
        ..Subject::default()
    };
    let mut verdict = |repository: &Repository, prefix: &str| {
        let labels = cidr_identity_labels(prefix.parse().unwrap(), IpFamilies::Dual);
        identities.insert(NumericIdentity(16_777_217), labels);
        let packet = Packet { peer: 16_777_217, egress: true, proto: 6, port: 80 };
        evaluate(repository, &subject, &identities, packet).verdict
    };
    assert_eq!(verdict(&repository, "10.0.0.0/8"), Verdict::Allow);
    assert_eq!(verdict(&repository, "10.1.0.0/16"), Verdict::DefaultDeny);
    assert_eq!(verdict(&repository, "192.0.2.1/32"), Verdict::Allow);
    assert_eq!(repository.remove_cidr_group("g"), 5);
    assert_eq!(repository.remove_service("x", "s"), 6);
    assert_eq!(verdict(&repository, "10.0.0.0/8"), Verdict::DefaultDeny);
    assert_eq!(verdict(&repository, "192.0.2.1/32"), Verdict::DefaultDeny);
}

#[test]
fn the_subject_stays_in_its_namespace() {
    let yaml = format!(
        "{HEAD}spec:\n  endpointSelector:\n    matchLabels:\n      k8s:io.kubernetes.pod.namespace: other\n  ingress: [{{}}]\n"
    );
    let parsed = parse_policies("f", &yaml);
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.warnings.len(), 1);
    assert!(parsed.warnings[0].message.contains("always in the policy's namespace \"shop\""));
}

#[test]
fn suspicious_selectors_and_ports() {
    let yaml = format!(
        "{HEAD}spec:\n  endpointSelector: {{matchLabels: {{'app ': web}}}}\n  ingress: [{{toPorts: [{{}}]}}]\n"
    );
    let parsed = parse_policies("f", &yaml);
    assert!(errors(&parsed)[0].contains("\"app \" is not a label key"), "{:?}", errors(&parsed));
    assert!(parsed.warnings[0].message.contains("matches no packet"));
}

#[test]
fn a_single_document_keeps_the_lines_of_its_file() {
    let yaml = format!("{HEAD}spec: {{}}\n---\n{HEAD}spec: {{nope: 1}}\n");
    let document = split_documents("f", &yaml).remove(1).unwrap();
    let parsed = parse_policy_document("f", &document, ParseOptions::default());
    assert!(errors(&parsed).iter().any(|e| e.starts_with("9 spec.nope: unknown field")), "{parsed:?}");
}

#[test]
fn deep_or_exploding_documents_are_refused() {
    let deep = format!("{HEAD}spec: {}{}\n", "[".repeat(50_000), "]".repeat(50_000));
    let mut bomb = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..40 {
        let below = level - 1;
        bomb.push_str(&format!("a{level}: &a{level} [*a{below}, *a{below}]\n"));
    }
    let indented = format!("{HEAD}spec:\n  {}x\n", "- ".repeat(50_000));
    let mapped = format!("{HEAD}spec: {}{}\n", "{a: ".repeat(1_900), "}".repeat(1_900));
    for yaml in [deep, indented, mapped, format!("{HEAD}{bomb}")] {
        let parsed = parse_policies("f", &yaml);
        assert!(parsed.objects.is_empty());
        assert_eq!(parsed.errors.len(), 1, "{:?}", parsed.errors);
    }
}

proptest! {
    /// Cuts, joins and swaps lines of real policies: whatever comes out is read or refused.
    #[test]
    fn damaged_policies_are_safe(
        lines in proptest::collection::vec((0usize..8000, -2i32..3), 1..40),
    ) {
        let all: Vec<&str> = include_str!("policy-cases.yaml").lines().collect();
        let mut yaml = HEAD.to_owned();
        for (line, shift) in lines {
            let text = all[line % all.len()];
            if shift < 0 {
                yaml.push_str(text.trim_start());
            } else {
                yaml.push_str(&" ".repeat(usize::try_from(shift).unwrap_or(0)));
                yaml.push_str(text);
            }
            yaml.push('\n');
        }
        let parsed = parse_policies("f", &yaml);
        prop_assert!(!parsed.objects.is_empty() || !parsed.errors.is_empty());
    }

    /// Replaces a value of a valid policy by another one.
    #[test]
    fn any_value_in_any_field_is_safe(
        field in "(metadata|spec|specs|name|endpointSelector|nodeSelector|ingress|egress|ingressDeny|toPorts|ports|port|rules|http|dns|kafka|l7|icmps|fields|type|fromCIDR|fromCIDRSet|toFQDNs|fromEndpoints|enableDefaultDeny|labels|log|authentication|listener)",
        value in "(null|true|1|-1|1.5|''|x|\\[\\]|\\{\\}|\\[\\[\\]\\]|\\[\\{\\}\\]|\\[null\\]|\\[1\\]|\\{a: \\{\\}\\}|'\\*'|99999999999999999999)",
    ) {
        let yaml = format!(
            "{HEAD}spec:\n  endpointSelector: {{}}\n  ingress:\n  - fromCIDRSet: [{{cidr: 10.0.0.0/8}}]\n    toPorts: [{{ports: [{{port: '80'}}], rules: {{http: [{{}}]}}}}]\n"
        );
        for indent in ["", "  ", "    "] {
            parse_policies("f", &format!("{yaml}{indent}{field}: {value}\n"));
        }
        let nested = format!(
            "{HEAD}spec:\n  endpointSelector: {{}}\n  egress:\n  - {field}: {value}\n    toPorts: [{{{field}: {value}, ports: [{{{field}: {value}}}], rules: {{{field}: {value}}}}}]\n"
        );
        parse_policies("f", &nested);
    }
}
