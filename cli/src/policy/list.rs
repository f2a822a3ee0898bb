//! `specola policy list`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use specola_policy::PolicyObject;
use specola_proto::specola::v1::{GetPolicyRequest, GetPolicyResponse, Policy};

use super::{LanguageArgs, parse};
use crate::columns::Columns;
use crate::node::{Node, Output, block_on, print_json, stdout};
use crate::printer::escape;
use crate::target::AdminArgs;

/// Arguments of `policy list`.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// Files of Kubernetes YAML, directories of them, or - for standard input; the policies in force when left out.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    language: LanguageArgs,
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// An agent does not answer, or a file cannot be read.
pub(super) fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    if args.files.is_empty() { block_on(live(args)) } else { of_files(args) }
}

async fn live(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let mut answers = Vec::new();
    for mut node in Node::all(&args.admin).await? {
        let all = GetPolicyRequest::default();
        let answer =
            node.call("list policies", |mut client| async move { client.get_policy(all).await }).await?;
        answers.push((node.name().to_owned(), answer));
    }
    let mut out = stdout();
    match args.output {
        Output::Json => print_json(&mut out, &in_force_json(&answers))?,
        Output::Compact => print_in_force(&mut out, &answers)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A policy by kind, namespace and name.
type PolicyKey<'a> = (&'a str, &'a str, &'a str);

/// What all nodes say of each policy.
fn by_policy(answers: &[(String, GetPolicyResponse)]) -> BTreeMap<PolicyKey<'_>, Vec<(&str, &Policy)>> {
    let mut policies: BTreeMap<PolicyKey<'_>, Vec<(&str, &Policy)>> = BTreeMap::new();
    for (node, answer) in answers {
        for policy in &answer.policies {
            let key = (policy.kind.as_str(), policy.namespace.as_str(), policy.name.as_str());
            policies.entry(key).or_default().push((node, policy));
        }
    }
    policies
}

fn print_in_force(out: &mut impl Write, answers: &[(String, GetPolicyResponse)]) -> io::Result<()> {
    let header = ["KIND", "NAMESPACE", "NAME", "REVISION", "SELECTED", "REALIZED", "AUDIT", "STATUS"];
    let mut table = Columns::new(header);
    let mut conditions = Vec::new();
    for ((kind, namespace, name), on_nodes) in by_policy(answers) {
        let sum = |count: fn(&Policy) -> u32| on_nodes.iter().map(|(_, policy)| count(policy)).sum::<u32>();
        let own: Vec<(&str, &String)> = on_nodes
            .iter()
            .flat_map(|(node, policy)| policy.conditions.iter().map(|condition| (*node, condition)))
            .collect();
        let status = if own.is_empty() { "ok".to_owned() } else { format!("{} below", own.len()) };
        table.row([
            escape(kind),
            escape(if namespace.is_empty() { "-" } else { namespace }),
            escape(name),
            revision_text(&on_nodes),
            sum(|policy| policy.endpoints_selected).to_string(),
            sum(|policy| policy.endpoints_realized).to_string(),
            if on_nodes.iter().any(|(_, policy)| policy.audit) { "yes" } else { "-" }.to_owned(),
            status,
        ]);
        conditions.extend(own.into_iter().map(|(node, text)| (kind, namespace, name, node, text)));
    }
    table.write(out)?;
    for (kind, namespace, name, node, text) in conditions {
        let name = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        writeln!(out, "{} {} on {}: {}", escape(kind), escape(&name), escape(node), escape(text))?;
    }
    for (source, error, nodes) in refused(answers) {
        let nodes: Vec<_> = nodes.into_iter().map(escape).collect();
        writeln!(out, "refused on {}: {}: {}", nodes.join(", "), escape(source), escape(error))?;
    }
    Ok(())
}

/// Revisions are numbers of one node each.
fn revision_text(on_nodes: &[(&str, &Policy)]) -> String {
    let revisions: BTreeSet<u64> = on_nodes.iter().map(|(_, policy)| policy.revision).collect();
    match (revisions.first(), revisions.last()) {
        (Some(first), Some(last)) if first != last => format!("{first}-{last}"),
        (Some(first), _) => first.to_string(),
        _ => "-".to_owned(),
    }
}

