//! Decides by the documents themselves, in the plainest way: every rule is looked at for every question.
//!
//! It shares no code with the product. What it does not know, such as request rules, the random policies do not have.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::cluster::{AUDIT, DNS, NAMES, Pod, SERVICES, Service};

/// The other side of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer<'a> {
    Pod(&'a Pod),
    LocalNode,
    RemoteNode,
    Outside(IpAddr),
}

/// One packet at one pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) egress: bool,
    pub(crate) peer: Peer<'a>,
    /// `TCP`, `UDP`, `ICMP` or `ICMPv6`.
    pub(crate) proto: &'static str,
    /// Destination port, or ICMP type.
    pub(crate) port: u16,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Verdict {
    Allow,
    Deny,
    DefaultDeny,
}

/// What happens, and the rules that say so: `kind namespace/name section[index]`, or the name of a built-in rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// Passes all the same.
    pub(crate) audited: bool,
    pub(crate) rules: BTreeSet<String>,
}

pub(crate) fn decide(policies: &[Value], question: Question<'_>) -> Answer {
    let direction = if question.egress { "egress" } else { "ingress" };
    let mut allows = BTreeSet::new();
    // Of each kind those in force, and those in audit mode.
    let (mut denies, mut closing) = ([BTreeSet::new(), BTreeSet::new()], [BTreeSet::new(), BTreeSet::new()]);
    let mut is_selected = false;
    for policy in policies {
        let kind = text(&policy["kind"]);
        let name = format!(
            "{kind} {}/{}",
            text(&policy["metadata"]["namespace"]),
            text(&policy["metadata"]["name"])
        );
        let audit = usize::from(policy["metadata"]["annotations"][AUDIT] == "enabled");
        let mut counted = [0, 0];
        for (number, spec) in specs(policy).into_iter().enumerate() {
            let sections = [direction.to_owned(), format!("{direction}Deny")];
            let selects = selects_subject(policy, spec, question.pod);
            if selects && is_present(kind, spec, direction) {
                is_selected = true;
                if spec["enableDefaultDeny"][direction] != false {
                    closing[audit].insert(format!("{name} {direction}[{number}]"));
                }
            }
            for (list, section) in sections.iter().enumerate() {
                for entry in array(&spec[section]) {
                    let rule = format!("{name} {section}[{}]", counted[list]);
                    counted[list] += 1;
                    if selects && is_present(kind, spec, direction) && matches_entry(policy, entry, question)
                    {
                        if list == 0 {
                            allows.insert(rule)
                        } else {
                            denies[audit].insert(rule)
                        };
                    }
                }
            }
        }
    }
    let is_local = !question.egress && matches!(question.peer, Peer::LocalNode);
    let any = || BTreeSet::from([format!("allow-any-{direction}")]);
    let [enforced, audited] = denies;
    let [closing, would_close] = closing;
    let (verdict, is_audited, rules) = if !is_selected {
        (Verdict::Allow, false, any())
    } else if !enforced.is_empty() {
        (Verdict::Deny, false, enforced)
    } else if is_local || !allows.is_empty() {
        if is_local {
            allows.insert("allow-localhost-ingress".to_owned());
        }
        (Verdict::Allow, false, allows)
    } else if !closing.is_empty() {
        (Verdict::DefaultDeny, false, closing)
    } else if !would_close.is_empty() {
        (Verdict::DefaultDeny, true, would_close)
    } else {
        (Verdict::Allow, false, any())
    };
    // A deny that is only audited is told where the packet passes.
    let (verdict, is_audited, rules) = if !audited.is_empty() && (is_audited || verdict == Verdict::Allow) {
        (Verdict::Deny, true, audited)
    } else {
        (verdict, is_audited, rules)
    };
    let is_audited = is_audited || (question.pod.is_audited() && verdict != Verdict::Allow);
    Answer { verdict, audited: is_audited, rules }
}

impl Answer {
    /// Whether packets go on.
    pub(crate) fn passes(&self) -> bool {
        self.audited || self.verdict == Verdict::Allow
    }
}

fn specs(policy: &Value) -> Vec<&Value> {
    match policy.get("spec") {
        Some(spec) => vec![spec],
        None => array(&policy["specs"]).iter().collect(),
    }
}

/// Whether a rule speaks of a direction.
fn is_present(kind: &str, spec: &Value, direction: &str) -> bool {
    if kind == "NetworkPolicy" {
        let types = array(&spec["policyTypes"]);
        return types.iter().any(|one| text(one).eq_ignore_ascii_case(direction));
    }
    !array(&spec[direction]).is_empty() || !array(&spec[format!("{direction}Deny")]).is_empty()
}

fn selects_subject(policy: &Value, spec: &Value, pod: &Pod) -> bool {
    let namespace = &policy["metadata"]["namespace"];
    if !namespace.is_null() && text(namespace) != pod.namespace {
        return false;
    }
    let selector =
        if spec["podSelector"].is_null() { &spec["endpointSelector"] } else { &spec["podSelector"] };
    matches_selector(selector, &pod.labels(), "")
}

