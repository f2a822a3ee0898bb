//! The rules about requests that a redirect carries, against an oracle that knows nothing of the engine: policies are
//! written as YAML, and the oracle reads the same plain data with comparisons of strings.

use std::fmt::Write;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use specola_labels::{Label, LabelSet, NumericIdentity};
use specola_policy::request::{HttpRequest, Request};
use specola_policy::{
    AllowLocalhost, Engine, IdentityTable, Redirect, Repository, Settings, Subject, parse_policies,
    redirects, resolve,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn merged_rules_let_through_what_some_rule_does(
        policies in vec(policy(), 1..6),
        probes in vec(probe(), 60),
    ) {
        let yaml = yaml(&policies);
        let world = World::new(&yaml);
        let policy = resolve(&world.repository, &world.subject, &world.identities).unwrap();
        for probe in probes {
            let oracle = oracle(&policies, &probe);
            let peer = world.peer(probe.peer);
            let proto = probe.proto();
            let hit = policy.map.lookup(peer.0, probe.egress, proto, probe.port);
            let is_redirect = hit.is_some_and(|(_, entry)| entry.redirect && !entry.deny);
            prop_assert_eq!(is_redirect, oracle.is_some(), "{:?}\n{}", probe, yaml);
            let Some(passes) = oracle else { continue };
            let covers = |one: &&Redirect| {
                (one.egress, one.proto) == (probe.egress, proto) && (one.first..=one.last).contains(&probe.port)
            };
            let found: Vec<&Redirect> = world.redirects.iter().filter(covers).collect();
            prop_assert_eq!(found.len(), 1, "{:?}\n{}", probe, yaml);
            prop_assert_eq!(found[0].allows(peer, &probe.request()), passes, "{:?} {:#?}\n{}", probe, found, yaml);
        }
    }

    #[test]
    fn the_engine_has_what_is_made_from_nothing(policies in vec(policy(), 1..6)) {
        let world = World::new(&yaml(&policies));
        let mut engine = Engine::new(settings());
        let id = engine.add_subject(world.subject.clone());
        for (identity, labels) in world.identities.iter() {
            engine.insert_identity(identity, labels.clone());
        }
        for object in parse_policies("p.yaml", &yaml(&policies)).objects {
            engine.upsert(object);
        }
        engine.update();
        prop_assert_eq!(engine.redirects(id), world.redirects);
    }
}

#[test]
fn rules_of_two_policies_are_one_list_and_names_of_both_stay() {
    let http = |method: &str| Some(L7::Http(vec![(vec![method.to_owned()], Path::Exact("/a".to_owned()))]));
    let entry = |l7| Entry { egress: false, deny: false, peer: Some("a"), ports: Some((80, 80)), l7 };
    let policy = |l7| Policy { default_deny: true, entries: vec![entry(l7)] };
    let world = World::new(&yaml(&[policy(http("GET")), policy(http("POST")), policy(http("GET"))]));
    let [redirect] = world.redirects.as_slice() else { panic!("{:?}", world.redirects) };
    let [grant] = redirect.grants.as_slice() else { panic!("{redirect:?}") };
    let specola_policy::eval::RequestFilter::AnyOf(rules) = &grant.requests else { panic!("{grant:?}") };
    let [rules] = rules.as_slice() else { panic!("{rules:?}") };
    let specola_policy::rule::L7Rules::Http(rules) = &**rules else { panic!("{rules:?}") };
    assert_eq!((rules.len(), grant.origins.len()), (2, 3));
    assert_eq!((redirect.first, redirect.last, redirect.proto), (80, 80, 6));
}

#[test]
fn secrets_of_two_places_for_one_port_are_refused() {
    let rule = |name: &str, secret: &str| {
        format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: ns}}\nspec:\n  \
             endpointSelector: {{}}\n  ingress:\n  - toPorts:\n    - ports: [{{port: '443', protocol: TCP}}]\n      \
             terminatingTLS: {{secret: {{namespace: ns, name: {secret}}}}}\n"
        )
    };
    for (second, expect) in [("one", None), ("two", Some("conflicting TLS contexts"))] {
        let world = World::new(&format!("{}{}", rule("p", "one"), rule("q", second)));
        let error =
            resolve(&world.repository, &world.subject, &world.identities).err().map(|e| e.to_string());
        assert_eq!(error.is_some(), expect.is_some(), "{error:?}");
        assert!(error.unwrap_or_default().contains(expect.unwrap_or_default()));
    }
}

#[derive(Clone, Debug)]
struct Policy {
    default_deny: bool,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    egress: bool,
    deny: bool,
    /// None: whoever it is.
    peer: Option<&'static str>,
    /// None: every protocol and port.
    ports: Option<(u16, u16)>,
    l7: Option<L7>,
}

