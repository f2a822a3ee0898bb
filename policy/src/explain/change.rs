//! The smallest change of policies that turns the outcome, as YAML to apply.

use std::fmt::Write as _;

use specola_labels::{
    CLUSTER_KEY, LabelSet, NAMESPACE_KEY, NAMESPACE_LABEL_PREFIX, SERVICE_ACCOUNT_KEY, source,
};

use super::lines::specs;
use super::{Connection, End, EndVerdict, verdicts};
use crate::api::parse_policies;
use crate::eval::Verdict;
use crate::identities::IdentityTable;
use crate::repository::Repository;
use crate::rule::{PolicyObject, PolicyRef};
use crate::yaml::{Node, Value};

/// What turns the outcome.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Change {
    /// Objects to apply, separated by `---`; may be empty.
    pub apply: String,
    /// Objects to delete: they would have no rule left.
    pub delete: Vec<PolicyRef>,
}

impl Change {
    fn add(&mut self, yaml: &str) {
        if !self.apply.is_empty() {
            self.apply.push_str("---\n");
        }
        self.apply.push_str(yaml);
    }
}

/// Finds what lets the connection pass, or what drops it when it passes. What is found was tried.
pub(super) fn find(
    repository: &Repository,
    identities: &IdentityTable,
    connection: &Connection,
) -> Option<Change> {
    let now = verdicts(repository, identities, connection);
    if now.iter().all(EndVerdict::passes) {
        return find_deny(repository, identities, connection, now.last()?);
    }
    let mut trial = repository.copy();
    let mut change = Change::default();
    // Each round opens one end or takes one deny away.
    for _ in 0..MAX_ROUNDS {
        let now = verdicts(&trial, identities, connection);
        let Some(closed) = now.iter().find(|step| !step.passes()) else { return Some(change) };
        match closed.decision.verdict {
            Verdict::DefaultDeny => {
                let (own, peer) = ends(connection, closed.egress);
                let yaml = rule(own, peer, connection, closed.egress, false, identities)?;
                take(&mut trial, &yaml)?;
                change.add(&yaml);
            }
            Verdict::Deny => without_denies(&mut trial, &mut change, closed)?,
            Verdict::AuthRequired | Verdict::Allow | Verdict::Redirect => return None,
        }
    }
    None
}

fn find_deny(
    repository: &Repository,
    identities: &IdentityTable,
    connection: &Connection,
    last: &EndVerdict<'_>,
) -> Option<Change> {
    let (own, peer) = ends(connection, last.egress);
    let yaml = rule(own, peer, connection, last.egress, true, identities)?;
    let mut trial = repository.copy();
    take(&mut trial, &yaml)?;
    let drops = verdicts(&trial, identities, connection).iter().any(|step| !step.passes());
    drops.then(|| Change { apply: yaml, delete: Vec::new() })
}

/// The governed end of a direction, and the other one.
fn ends(connection: &Connection, egress: bool) -> (&End, &End) {
    if egress { (&connection.from, &connection.to) } else { (&connection.to, &connection.from) }
}

/// Puts the objects of a text into force. None when they are not valid.
fn take(repository: &mut Repository, yaml: &str) -> Option<()> {
    let parsed = parse_policies("change", yaml);
    if !parsed.is_valid() || parsed.objects.is_empty() {
        return None;
    }
    for object in parsed.objects {
        repository.upsert(object);
    }
    Some(())
}

/// Takes the deny entries of a verdict out of their objects.
fn without_denies(trial: &mut Repository, change: &mut Change, closed: &EndVerdict<'_>) -> Option<()> {
    let mut references: Vec<PolicyRef> =
        closed.decision.origins.iter().filter_map(crate::Origin::policy_ref).collect();
    references.dedup();
    if references.is_empty() {
        return None;
    }
    for reference in references {
        let object = trial.get(&reference)?.object().clone();
        let gone: Vec<(&str, u32)> = closed
            .decision
            .origins
            .iter()
            .filter(|origin| origin.policy_ref().as_ref() == Some(&reference))
            .map(|origin| (origin.section.as_str(), origin.rule_index))
            .collect();
        match without(&object, &gone)? {
            Some(yaml) => {
                take(trial, &yaml)?;
                change.add(&yaml);
            }
            None => {
                trial.remove(&reference);
                change.delete.push(reference);
            }
        }
    }
    Some(())
}

