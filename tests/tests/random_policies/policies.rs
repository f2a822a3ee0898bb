//! Random policies of all kinds, from a seed.

use serde_json::{Map, Value, json};

use crate::cluster::{APPS, AUDIT, NAMESPACES, SERVICES};

/// Numbers from a seed (SplitMix64).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// As many policies as asked for.
pub(crate) fn policies(random: &mut Random, count: usize) -> Vec<Value> {
    (0..count).map(|index| policy(random, &format!("p{index}"))).collect()
}

fn policy(random: &mut Random, name: &str) -> Value {
    let mut policy = enforced(random, name);
    if random.chance(12) {
        policy["metadata"]["annotations"] = json!({AUDIT: "enabled"});
    }
    policy
}

fn enforced(random: &mut Random, name: &str) -> Value {
    let namespace = random.pick(&NAMESPACES);
    match random.below(10) {
        0..6 => {
            let mut object = json!({
                "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
                "metadata": {"name": name, "namespace": namespace},
            });
            if random.chance(15) {
                object["specs"] = json!([spec(random), spec(random)]);
            } else {
                object["spec"] = spec(random);
            }
            object
        }
        6..8 => json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
            "metadata": {"name": name}, "spec": spec(random),
        }),
        _ => json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace}, "spec": kubernetes(random),
        }),
    }
}

fn spec(random: &mut Random) -> Value {
    let mut spec = Map::new();
    spec.insert("endpointSelector".to_owned(), subject(random));
    for _ in 0..=random.below(3) {
        let section = random.pick(&["ingress", "egress", "ingress", "egress", "ingressDeny", "egressDeny"]);
        let entry = entry(random, section);
        let list = spec.entry(section).or_insert_with(|| json!([]));
        list.as_array_mut().expect("a list").push(entry);
    }
    if random.chance(30) {
        let (ingress, egress) = (random.chance(40), random.chance(40));
        spec.insert("enableDefaultDeny".to_owned(), json!({"ingress": ingress, "egress": egress}));
    }
    spec.into()
}

fn subject(random: &mut Random) -> Value {
    let app = random.pick(&APPS);
    match random.below(10) {
        0..8 => json!({"matchLabels": {"app": app}}),
        8 => {
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": [app, random.pick(&APPS)]}]})
        }
        _ => json!({"matchLabels": {"k8s:app": app}}),
    }
}

fn entry(random: &mut Random, section: &str) -> Value {
    let mut entry = Map::new();
    let direction = if section.starts_with("egress") { "to" } else { "from" };
    let has_ports = random.chance(75);
    let narrow = section.ends_with("Deny") && !has_ports;
    if !has_ports || random.chance(80) {
        let (kind, list) = match section {
            "egress" if random.chance(25) => outgoing(random),
            _ => peers(random, narrow),
        };
        entry.insert(format!("{direction}{kind}"), list);
    }
    if has_ports && random.chance(80) {
        let ports: Vec<Value> = (0..=random.below(3)).map(|_| port(random)).collect();
        entry.insert("toPorts".to_owned(), json!([{"ports": ports}]));
    } else if has_ports {
        let (family, echo) = random.pick(&[("IPv4", 8), ("IPv6", 128)]);
        let icmp_type = [json!(echo), json!("EchoRequest"), json!(13)][random.below(3)].clone();
        entry.insert("icmps".to_owned(), json!([{"fields": [{"family": family, "type": icmp_type}]}]));
    }
    entry.into()
}

/// Peers that only rules about what pods send can name.
fn outgoing(random: &mut Random) -> (&'static str, Value) {
    if random.chance(50) {
        let name = match random.below(3) {
            0 => json!({"matchPattern": "*.example.org"}),
            1 => json!({"matchPattern": "www.*"}),
            _ => json!({"matchName": random.pick(&["api.example.org", "www.other.test", "none.test"])}),
        };
        return ("FQDNs", json!([name]));
    }
    let service = random.pick(&SERVICES);
    ("Services", json!([{"k8sService": {"serviceName": service.name, "namespace": service.namespace}}]))
}