#[derive(Clone, Debug)]
enum L7 {
    Http(Vec<(Vec<String>, Path)>),
    Dns(Vec<Name>),
}

#[derive(Clone, Debug)]
enum Path {
    Any,
    Exact(String),
    Below(String),
}

#[derive(Clone, Debug)]
enum Name {
    Literal(&'static str),
    /// One label, then this.
    OneBelow(&'static str),
    Every,
}

#[derive(Clone, Debug)]
struct Probe {
    egress: bool,
    peer: &'static str,
    port: u16,
    method: &'static str,
    path: &'static str,
    name: &'static str,
}

impl Probe {
    /// HTTP comes in over TCP, DNS goes out over UDP.
    fn proto(&self) -> u8 {
        if self.egress { 17 } else { 6 }
    }

    fn request(&self) -> Request {
        if self.egress {
            return Request::Dns(self.name.to_owned());
        }
        Request::Http(HttpRequest {
            method: self.method.to_owned(),
            path: self.path.to_owned(),
            ..HttpRequest::default()
        })
    }
}

/// Whether the request passes; none when the connection does not go through the proxy.
fn oracle(policies: &[Policy], probe: &Probe) -> Option<bool> {
    let here = |policy: &&Policy| policy.entries.iter().any(|entry| entry.egress == probe.egress);
    let closed = policies.iter().filter(here).any(|policy| policy.default_deny);
    let entries = policies.iter().flat_map(|policy| &policy.entries).filter(|entry| {
        entry.egress == probe.egress
            && entry.peer.is_none_or(|peer| peer == probe.peer)
            && entry.ports.is_none_or(|(first, last)| first <= probe.port && probe.port <= last)
    });
    let matching: Vec<&Entry> = entries.collect();
    if matching.iter().any(|entry| entry.deny) || !matching.iter().any(|entry| entry.l7.is_some()) {
        return None;
    }
    let lets_through = |entry: &&Entry| match &entry.l7 {
        None => true,
        Some(L7::Http(rules)) => rules.iter().any(|(methods, path)| {
            let path = match path {
                Path::Any => true,
                Path::Exact(own) => own == probe.path,
                Path::Below(own) => probe.path.starts_with(&format!("{own}/")),
            };
            path && (methods.is_empty() || methods.iter().any(|method| method == probe.method))
        }),
        Some(L7::Dns(rules)) => rules.iter().any(|rule| match rule {
            Name::Every => true,
            Name::Literal(own) => own.eq_ignore_ascii_case(probe.name),
            Name::OneBelow(parent) => {
                let labels: Vec<&str> = probe.name.split('.').collect();
                labels.len() == parent.split('.').count() + 1 && labels[1..].join(".") == *parent
            }
        }),
    };
    Some(!closed || matching.iter().any(lets_through))
}

struct World {
    repository: Repository,
    subject: Subject,
    identities: IdentityTable,
    redirects: Vec<Redirect>,
}

impl World {
    fn new(yaml: &str) -> Self {
        let mut repository = Repository::new(settings());
        let parsed = parse_policies("p.yaml", yaml);
        assert!(parsed.errors.is_empty(), "{:?}\n{yaml}", parsed.errors);
        for object in parsed.objects {
            repository.upsert(object);
        }
        let mut identities = IdentityTable::with_reserved();
        for (number, app) in (256..).zip(APPS) {
            identities.insert(NumericIdentity(number), labels(app));
        }
        let subject = Subject { labels: labels("subject"), namespace: "ns".to_owned(), ..Subject::default() };
        let redirects = redirects(&repository, &subject, &identities);
        Self { repository, subject, identities, redirects }
    }

    fn peer(&self, app: &str) -> NumericIdentity {
        let is = |labels: &LabelSet| labels.iter().any(|label| label.key() == "app" && label.value() == app);
        self.identities.iter().find(|(_, labels)| is(labels)).unwrap().0
    }
}

fn settings() -> Settings {
    Settings { allow_localhost: AllowLocalhost::Policy, ..Settings::default() }
}

fn labels(app: &str) -> LabelSet {
    let own =
        [("app", app), ("io.kubernetes.pod.namespace", "ns"), ("io.cilium.k8s.policy.cluster", "default")];
    own.into_iter().map(|(key, value)| Label::k8s(key, value)).collect()
}

fn yaml(policies: &[Policy]) -> String {
    let mut text = String::new();
    for (index, policy) in policies.iter().enumerate() {
        write!(
            text,
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{index}, namespace: ns}}\nspec:\n  \
             endpointSelector: {{}}\n  enableDefaultDeny: {{ingress: {0}, egress: {0}}}\n",
            policy.default_deny
        )
        .unwrap();
        for (field, egress, deny) in [
            ("ingress", false, false),
            ("ingressDeny", false, true),
            ("egress", true, false),
            ("egressDeny", true, true),
        ] {
            let entries: Vec<&Entry> =
                policy.entries.iter().filter(|entry| (entry.egress, entry.deny) == (egress, deny)).collect();
            if !entries.is_empty() {
                writeln!(text, "  {field}:").unwrap();
            }
            entries.iter().for_each(|entry| entry.write(&mut text));
        }
    }
    text
}