/// The object without some entries; inner none when no rule would be left.
fn without(object: &PolicyObject, gone: &[(&str, u32)]) -> Option<Option<String>> {
    let mut root = Node::parse(&object.text).ok()?;
    let Value::Map(fields) = &mut root.value else { return None };
    let mut counts: Vec<(String, u32)> = Vec::new();
    for (name, node) in fields.iter_mut() {
        match (name.text.as_str(), &mut node.value) {
            ("spec", _) => strip(node, gone, &mut counts),
            ("specs", Value::List(specs)) => specs.iter_mut().for_each(|spec| strip(spec, gone, &mut counts)),
            _ => {}
        }
        if name.text == "metadata"
            && let Value::Map(metadata) = &mut node.value
        {
            // What the server writes is not for applying.
            metadata.retain(|(name, _)| {
                ["name", "namespace", "labels", "annotations", "uid"].contains(&name.text.as_str())
            });
        }
    }
    fields.retain(|(name, _)| name.text != "status");
    let has_rules = specs(&root).any(|spec| SECTIONS.iter().any(|section| spec.get(section).is_some()));
    let mut text = String::new();
    write_block(&mut text, &root, 0);
    Some(has_rules.then_some(text))
}

/// Removes entries of one rule. `counts` has how many entries of each section there were in the rules before.
fn strip(spec: &mut Node, gone: &[(&str, u32)], counts: &mut Vec<(String, u32)>) {
    let Value::Map(fields) = &mut spec.value else { return };
    for (name, node) in fields.iter_mut() {
        let Value::List(entries) = &mut node.value else { continue };
        if !SECTIONS.contains(&name.text.as_str()) {
            continue;
        }
        let before = counts.iter().filter(|(section, _)| *section == name.text).map(|(_, n)| n).sum::<u32>();
        counts.push((name.text.clone(), u32::try_from(entries.len()).unwrap_or(u32::MAX)));
        let mut index = before;
        entries.retain(|_| {
            let keep = !gone.contains(&(name.text.as_str(), index));
            index += 1;
            keep
        });
    }
    fields.retain(|(name, node)| {
        let is_section = SECTIONS.contains(&name.text.as_str());
        !(is_section && matches!(&node.value, Value::List(entries) if entries.is_empty()))
    });
}

/// A policy that lets one peer in (or out), or denies it, and says nothing else.
fn rule(
    own: &End,
    peer: &End,
    connection: &Connection,
    egress: bool,
    deny: bool,
    identities: &IdentityTable,
) -> Option<String> {
    let subject = own.subject.as_ref().filter(|subject| !subject.is_host)?;
    let namespace = subject.labels.namespace()?;
    let (verb, action) = (if egress { "to" } else { "from" }, if deny { "deny" } else { "allow" });
    let section = match (egress, deny) {
        (false, false) => "ingress",
        (false, true) => "ingressDeny",
        (true, false) => "egress",
        (true, true) => "egressDeny",
    };
    let mut text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n".to_owned();
    let name = format!("{action}-{}-{verb}-{}-{}", own.name, peer.name, connection.port);
    let dir = if egress { "egress" } else { "ingress" };
    writeln!(text, "  name: {}\n  namespace: {}\nspec:", object_name(&name), quoted(namespace)).ok()?;
    write!(text, "  endpointSelector:\n    matchLabels:\n").ok()?;
    write_labels(&mut text, "      ", &subject.labels, false, identities)?;
    if deny {
        // A deny closes the direction for everybody else unless it says so.
        write!(text, "  enableDefaultDeny:\n    {dir}: false\n").ok()?;
    }
    writeln!(text, "  {section}:").ok()?;
    write_peer(&mut text, verb, namespace, peer, identities)?;
    write_port(&mut text, connection.proto, connection.port)?;
    Some(text)
}

fn write_peer(
    text: &mut String,
    verb: &str,
    namespace: &str,
    peer: &End,
    identities: &IdentityTable,
) -> Option<()> {
    let labels = peer_labels(peer, identities)?;
    if labels.namespace().is_some() {
        write!(text, "  - {verb}Endpoints:\n    - matchLabels:\n").ok()?;
        let elsewhere = labels.namespace() != Some(namespace);
        return write_labels(text, "        ", &labels, elsewhere, identities);
    }
    if let Some(cidr) = labels.iter().find(|label| label.source() == source::CIDR) {
        let prefix = specola_labels::parse_cidr_key(cidr.key())?;
        return writeln!(text, "  - {verb}CIDR:\n    - {}", quoted(&prefix.to_string())).ok();
    }
    let entity = labels.iter().find(|label| label.source() == source::RESERVED)?;
    writeln!(text, "  - {verb}Entities:\n    - {}", entity.key()).ok()
}

