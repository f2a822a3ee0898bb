//! Differences as text and as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};
use specola_labels::{NumericIdentity, source};
use specola_policy::compare::{Change, EntryChanges, Outcome, Protocols, RuleName, names};
use specola_policy::eval::Verdict;
use specola_policy::{Entry, Key, OriginKind};

use crate::endpoint::{port_text, protocol_text};
use crate::policy::why::world::{Compared, World};
use crate::printer::escape;

/// A change with all peers that it is the same for.
type Grouped<'a> = (&'a Change, Vec<u32>);

/// Writes the differences for people.
///
/// # Errors
/// The output cannot be written.
pub(super) fn text(
    out: &mut impl Write,
    world: &World,
    compared: &[Compared],
    with_rules: bool,
) -> io::Result<()> {
    let mut verdicts = 0;
    for one in compared.iter().filter(|one| !one.comparison.is_empty()) {
        let (of_verdict, of_rules): (Vec<_>, Vec<_>) =
            grouped(&one.comparison.changes).into_iter().partition(|(change, _)| change.is_of_verdict());
        let fails = one.comparison.errors.iter().any(Option::is_some);
        verdicts += usize::from(!of_verdict.is_empty() || fails);
        let node = if one.node.is_empty() { String::new() } else { format!(" on {}", one.node) };
        writeln!(out, "{}{}", escape(&one.endpoint), escape(&node))?;
        for (side, error) in ["before", "after"].iter().zip(&one.comparison.errors) {
            if let Some(error) = error {
                writeln!(out, "  {side}: cannot be realized: {}", escape(&error.to_string()))?;
            }
        }
        for change in &of_verdict {
            write_change(out, world, change)?;
        }
        match (with_rules, of_rules.len()) {
            (_, 0) => {}
            (true, _) => of_rules.iter().try_for_each(|change| write_change(out, world, change))?,
            (false, count) => writeln!(out, "  decided alike by other rules: {count} (--rules shows them)")?,
        }
        let EntryChanges { added, removed, changed } = &one.comparison.entries;
        let (added, removed, changed) = (added.len(), removed.len(), changed.len());
        writeln!(out, "  map entries: {added} added, {removed} removed, {changed} changed")?;
    }
    writeln!(out, "{}", summary(compared.len(), verdicts))
}

fn summary(endpoints: usize, verdicts: usize) -> String {
    match (endpoints, verdicts) {
        (0, _) => "no endpoint is known".to_owned(),
        (_, 0) => format!("the verdicts of all {endpoints} endpoints stay as they are"),
        (_, 1) => format!("the verdicts of 1 of {endpoints} endpoints change"),
        _ => format!("the verdicts of {verdicts} of {endpoints} endpoints change"),
    }
}

/// Changes that are the same but for the peer.
fn grouped(changes: &[Change]) -> Vec<Grouped<'_>> {
    let mut groups: Vec<Grouped<'_>> = Vec::new();
    let key = |change: &Change| (change.egress, change.protocols, change.first_port, change.last_port);
    for change in changes {
        let same = |(known, _): &&mut Grouped<'_>| {
            key(known) == key(change)
                && (&known.before, &known.after, known.requests)
                    == (&change.before, &change.after, change.requests)
        };
        match groups.iter_mut().find(same) {
            Some((_, peers)) => peers.push(change.identity),
            None => groups.push((change, vec![change.identity])),
        }
    }
    groups.sort_by_key(|(change, _)| key(change));
    groups
}

fn write_change(out: &mut impl Write, world: &World, (change, peers): &Grouped<'_>) -> io::Result<()> {
    let (direction, verb) = if change.egress { ("egress", "to") } else { ("ingress", "from") };
    let ports = match change.protocols {
        Protocols::All => "all protocols".to_owned(),
        Protocols::Others => "other protocols".to_owned(),
        Protocols::One(proto) => {
            let ports = (change.first_port.into(), change.last_port.into());
            format!("{} {}", protocol_text(proto.into()), port_text(ports.0, ports.1))
        }
    };
    let mut names: Vec<String> = peers.iter().take(NAMED).map(|peer| peer_name(world, *peer)).collect();
    if peers.len() > NAMED {
        names.push(format!("{} more", peers.len() - NAMED));
    }
    writeln!(out, "  {direction} {ports} {verb} {}", escape(&names.join(", ")))?;
    if change.requests {
        return writeln!(out, "    ~ redirected to the proxy, which lets other requests pass");
    }
    writeln!(out, "    - {}", escape(&outcome(&change.before)))?;
    writeln!(out, "    + {}", escape(&outcome(&change.after)))
}

fn outcome(outcome: &Outcome) -> String {
    let verdict = match outcome.verdict {
        Verdict::Allow => "allowed",
        Verdict::Redirect => "redirected to the proxy",
        Verdict::AuthRequired => "dropped until authenticated",
        Verdict::Deny => "denied by a rule",
        Verdict::DefaultDeny => "denied, as nothing allows it",
    };
    let audit = if outcome.audited { " (audited: it passes)" } else { "" };
    let by_selection = outcome.verdict == Verdict::DefaultDeny;
    let rules: Vec<String> = outcome.rules.iter().map(|rule| rule_text(rule, by_selection)).collect();
    if rules.is_empty() {
        format!("{verdict}{audit}")
    } else {
        format!("{verdict}{audit}: {}", rules.join(", "))
    }
}

