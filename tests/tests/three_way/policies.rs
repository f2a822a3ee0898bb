//! Random policies, valid by construction: all three kinds, as documents.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use specola_labels::LabelSet;
use specola_policy::{AUDIT_ANNOTATION, AllowLocalhost, Mode, Settings, Subject};

use crate::cluster::{NETS, named_port, net, pod_labels};

/// Pods that policies are tried on.
pub(crate) const SUBJECTS: [&str; 2] = ["app=subject", "a pod without labels yet"];

/// An index into [`SUBJECTS`].
pub(crate) fn subject() -> impl Strategy<Value = usize> {
    prop_oneof![9 => Just(0), 1 => Just(1)]
}

pub(crate) fn subject_of(index: usize) -> Subject {
    let labels: LabelSet = match index {
        0 => pod_labels("subject", "default"),
        _ => ["reserved:init".parse().expect("a label")].into_iter().collect(),
    };
    Subject { labels, namespace: "default".to_owned(), named_ports: named_port(80), is_host: false }
}

pub(crate) fn settings() -> impl Strategy<Value = Settings> {
    let mode = prop_oneof![12 => Just(Mode::Default), 2 => Just(Mode::Always), 1 => Just(Mode::Never)];
    let localhost = select(vec![AllowLocalhost::Auto, AllowLocalhost::Policy]);
    (mode, localhost).prop_map(|(mode, allow_localhost)| Settings {
        mode,
        allow_localhost,
        ..Settings::default()
    })
}

/// Up to five policies of different names.
pub(crate) fn documents() -> impl Strategy<Value = Vec<Value>> {
    let document = prop_oneof![4 => cilium(true), 3 => cilium(false), 2 => kubernetes(), 2 => tiered()];
    vec((document, prop::bool::weighted(0.15)), 0..=5).prop_map(|documents| {
        let (mut documents, audited): (Vec<Value>, Vec<bool>) = documents.into_iter().unzip();
        for ((index, document), audited) in documents.iter_mut().enumerate().zip(audited) {
            if audited {
                document["metadata"]["annotations"] = json!({AUDIT_ANNOTATION: "enabled"});
            }
            document["metadata"]["name"] = format!("p{index}").into();
        }
        documents
    })
}

fn cilium(namespaced: bool) -> impl Strategy<Value = Value> {
    let entries = vec((section(), peers(), ports(), prop::bool::weighted(0.1)), 1..=5);
    let default_deny = (prop::bool::weighted(0.75), prop::bool::weighted(0.75));
    (subject_selector(), entries, default_deny).prop_map(move |(subject, entries, (ingress, egress))| {
        let mut spec = Map::new();
        spec.insert("endpointSelector".to_owned(), subject);
        spec.insert("enableDefaultDeny".to_owned(), json!({"ingress": ingress, "egress": egress}));
        for (section, peers, ports, needs_auth) in entries {
            let list = spec.entry(section).or_insert_with(|| json!([]));
            let mut entry = entry(section, peers, ports);
            if needs_auth && !section.ends_with("Deny") {
                entry["authentication"] = json!({"mode": "required"});
            }
            list.as_array_mut().expect("a list").push(entry);
        }
        let (kind, metadata) = if namespaced {
            ("CiliumNetworkPolicy", json!({"namespace": "default"}))
        } else {
            ("CiliumClusterwideNetworkPolicy", json!({}))
        };
        json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec})
    })
}

/// Puts peers under the field name of their direction; request rules stand in allow sections only.
fn entry(section: &str, peers: Option<(&str, Value)>, ports: Option<(&str, Value)>) -> Value {
    let mut entry = Map::new();
    if let Some((kind, list)) = peers {
        let direction = if section.starts_with("egress") { "to" } else { "from" };
        entry.insert(format!("{direction}{kind}"), list);
    }
    if let Some((field, mut list)) = ports {
        if section.ends_with("Deny") {
            for rule in list.as_array_mut().expect("a list") {
                rule.as_object_mut().expect("a mapping").remove("rules");
            }
        }
        entry.insert(field.to_owned(), list);
    }
    entry.into()
}

fn section() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        3 => Just("ingress"),
        2 => Just("ingressDeny"),
        3 => Just("egress"),
        2 => Just("egressDeny"),
    ]
}

