//! `specola policy`.

use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use specola_policy::{DocumentError, ParseOptions, ParsedFile, parse_policies_with};
use specola_proto::specola::v1::{GetPolicyRequest, GetPolicyResponse};

use crate::columns::Columns;
use crate::node::{Node, Output, block_on, print_json, stdout};
use crate::printer::escape;
use crate::target::AdminArgs;

mod audit;
mod diff;
mod list;
mod test;
mod why;

pub(crate) use why::{WhyArgs, run as why};

/// What to do with policies.
#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show the policies in force, or one of them as it was read.
    #[command(
        after_help = "Examples:\n  specola policy get --sandbox shop\n  specola policy get shop/db-closed"
    )]
    Get(GetArgs),
    /// Check files of policies without a cluster; exit code 1 when one has an error.
    #[command(
        after_help = "Examples:\n  specola policy validate policies/\n  kubectl get cnp -A -o yaml | specola policy validate -"
    )]
    Validate(ValidateArgs),
    /// Say why a connection passes or not: the rules that decide, and the smallest change that turns it.
    #[command(after_help = why::EXAMPLES)]
    Why(Box<WhyArgs>),
    /// List the policies in force with the endpoints that have them, or those of files.
    #[command(after_help = list::EXAMPLES)]
    List(list::ListArgs),
    /// Say what other policies would change: for which endpoints, peers, protocols and ports.
    ///
    /// Exit code 0: nothing; 1: something; 2: an error.
    #[command(after_help = diff::EXAMPLES)]
    Diff(Box<diff::DiffArgs>),
    /// See what policies would drop without dropping it.
    #[command(subcommand, after_help = audit::EXAMPLES)]
    Audit(audit::AuditCommand),
    /// Play cases: clusters, policies, and what shall become of connections; exit code 1 when one fails.
    ///
    /// The format is described in docs/policy-test.md. No cluster is needed.
    #[command(
        after_help = "Examples:\n  specola policy test examples/policy-test/cases.yaml\n  specola policy test cases.yaml --datapath -o junit"
    )]
    Test(test::TestArgs),
}

/// Parts of the language that are off unless asked for, as they are in the agent.
#[derive(Args)]
pub(crate) struct LanguageArgs {
    /// Allow fromNodes and toNodes.
    #[arg(long)]
    enable_node_selector_labels: bool,
    /// Allow the protocols VRRP and IGMP.
    #[arg(long)]
    enable_extended_ip_protocols: bool,
    /// Allow ClusterNetworkPolicy of Kubernetes.
    #[arg(long)]
    enable_k8s_cluster_network_policy: bool,
}

impl LanguageArgs {
    pub(crate) fn options(&self) -> ParseOptions {
        ParseOptions {
            node_selector_labels: self.enable_node_selector_labels,
            extended_protocols: self.enable_extended_ip_protocols,
            cluster_network_policy: self.enable_k8s_cluster_network_policy,
        }
    }
}

/// Arguments of `policy get`.
#[derive(Args)]
pub(crate) struct GetArgs {
    /// One policy; all when left out.
    #[arg(value_name = "[NAMESPACE/]NAME")]
    policy: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Arguments of `policy validate`.
#[derive(Args)]
pub(crate) struct ValidateArgs {
    /// Files of Kubernetes YAML, directories of them, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    language: LanguageArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// An agent does not answer, or a file cannot be read. Wrong policies are no error but exit code 1.
pub(crate) fn run(command: PolicyCommand) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Get(args) => block_on(get(&args)),
        PolicyCommand::Validate(args) => validate(&args),
        PolicyCommand::Why(args) => why::run(&args),
        PolicyCommand::List(args) => list::run(&args),
        PolicyCommand::Diff(args) => diff::run(&args),
        PolicyCommand::Audit(command) => audit::run(&command),
        PolicyCommand::Test(args) => test::run(&args),
    }
}

