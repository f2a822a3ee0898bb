//! `NetworkPolicy` of Kubernetes itself.

use specola_labels::{NAMESPACE_KEY, NAMESPACE_LABEL_PREFIX, Requirement, Selector, SelectorKey};

use super::metadata::{Metadata, read_metadata};
use super::peers::{read_except, read_prefix};
use super::ports::{parse_port, single_port};
use super::read::{At, Fields, Problems};
use super::selector::read_selector;
use crate::origin::Section;
use crate::rule::{L4, Peer, PolicyKind, Port, PortMatch, Protocol, Rule, RuleEntry, RuleSubject, Tier};
use crate::yaml::{Node, Value};

/// Reads an object. None only after an error was recorded.
pub(super) fn read(node: &Node, problems: &mut Problems) -> Option<(Metadata, Vec<Rule>)> {
    let mut root = At::root(node).fields(problems)?;
    let metadata = read_metadata(&mut root, PolicyKind::NetworkPolicy, problems);
    let namespace =
        metadata.as_ref().map(|metadata| metadata.reference.namespace.clone()).unwrap_or_default();
    let spec = root.get("spec");
    if spec.is_none() {
        problems.error(&root.at().named("spec"), "spec must be given");
    }
    root.finish(problems);
    let rule = read_spec(&spec?, &namespace, problems);
    Some((metadata?, vec![rule?]))
}

fn read_spec(at: &At<'_>, namespace: &str, problems: &mut Problems) -> Option<Rule> {
    let mut fields = at.fields(problems)?;
    let subject = match fields.get("podSelector") {
        Some(selector) => read_selector(&selector, k8s_key, problems),
        None => Some(Selector::default()),
    };
    let ingress = fields.list("ingress", problems).unwrap_or_default();
    let egress = fields.list("egress", problems).unwrap_or_default();
    let types = read_types(&mut fields, problems);
    fields.finish(problems);
    let (has_ingress, has_egress) = types.unwrap_or((true, !egress.is_empty()));
    let mut entries = Vec::new();
    for (section, elements, active) in
        [(Section::Ingress, &ingress, has_ingress), (Section::Egress, &egress, has_egress)]
    {
        for (index, element) in (0..).zip(elements) {
            let entry = read_entry(element, section, index, namespace, problems);
            // A direction that policyTypes does not list is checked, but has no effect.
            entries.extend(entry.filter(|_| active));
        }
    }
    let own = Requirement::equals(SelectorKey::k8s(NAMESPACE_KEY), namespace);
    Some(Rule {
        subject: RuleSubject::Endpoints(subject?.and([own])),
        tier: Tier::Normal,
        priority: 0,
        entries,
        default_deny_ingress: has_ingress,
        default_deny_egress: has_egress,
        has_ingress,
        has_egress,
        labels: Vec::new(),
        description: String::new(),
        log: String::new(),
    })
}