fn subject_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => Just(json!({})),
        4 => Just(json!({"matchLabels": {"app": "subject"}})),
        1 => Just(json!({"matchLabels": {"app": "a"}})),
        1 => Just(json!({"matchLabels": {"reserved:init": ""}})),
    ]
}

/// Peers under the end of their field name; none = any peer where ports are named.
fn peers() -> impl Strategy<Value = Option<(&'static str, Value)>> {
    let entity = select(vec![
        "all",
        "world",
        "world-ipv4",
        "world-ipv6",
        "host",
        "remote-node",
        "kube-apiserver",
        "cluster",
        "health",
        "ingress",
        "unmanaged",
        "none",
    ]);
    let cidr_set = cidr_with_except().prop_map(|(cidr, except)| json!({"cidr": cidr, "except": except}));
    let list = |element: BoxedStrategy<Value>| vec(element, 1..=2).prop_map(Value::from);
    let net = select(NETS.to_vec()).prop_map(Value::from);
    prop_oneof![
        4 => Just(None),
        5 => vec(peer_selector(), 0..=2).prop_map(|list| Some(("Endpoints", list.into()))),
        3 => list(entity.prop_map(Value::from).boxed()).prop_map(|list| Some(("Entities", list))),
        2 => list(net.boxed()).prop_map(|list| Some(("CIDR", list))),
        3 => list(cidr_set.boxed()).prop_map(|list| Some(("CIDRSet", list))),
    ]
}

fn app() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c", "d", "subject"])
}