fn matches_entry(policy: &Value, entry: &Value, question: Question<'_>) -> bool {
    let is_kubernetes = text(&policy["kind"]) == "NetworkPolicy";
    let direction = if question.egress { "to" } else { "from" };
    let (has_peers, peer) = if is_kubernetes {
        let peers = array(&entry[direction]);
        (!peers.is_empty(), peers.iter().any(|peer| kubernetes_peer(policy, peer, question.peer)))
    } else {
        cilium_peer(policy, entry, direction, question.peer)
    };
    let (ports, icmps) =
        if is_kubernetes { (&entry["ports"], &Value::Null) } else { (&entry["toPorts"], &entry["icmps"]) };
    let has_ports = !array(ports).is_empty() || !array(icmps).is_empty();
    let port = if !array(icmps).is_empty() {
        array(icmps).iter().flat_map(|one| array(&one["fields"])).any(|field| {
            let (proto, echo) = if field["family"] == "IPv6" { ("ICMPv6", 128) } else { ("ICMP", 8) };
            let wanted =
                field["type"].as_u64().unwrap_or(if field["type"] == "EchoRequest" { echo } else { 255 });
            question.proto == proto && wanted == u64::from(question.port)
        })
    } else if is_kubernetes {
        array(ports).iter().any(|port| matches_port(port, "TCP", question))
    } else {
        array(ports)
            .iter()
            .flat_map(|one| array(&one["ports"]))
            .any(|port| matches_port(port, "ANY", question))
    };
    // Without peers: everybody, but for a Cilium entry without ports, which matches nothing.
    let peer = if has_peers { peer } else { has_ports || is_kubernetes };
    peer && (!has_ports || port)
}

/// Whether the entry names peers, and whether this is one.
fn cilium_peer(policy: &Value, entry: &Value, direction: &str, peer: Peer<'_>) -> (bool, bool) {
    let field = |name: &str| entry.get(format!("{direction}{name}"));
    if let Some(selectors) = field("Endpoints") {
        let is_one = array(selectors).iter().any(|selector| cilium_endpoints(policy, selector, peer));
        return (true, is_one);
    }
    if let Some(entities) = field("Entities") {
        return (true, array(entities).iter().any(|name| is_entity(text(name), peer)));
    }
    if let Some(services) = field("Services") {
        return (true, array(services).iter().any(|service| is_behind(&service["k8sService"], peer)));
    }
    if let Some(names) = field("FQDNs") {
        return (true, array(names).iter().any(|name| has_name(name, peer)));
    }
    let Peer::Outside(address) = peer else {
        return (field("CIDR").is_some() || field("CIDRSet").is_some(), false);
    };
    if let Some(list) = field("CIDR") {
        return (true, array(list).iter().any(|net| contains(text(net), address)));
    }
    match field("CIDRSet") {
        Some(list) => (true, array(list).iter().any(|set| in_block(set, address))),
        None => (false, false),
    }
}

/// Whether a service leads to the peer.
fn is_behind(wanted: &Value, peer: Peer<'_>) -> bool {
    let is_wanted = |service: &&Service| {
        wanted["namespace"] == *service.namespace && wanted["serviceName"] == *service.name
    };
    SERVICES.iter().filter(is_wanted).any(|service| match peer {
        Peer::Pod(pod) => service.app == Some(pod.app) && service.namespace == pod.namespace,
        Peer::Outside(address) => service.addresses.iter().any(|one| one.parse() == Ok(address)),
        Peer::LocalNode | Peer::RemoteNode => false,
    })
}

/// Whether an address of a wanted name is the peer.
fn has_name(wanted: &Value, peer: Peer<'_>) -> bool {
    let Peer::Outside(address) = peer else { return false };
    let is_wanted = |name: &str| match (wanted["matchName"].as_str(), wanted["matchPattern"].as_str()) {
        (Some(whole), _) => whole == name,
        // A star stands for one label or more letters of one.
        (None, Some("*.example.org")) => {
            name.strip_suffix(".example.org").is_some_and(|rest| !rest.contains('.'))
        }
        (None, Some("www.*")) => name.strip_prefix("www.").is_some_and(|rest| !rest.contains('.')),
        (None, other) => panic!("the oracle does not know the pattern {other:?}"),
    };
    let mut matching = NAMES.iter().filter(|(name, _)| is_wanted(name));
    matching.any(|(_, addresses)| addresses.iter().any(|one| one.parse() == Ok(address)))
}

fn cilium_endpoints(policy: &Value, selector: &Value, peer: Peer<'_>) -> bool {
    let labels = labels_of(peer);
    if !matches_selector(selector, &labels, "") {
        return false;
    }
    let keys = keys(selector);
    if keys.iter().any(|key| key.starts_with("reserved:")) {
        return true;
    }
    let says_namespace = keys.iter().any(|key| {
        let key = key.strip_prefix("k8s:").unwrap_or(key);
        key == "io.kubernetes.pod.namespace" || key.starts_with("io.cilium.k8s.namespace.labels.")
    });
    // Only pods have a namespace.
    let Peer::Pod(pod) = peer else { return false };
    let own = &policy["metadata"]["namespace"];
    says_namespace || own.is_null() || text(own) == pod.namespace
}