/// Documents that are not in force: source, error, and the nodes that say so.
fn refused(answers: &[(String, GetPolicyResponse)]) -> Vec<(&str, &str, Vec<&str>)> {
    let mut found: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for (node, answer) in answers {
        for document in &answer.refused {
            for error in &document.errors {
                let same =
                    |known: &&mut (&str, &str, Vec<&str>)| known.0 == document.source && known.1 == error;
                match found.iter_mut().find(same) {
                    Some((_, _, nodes)) => nodes.push(node),
                    None => found.push((&document.source, error, vec![node])),
                }
            }
        }
    }
    found
}

fn in_force_json(answers: &[(String, GetPolicyResponse)]) -> Value {
    let policy = |(key, on_nodes): (PolicyKey<'_>, Vec<(&str, &Policy)>)| {
        let sum = |count: fn(&Policy) -> u32| on_nodes.iter().map(|(_, policy)| count(policy)).sum::<u32>();
        let node = |(node, policy): &(&str, &Policy)| {
            json!({
                "node": node,
                "revision": policy.revision,
                "source": policy.source,
                "endpoints_selected": policy.endpoints_selected,
                "endpoints_realized": policy.endpoints_realized,
                "audit": policy.audit,
                "conditions": policy.conditions,
            })
        };
        json!({
            "kind": key.0,
            "namespace": key.1,
            "name": key.2,
            "endpoints_selected": sum(|policy| policy.endpoints_selected),
            "endpoints_realized": sum(|policy| policy.endpoints_realized),
            "nodes": on_nodes.iter().map(node).collect::<Vec<_>>(),
        })
    };
    let refused: Vec<Value> = refused(answers)
        .into_iter()
        .map(|(source, error, nodes)| json!({ "source": source, "error": error, "nodes": nodes }))
        .collect();
    json!({ "policies": by_policy(answers).into_iter().map(policy).collect::<Vec<_>>(), "refused": refused })
}

fn of_files(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let files = parse(&args.files, args.language.options())?;
    let valid = files.iter().all(|(_, parsed)| parsed.is_valid());
    let objects = || files.iter().flat_map(|(_, parsed)| &parsed.objects);
    match args.output {
        Output::Json => {
            let policy = |object: &PolicyObject| {
                json!({
                    "kind": object.reference.kind.as_str(),
                    "namespace": object.reference.namespace,
                    "name": object.reference.name,
                    "rules": object.rules.len(),
                    "source": format!("{}:{}", object.file, object.line),
                })
            };
            print_json(&mut stdout(), &json!({ "policies": objects().map(policy).collect::<Vec<_>>() }))?;
        }
        Output::Compact => {
            let mut table = Columns::new(["KIND", "NAMESPACE", "NAME", "RULES", "SOURCE"]);
            for object in objects() {
                let reference = &object.reference;
                let namespace = if reference.namespace.is_empty() { "-" } else { &reference.namespace };
                let entries: usize = object.rules.iter().map(|rule| rule.entries.len()).sum();
                table.row([
                    reference.kind.as_str().to_owned(),
                    escape(namespace),
                    escape(&reference.name),
                    entries.to_string(),
                    escape(&format!("{}:{}", object.file, object.line)),
                ]);
            }
            table.write(&mut stdout())?;
        }
    }
    for error in files.iter().flat_map(|(_, parsed)| &parsed.errors) {
        writeln!(io::stderr(), "{}", escape(&error.to_string()))?;
    }
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) const EXAMPLES: &str = "\
Examples:
  specola policy list                        the policies of this node and how many endpoints have them
  specola policy list --sandbox shop         those of all nodes of a sandbox together
  specola policy list -o json | jq '.policies[] | select(.endpoints_realized < .endpoints_selected)'
  specola policy list policies/              those of files, without a cluster

SELECTED counts the endpoints that the policy selects, REALIZED those of them whose kernel policy has it as it is
now. A policy with conditions names them below the table.";

#[cfg(test)]
mod tests;
