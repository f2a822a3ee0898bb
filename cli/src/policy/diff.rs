//! `specola policy diff`.

mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::LanguageArgs;
use super::why::world::{Compared, Files, World};
use crate::error::{UsageError, is_broken_pipe};
use crate::node::{Output, block_on, print_json, stdout};
use crate::target::AdminArgs;

/// Arguments of `policy diff`.
#[derive(Args)]
pub(crate) struct DiffArgs {
    /// The policies to compare with: files of Kubernetes YAML, directories of them, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Compare with these files and not with agents; the pods in either are the endpoints.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["admin_socket", "sandbox", "complete"])]
    base: Vec<PathBuf>,
    /// FILE has all policies: those in force that it does not have would go.
    #[arg(long)]
    complete: bool,
    /// Show also what is decided alike, but by other rules.
    #[arg(long)]
    rules: bool,
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
/// An agent does not answer, or a file cannot be read or has an error; the exit code is 2 then.
pub(super) fn run(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    // As with diff(1), 1 says that there are differences.
    let trouble = |error: anyhow::Error| match is_broken_pipe(&error) {
        true => error,
        false => UsageError::text(format!("{error:#}")).into(),
    };
    block_on(diff(args)).map_err(trouble)
}

async fn diff(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let options = args.language.options();
    let (before, after) = if args.base.is_empty() {
        let mut before = World::live(&args.admin).await?;
        let mut after = before.with(&Files::read(&args.files, options)?, args.complete);
        World::align(&mut before, &mut after);
        (before, after)
    } else {
        World::offline_pair(&args.base, &args.files, options)?
    };
    let compared = World::compare(&before, &after);
    let mut out = stdout();
    match args.output {
        Output::Json => print_json(&mut out, &show::json(&after, &compared))?,
        Output::Compact => show::text(&mut out, &after, &compared, args.rules)?,
    }
    let differs = compared.iter().any(|one: &Compared| !one.comparison.is_empty());
    Ok(if differs { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(super) const EXAMPLES: &str = "\
Examples:
  specola policy diff new.yaml                       what applying the file to this node would change
  specola policy diff new.yaml --sandbox shop -o json
  specola policy diff policies/ --complete           what it would change if no other policies were in force
  specola policy diff --base main/ branch/           two directories of policies and pods, without a cluster

Before and after are asked about every peer, protocol and port at which a policy has an edge.";

#[cfg(test)]
mod tests;