async fn get(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let (namespace, name) = match &args.policy {
        None => ("", ""),
        Some(policy) => policy.split_once('/').unwrap_or(("", policy)),
    };
    let mut answers = Vec::new();
    for mut node in Node::all(&args.admin).await? {
        let request = GetPolicyRequest { namespace: namespace.to_owned(), name: name.to_owned() };
        let answer =
            node.call("show policies", |mut client| async move { client.get_policy(request).await }).await?;
        answers.push((node.name().to_owned(), answer));
    }
    let found = answers.iter().any(|(_, answer)| !answer.policies.is_empty());
    if let Some(policy) = args.policy.as_ref().filter(|_| !found) {
        anyhow::bail!("no policy {policy} is in force; `specola policy get` lists those that are");
    }
    let mut out = stdout();
    match args.output {
        Output::Json => {
            let nodes: Vec<_> =
                answers.iter().map(|(node, answer)| json!({ "node": node, "policy": answer })).collect();
            print_json(&mut out, &json!({ "nodes": nodes }))?;
        }
        Output::Compact if args.policy.is_some() => print_objects(&mut out, &answers)?,
        Output::Compact => print_list(&mut out, &answers)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints each object once, though every node has it.
fn print_objects(out: &mut impl Write, answers: &[(String, GetPolicyResponse)]) -> io::Result<()> {
    let mut printed: Vec<&str> = Vec::new();
    for policy in answers.iter().flat_map(|(_, answer)| &answer.policies) {
        if printed.contains(&policy.yaml.as_str()) {
            continue;
        }
        if !printed.is_empty() {
            writeln!(out, "---")?;
        }
        writeln!(out, "# {} revision {}", escape(&policy.source), policy.revision)?;
        for line in policy.yaml.trim_end().lines() {
            writeln!(out, "{}", escape(line))?;
        }
        printed.push(&policy.yaml);
    }
    Ok(())
}

fn print_list(out: &mut impl Write, answers: &[(String, GetPolicyResponse)]) -> io::Result<()> {
    let mut table = Columns::new(["NODE", "KIND", "NAMESPACE", "NAME", "REVISION", "SOURCE"]);
    for (node, answer) in answers {
        for policy in &answer.policies {
            let namespace = if policy.namespace.is_empty() { "-" } else { &policy.namespace };
            table.row([
                escape(node),
                escape(&policy.kind),
                escape(namespace),
                escape(&policy.name),
                policy.revision.to_string(),
                escape(&policy.source),
            ]);
        }
    }
    table.write(out)?;
    for (node, answer) in answers {
        for refused in &answer.refused {
            for error in &refused.errors {
                writeln!(out, "refused on {}: {}: {}", escape(node), escape(&refused.source), escape(error))?;
            }
        }
    }
    Ok(())
}

/// Reads files and directories.
fn parse(paths: &[PathBuf], options: ParseOptions) -> anyhow::Result<Vec<(String, ParsedFile)>> {
    let mut files = Vec::new();
    for path in paths {
        for (name, text) in read(path)? {
            let parsed = parse_policies_with(&name, &text, options);
            files.push((name, parsed));
        }
    }
    Ok(files)
}

fn validate(args: &ValidateArgs) -> anyhow::Result<ExitCode> {
    let files = parse(&args.files, args.language.options())?;
    let valid = files.iter().all(|(_, parsed)| parsed.is_valid());
    match args.output {
        Output::Json => {
            let files: Vec<_> = files.iter().map(|(name, parsed)| file_json(name, parsed)).collect();
            print_json(&mut stdout(), &json!({ "valid": valid, "files": files }))?;
        }
        Output::Compact => {
            for (name, parsed) in &files {
                print_file(&mut stdout(), &mut io::stderr(), name, parsed)?;
            }
        }
    }
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Name and text of a file, or of every YAML file of a directory.
fn read(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(vec![("stdin".to_owned(), text)]);
    }
    let cannot = || format!("cannot read {}", path.display());
    if !fs::metadata(path).with_context(cannot)?.is_dir() {
        return Ok(vec![(path.display().to_string(), fs::read_to_string(path).with_context(cannot)?)]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            paths.push(path);
        }
    }
    paths.sort();
    anyhow::ensure!(!paths.is_empty(), "{} holds no .yaml or .yml file", path.display());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((path.display().to_string(), text))
    };
    paths.into_iter().map(read).collect()
}

fn print_file(out: &mut impl Write, err: &mut impl Write, name: &str, parsed: &ParsedFile) -> io::Result<()> {
    for error in &parsed.errors {
        writeln!(err, "{}", escape(&error.to_string()))?;
    }
    for warning in &parsed.warnings {
        writeln!(err, "warning: {}", escape(&warning.to_string()))?;
    }
    let name = escape(name);
    match (parsed.errors.len(), parsed.objects.len()) {
        (0, 0) => writeln!(err, "warning: {name} holds no policy"),
        (0, 1) => writeln!(out, "{name}: 1 policy is valid"),
        (0, policies) => writeln!(out, "{name}: {policies} policies are valid"),
        (1, _) => writeln!(err, "{name}: 1 error"),
        (errors, _) => writeln!(err, "{name}: {errors} errors"),
    }
}

fn file_json(name: &str, parsed: &ParsedFile) -> Value {
    let problem = |problem: &DocumentError| {
        json!({
            "line": problem.line,
            "object": problem.object,
            "field": problem.field,
            "message": problem.message,
        })
    };
    json!({
        "file": name,
        "policies": parsed.objects.iter().map(|object| object.reference.to_string()).collect::<Vec<_>>(),
        "errors": parsed.errors.iter().map(problem).collect::<Vec<_>>(),
        "warnings": parsed.warnings.iter().map(problem).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