/// `policyTypes` as (ingress, egress); none when absent or empty.
fn read_types(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<(bool, bool)> {
    let elements = fields.list("policyTypes", problems)?;
    let mut types = (false, false);
    for element in &elements {
        match element.text(problems)? {
            "Ingress" => types.0 = true,
            "Egress" => types.1 = true,
            other => {
                problems.error(element, format!("unknown policy type \"{other}\"; use Ingress or Egress"))
            }
        }
    }
    (!elements.is_empty()).then_some(types)
}

fn read_entry(
    at: &At<'_>,
    section: Section,
    index: u32,
    namespace: &str,
    problems: &mut Problems,
) -> Option<RuleEntry> {
    let mut fields = at.fields(problems)?;
    let name = if section.is_egress() { "to" } else { "from" };
    let peers = fields.list(name, problems).unwrap_or_default();
    let ports = fields.list("ports", problems).unwrap_or_default();
    fields.finish(problems);
    let peers = if peers.is_empty() {
        vec![Peer::Any]
    } else {
        peers.iter().filter_map(|peer| read_peer(peer, namespace, problems)).collect()
    };
    let l4 = if ports.is_empty() {
        L4::All
    } else {
        L4::Ports(ports.iter().filter_map(|port| read_port(port, problems)).collect())
    };
    Some(RuleEntry::new(section, index, peers, l4))
}

fn read_peer(at: &At<'_>, namespace: &str, problems: &mut Problems) -> Option<Peer> {
    let mut fields = at.fields(problems)?;
    let block = fields.get("ipBlock");
    let pods = fields.get("podSelector");
    let namespaces = fields.get("namespaceSelector");
    fields.finish(problems);
    match (block, &pods, &namespaces) {
        (Some(block), None, None) => read_block(&block, problems),
        (None, None, None) => {
            problems.error(at, "a peer needs ipBlock, podSelector or namespaceSelector");
            None
        }
        (None, _, _) => {
            let own = || {
                let key = SelectorKey::k8s(NAMESPACE_KEY);
                Some(Selector::new([Requirement::equals(key, namespace)]))
            };
            let namespaces = match &namespaces {
                Some(namespaces) => read_namespaces(namespaces, problems),
                None => own(),
            };
            let pods = match &pods {
                Some(pods) => read_selector(pods, k8s_key, problems),
                None => Some(Selector::default()),
            };
            let both = namespaces?.and(pods?.requirements().iter().cloned());
            Some(Peer::Endpoints(both))
        }
        (Some(_), _, _) => {
            problems.error(at, "ipBlock cannot be combined with podSelector or namespaceSelector");
            None
        }
    }
}

/// Namespaces by their labels; what has no namespace is never selected.
pub(super) fn read_namespaces(at: &At<'_>, problems: &mut Problems) -> Option<Selector> {
    let selector = read_selector(
        at,
        |key| k8s_key(key).map(|_| SelectorKey::k8s(&format!("{NAMESPACE_LABEL_PREFIX}{key}"))),
        problems,
    )?;
    let any = Requirement::exists(SelectorKey::k8s(NAMESPACE_KEY));
    Some(selector.and([any]))
}

fn read_block(at: &At<'_>, problems: &mut Problems) -> Option<Peer> {
    let mut fields = at.fields(problems)?;
    let cidr = fields.get("cidr");
    let except = fields.get("except");
    fields.finish(problems);
    let Some(cidr) = cidr else {
        problems.error(at, "cidr must be given");
        return None;
    };
    let prefix = read_prefix(&cidr, "CIDR", problems)?;
    let except = read_except(Some(prefix), except, problems);
    Some(Peer::Cidr { prefix, except })
}

fn read_port(at: &At<'_>, problems: &mut Problems) -> Option<PortMatch> {
    let mut fields = at.fields(problems)?;
    let protocol = match fields.get("protocol") {
        None => Some(Protocol::Tcp),
        Some(protocol) => match protocol.text(problems)? {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            other => {
                problems.error(&protocol, format!("invalid protocol \"{other}\"; use TCP, UDP or SCTP"));
                None
            }
        },
    };
    let port = match fields.get("port") {
        None => Some(Port::All),
        Some(port) => read_number_or_name(&port, problems),
    };
    let end = fields.get("endPort");
    fields.finish(problems);
    let mut port = port?;
    if let Some(end) = end {
        let Port::Range { first, .. } = port else {
            problems.error(&end, "endPort needs a numeric port");
            return None;
        };
        let last = end.integer(i64::from(first), 65_535, problems)?;
        port = Port::Range { first, last: u16::try_from(last).ok()? };
    }
    Some(PortMatch { protocol: protocol?, port, l7: None })
}

fn read_number_or_name(at: &At<'_>, problems: &mut Problems) -> Option<Port> {
    if matches!(at.node.value, Value::Integer(_)) {
        let number = at.integer(1, 65_535, problems)?;
        return u16::try_from(number).ok().map(single_port);
    }
    let text = at.text(problems)?;
    match parse_port(text) {
        Some(port @ (Port::Named(_) | Port::Range { .. })) => Some(port),
        _ => {
            let message = format!("unable to parse port: \"{text}\" is neither 1 to 65535 nor a port name");
            problems.error(at, message);
            None
        }
    }
}

/// Keys of Kubernetes' own selectors are plain label keys.
pub(super) fn k8s_key(key: &str) -> Result<SelectorKey, specola_labels::InvalidSelector> {
    if key.is_empty() {
        return Err(specola_labels::InvalidSelector::NoKey);
    }
    Ok(SelectorKey::k8s(key))
}
