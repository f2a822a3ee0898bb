//! For random rules and packets, the policy map and the evaluator of the rules must say the same.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use specola_labels::{Label, LabelSet, NumericIdentity, Requirement, Selector, SelectorKey};
use specola_policy::eval::{Packet, Verdict, evaluate};
use specola_policy::rule::{
    Action, AuthMode, Entity, HttpRule, IcmpFamily, IcmpMatch, L4, L7Rules, Peer, Port, PortMatch, Protocol,
    Rule, RuleEntry, RuleSubject, Tier,
};
use specola_policy::{
    AllowLocalhost, IdentityTable, IpFamilies, MapState, Mode, NamedPorts, PolicyKind, PolicyObject,
    PolicyRef, Repository, Section, Settings, Subject, cidr_identity_labels, resolve,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn map_and_rules_agree(
        policies in vec(policy(), 0..5),
        settings in settings(),
        packets in vec(packet(), 60),
        is_init in prop::bool::weighted(0.1),
    ) {
        let mut repository = Repository::new(settings);
        for (index, rule) in policies.into_iter().enumerate() {
            repository.upsert(object(index, rule));
        }
        let identities = identities(&repository);
        let subject = subject(is_init);
        let policy = resolve(&repository, &subject, &identities).unwrap();
        for packet in packets {
            let decision = evaluate(&repository, &subject, &identities, packet);
            let hit = policy.map.lookup(packet.peer, packet.egress, packet.proto, packet.port);
            let selected_by = if packet.egress { &policy.egress_selected_by } else { &policy.ingress_selected_by };
            let audited = hit.is_some_and(|(_, entry)| entry.audit);
            let (verdict, origins) = match hit {
                None => (Verdict::DefaultDeny, selected_by),
                Some((_, entry)) if entry.by_default => (Verdict::DefaultDeny, &entry.origins),
                Some((_, entry)) if entry.auth != 0 => (Verdict::AuthRequired, &entry.origins),
                Some((_, entry)) if entry.deny => (Verdict::Deny, &entry.origins),
                Some((_, entry)) if entry.redirect => (Verdict::Redirect, &entry.origins),
                Some((_, entry)) => (Verdict::Allow, &entry.origins),
            };
            prop_assert_eq!(verdict, decision.verdict, "{:?} {:#?}", packet, policy);
            prop_assert_eq!(audited, decision.audited, "{:?} {:#?}", packet, policy);
            prop_assert!(!origins.is_empty(), "{packet:?} {policy:#?}");
            prop_assert_eq!(origins, &decision.origins, "{:?}", packet);
        }
    }

    #[test]
    fn import_order_does_not_matter(policies in vec(policy(), 2..5), settings in settings()) {
        let resolved = |order: &mut dyn Iterator<Item = (usize, (bool, Rule))>| {
            let mut repository = Repository::new(settings.clone());
            for (index, rule) in order {
                repository.upsert(object(index, rule));
            }
            let identities = identities(&repository);
            let map = resolve(&repository, &subject(false), &identities).unwrap().map;
            map.iter()
                .map(|(key, entry)| (*key, entry.precedence, entry.origins.object_names()))
                .collect::<Vec<_>>()
        };
        let numbered: Vec<(usize, (bool, Rule))> = policies.into_iter().enumerate().collect();
        let forward = resolved(&mut numbered.clone().into_iter());
        let backward = resolved(&mut numbered.into_iter().rev());
        prop_assert_eq!(forward, backward);
    }

    #[test]
    fn a_diff_leads_from_one_map_to_the_other(
        old in vec(policy(), 0..4),
        new in vec(policy(), 0..4),
        settings in settings(),
    ) {
        let map = |policies: Vec<(bool, Rule)>| {
            let mut repository = Repository::new(settings.clone());
            for (index, rule) in policies.into_iter().enumerate() {
                repository.upsert(object(index, rule));
            }
            resolve(&repository, &subject(false), &identities(&repository)).unwrap().map
        };
        let (old, new) = (map(old), map(new));
        let diff = MapState::diff(&old, &new);
        let mut entries: std::collections::BTreeMap<_, _> =
            old.iter().map(|(key, entry)| (*key, entry.clone())).collect();
        for key in &diff.deletes {
            prop_assert!(entries.remove(key).is_some());
        }
        entries.extend(diff.upserts);
        prop_assert_eq!(MapState::from_entries(entries), new);
    }
}

