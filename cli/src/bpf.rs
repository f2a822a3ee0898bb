//! `specola bpf`: what is in the kernel, with and without an agent.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};
use specola_agent::bpf::{Dump, Fill, NodeView};

use crate::columns::Columns;
use crate::node::{Output, print_json, stdout};
use crate::place::PlaceArgs;
use crate::printer::escape;

mod text;

/// What to look at.
#[derive(Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum BpfCommand {
    /// Policy entries in force, by endpoint.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Connections.
    #[command(subcommand)]
    Ct(ListCommand),
    /// Addresses and prefixes with their identities.
    #[command(subcommand)]
    Ipcache(ListCommand),
    /// Endpoints.
    #[command(subcommand)]
    Endpoint(ListCommand),
    /// Counters of packets and of records.
    #[command(subcommand)]
    Metrics(ListCommand),
    /// Programs and where they are hooked.
    #[command(subcommand)]
    Prog(ListCommand),
}

/// What to do with a table.
#[derive(Subcommand)]
pub(crate) enum ListCommand {
    /// List them.
    List(ListArgs),
}

/// What to do with policy entries.
#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// List them, and how full the maps are.
    #[command(visible_alias = "get")]
    List(PolicyArgs),
}

/// Arguments of most lists.
#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Arguments of `bpf policy list`.
#[derive(Args)]
pub(crate) struct PolicyArgs {
    /// Only this endpoint, by its id.
    #[arg(value_name = "ENDPOINT")]
    endpoint: Option<u16>,
    /// Those of all endpoints, as without this flag.
    #[arg(long, conflicts_with = "endpoint")]
    all: bool,
    #[command(flatten)]
    list: ListArgs,
}

/// Runs the command.
///
/// # Errors
/// Nothing is pinned there, or a map cannot be read.
pub(crate) fn run(command: &BpfCommand) -> anyhow::Result<ExitCode> {
    match command {
        BpfCommand::Policy(PolicyCommand::List(args)) => {
            list(&args.list, |view| view.policy(args.endpoint), text::policy)
        }
        BpfCommand::Ct(ListCommand::List(args)) => list(args, NodeView::connections, text::connections),
        BpfCommand::Ipcache(ListCommand::List(args)) => list(args, NodeView::addresses, text::addresses),
        BpfCommand::Endpoint(ListCommand::List(args)) => list(args, NodeView::endpoints, text::endpoints),
        BpfCommand::Metrics(ListCommand::List(args)) => metrics(args),
        BpfCommand::Prog(ListCommand::List(args)) => list(args, NodeView::programs, text::programs),
    }
}

/// Prints one table of every node.
fn list<R: Serialize>(
    args: &ListArgs,
    read: impl Fn(&NodeView) -> anyhow::Result<Dump<R>>,
    table: fn(&[R]) -> Columns,
) -> anyhow::Result<ExitCode> {
    print_nodes(
        args,
        |view| Ok(serde_json::to_value(read(view)?)?),
        |out, view| {
            let dump = read(view)?;
            table(&dump.entries).write(out)?;
            Ok(write_fill(out, &dump.maps)?)
        },
    )
}

fn metrics(args: &ListArgs) -> anyhow::Result<ExitCode> {
    print_nodes(
        args,
        |view| {
            let connections = view.connection_totals()?;
            Ok(json!({ "packets": view.packets()?, "lanes": view.lanes()?, "connections": connections }))
        },
        |out, view| {
            text::packets(&view.packets()?).write(out)?;
            writeln!(out)?;
            text::lanes(&view.lanes()?).write(out)?;
            writeln!(out)?;
            Ok(text::connection_totals(&view.connection_totals()?).write(out)?)
        },
    )
}

/// Prints something of every node: one JSON document, or text under the node's name.
fn print_nodes(
    args: &ListArgs,
    json: impl Fn(&NodeView) -> anyhow::Result<Value>,
    text: impl Fn(&mut io::StdoutLock<'static>, &NodeView) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let places = args.place.resolve()?;
    let several = places.len() > 1;
    let mut out = stdout();
    let mut nodes = Vec::new();
    for (at, (name, place)) in places.into_iter().enumerate() {
        let view = NodeView::open(place)?;
        for note in view.notes() {
            writeln!(io::stderr(), "warning: {}: names are missing: {}", escape(&name), escape(note))?;
        }
        if args.output == Output::Json {
            let mut node = json(&view)?;
            node["name"] = name.into();
            nodes.push(node);
            continue;
        }
        if at > 0 {
            writeln!(out)?;
        }
        if several {
            writeln!(out, "Node {}", escape(&name))?;
        }
        text(&mut out, &view)?;
    }
    if args.output == Output::Json {
        print_json(&mut out, &json!({ "nodes": nodes }))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_fill(out: &mut impl Write, maps: &[Fill]) -> io::Result<()> {
    if maps.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Columns::new(["MAP", "USED", "MAX", "FILL"]);
    for fill in maps {
        let percent = fill.used.saturating_mul(100).checked_div(fill.max).unwrap_or(0);
        table.row([escape(&fill.map), fill.used.to_string(), fill.max.to_string(), format!("{percent} %")]);
    }
    table.write(out)
}

const EXAMPLES: &str = "\
Examples:
  specola bpf endpoint list                        what the programs know of this host's endpoints
  specola bpf policy list 7 --sandbox shop --node node1
  specola bpf policy get --all                     entries of all endpoints, and the fill of their maps
  specola bpf ct list --sandbox shop -o json       connections of all nodes of a sandbox
  specola bpf prog list                            programs and their hooks

Maps are opened for reading only. An agent need not run.";

#[cfg(test)]
mod tests;
