//! `specola policy audit`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;
use specola_proto::specola::v1::{
    AuditPolicy, Audited, ListAuditRequest, SetAuditRequest, set_audit_request,
};

use crate::columns::Columns;
use crate::node::{Node, Output, block_on, print_json, stdout};
use crate::printer::escape;
use crate::target::AdminArgs;

/// What to do with audit mode.
#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// List what is in audit mode, and what says so.
    #[command(after_help = "Examples:\n  specola policy audit list --sandbox shop")]
    List(ListArgs),
    /// Let what a policy, or those of a namespace's endpoints, would drop pass, and report it as AUDIT.
    #[command(
        after_help = "Examples:\n  specola policy audit on shop/db-closed\n  specola policy audit on --namespace shop"
    )]
    On(SwitchArgs),
    /// Drop it again.
    #[command(after_help = "Examples:\n  specola policy audit off shop/db-closed")]
    Off(SwitchArgs),
}

/// Arguments of `policy audit list`.
#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Arguments of `policy audit on` and `off`.
#[derive(Args)]
pub(crate) struct SwitchArgs {
    /// One policy.
    #[arg(value_name = "[NAMESPACE/]NAME", required_unless_present = "namespace")]
    policy: Option<String>,
    /// Kind of the policy, where policies of several kinds have the name.
    #[arg(long, value_name = "KIND", requires = "policy")]
    kind: Option<String>,
    /// All endpoints of this namespace.
    #[arg(long, short, value_name = "NAMESPACE", conflicts_with = "policy")]
    namespace: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Runs the command.
///
/// # Errors
/// An agent does not answer, or knows no such policy or namespace.
pub(super) fn run(command: &AuditCommand) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::List(args) => block_on(list(args)),
        AuditCommand::On(args) => block_on(switch(args, true)),
        AuditCommand::Off(args) => block_on(switch(args, false)),
    }
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let mut answers = Vec::new();
    for mut node in Node::all(&args.admin).await? {
        let request = ListAuditRequest {};
        let answer =
            node.call_policies("list audit mode", |mut c| async move { c.list_audit(request).await });
        let audited = answer.await?.audited;
        answers.push((node.name().to_owned(), audited));
    }
    let mut out = stdout();
    match args.output {
        Output::Json => {
            let nodes: Vec<_> =
                answers.iter().map(|(node, audited)| json!({ "node": node, "audited": audited })).collect();
            print_json(&mut out, &json!({ "nodes": nodes }))?;
        }
        Output::Compact => table(&answers).write(&mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(answers: &[(String, Vec<Audited>)]) -> Columns {
    let mut table = Columns::new(["NODE", "KIND", "NAMESPACE", "NAME", "SET BY"]);
    for (node, audited) in answers {
        for one in audited {
            let namespace = if one.namespace.is_empty() { "-" } else { &one.namespace };
            table.row([
                escape(node),
                escape(&one.kind),
                escape(namespace),
                escape(&one.name),
                escape(&one.source),
            ]);
        }
    }
    table
}

async fn switch(args: &SwitchArgs, enabled: bool) -> anyhow::Result<ExitCode> {
    let target = target(args);
    for mut node in Node::all(&args.admin).await? {
        let request = SetAuditRequest { target: Some(target.clone()), enabled };
        let answer =
            node.call_policies("switch audit mode", |mut c| async move { c.set_audit(request).await });
        let remaining = answer.await?.remaining;
        say(&mut stdout(), node.name(), &text(&target), enabled, &remaining)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn target(args: &SwitchArgs) -> set_audit_request::Target {
    match (&args.policy, &args.namespace) {
        (Some(policy), _) => {
            let (namespace, name) = policy.split_once('/').unwrap_or(("", policy));
            set_audit_request::Target::Policy(AuditPolicy {
                kind: args.kind.clone().unwrap_or_default(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        }
        (None, namespace) => set_audit_request::Target::Namespace(namespace.clone().unwrap_or_default()),
    }
}

fn text(target: &set_audit_request::Target) -> String {
    match target {
        set_audit_request::Target::Namespace(name) => format!("namespace {name}"),
        set_audit_request::Target::Policy(AuditPolicy { namespace, name, .. }) if namespace.is_empty() => {
            format!("policy {name}")
        }
        set_audit_request::Target::Policy(AuditPolicy { namespace, name, .. }) => {
            format!("policy {namespace}/{name}")
        }
    }
}

fn say(
    out: &mut impl Write,
    node: &str,
    target: &str,
    enabled: bool,
    remaining: &[Audited],
) -> io::Result<()> {
    let (node, target) = (escape(node), escape(target));
    if remaining.is_empty() {
        let state = if enabled { "on" } else { "off" };
        return writeln!(out, "{node}: audit mode of {target} is {state}");
    }
    writeln!(
        out,
        "{node}: audit mode of {target} stays on: its annotation specola.io/policy-audit-mode says so; remove it"
    )
}

pub(super) const EXAMPLES: &str = "\
Examples:
  specola policy audit on shop/db-closed            see what a new policy would drop, before it does
  specola policy audit on --namespace shop --sandbox shop
  specola policy audit list                         what is in audit mode, and what says so
  specola observe --verdict AUDIT                   the verdicts, each with its rules
  specola policy audit off shop/db-closed

A switch is kept across restarts of the agent. That of a policy ends when the policy is removed.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_named_with_or_without_namespace() {
        let args = |policy: Option<&str>, namespace: Option<&str>| SwitchArgs {
            policy: policy.map(str::to_owned),
            kind: None,
            namespace: namespace.map(str::to_owned),
            admin: AdminArgs::default(),
        };
        for (policy, namespace, says) in [
            (Some("shop/db"), None, "policy shop/db"),
            (Some("all"), None, "policy all"),
            (None, Some("shop"), "namespace shop"),
        ] {
            assert_eq!(text(&target(&args(policy, namespace))), says);
        }
    }

    #[test]
    fn an_annotation_that_stays_is_said() {
        let said = |enabled, remaining: &[Audited]| {
            let mut out = Vec::new();
            say(&mut out, "n1", "policy a", enabled, remaining).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(said(true, &[]), "n1: audit mode of policy a is on\n");
        assert_eq!(said(false, &[]), "n1: audit mode of policy a is off\n");
        assert!(said(false, &[Audited::default()]).contains("stays on: its annotation"));
    }
}