fn rule_text(rule: &RuleName, by_selection: bool) -> String {
    let name = match rule.namespace.as_str() {
        "" => rule.name.clone(),
        namespace => format!("{namespace}/{}", rule.name),
    };
    match rule.kind {
        OriginKind::Builtin => format!("built-in rule {name}"),
        kind if by_selection => format!("{} {name}", kind.as_str()),
        kind => format!("{} {name} {}[{}]", kind.as_str(), rule.section.as_str(), rule.rule_index),
    }
}

/// Pods with the identity, else what the identity stands for.
fn peer_name(world: &World, identity: u32) -> String {
    if identity == 0 {
        return "everybody else".to_owned();
    }
    let number = NumericIdentity(identity);
    if let Some(name) = number.reserved_name() {
        return name.to_owned();
    }
    let pods = world.endpoints_of(identity);
    if let Some(first) = pods.first() {
        let more = if pods.len() > 1 { format!(" and {} alike", pods.len() - 1) } else { String::new() };
        return format!("{first}{more}");
    }
    let Some(labels) = world.identities.labels(number) else { return format!("identity {identity}") };
    let longest = labels
        .iter()
        .filter(|label| label.source() == source::CIDR)
        .filter_map(|label| specola_labels::parse_cidr_key(label.key()))
        .max_by_key(ipnet::IpNet::prefix_len);
    longest.map_or_else(|| labels.to_strings().join(" "), |prefix| prefix.to_string())
}

/// The differences as JSON.
pub(super) fn json(world: &World, compared: &[Compared]) -> Value {
    let differ: Vec<&Compared> = compared.iter().filter(|one| !one.comparison.is_empty()).collect();
    json!({
        "different": !differ.is_empty(),
        "endpoints_total": compared.len(),
        "endpoints": differ.iter().map(|one| endpoint_json(world, one)).collect::<Vec<_>>(),
    })
}

fn endpoint_json(world: &World, one: &Compared) -> Value {
    let error = |index: usize| one.comparison.errors[index].as_ref().map(ToString::to_string);
    let changes: Vec<Value> =
        grouped(&one.comparison.changes).iter().map(|change| change_json(world, change)).collect();
    let EntryChanges { added, removed, changed } = &one.comparison.entries;
    let list = |entries: &[(Key, Entry)]| -> Vec<Value> {
        entries.iter().map(|(key, entry)| entry_json(world, key, entry)).collect()
    };
    let changed: Vec<Value> = changed
        .iter()
        .map(|(key, old, new)| {
            json!({ "before": entry_json(world, key, old), "after": entry_json(world, key, new) })
        })
        .collect();
    json!({
        "endpoint": one.endpoint,
        "node": one.node,
        "error_before": error(0),
        "error_after": error(1),
        "changes": changes,
        "entries": { "added": list(added), "removed": list(removed), "changed": changed },
    })
}

fn change_json(world: &World, (change, peers): &Grouped<'_>) -> Value {
    let protocol = match change.protocols {
        Protocols::All => "all".to_owned(),
        Protocols::Others => "others".to_owned(),
        Protocols::One(proto) => protocol_text(proto.into()),
    };
    let peers: Vec<Value> = peers.iter().map(|peer| peer_json(world, *peer)).collect();
    json!({
        "direction": if change.egress { "egress" } else { "ingress" },
        "protocol": protocol,
        "first_port": change.first_port,
        "last_port": change.last_port,
        "peers": peers,
        "before": outcome_json(&change.before),
        "after": outcome_json(&change.after),
        "other_verdict": change.is_of_verdict(),
        "other_requests": change.requests,
    })
}

fn peer_json(world: &World, identity: u32) -> Value {
    let labels = world.identities.labels(NumericIdentity(identity)).map(|labels| labels.to_strings());
    json!({
        "identity": identity,
        "name": peer_name(world, identity),
        "labels": labels.unwrap_or_default(),
    })
}

fn outcome_json(outcome: &Outcome) -> Value {
    let verdict = verdict_name(outcome.verdict);
    let rules: Vec<Value> = outcome.rules.iter().map(rule_json).collect();
    json!({ "verdict": verdict, "audited": outcome.audited, "rules": rules })
}

fn rule_json(rule: &RuleName) -> Value {
    json!({
        "kind": rule.kind.as_str(),
        "namespace": rule.namespace,
        "name": rule.name,
        "section": rule.section.as_str(),
        "rule_index": rule.rule_index,
    })
}

fn entry_json(world: &World, key: &Key, entry: &Entry) -> Value {
    let (first_port, last_port) = key.ports();
    let rules: Vec<Value> = names(&entry.origins).iter().map(rule_json).collect();
    json!({
        "direction": if key.egress { "egress" } else { "ingress" },
        "peer": peer_json(world, key.identity),
        "protocol": protocol_text(key.proto.into()),
        "first_port": first_port,
        "last_port": last_port,
        "verdict": verdict_name(entry.verdict()),
        "audited": entry.audit,
        "precedence": entry.precedence,
        "rules": rules,
    })
}

const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Redirect => "redirect",
        Verdict::AuthRequired => "auth-required",
        Verdict::Deny => "deny",
        Verdict::DefaultDeny => "default-deny",
    }
}

/// Peers that one line names.
const NAMED: usize = 12;