/// Peers; `narrow` leaves out those that would deny nearly everything.
fn peers(random: &mut Random, narrow: bool) -> (&'static str, Value) {
    let app = random.pick(&APPS);
    let pods = [
        json!({"matchLabels": {"app": app}}),
        json!({"matchLabels": {"app": app, "k8s:io.kubernetes.pod.namespace": random.pick(&NAMESPACES)}}),
        json!({"matchLabels": {"io.cilium.k8s.namespace.labels.team": "far", "app": app}}),
        json!({"matchExpressions": [
            {"key": "io.kubernetes.pod.namespace", "operator": "Exists"},
            {"key": "app", "operator": "In", "values": [app]},
        ]}),
        json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [app]}]}),
        json!({"matchLabels": {"reserved:host": ""}}),
        json!({}),
    ];
    match random.below(10) {
        0..6 => ("Endpoints", json!([pods[random.below(if narrow { 4 } else { pods.len() })]])),
        6 if !narrow => ("Entities", json!([random.pick(&["all", "cluster", "world", "host"])])),
        6 | 7 => {
            ("Entities", json!([random.pick(&["remote-node", "host", "world-ipv4", "world-ipv6", "health"])]))
        }
        8 => ("CIDR", json!([random.pick(&CIDRS)])),
        _ => ("CIDRSet", json!([random.pick(&CIDR_SETS).build(random)])),
    }
}

fn port(random: &mut Random) -> Value {
    let protocol = random.pick(&["TCP", "UDP", "ANY", "TCP"]);
    match random.below(10) {
        0..4 => {
            json!({"port": random.pick(&["80", "443", "8080", "9090", "53", "5353"]), "protocol": protocol})
        }
        4..7 => {
            let first = random.pick(&[1, 50, 100, 5000, 8000]);
            json!({"port": first.to_string(), "endPort": first + random.pick(&[50, 500, 4200]), "protocol": protocol})
        }
        7 | 8 => {
            let (name, protocol) =
                random.pick(&[("web", "TCP"), ("dns", "UDP"), ("web", "ANY"), ("none", "TCP")]);
            json!({"port": name, "protocol": protocol})
        }
        _ => json!({"port": "0", "protocol": protocol}),
    }
}

fn kubernetes(random: &mut Random) -> Value {
    let types = random.pick(&[&["Ingress"][..], &["Egress"], &["Ingress", "Egress"]]);
    let mut spec = json!({"podSelector": {"matchLabels": {"app": random.pick(&APPS)}}, "policyTypes": types});
    for (kind, section, peers) in [("Ingress", "ingress", "from"), ("Egress", "egress", "to")] {
        if !types.contains(&kind) {
            continue;
        }
        let entries = (0..random.below(3)).map(|_| kubernetes_entry(random, peers));
        spec[section] = entries.collect::<Vec<_>>().into();
    }
    spec
}

fn kubernetes_entry(random: &mut Random, peers: &str) -> Value {
    let mut entry = json!({});
    if random.chance(85) {
        let pods = json!({"matchLabels": {"app": random.pick(&APPS)}});
        let namespaces = json!({"matchLabels": {"team": random.pick(&["near", "far"])}});
        let peer = match random.below(5) {
            0 | 1 => json!({"podSelector": pods}),
            2 => json!({"namespaceSelector": namespaces, "podSelector": pods}),
            3 => json!({"namespaceSelector": namespaces}),
            _ => json!({"ipBlock": random.pick(&CIDR_SETS).build(random)}),
        };
        entry[peers] = json!([peer]);
    }
    if random.chance(75) {
        entry["ports"] = match random.below(4) {
            0 => json!([{"port": "web"}]),
            1 => json!([{"port": 1, "endPort": 500, "protocol": "TCP"}]),
            2 => json!([{"protocol": "UDP"}]),
            _ => json!([{"port": random.pick(&[80, 443, 8080, 9090])}]),
        };
    }
    entry
}

/// A prefix and one inside it.
#[derive(Clone, Copy, Debug)]
struct Net(&'static str, &'static str);

impl Net {
    fn build(self, random: &mut Random) -> Value {
        if random.chance(60) { json!({"cidr": self.0, "except": [self.1]}) } else { json!({"cidr": self.0}) }
    }
}

const CIDRS: [&str; 5] =
    ["10.9.0.0/16", "198.51.100.7", "203.0.113.0/24", "2001:db8:1::/48", "2001:db8:2::7"];
const CIDR_SETS: [Net; 5] = [
    Net("2001:db8::/32", "2001:db8:2::/48"),
    Net("::/0", "2001:db8:1::/48"),
    Net("192.168.0.0/16", "192.168.1.0/24"),
    Net("0.0.0.0/0", "198.51.100.0/24"),
    Net("203.0.113.0/24", "203.0.113.128/25"),
];
