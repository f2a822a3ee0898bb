//! `specola fqdn`: names of DNS with the addresses that policies take them for.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;
use specola_proto::specola::v1::{DeleteFqdnRequest, FqdnEntry, ListFqdnCacheRequest, SetFqdnRequest};

use crate::columns::Columns;
use crate::node::{Node, Output, block_on, print_json, stdout};
use crate::printer::escape;
use crate::target::AdminArgs;

/// What to look at.
#[derive(Subcommand)]
pub(crate) enum FqdnCommand {
    /// Addresses of names, from FQDNCache documents and from `set`.
    #[command(subcommand, after_help = EXAMPLES)]
    Cache(CacheCommand),
}

/// What to do with the cache.
#[derive(Subcommand)]
pub(crate) enum CacheCommand {
    /// List names with their addresses, and who selects by them.
    #[command(after_help = "Examples:\n  specola fqdn cache list -o json")]
    List(ListArgs),
    /// Set the addresses of a name, besides those of documents; kept across restarts of the agent.
    #[command(after_help = "Examples:\n  specola fqdn cache set api.example.org 192.0.2.7 2001:db8::7")]
    Set(SetArgs),
    /// Take names back that were set.
    #[command(
        visible_alias = "clean",
        after_help = "Examples:\n  specola fqdn cache delete api.example.org\n  specola fqdn cache delete '*.example.org'"
    )]
    Delete(DeleteArgs),
}

/// Arguments of `fqdn cache list`.
#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Arguments of `fqdn cache set`.
#[derive(Args)]
pub(crate) struct SetArgs {
    /// The name.
    name: String,
    /// All its addresses; those of an earlier `set` are replaced.
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Arguments of `fqdn cache delete`.
#[derive(Args)]
pub(crate) struct DeleteArgs {
    /// A name, or a pattern such as '*.example.org'.
    #[arg(value_name = "NAME|PATTERN")]
    pattern: String,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Runs the command.
///
/// # Errors
/// An agent does not answer, or refuses.
pub(crate) fn run(command: FqdnCommand) -> anyhow::Result<ExitCode> {
    let FqdnCommand::Cache(command) = command;
    match command {
        CacheCommand::List(args) => block_on(list(&args)),
        CacheCommand::Set(args) => block_on(set(&args)),
        CacheCommand::Delete(args) => block_on(delete(&args)),
    }
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let mut answers = Vec::new();
    for mut node in Node::all(&args.admin).await? {
        let request = ListFqdnCacheRequest {};
        let answer =
            node.call_policies("list names", |mut c| async move { c.list_fqdn_cache(request).await });
        let answer = answer.await?;
        answers.push((node.name().to_owned(), answer.entries));
    }
    let mut out = stdout();
    match args.output {
        Output::Json => {
            let nodes: Vec<_> =
                answers.iter().map(|(node, entries)| json!({ "node": node, "entries": entries })).collect();
            print_json(&mut out, &json!({ "nodes": nodes }))?;
        }
        Output::Compact => table(&answers).write(&mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(answers: &[(String, Vec<FqdnEntry>)]) -> Columns {
    let mut table = Columns::new(["NODE", "NAME", "ADDRESSES", "SOURCE", "SELECTED BY"]);
    for (node, entries) in answers {
        for entry in entries {
            let selectors =
                if entry.selectors.is_empty() { "-".to_owned() } else { entry.selectors.join(",") };
            table.row([
                escape(node),
                escape(&entry.name),
                escape(&entry.addresses.join(",")),
                escape(&entry.source),
                escape(&selectors),
            ]);
        }
    }
    table
}

async fn set(args: &SetArgs) -> anyhow::Result<ExitCode> {
    for mut node in Node::all(&args.admin).await? {
        let addresses = args.addresses.iter().map(ToString::to_string).collect();
        let request = SetFqdnRequest { name: args.name.clone(), addresses };
        node.call_policies("set the name", |mut c| async move { c.set_fqdn(request).await }).await?;
        say(&mut stdout(), node.name(), &format!("{} is set", args.name))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete(args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    for mut node in Node::all(&args.admin).await? {
        let request = DeleteFqdnRequest { pattern: args.pattern.clone() };
        let answer =
            node.call_policies("delete the name", |mut c| async move { c.delete_fqdn(request).await });
        let names = answer.await?.names;
        say(&mut stdout(), node.name(), &format!("deleted {}", names.join(", ")))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn say(out: &mut impl Write, node: &str, text: &str) -> io::Result<()> {
    writeln!(out, "{}: {}", escape(node), escape(text))
}

const EXAMPLES: &str = "\
Examples:
  specola fqdn cache list                                    names, addresses, and the patterns that select them
  specola fqdn cache set api.example.org 192.0.2.7 192.0.2.8
  specola fqdn cache delete '*.example.org' --sandbox shop   on all nodes of a sandbox

Names of FQDNCache documents come and go with these.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_where_a_name_is_from() {
        let entry = |name: &str, selectors: &[&str]| FqdnEntry {
            name: name.to_owned(),
            addresses: vec!["192.0.2.7".to_owned(), "2001:db8::7".to_owned()],
            source: "admin".to_owned(),
            selectors: selectors.iter().map(|text| (*text).to_owned()).collect(),
        };
        let answers =
            vec![("n1".to_owned(), vec![entry("api.example.org", &["*.example.org"]), entry("b.test", &[])])];
        let mut out = Vec::new();
        table(&answers).write(&mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        NODE   NAME              ADDRESSES               SOURCE   SELECTED BY
        n1     api.example.org   192.0.2.7,2001:db8::7   admin    *.example.org
        n1     b.test            192.0.2.7,2001:db8::7   admin    -
        ");
    }
}
