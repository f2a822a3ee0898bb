//! What agents say counts: modes, audit, named ports, names of DNS.

use specola_policy::explain::Explainer;

use super::*;
use crate::policy::why::ends::Asked;

const TO_DB: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: api}}]
    toPorts: [{ports: [{port: sql}]}]
";
const TO_NAMES: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toFQDNs: [{matchPattern: '*.example.org'}]
";

fn labels(app: &str) -> Vec<String> {
    ["k8s:app=", "k8s:io.cilium.k8s.policy.cluster=default", "k8s:io.kubernetes.pod.namespace=shop"]
        .map(|label| if label.ends_with("app=") { format!("{label}{app}") } else { label.to_owned() })
        .to_vec()
}

fn sql() -> pb::NamedPort {
    pb::NamedPort { name: "sql".to_owned(), protocol: 6, port: 5432 }
}

fn policy(name: &str, yaml: &str) -> pb::Policy {
    pb::Policy {
        kind: "CiliumNetworkPolicy".to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        source: format!("{name}.yaml:1"),
        yaml: yaml.to_owned(),
        ..pb::Policy::default()
    }
}

/// A node with the pods web, api and db, and a policy that lets api reach the port of db that is called sql.
fn answers() -> Answers {
    let pods = [(256, "web"), (257, "api"), (258, "db")];
    let endpoint = |(identity, app): (u32, &str)| pb::Endpoint {
        id: identity,
        pod: Some(pb::PodRef { namespace: "shop".to_owned(), name: app.to_owned() }),
        identity,
        labels: labels(app),
        ips: vec![format!("10.0.1.{}", identity - 250)],
        named_ports: vec![sql()],
        ..pb::Endpoint::default()
    };
    let identity =
        |(id, app): (u32, &str)| pb::Identity { id, labels: labels(app), named_ports: vec![sql()] };
    Answers {
        status: pb::GetStatusResponse {
            node_name: "n1".to_owned(),
            cluster_name: "default".to_owned(),
            ..pb::GetStatusResponse::default()
        },
        policy: pb::GetPolicyResponse {
            revision: 3,
            policies: vec![policy("db", TO_DB), policy("names", TO_NAMES)],
            settings: Some(pb::PolicySettings { ipv4: true, ipv6: true, ..pb::PolicySettings::default() }),
            ..pb::GetPolicyResponse::default()
        },
        identities: pods.map(identity).to_vec(),
        addresses: Vec::new(),
        endpoints: pods.map(|pod| (endpoint(pod), Vec::new())).to_vec(),
        names: Vec::new(),
        audited: Vec::new(),
    }
}

/// Whether a connection passes, and whether some verdict is only audited.
fn outcome(answers: Answers, from: &str, to: &str, port: u16) -> (bool, bool) {
    let mut world = World::of_policies(&answers);
    world.add_node(answers);
    let (from, to) = (from.into(), to.into());
    let asked = Asked { flow: None, from, to, proto: 6, port, carried: Vec::new() };
    let connection = world.connection(&asked).expect("both ends are known");
    let explanation = Explainer::new(&world.repository, &world.identities).explain(&connection);
    (explanation.passes, explanation.steps.iter().any(|step| step.decision.audited))
}

fn with(change: impl FnOnce(&mut Answers)) -> Answers {
    let mut answers = answers();
    change(&mut answers);
    answers
}

fn mode(mode: &str) -> Answers {
    with(|answers| {
        let settings = answers.policy.settings.as_mut().expect("there are settings");
        mode.clone_into(&mut settings.mode);
    })
}

#[test]
fn the_mode_of_the_node_counts() {
    for (name, to_db, to_api) in [("default", false, true), ("always", false, false), ("never", true, true)] {
        assert_eq!(outcome(mode(name), "shop/db", "shop/db", 1).0, name == "never", "{name}");
        assert_eq!(outcome(mode(name), "world", "shop/db", 1).0, to_db, "{name}");
        assert_eq!(outcome(mode(name), "world", "shop/api", 1).0, to_api, "{name}: no policy selects api");
    }
}

#[test]
fn named_ports_are_those_of_the_pod() {
    assert!(outcome(answers(), "shop/api", "shop/db", 5432).0);
    assert!(!outcome(answers(), "shop/api", "shop/db", 5433).0);
    let moved = with(|answers| answers.endpoints[2].0.named_ports[0].port = 5433);
    assert!(outcome(moved, "shop/api", "shop/db", 5433).0);
}

#[test]
fn audit_of_an_endpoint_its_namespace_or_the_node_counts() {
    // The agent says of each endpoint whether one of the three is in audit mode.
    let audited = with(|answers| answers.endpoints[2].0.audit = true);
    assert_eq!(outcome(audited, "world", "shop/db", 5432), (true, true));
    let other = with(|answers| answers.endpoints[1].0.audit = true);
    assert_eq!(outcome(other, "world", "shop/db", 5432), (false, false));
}

#[test]
fn audit_of_a_policy_counts_whoever_switched_it_on() {
    let by_operator = with(|answers| answers.policy.policies[0].audit = true);
    assert_eq!(outcome(by_operator, "world", "shop/db", 5432), (true, true));
    let annotated =
        TO_DB.replace("name: db,", "name: db, annotations: {specola.io/policy-audit-mode: enabled},");
    let by_annotation = with(|answers| answers.policy.policies[0] = policy("db", &annotated));
    assert_eq!(outcome(by_annotation, "world", "shop/db", 5432), (true, true));
}

#[test]
fn names_of_dns_are_peers_by_name_and_by_address() {
    let learned = || {
        with(|answers| {
            let name = pb::FqdnEntry {
                name: "api.example.org".to_owned(),
                addresses: vec!["192.0.2.7".to_owned()],
                ..pb::FqdnEntry::default()
            };
            answers.names.push(name);
            let labels = ["cidr:192.0.2.7/32", "fqdn:*.example.org", "reserved:world-ipv4"];
            let labels = labels.map(str::to_owned).to_vec();
            answers.identities.push(pb::Identity { id: 16_777_217, labels, named_ports: Vec::new() });
            answers.addresses.push(pb::Address { prefix: "192.0.2.7/32".to_owned(), identity: 16_777_217 });
        })
    };
    assert!(outcome(learned(), "shop/web", "API.example.org.", 443).0);
    assert!(outcome(learned(), "shop/web", "192.0.2.7", 443).0);
    assert!(!outcome(learned(), "shop/web", "192.0.2.8", 443).0);
    assert!(!outcome(answers(), "shop/web", "192.0.2.7", 443).0, "nobody has asked for the name yet");
}