/// A broad block of one peer and a narrower one of any peer, both redirects: the narrower one wins the tie, so the peer
/// needs an entry of its own there, although its broad block already says the same.
#[test]
fn a_tie_between_peer_and_anybody_names_both_rules() {
    let ports = |protocol, first, last, l7: bool| PortMatch {
        protocol,
        port: Port::Range { first, last },
        l7: l7.then(|| L7Rules::Http(vec![HttpRule::default()]).into()),
    };
    let peer = Peer::Endpoints(Selector::equals(SelectorKey::k8s("app"), "a"));
    let any = vec![ports(Protocol::Tcp, 74, 80, true), ports(Protocol::Tcp, 0, 65_535, false)];
    let own = vec![ports(Protocol::Tcp, 70, 81, true)];
    let entries = [(Peer::Any, any), (peer, own)]
        .into_iter()
        .zip(0..)
        .map(|((peer, ports), index)| RuleEntry::new(Section::Ingress, index, vec![peer], L4::Ports(ports)));
    let rule = Rule {
        subject: RuleSubject::Endpoints(Selector::default()),
        tier: Tier::Normal,
        priority: 0,
        entries: entries.collect(),
        default_deny_ingress: true,
        default_deny_egress: false,
        has_ingress: true,
        has_egress: false,
        labels: Vec::new(),
        description: String::new(),
        log: String::new(),
    };
    let mut repository = Repository::new(Settings::default());
    repository.upsert(object(0, (false, rule)));
    let identities = identities(&repository);
    let policy = resolve(&repository, &subject(false), &identities).unwrap();
    for port in 68..84 {
        let packet = Packet { peer: 256, egress: false, proto: 6, port };
        let decision = evaluate(&repository, &subject(false), &identities, packet);
        let (_, entry) = policy.map.lookup(256, false, 6, port).unwrap();
        assert_eq!(entry.redirect, decision.verdict == Verdict::Redirect, "{port}");
        assert_eq!(entry.origins, decision.origins, "{port}");
    }
}

fn object(index: usize, (audit, rule): (bool, Rule)) -> PolicyObject {
    PolicyObject {
        reference: PolicyRef {
            kind: PolicyKind::CiliumClusterwideNetworkPolicy,
            namespace: String::new(),
            name: format!("p{index}"),
        },
        uid: String::new(),
        audit,
        rules: vec![rule],
        file: "generated".to_owned(),
        line: 1,
        text: "".into(),
    }
}

fn subject(is_init: bool) -> Subject {
    let name = if is_init { "reserved:init" } else { "k8s:app=subject" };
    Subject {
        labels: [name.parse().unwrap()].into_iter().collect(),
        named_ports: NamedPorts::from([(("web".to_owned(), 6), BTreeSet::from([80]))]),
        ..Subject::default()
    }
}

/// Reserved identities, four pods, and one identity per prefix that policies name.
fn identities(repository: &Repository) -> IdentityTable {
    let mut table = IdentityTable::with_reserved();
    for (number, app) in (256..).zip(APPS) {
        let labels: LabelSet =
            [Label::k8s("app", app), Label::k8s("io.cilium.k8s.policy.cluster", "default")]
                .into_iter()
                .collect();
        table.insert(NumericIdentity(number), labels);
        let port = BTreeSet::from([80 + u16::try_from(number % 2).unwrap()]);
        table.set_named_ports(NumericIdentity(number), NamedPorts::from([(("web".to_owned(), 6), port)]));
    }
    for (number, prefix) in (NumericIdentity::LOCAL_MIN.0..).zip(repository.prefixes()) {
        table.insert(NumericIdentity(number), cidr_identity_labels(prefix, IpFamilies::Dual));
    }
    table
}

fn settings() -> impl Strategy<Value = Settings> {
    let mode = prop_oneof![
        8 => Just(Mode::Default),
        2 => Just(Mode::Always),
        1 => Just(Mode::Never),
    ];
    let localhost = select(vec![AllowLocalhost::Auto, AllowLocalhost::Policy]);
    (mode, localhost).prop_map(|(mode, allow_localhost)| Settings {
        mode,
        allow_localhost,
        ..Settings::default()
    })
}

/// A rule, and whether its policy is in audit mode.
fn policy() -> impl Strategy<Value = (bool, Rule)> {
    let rule = prop_oneof![3 => normal_rule().boxed(), 1 => tiered_rule().boxed()];
    (prop::bool::weighted(0.15), rule)
}

fn normal_rule() -> impl Strategy<Value = Rule> {
    let auth = prop_oneof![8 => Just(None), 1 => Just(Some(AuthMode::AlwaysFail))];
    let entries = vec((section(), vec(peer(), 0..3), l4(), auth), 0..4);
    let default_deny = (prop::bool::weighted(0.7), prop::bool::weighted(0.7));
    (entries, default_deny, prop::bool::weighted(0.9)).prop_map(|(entries, (ingress, egress), selects)| {
        let entry =
            |(index, (section, peers, l4, auth)): (u32, (Section, Vec<Peer>, L4, Option<AuthMode>))| {
                RuleEntry {
                    auth: auth.filter(|_| !section.is_deny()),
                    ..RuleEntry::new(section, index, peers, l4)
                }
            };
        let entries: Vec<RuleEntry> = (0..).zip(entries).map(entry).collect();
        rule(entries, (ingress, egress), selects)
    })
}