fn kubernetes_peer(policy: &Value, wanted: &Value, peer: Peer<'_>) -> bool {
    if let Some(block) = wanted.get("ipBlock") {
        return matches!(peer, Peer::Outside(address) if in_block(block, address));
    }
    let Peer::Pod(pod) = peer else { return false };
    let namespace = match wanted.get("namespaceSelector") {
        Some(selector) => matches_selector(selector, &pod.labels(), "io.cilium.k8s.namespace.labels."),
        None => pod.namespace == text(&policy["metadata"]["namespace"]),
    };
    namespace
        && wanted.get("podSelector").is_none_or(|selector| matches_selector(selector, &pod.labels(), ""))
}

fn is_entity(name: &str, peer: Peer<'_>) -> bool {
    match name {
        "all" => true,
        "cluster" => !matches!(peer, Peer::Outside(_)),
        "world" => matches!(peer, Peer::Outside(_)),
        "world-ipv4" => matches!(peer, Peer::Outside(address) if address.is_ipv4()),
        "world-ipv6" => matches!(peer, Peer::Outside(address) if address.is_ipv6()),
        "host" => matches!(peer, Peer::LocalNode),
        "remote-node" => matches!(peer, Peer::RemoteNode),
        "health" => false,
        other => panic!("the oracle does not know the entity {other}"),
    }
}

fn labels_of(peer: Peer<'_>) -> Vec<(&'static str, String, String)> {
    let reserved = |name: &str| vec![("reserved", name.to_owned(), String::new())];
    match peer {
        Peer::Pod(pod) => pod.labels(),
        Peer::LocalNode => reserved("host"),
        Peer::RemoteNode => reserved("remote-node"),
        Peer::Outside(address) if address.is_ipv4() => reserved("world-ipv4"),
        Peer::Outside(_) => reserved("world-ipv6"),
    }
}

/// `prefix` is put before each key.
fn matches_selector(selector: &Value, labels: &[(&str, String, String)], prefix: &str) -> bool {
    let value = |key: &str| {
        let (source, key) = match key.split_once(':') {
            Some((source, key)) => (Some(source), key),
            None => (None, key),
        };
        let wanted = format!("{prefix}{key}");
        let found =
            labels.iter().find(|label| source.is_none_or(|source| source == label.0) && label.1 == wanted);
        found.map(|label| label.2.as_str())
    };
    let equal = selector["matchLabels"].as_object();
    let mut equal = equal.into_iter().flatten();
    equal.all(|(key, wanted)| value(key) == Some(text(wanted)))
        && array(&selector["matchExpressions"]).iter().all(|expression| {
            let found = value(text(&expression["key"]));
            let listed =
                found.is_some_and(|found| array(&expression["values"]).iter().any(|one| one == found));
            match text(&expression["operator"]) {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => found.is_some(),
                other => panic!("the oracle does not know the operator {other}"),
            }
        })
}

fn keys(selector: &Value) -> Vec<&str> {
    let equal = selector["matchLabels"].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    equal.chain(array(&selector["matchExpressions"]).iter().map(|one| text(&one["key"]))).collect()
}

fn matches_port(port: &Value, default: &str, question: Question<'_>) -> bool {
    let protocol = port["protocol"].as_str().unwrap_or(default);
    if question.proto.starts_with("ICMP") || (protocol != "ANY" && protocol != question.proto) {
        return false;
    }
    let first = match &port["port"] {
        Value::Null => return true,
        Value::Number(number) => number.as_u64().expect("a port"),
        other => match other.as_str().expect("a port").parse::<u64>() {
            Ok(0) => return true,
            Ok(number) => number,
            Err(_name) => return named_port(text(other), question) == Some(question.port),
        },
    };
    let last = port["endPort"].as_u64().filter(|last| *last > first).unwrap_or(first);
    (first..=last).contains(&question.port.into())
}

/// The number behind a name: the receiver's.
fn named_port(name: &str, question: Question<'_>) -> Option<u16> {
    let receiver = match (question.egress, question.peer) {
        (false, _) => question.pod,
        (true, Peer::Pod(pod)) => pod,
        (true, _) => return None,
    };
    match (name, question.proto) {
        ("web", "TCP") => Some(receiver.web),
        ("dns", "UDP") => Some(DNS),
        _ => None,
    }
}

fn in_block(block: &Value, address: IpAddr) -> bool {
    contains(text(&block["cidr"]), address)
        && !array(&block["except"]).iter().any(|net| contains(text(net), address))
}

fn contains(net: &str, address: IpAddr) -> bool {
    let (base, bits) = net.split_once('/').map_or((net, None), |(base, bits)| (base, Some(bits)));
    let bits = bits.map(|bits| bits.parse::<u32>().expect("a length"));
    match (base.parse().expect("an address"), address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - bits.unwrap_or(32)).unwrap_or(0);
            u32::from(base) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - bits.unwrap_or(128)).unwrap_or(0);
            u128::from(base) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
