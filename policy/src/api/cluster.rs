//! `ClusterNetworkPolicy` of Kubernetes (policy.networking.k8s.io/v1alpha2).

use specola_labels::{NAMESPACE_KEY, Requirement, Selector, SelectorKey, source};

use super::ParseOptions;
use super::kubernetes::{k8s_key, read_namespaces};
use super::metadata::{Metadata, read_metadata};
use super::peers::read_prefix;
use super::read::{At, Fields, Problems};
use super::selector::read_selector;
use crate::origin::Section;
use crate::rule::{
    Action, DnsRule, L4, Peer, PolicyKind, Port, PortMatch, Protocol, Rule, RuleEntry, RuleSubject, Tier,
};
use crate::yaml::Node;

/// Reads an object. None only after an error was recorded.
pub(super) fn read(
    node: &Node,
    options: ParseOptions,
    problems: &mut Problems,
) -> Option<(Metadata, Vec<Rule>)> {
    let mut root = At::root(node).fields(problems)?;
    let metadata = read_metadata(&mut root, PolicyKind::ClusterNetworkPolicy, problems);
    let spec = root.get("spec");
    if spec.is_none() {
        problems.error(&root.at().named("spec"), "spec must be given");
    }
    if !options.cluster_network_policy {
        let message = "ClusterNetworkPolicy can only be applied when the \"enable-k8s-cluster-network-policy\" flag is set";
        problems.error(root.at(), message);
    }
    root.finish(problems);
    let rule = read_spec(&spec?, options, problems);
    Some((metadata?, vec![rule?]))
}

fn read_spec(at: &At<'_>, options: ParseOptions, problems: &mut Problems) -> Option<Rule> {
    let mut fields = at.fields(problems)?;
    let tier = read_tier(&mut fields, problems);
    let priority = match fields.get("priority") {
        Some(at) => at.integer(0, MAX_PRIORITY, problems).and_then(|number| u16::try_from(number).ok()),
        None => {
            problems.error(at, format!("priority must be given: 0 to {MAX_PRIORITY}, lower ones first"));
            None
        }
    };
    let subject = match fields.get("subject") {
        Some(subject) => read_subject(&subject, problems),
        None => {
            problems.error(at, "subject must be given: namespaces or pods");
            None
        }
    };
    let mut entries = Vec::new();
    let mut sizes = [0; 2];
    for (section, size) in [Section::Ingress, Section::Egress].into_iter().zip(&mut sizes) {
        let elements = fields.list(section.as_str(), problems).unwrap_or_default();
        *size = elements.len();
        if elements.len() > MAX_RULES {
            problems.error(at, format!("too many {} rules, the max is {MAX_RULES}", section.as_str()));
        }
        for (index, element) in (0..).zip(&elements) {
            entries.extend(read_entry(element, section, index, options, problems));
        }
    }
    fields.finish(problems);
    Some(Rule {
        subject: RuleSubject::Endpoints(subject?),
        tier: tier?,
        priority: priority?,
        entries,
        // Such objects never close what they do not name.
        default_deny_ingress: false,
        default_deny_egress: false,
        has_ingress: sizes[0] > 0,
        has_egress: sizes[1] > 0,
        labels: Vec::new(),
        description: String::new(),
        log: String::new(),
    })
}