fn tiered_rule() -> impl Strategy<Value = Rule> {
    let action = || select(vec![Action::Allow, Action::Deny, Action::Pass]);
    let entries = vec((any::<bool>(), action(), vec(peer(), 1..3), l4_without_requests()), 1..4);
    let tier = select(vec![Tier::Admin, Tier::Baseline]);
    (entries, tier, 0u16..3).prop_map(|(entries, tier, priority)| {
        let entry = |(index, (egress, action, peers, l4)): (u32, (bool, Action, Vec<Peer>, L4))| RuleEntry {
            action,
            ..RuleEntry::new(Section::allow(egress), index, peers, l4)
        };
        let entries: Vec<RuleEntry> = (0..).zip(entries).map(entry).collect();
        Rule { tier, priority, ..rule(entries, (false, false), true) }
    })
}

fn rule(entries: Vec<RuleEntry>, (ingress, egress): (bool, bool), selects: bool) -> Rule {
    let has = |egress| entries.iter().any(|entry| entry.section.is_egress() == egress);
    let (has_ingress, has_egress) = (has(false), has(true));
    let selector = if selects { Selector::default() } else { Selector::reserved("health") };
    Rule {
        subject: RuleSubject::Endpoints(selector),
        tier: Tier::Normal,
        priority: 0,
        default_deny_ingress: ingress && has_ingress,
        default_deny_egress: egress && has_egress,
        has_ingress,
        has_egress,
        entries,
        labels: Vec::new(),
        description: String::new(),
        log: String::new(),
    }
}

fn l4_without_requests() -> impl Strategy<Value = L4> {
    l4().prop_map(|l4| match l4 {
        L4::Ports(ports) => L4::Ports(ports.into_iter().map(|port| PortMatch { l7: None, ..port }).collect()),
        other => other,
    })
}

fn section() -> impl Strategy<Value = Section> {
    prop_oneof![
        3 => Just(Section::Ingress),
        1 => Just(Section::IngressDeny),
        3 => Just(Section::Egress),
        1 => Just(Section::EgressDeny),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    let app = || select(APPS.to_vec());
    let equals = app().prop_map(|app| Peer::Endpoints(Selector::equals(SelectorKey::k8s("app"), app)));
    let not = app().prop_map(|app| {
        let values = BTreeSet::from([app.to_owned()]);
        let requirement = Requirement::from_expression(SelectorKey::k8s("app"), "NotIn", values).unwrap();
        Peer::Endpoints(Selector::new([requirement]))
    });
    let entity = select(vec![
        Entity::World,
        Entity::WorldIpv4,
        Entity::Host,
        Entity::RemoteNode,
        Entity::KubeApiserver,
        Entity::Cluster,
        Entity::None,
    ]);
    let net = || select(NETS.to_vec());
    let cidr = (net(), vec(net(), 0..2)).prop_map(|(prefix, except)| {
        let prefix: ipnet::IpNet = prefix.parse().unwrap();
        let inside = except
            .into_iter()
            .map(|net| net.parse::<ipnet::IpNet>().unwrap())
            .filter(|net| prefix.contains(net))
            .collect();
        Peer::Cidr { prefix, except: inside }
    });
    prop_oneof![
        2 => Just(Peer::Any),
        4 => equals,
        1 => not,
        2 => entity.prop_map(Peer::Entity),
        2 => cidr,
    ]
}

fn l4() -> impl Strategy<Value = L4> {
    let icmp = (select(vec![IcmpFamily::V4, IcmpFamily::V6]), select(vec![0u8, 8, 80]))
        .prop_map(|(family, icmp_type)| IcmpMatch { family, icmp_type });
    prop_oneof![
        2 => Just(L4::All),
        4 => vec(port(), 0..3).prop_map(L4::Ports),
        1 => vec(icmp, 0..3).prop_map(L4::Icmp),
    ]
}

fn port() -> impl Strategy<Value = PortMatch> {
    let protocol = select(vec![Protocol::Any, Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    let ports = prop_oneof![
        1 => Just(Port::All),
        1 => Just(Port::Named("web".to_owned())),
        6 => (76u16..90, 0u16..12).prop_map(|(first, more)| Port::Range { first, last: first + more }),
        1 => Just(Port::Range { first: 1, last: 65_535 }),
    ];
    (protocol, ports, prop::bool::weighted(0.15)).prop_map(|(protocol, port, l7)| PortMatch {
        protocol,
        port,
        l7: l7.then(|| L7Rules::Http(vec![HttpRule::default()]).into()),
    })
}

fn packet() -> impl Strategy<Value = Packet> {
    let peer = prop_oneof![
        6 => 256u32..261,
        3 => 0u32..12,
        3 => (0u32..6).prop_map(|n| NumericIdentity::LOCAL_MIN.0 + n),
    ];
    let l4 = prop_oneof![
        6 => (select(vec![6u8, 17, 132]), 74u16..104),
        1 => (select(vec![1u8, 58]), select(vec![0u16, 8, 80])),
        1 => (any::<u8>(), any::<u16>()),
    ];
    (peer, any::<bool>(), l4).prop_map(|(peer, egress, (proto, port))| Packet { peer, egress, proto, port })
}

const APPS: [&str; 4] = ["a", "b", "c", "subject"];
const NETS: [&str; 6] = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "::/0", "2001:db8::/32"];
