//! The answer as text and as JSON.

use std::io::{self, Write};

use serde_json::{Value, json};
use specola_policy::Origin;
use specola_policy::eval::Verdict;
use specola_policy::explain::{Change, Connection, Place, Step};
use specola_proto::flow::Policy;

use super::Answer;
use crate::printer::escape;

/// Writes the answer for people.
///
/// # Errors
/// The output cannot be written.
pub(super) fn text(out: &mut impl Write, answer: &Answer<'_>) -> io::Result<()> {
    let Answer { asked, connection, explanation, doubts, change } = answer;
    let Connection { from, to, port, proto } = connection;
    let outcome = if explanation.passes { "PASSES" } else { "DROPPED" };
    writeln!(out, "{} -> {} {port}/{}: {outcome}", escape(&from.name), escape(&to.name), protocol(*proto))?;
    if explanation.steps.is_empty() {
        writeln!(out, "\nneither end is a pod that policies govern here")?;
    }
    for (number, step) in (1..).zip(&explanation.steps) {
        write_step(out, number, step)?;
    }
    for (field, policy) in &asked.carried {
        writeln!(out, "\nthe flow says {field}: {}", escape(&flow_policy(policy)))?;
    }
    for doubt in doubts {
        writeln!(out, "\nwarning: {}", escape(doubt))?;
    }
    match change {
        None => Ok(()),
        Some(None) => writeln!(out, "\nno change of policies alone turns this"),
        Some(Some(change)) => write_change(out, change, explanation.passes),
    }
}

fn write_change(out: &mut impl Write, change: &Change, passes: bool) -> io::Result<()> {
    let goal = if passes { "drop" } else { "allow" };
    for reference in &change.delete {
        writeln!(out, "\nto {goal} it, delete {} {}", reference.kind, escape(&reference.to_string()))?;
    }
    if !change.apply.is_empty() {
        writeln!(out, "\nto {goal} it, apply:")?;
        for line in change.apply.lines() {
            writeln!(out, "{}", escape(line))?;
        }
    }
    Ok(())
}

fn write_step(out: &mut impl Write, number: usize, step: &Step) -> io::Result<()> {
    let direction = if step.egress { "egress" } else { "ingress" };
    writeln!(out, "\n{number}. {direction} of {}: {}", escape(&step.endpoint), verdict(step))?;
    for (origin, place) in &step.places {
        match place {
            Some(Place { file, first, last, text }) => {
                writeln!(out, "   {}, {}:{first}-{last}", escape(&rule_name(origin, step)), escape(file))?;
                for line in text.lines() {
                    writeln!(out, "   | {}", escape(line))?;
                }
            }
            None => writeln!(out, "   {}", escape(&rule_name(origin, step)))?,
        }
    }
    let names: Vec<String> = step.selected_by.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        return writeln!(out, "   no policy selects it for {direction}");
    }
    writeln!(out, "   policies that select it for {direction}: {}", escape(&names.join(", ")))
}

/// The answer as JSON.
pub(super) fn json(answer: &Answer<'_>) -> Value {
    let Answer { asked, connection, explanation, doubts, change } = answer;
    let steps: Vec<Value> = explanation.steps.iter().map(step_json).collect();
    let carried: Vec<Value> = asked
        .carried
        .iter()
        .map(|(field, policy)| {
            json!({
                "field": field, "kind": policy.kind, "namespace": policy.namespace, "name": policy.name,
                "labels": policy.labels, "revision": policy.revision,
            })
        })
        .collect();
    let end = |end: &specola_policy::explain::End| json!({ "name": end.name, "identity": end.identity.0 });
    let mut shown = json!({
        "uuid": asked.flow,
        "connection": {
            "from": end(&connection.from), "to": end(&connection.to),
            "port": connection.port, "protocol": protocol(connection.proto),
        },
        "passes": explanation.passes,
        "steps": steps,
        "flow": carried,
        "warnings": doubts,
    });
    if let Some(change) = change {
        shown["change"] = change.as_ref().map(change_json).into();
    }
    shown
}

fn change_json(change: &Change) -> Value {
    let delete: Vec<Value> = change
        .delete
        .iter()
        .map(|r| json!({ "kind": r.kind.as_str(), "namespace": r.namespace, "name": r.name }))
        .collect();
    json!({ "apply": change.apply, "delete": delete })
}

fn step_json(step: &Step) -> Value {
    let rule = |(origin, place): &(Origin, Option<Place>)| {
        json!({
            "kind": origin.kind.as_str(), "namespace": origin.namespace, "name": origin.name,
            "section": origin.section.as_str(), "rule_index": origin.rule_index, "revision": origin.revision,
            "file": place.as_ref().map(|place| &place.file),
            "first_line": place.as_ref().map(|place| place.first),
            "last_line": place.as_ref().map(|place| place.last),
            "yaml": place.as_ref().map(|place| &place.text),
        })
    };
    json!({
        "direction": if step.egress { "egress" } else { "ingress" },
        "endpoint": step.endpoint,
        "peer": step.peer,
        "verdict": verdict_name(step),
        "audited": step.decision.audited,
        "rules": step.places.iter().map(rule).collect::<Vec<_>>(),
        "selected_by": step.selected_by.iter().map(|reference| {
            json!({ "kind": reference.kind.as_str(), "namespace": reference.namespace, "name": reference.name })
        }).collect::<Vec<_>>(),
    })
}

fn verdict_name(step: &Step) -> &'static str {
    match step.decision.verdict {
        Verdict::Allow => "allow",
        Verdict::Redirect => "redirect",
        Verdict::AuthRequired => "auth-required",
        Verdict::Deny => "deny",
        Verdict::DefaultDeny => "default-deny",
    }
}

fn verdict(step: &Step) -> &'static str {
    match (step.decision.verdict, step.decision.audited) {
        (Verdict::Deny | Verdict::DefaultDeny | Verdict::AuthRequired, true) => {
            "PASSES, would be dropped (audit mode)"
        }
        (Verdict::Allow, _) => "ALLOWED",
        (Verdict::Redirect, _) => "REDIRECTED to the proxy, which decides on requests",
        (Verdict::AuthRequired, false) => "DROPPED until both ends have authenticated",
        (Verdict::Deny, false) => "DENIED by a rule",
        (Verdict::DefaultDeny, false) => "DENIED, as nothing allows it",
    }
}

fn rule_name(origin: &Origin, step: &Step) -> String {
    if origin.policy_ref().is_none() {
        return format!("built-in rule {}", origin.name);
    }
    let (kind, name) = (origin.kind.as_str(), origin.object_name());
    if step.decision.verdict == Verdict::DefaultDeny {
        return format!("{kind} {name} selects it (revision {})", origin.revision);
    }
    format!("{kind} {name} {}[{}] (revision {})", origin.section.as_str(), origin.rule_index, origin.revision)
}

fn flow_policy(policy: &Policy) -> String {
    let name = if policy.namespace.is_empty() {
        policy.name.clone()
    } else {
        format!("{}/{}", policy.namespace, policy.name)
    };
    format!("{} {name} (revision {})", policy.kind, policy.revision)
}

fn protocol(proto: u8) -> &'static str {
    match proto {
        1 => "ICMPv4",
        6 => "TCP",
        17 => "UDP",
        58 => "ICMPv6",
        132 => "SCTP",
        _ => "unknown",
    }
}