impl Entry {
    fn write(&self, text: &mut String) {
        let to = if self.egress { "to" } else { "from" };
        let peers = match self.peer {
            Some(peer) => format!("{to}Endpoints: [{{matchLabels: {{app: {peer}}}}}]"),
            None => format!("{to}Entities: [all]"),
        };
        writeln!(text, "  - {peers}").unwrap();
        let Some((first, last)) = self.ports else { return };
        writeln!(text, "    toPorts:\n    - ports: [{{port: '{first}', endPort: {last}, protocol: ANY}}]")
            .unwrap();
        match &self.l7 {
            None => {}
            Some(L7::Http(rules)) => {
                *text = text.trim_end().trim_end_matches("ANY}]").to_owned()
                    + "TCP}]\n      rules:\n        http:\n";
                for (methods, path) in rules {
                    let path = match path {
                        Path::Any => ".*".to_owned(),
                        Path::Exact(own) => own.clone(),
                        Path::Below(own) => format!("{own}/.*"),
                    };
                    let methods = methods.join("|");
                    let method =
                        if methods.is_empty() { String::new() } else { format!(", method: '{methods}'") };
                    writeln!(text, "        - {{path: '{path}'{method}}}").unwrap();
                }
            }
            Some(L7::Dns(rules)) => {
                writeln!(text, "      rules:\n        dns:").unwrap();
                for rule in rules {
                    match rule {
                        Name::Literal(name) => writeln!(text, "        - matchName: {name}"),
                        Name::OneBelow(parent) => writeln!(text, "        - matchPattern: '*.{parent}'"),
                        Name::Every => writeln!(text, "        - matchPattern: '*'"),
                    }
                    .unwrap();
                }
            }
        }
    }
}

fn policy() -> impl Strategy<Value = Policy> {
    (prop::bool::weighted(0.8), vec(entry(), 1..5))
        .prop_map(|(default_deny, entries)| Policy { default_deny, entries })
}

fn entry() -> impl Strategy<Value = Entry> {
    let peer = prop_oneof![1 => Just(None), 2 => select(APPS.to_vec()).prop_map(Some)];
    let range = (78u16..84, 0u16..5).prop_map(|(first, more)| (first, first + more));
    let ports = prop_oneof![1 => Just(None), 6 => range.prop_map(Some)];
    let http = vec((vec(select(METHODS.to_vec()).prop_map(str::to_owned), 0..3), path()), 1..4);
    let dns = vec(dns_name(), 1..4);
    (any::<bool>(), prop::bool::weighted(0.1), peer, ports, prop::bool::weighted(0.6), http, dns).prop_map(
        |(egress, deny, peer, ports, with_l7, http, dns)| {
            let l7 = if egress { L7::Dns(dns) } else { L7::Http(http) };
            let l7 = Some(l7).filter(|_| with_l7 && !deny && ports.is_some());
            // Rules about DNS are for single ports.
            let ports = match (&l7, ports) {
                (Some(L7::Dns(_)), Some((first, _))) => Some((first, first)),
                _ => ports,
            };
            Entry { egress, deny, peer, ports, l7 }
        },
    )
}

fn path() -> impl Strategy<Value = Path> {
    let own = || select(vec!["/a", "/b"]).prop_map(str::to_owned);
    prop_oneof![1 => Just(Path::Any), 3 => own().prop_map(Path::Exact), 2 => own().prop_map(Path::Below)]
}

fn dns_name() -> impl Strategy<Value = Name> {
    prop_oneof![
        4 => select(vec!["a.example", "example", "B.Example"]).prop_map(Name::Literal),
        2 => select(vec!["example", "a.example"]).prop_map(Name::OneBelow),
        1 => Just(Name::Every),
    ]
}

fn probe() -> impl Strategy<Value = Probe> {
    let names = vec!["a.example", "b.example", "x.a.example", "example", "other"];
    (
        any::<bool>(),
        select(APPS.to_vec()),
        77u16..90,
        select(METHODS.to_vec()),
        select(vec!["/", "/a", "/a/x", "/b", "/b/", "/ab"]),
        select(names),
    )
        .prop_map(|(egress, peer, port, method, path, name)| Probe {
            egress,
            peer,
            port,
            method,
            path,
            name,
        })
}

const APPS: [&str; 3] = ["a", "b", "subject"];
const METHODS: [&str; 3] = ["GET", "POST", "HEAD"];