fn read_tier(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Tier> {
    let Some(at) = fields.get("tier") else {
        problems.error(fields.at(), "tier must be given: Admin or Baseline");
        return None;
    };
    match at.text(problems)? {
        "Admin" => Some(Tier::Admin),
        "Baseline" => Some(Tier::Baseline),
        other => {
            problems.error(&at, format!("unknown tier \"{other}\"; use Admin or Baseline"));
            None
        }
    }
}

/// `namespaces` or `pods`.
fn read_subject(at: &At<'_>, problems: &mut Problems) -> Option<Selector> {
    let mut fields = at.fields(problems)?;
    let namespaces = fields.get("namespaces");
    let pods = fields.get("pods");
    fields.finish(problems);
    match (namespaces, pods) {
        (Some(namespaces), None) => read_namespaces(&namespaces, problems),
        (None, Some(pods)) => read_pods(&pods, problems),
        _ => {
            problems.error(at, "exactly one of namespaces and pods must be given");
            None
        }
    }
}

fn read_pods(at: &At<'_>, problems: &mut Problems) -> Option<Selector> {
    let mut fields = at.fields(problems)?;
    let namespaces = fields.get("namespaceSelector");
    let pods = fields.get("podSelector");
    fields.finish(problems);
    let namespaces = match namespaces {
        Some(namespaces) => read_namespaces(&namespaces, problems),
        None => Some(Selector::new([Requirement::exists(SelectorKey::k8s(NAMESPACE_KEY))])),
    };
    let pods = match pods {
        Some(pods) => read_selector(&pods, k8s_key, problems),
        None => Some(Selector::default()),
    };
    Some(namespaces?.and(pods?.requirements().iter().cloned()))
}

fn read_entry(
    at: &At<'_>,
    section: Section,
    index: u32,
    options: ParseOptions,
    problems: &mut Problems,
) -> Option<RuleEntry> {
    let mut fields = at.fields(problems)?;
    let _name = fields.text("name", problems);
    let action = match fields.get("action") {
        Some(action) => read_action(&action, problems),
        None => {
            problems.error(at, "action must be given: Accept, Deny or Pass");
            None
        }
    };
    let list = if section.is_egress() { "to" } else { "from" };
    let elements = fields.list(list, problems).unwrap_or_default();
    if elements.is_empty() {
        problems.error(at, format!("{list} must name at least one peer"));
    }
    let protocols = fields.get("protocols").map(|at| at.list(problems));
    fields.finish(problems);
    let mut peers = Vec::new();
    for element in &elements {
        peers.extend(read_peers(element, section, action, options, problems));
    }
    let l4 = match protocols {
        None => L4::All,
        Some(elements) => {
            L4::Ports(elements.iter().filter_map(|element| read_protocol(element, problems)).collect())
        }
    };
    Some(RuleEntry { section, index, peers, l4, action: action?, auth: None })
}

fn read_action(at: &At<'_>, problems: &mut Problems) -> Option<Action> {
    match at.text(problems)? {
        "Accept" => Some(Action::Allow),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        other => {
            problems.error(at, format!("unknown action \"{other}\"; use Accept, Deny or Pass"));
            None
        }
    }
}

fn read_peers(
    at: &At<'_>,
    section: Section,
    action: Option<Action>,
    options: ParseOptions,
    problems: &mut Problems,
) -> Vec<Peer> {
    let Some(mut fields) = at.fields(problems) else {
        return Vec::new();
    };
    let mut peers = Vec::new();
    let mut given = 0;
    if let Some(namespaces) = fields.get("namespaces") {
        given += 1;
        peers.extend(read_namespaces(&namespaces, problems).map(Peer::Endpoints));
    }
    if let Some(pods) = fields.get("pods") {
        given += 1;
        peers.extend(read_pods(&pods, problems).map(Peer::Endpoints));
    }
    if section.is_egress() {
        if let Some(networks) = fields.get("networks") {
            given += 1;
            let prefixes = networks.list(problems).into_iter();
            let prefixes = prefixes.filter_map(|at| read_prefix(&at, "CIDR", problems));
            peers.extend(prefixes.map(|prefix| Peer::Cidr { prefix, except: Vec::new() }));
        }
        if let Some(nodes) = fields.get("nodes") {
            given += 1;
            peers.extend(read_nodes(&nodes, options, problems));
        }
        if let Some(names) = fields.get("domainNames") {
            given += 1;
            if action.is_some_and(|action| action != Action::Allow) {
                problems.error(&names, "domainNames can only be used with the action Accept");
            }
            peers.extend(read_domain_names(&names, problems));
        }
    }
    fields.finish(problems);
    if given != 1 {
        problems.error(at, "a peer needs exactly one field");
    }
    peers
}

fn read_nodes(at: &At<'_>, options: ParseOptions, problems: &mut Problems) -> Option<Peer> {
    let key = |text: &str| k8s_key(text).map(|_| SelectorKey::new(source::NODE, text));
    let selector = read_selector(at, key, problems)?;
    if !options.node_selector_labels {
        let message = "nodes can only be selected when the \"enable-node-selector-labels\" flag is set";
        problems.error(at, message);
        return None;
    }
    let remote = Requirement::exists(SelectorKey::new(source::RESERVED, "remote-node"));
    Some(Peer::Nodes(selector.and([remote])))
}

/// A name, or `*.` before one for everything below it.
fn read_domain_names(at: &At<'_>, problems: &mut Problems) -> Vec<Peer> {
    let mut peers = Vec::new();
    for element in at.list(problems) {
        let Some(text) = element.text(problems) else {
            continue;
        };
        let rule = match text.strip_prefix("*.") {
            Some(rest) if !rest.contains('*') => DnsRule::pattern(&format!("**.{rest}")),
            _ => DnsRule::name(text),
        };
        match rule {
            Ok(rule) => peers.push(Peer::Fqdn(rule)),
            Err(cause) => problems.error(&element, format!("invalid domain name \"{text}\": {cause}")),
        }
    }
    peers
}

/// `tcp`, `udp` or `sctp` with a port, or the name of one.
fn read_protocol(at: &At<'_>, problems: &mut Problems) -> Option<PortMatch> {
    let mut fields = at.fields(problems)?;
    let named = fields.text("destinationNamedPort", problems);
    let transports = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
    let given: Vec<(At<'_>, Protocol)> = transports
        .into_iter()
        .filter_map(|(name, protocol)| fields.get(name).map(|at| (at, protocol)))
        .collect();
    fields.finish(problems);
    match (named, given.as_slice()) {
        (Some(name), []) if !name.is_empty() => {
            let port = Port::Named(name.to_ascii_lowercase());
            Some(PortMatch { protocol: Protocol::Any, port, l7: None })
        }
        (None, [(at, protocol)]) => {
            let port = read_destination(at, problems)?;
            Some(PortMatch { protocol: *protocol, port, l7: None })
        }
        _ => {
            problems.error(at, "exactly one of tcp, udp, sctp and destinationNamedPort must be given");
            None
        }
    }
}

fn read_destination(at: &At<'_>, problems: &mut Problems) -> Option<Port> {
    let mut fields = at.fields(problems)?;
    let destination = fields.get("destinationPort");
    fields.finish(problems);
    let Some(at) = destination else {
        return Some(Port::All);
    };
    let mut fields = at.fields(problems)?;
    let number = fields.get("number");
    let range = fields.get("range");
    fields.finish(problems);
    let port = |at: &At<'_>, problems: &mut Problems| {
        at.integer(1, 65_535, problems).and_then(|number| u16::try_from(number).ok())
    };
    match (number, range) {
        (Some(number), None) => port(&number, problems).map(|first| Port::Range { first, last: first }),
        (None, Some(range)) => {
            let mut fields = range.fields(problems)?;
            let (start, end) = (fields.get("start"), fields.get("end"));
            fields.finish(problems);
            let (Some(start), Some(end)) = (start, end) else {
                problems.error(&range, "start and end must be given");
                return None;
            };
            let (first, last) = (port(&start, problems)?, port(&end, problems)?);
            if first > last {
                problems.error(&range, format!("start {first} is above end {last}"));
                return None;
            }
            Some(Port::Range { first, last })
        }
        _ => {
            problems.error(&at, "exactly one of number and range must be given");
            None
        }
    }
}

const MAX_PRIORITY: i64 = 1000;
const MAX_RULES: usize = 25;