fn peer_selector() -> impl Strategy<Value = Value> {
    let expression = |key: &'static str, operator: &'static str, values: Value| {
        let mut expression = json!({"key": key, "operator": operator});
        if !values.is_null() {
            expression["values"] = values;
        }
        json!({"matchExpressions": [expression]})
    };
    prop_oneof![
        4 => app().prop_map(|app| json!({"matchLabels": {"app": app}})),
        1 => app().prop_map(move |app| expression("app", "NotIn", json!([app]))),
        1 => Just(expression("io.kubernetes.pod.namespace", "Exists", Value::Null)),
        1 => Just(json!({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other"}})),
        1 => Just(json!({"matchLabels": {"reserved:host": ""}})),
        1 => Just(json!({})),
    ]
}

/// A prefix of [`NETS`] with others of them that lie inside.
fn cidr_with_except() -> impl Strategy<Value = (&'static str, Vec<&'static str>)> {
    (select(NETS.to_vec()), vec(select(NETS.to_vec()), 0..=2)).prop_map(|(cidr, except)| {
        let inside = |other: &&str| *other != cidr && net(cidr).contains(&net(other));
        (cidr, except.into_iter().filter(inside).collect())
    })
}

/// `toPorts` or `icmps`; none = everything.
fn ports() -> impl Strategy<Value = Option<(&'static str, Value)>> {
    let field = (select(vec!["IPv4", "IPv6"]), select(vec![0, 1, 3, 8, 13, 80, 128, 129]))
        .prop_map(|(family, icmp_type)| json!({"family": family, "type": icmp_type}));
    let icmps = vec(field, 1..=3).prop_map(|fields| json!([{"fields": fields}]));
    let with_requests = (70u16..100, 1u16..20).prop_map(|(first, more)| {
        let ports = json!([{"port": first.to_string(), "endPort": first + more, "protocol": "TCP"}]);
        json!({"ports": ports, "rules": {"http": [{"method": "GET"}]}})
    });
    let plain = vec(port(), 1..=3).prop_map(|ports| json!({"ports": ports}));
    let rule = prop_oneof![5 => plain, 2 => with_requests];
    prop_oneof![
        2 => Just(None),
        6 => vec(rule, 1..=2).prop_map(|rules| Some(("toPorts", rules.into()))),
        1 => icmps.prop_map(|icmps| Some(("icmps", icmps))),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = || select(vec!["TCP", "UDP", "SCTP", "ANY", "ANY"]);
    let range = |first: u16, last: u16| json!({"port": first.to_string(), "endPort": last});
    let number = prop_oneof![
        3 => (70u16..100).prop_map(|port| json!({"port": port.to_string()})),
        4 => (70u16..100, 1u16..30).prop_map(move |(first, more)| range(first, first + more)),
        1 => (1u16..=u16::MAX, any::<u16>()).prop_map(move |(a, b)| range(a.min(b).max(1), a.max(b))),
        1 => Just(json!({"port": "0"})),
        1 => Just(json!({"port": "web"})),
    ];
    (protocol(), number).prop_map(|(protocol, mut port)| {
        port["protocol"] = protocol.into();
        port
    })
}

/// A ClusterNetworkPolicy.
fn tiered() -> impl Strategy<Value = Value> {
    let action = select(vec!["Accept", "Deny", "Pass"]);
    let pods = prop_oneof![
        1 => Just(json!({"namespaces": {}})),
        2 => Just(json!({"namespaces": {"matchLabels": {"team": "other-team"}}})),
        3 => app().prop_map(|app| json!({"pods": {"podSelector": {"matchLabels": {"app": app}}}})),
    ];
    let network = select(NETS.to_vec()).prop_map(|net| json!({"networks": [net]}));
    let peer = prop_oneof![3 => pods, 1 => network];
    let number = (70u16..100).prop_map(|port| json!({"destinationPort": {"number": port}}));
    let range = (70u16..100, 0u16..20).prop_map(
        |(start, more)| json!({"destinationPort": {"range": {"start": start, "end": start + more}}}),
    );
    let port = prop_oneof![number.boxed(), range.boxed()];
    let protocol = prop_oneof![
        8 => (select(vec!["tcp", "udp", "sctp"]), port).prop_map(|(name, port)| json!({name: port})),
        1 => Just(json!({"destinationNamedPort": "web"})),
    ];
    let rule = (any::<bool>(), action, vec(peer, 1..=2), prop::option::of(vec(protocol, 1..=2)));
    (select(vec!["Admin", "Baseline"]), 0..3, vec(rule, 1..=4)).prop_map(|(tier, priority, rules)| {
        let (mut ingress, mut egress) = (Vec::new(), Vec::new());
        for (is_egress, action, mut peers, protocols) in rules {
            if !is_egress {
                // Networks are for outgoing packets only.
                peers.retain(|peer| peer.get("networks").is_none());
            }
            if peers.is_empty() {
                continue;
            }
            let mut rule = json!({"action": action, (if is_egress { "to" } else { "from" }): peers});
            if let Some(protocols) = protocols {
                rule["protocols"] = protocols.into();
            }
            if is_egress { egress.push(rule) } else { ingress.push(rule) }
        }
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {},
            "spec": {
                "tier": tier,
                "priority": priority,
                "subject": {"namespaces": {}},
                "ingress": ingress,
                "egress": egress,
            },
        })
    })
}

fn kubernetes() -> impl Strategy<Value = Value> {
    let entries = || vec((vec(kubernetes_peer(), 0..=2), vec(kubernetes_port(), 0..=2)), 0..=2);
    let selector = prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!({"matchLabels": {"app": "subject"}})),
        1 => Just(json!({"matchLabels": {"app": "a"}})),
    ];
    let types = select(vec![vec!["Ingress"], vec!["Egress"], vec!["Ingress", "Egress"]]);
    (selector, types, entries(), entries()).prop_map(|(selector, types, ingress, egress)| {
        let list = |entries: Vec<(Vec<Value>, Vec<Value>)>, peers: &str| -> Vec<Value> {
            entries.into_iter().map(|(from, ports)| json!({peers: from, "ports": ports})).collect()
        };
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": "default"},
            "spec": {
                "podSelector": selector,
                "policyTypes": types,
                "ingress": list(ingress, "from"),
                "egress": list(egress, "to"),
            },
        })
    })
}

fn kubernetes_peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => app().prop_map(|app| json!({"podSelector": {"matchLabels": {"app": app}}})),
        1 => Just(json!({"namespaceSelector": {}})),
        1 => Just(json!({"namespaceSelector": {"matchLabels": {"team": "other-team"}}, "podSelector": {}})),
        2 => cidr_with_except()
            .prop_map(|(cidr, except)| json!({"ipBlock": {"cidr": cidr, "except": except}})),
    ]
}

fn kubernetes_port() -> impl Strategy<Value = Value> {
    let protocol = select(vec!["TCP", "UDP", "SCTP"]);
    let port = prop_oneof![
        1 => Just(json!({})),
        3 => (70u16..100).prop_map(|port| json!({"port": port})),
        3 => (70u16..100, 0u16..30).prop_map(|(first, more)| json!({"port": first, "endPort": first + more})),
        1 => Just(json!({"port": "web"})),
    ];
    (protocol, port).prop_map(|(protocol, mut port)| {
        port["protocol"] = protocol.into();
        port
    })
}