fn peer_labels(peer: &End, identities: &IdentityTable) -> Option<LabelSet> {
    identities.labels(peer.identity).cloned().or_else(|| Some(peer.subject.as_ref()?.labels.clone()))
}

/// Labels that tell the set from all others in its namespace: one if that is enough, else all of the pod's own.
fn write_labels(
    text: &mut String,
    indent: &str,
    labels: &LabelSet,
    with_namespace: bool,
    identities: &IdentityTable,
) -> Option<()> {
    let is_own = |key: &str| {
        key != NAMESPACE_KEY
            && key != CLUSTER_KEY
            && key != SERVICE_ACCOUNT_KEY
            && !key.starts_with(NAMESPACE_LABEL_PREFIX)
    };
    let own: Vec<_> =
        labels.iter().filter(|label| label.source() == source::K8S && is_own(label.key())).collect();
    let elsewhere = |other: &LabelSet| other == labels || other.namespace() != labels.namespace();
    let tells = |label: &&&specola_labels::Label| {
        let same = |other: &LabelSet| other.value(label.source(), label.key()) == Some(label.value());
        identities.iter().all(|(_, other)| elsewhere(other) || !same(other))
    };
    let chosen = match own.iter().find(tells) {
        Some(one) => vec![*one],
        None => own,
    };
    if chosen.is_empty() && !with_namespace {
        return None;
    }
    if with_namespace {
        writeln!(text, "{indent}k8s:{NAMESPACE_KEY}: {}", quoted(labels.namespace()?)).ok()?;
    }
    for label in chosen {
        writeln!(text, "{indent}{}: {}", quoted(label.key()), quoted(label.value())).ok()?;
    }
    Some(())
}

fn write_port(text: &mut String, proto: u8, port: u16) -> Option<()> {
    let name = match proto {
        6 => "TCP",
        17 => "UDP",
        132 => "SCTP",
        1 | 58 => {
            let family = if proto == 1 { "IPv4" } else { "IPv6" };
            return writeln!(
                text,
                "    icmps:\n    - fields:\n      - family: {family}\n        type: {port}"
            )
            .ok();
        }
        _ => return None,
    };
    writeln!(text, "    toPorts:\n    - ports:\n      - port: \"{port}\"\n        protocol: {name}").ok()
}

/// A DNS subdomain of the text.
fn object_name(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(200)
        .collect();
    plain.trim_matches('-').to_owned()
}

/// The text as a YAML scalar that is a string.
fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { Node { line: 0, value: Value::Text(text.to_owned()) }.to_string() }
}

/// Writes a node in block form.
fn write_block(text: &mut String, node: &Node, indent: usize) {
    let pad = " ".repeat(indent);
    match &node.value {
        Value::Map(fields) => {
            for (name, value) in fields {
                text.push_str(&format!("{pad}{}:", quoted(&name.text)));
                write_value(text, value, indent);
            }
        }
        Value::List(nodes) => {
            for value in nodes {
                let mut item = String::new();
                write_block(&mut item, value, indent + 2);
                let body = item.strip_prefix(&" ".repeat(indent + 2)).unwrap_or(&item);
                text.push_str(&format!("{pad}- {body}"));
            }
        }
        scalar => text.push_str(&format!("{pad}{}\n", scalar_text(scalar))),
    }
}

fn write_value(text: &mut String, value: &Node, indent: usize) {
    match &value.value {
        Value::Map(fields) if fields.is_empty() => text.push_str(" {}\n"),
        Value::List(nodes) if nodes.is_empty() => text.push_str(" []\n"),
        Value::Map(_) => {
            text.push('\n');
            write_block(text, value, indent + 2);
        }
        Value::List(_) => {
            text.push('\n');
            write_block(text, value, indent);
        }
        scalar => text.push_str(&format!(" {}\n", scalar_text(scalar))),
    }
}

fn scalar_text(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::Map(_) => "{}".to_owned(),
        other => Node { line: 0, value: other.clone() }.to_string(),
    }
}

/// Sections of rules, of all kinds of policies.
const SECTIONS: [&str; 4] = ["ingress", "ingressDeny", "egress", "egressDeny"];
/// More than any two ends and their deny rules need.
const MAX_ROUNDS: usize = 8;
