//! After any sequence of changes the engine has what a resolution from nothing gives, and its differences lead there.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use specola_labels::{Label, LabelSet, NumericIdentity};
use specola_policy::{
    Engine, Entry, Key, Mode, NamedPorts, PolicyObject, Settings, Subject, SubjectId, parse_policies, resolve,
};

/// One change.
#[derive(Clone, Debug)]
enum Step {
    Policy(u8, Spec),
    RemovePolicy(u8),
    Identity(u8, Vec<(u8, u8)>),
    RemoveIdentity(u8),
    NamedPorts(u8, BTreeSet<u16>),
    AddSubject(u8),
    DropSubject(u8),
    Update,
}

/// A policy as text, so that it goes the product's own way.
#[derive(Clone, Debug)]
struct Spec {
    subject: u8,
    default_deny: Option<bool>,
    entries: Vec<(u8, u8, u8)>,
}

const SECTIONS: [(&str, &str); 4] =
    [("ingress", "from"), ("ingressDeny", "from"), ("egress", "to"), ("egressDeny", "to")];
const PEERS: [&str; 9] = [
    "",
    "Endpoints: [{matchLabels: {k0: v0}}]",
    "Endpoints: [{matchLabels: {k0: v1, k1: v0}}, {matchLabels: {k0: v0}}]",
    "Endpoints: [{matchExpressions: [{key: k1, operator: NotIn, values: [v0]}]}]",
    "Endpoints: [{matchExpressions: [{key: k2, operator: Exists}]}]",
    "Endpoints: []",
    "Entities: [all]",
    "Entities: [cluster, world]",
    "CIDR: [10.0.0.0/8]",
];
const PORTS: [&str; 8] = [
    "",
    "toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]",
    "toPorts: [{ports: [{port: \"70\", endPort: 90, protocol: TCP}]}]",
    "toPorts: [{ports: [{port: \"0\", protocol: UDP}]}]",
    "toPorts: [{ports: [{port: web, protocol: TCP}]}]",
    "toPorts: [{ports: [{port: \"80\", protocol: ANY}, {port: \"81\", protocol: ANY}]}]",
    "icmps: [{fields: [{type: 8}]}]",
    "toPorts: [{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{path: /a}]}}]",
];

impl Spec {
    fn object(&self, name: u8) -> Option<PolicyObject> {
        let mut text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{name}, namespace: ns}}\nspec:\n"
        );
        text += &match self.subject {
            0 => "  endpointSelector: {}\n".to_owned(),
            n => format!("  endpointSelector: {{matchLabels: {{k0: v{}}}}}\n", n % 3),
        };
        if let Some(on) = self.default_deny {
            text += &format!("  enableDefaultDeny: {{ingress: {on}, egress: {on}}}\n");
        }
        for (number, (section, verb)) in (0..).zip(SECTIONS) {
            let entries: Vec<String> = self
                .entries
                .iter()
                .filter(|entry| entry.0 == number)
                .map(|(_, peer, ports)| {
                    let peer = PEERS[usize::from(*peer)];
                    let peer = if peer.is_empty() { String::new() } else { format!("{verb}{peer}") };
                    // Deny entries have no request rules.
                    let ports = PORTS[usize::from(*ports % if section.ends_with("Deny") { 7 } else { 8 })];
                    let parts: Vec<&str> =
                        [peer.as_str(), ports].into_iter().filter(|p| !p.is_empty()).collect();
                    format!("  - {{{}}}\n", parts.join(", "))
                })
                .collect();
            if !entries.is_empty() {
                text += &format!("  {section}:\n{}", entries.concat());
            }
        }
        parse_policies("generated", &text).objects.pop()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn incremental_and_full_agree(
        steps in vec(step(), 1..40),
        mode in select(vec![Mode::Default, Mode::Default, Mode::Default, Mode::Always, Mode::Never]),
        max_entries in select(vec![16_384, 16_384, 12]),
    ) {
        let mut world = World::new(Settings { mode, max_entries, ..Settings::default() });
        for step in steps {
            world.make(&step);
            if matches!(step, Step::Update) {
                world.check()?;
            }
        }
        world.check()?;
    }
}

/// An engine, and what a node would know of it.
struct World {
    engine: Engine,
    held: BTreeMap<u8, SubjectId>,
    /// By subject: version and map, brought up to date by differences only where there are some.
    enforced: BTreeMap<SubjectId, (u64, BTreeMap<Key, Entry>)>,
}

impl World {
    fn new(settings: Settings) -> Self {
        Self { engine: Engine::new(settings), held: BTreeMap::new(), enforced: BTreeMap::new() }
    }

    fn make(&mut self, step: &Step) {
        match step {
            Step::Policy(name, spec) => {
                if let Some(object) = spec.object(*name) {
                    self.engine.upsert(object);
                }
            }
            Step::RemovePolicy(name) => {
                let found = self.engine.repository().iter().map(|stored| stored.object().reference.clone());
                let found: Vec<_> = found.filter(|reference| reference.name == format!("p{name}")).collect();
                for reference in found {
                    self.engine.remove(&reference);
                }
            }
            Step::Identity(number, pairs) => {
                self.engine.insert_identity(identity(*number), labels(*number, pairs));
            }
            Step::RemoveIdentity(number) => {
                self.engine.remove_identity(identity(*number));
            }
            Step::NamedPorts(number, ports) => {
                let ports = NamedPorts::from([(("web".to_owned(), 6), ports.clone())]);
                self.engine.set_named_ports(identity(*number), ports);
            }
            Step::AddSubject(number) => {
                let (number, id) = (*number, self.engine.add_subject(subject(*number)));
                if let Some(other) = self.held.insert(number, id) {
                    assert_eq!(other, id, "subjects that are alike are one");
                    self.engine.drop_subject(id);
                }
            }
            Step::DropSubject(number) => {
                if let Some(id) = self.held.remove(number) {
                    self.engine.drop_subject(id);
                    self.enforced.remove(&id);
                }
            }
            Step::Update => {}
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let changed: BTreeSet<SubjectId> = self.engine.update().into_iter().collect();
        for (number, id) in &self.held {
            let full = resolve(self.engine.repository(), &subject(*number), self.engine.identities());
            let policy = self.engine.policy(*id).expect("it is held");
            match (policy, full) {
                (Ok(policy), Ok(mut full)) => {
                    let (version, mut entries) = self.enforced.remove(id).unwrap_or_default();
                    prop_assert_eq!(changed.contains(id), policy.version() != version);
                    if let Some(diff) = policy.diff_from(version) {
                        for key in &diff.deletes {
                            prop_assert!(entries.remove(key).is_some(), "{key}");
                        }
                        for (key, entry) in &diff.upserts {
                            prop_assert!(
                                entries.insert(*key, entry.clone()).as_ref() != Some(entry),
                                "{key}"
                            );
                        }
                    } else if policy.version() != version {
                        entries = policy.map().iter().map(|(key, entry)| (*key, entry.clone())).collect();
                    }
                    let expected: BTreeMap<Key, Entry> =
                        full.map.iter().map(|(key, entry)| (*key, entry.clone())).collect();
                    prop_assert_eq!(&entries, &expected);
                    full.revision = policy.revision();
                    prop_assert_eq!(policy.to_owned(), full);
                    self.enforced.insert(*id, (policy.version(), entries));
                }
                (Err(error), Err(expected)) => {
                    prop_assert_eq!(std::mem::discriminant(error), std::mem::discriminant(&expected));
                    self.enforced.remove(id);
                }
                (policy, full) => {
                    prop_assert!(false, "{:?} and {full:?}", policy.map(|policy| policy.to_owned()));
                }
            }
        }
        Ok(())
    }
}

fn identity(number: u8) -> NumericIdentity {
    match number {
        0..8 => NumericIdentity(300 + u32::from(number)),
        _ => NumericIdentity(NumericIdentity::LOCAL_MIN.0 + u32::from(number)),
    }
}

fn labels(number: u8, pairs: &[(u8, u8)]) -> LabelSet {
    if number >= 8 {
        let prefix = format!("10.{number}.0.0/16").parse().expect("a prefix");
        return specola_policy::cidr_identity_labels(prefix, Settings::default().ip_families);
    }
    let own = pairs.iter().map(|(key, value)| Label::k8s(&format!("k{key}"), &format!("v{value}")));
    let common = [("io.kubernetes.pod.namespace", "ns"), ("io.cilium.k8s.policy.cluster", "default")];
    own.chain(common.map(|(key, value)| Label::k8s(key, value))).collect()
}

fn subject(number: u8) -> Subject {
    let named_ports = match number % 2 {
        0 => NamedPorts::new(),
        _ => NamedPorts::from([(("web".to_owned(), 6), BTreeSet::from([80]))]),
    };
    Subject { labels: labels(0, &[(0, number / 2)]), named_ports, ..Subject::default() }
}

fn step() -> impl Strategy<Value = Step> {
    let pairs = vec((0u8..3, 0u8..2), 0..3);
    prop_oneof![
        6 => (0u8..6, spec()).prop_map(|(name, spec)| Step::Policy(name, spec)),
        2 => (0u8..6).prop_map(Step::RemovePolicy),
        5 => (0u8..12, pairs).prop_map(|(number, pairs)| Step::Identity(number, pairs)),
        2 => (0u8..12).prop_map(Step::RemoveIdentity),
        1 => (0u8..8, btree_set(78u16..82, 0..3)).prop_map(|(n, ports)| Step::NamedPorts(n, ports)),
        3 => (0u8..4).prop_map(Step::AddSubject),
        1 => (0u8..4).prop_map(Step::DropSubject),
        5 => Just(Step::Update),
    ]
}

fn spec() -> impl Strategy<Value = Spec> {
    let default_deny = select(vec![None, None, Some(true), Some(false)]);
    let entries = vec((0u8..4, 0u8..9, 0u8..8), 1..5);
    (0u8..3, default_deny, entries).prop_map(|(subject, default_deny, entries)| Spec {
        subject,
        default_deny,
        entries,
    })
}
