//! `specola policy why`.

mod ends;
mod show;
mod world;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use specola_policy::explain::explain;

use self::ends::{Asked, asked_by_flows, parse_port};
use self::world::World;
use crate::error::UsageError;
use crate::node::{Output, block_on, print_json, stdout};
use crate::target::{AdminArgs, TargetArgs};
use crate::tls::TlsArgs;

/// Arguments of `policy why`.
#[derive(Args)]
pub(crate) struct WhyArgs {
    /// Flows, by their uuids, as `specola observe -o json` shows them.
    #[arg(value_name = "UUID", conflicts_with_all = ["from", "to", "port", "file"])]
    flow: Vec<String>,
    /// Who opens the connection: namespace/pod, node:name, an address, or a reserved identity such as world.
    #[arg(long, value_name = "END", required_unless_present = "flow")]
    from: Option<String>,
    /// Who accepts it.
    #[arg(long, value_name = "END", required_unless_present = "flow")]
    to: Option<String>,
    /// Destination port with its protocol: 8080/tcp, 53/udp, 8/icmp.
    #[arg(long, value_name = "PORT/PROTOCOL", required_unless_present = "flow")]
    port: Option<String>,
    /// Decide by files of Kubernetes YAML (pods, namespaces, policies) or directories of them, without a cluster.
    #[arg(long, short, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Flow server that knows the flow: unix:///path or host:port [default: the local agent's socket].
    #[arg(long, value_name = "ADDRESS", conflicts_with = "sandbox")]
    server: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// An agent does not answer, a file cannot be read, or an end or flow is not known.
pub(super) fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    block_on(why(args))
}

async fn why(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let world =
        if args.file.is_empty() { World::live(&args.admin).await? } else { World::offline(&args.file)? };
    let asked = asked(args).await?;
    let mut answers = Vec::new();
    for asked in &asked {
        let connection = world.connection(asked)?;
        let explanation = explain(&world.repository, &world.identities, &connection);
        let doubts = world.doubts(&connection, &explanation);
        answers.push((connection, explanation, asked, doubts));
    }
    let mut out = stdout();
    match (args.output, answers.as_slice()) {
        (Output::Json, [(connection, explanation, asked, doubts)]) => {
            print_json(&mut out, &show::json(connection, explanation, asked, doubts))?;
        }
        (Output::Json, answers) => {
            let shown: Vec<_> =
                answers.iter().map(|(c, e, asked, doubts)| show::json(c, e, asked, doubts)).collect();
            print_json(&mut out, &json!({ "answers": shown }))?;
        }
        (Output::Compact, answers) => {
            for (index, (connection, explanation, asked, doubts)) in answers.iter().enumerate() {
                if index > 0 {
                    writeln!(out)?;
                }
                show::text(&mut out, connection, explanation, asked, doubts)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The connections that the arguments name.
async fn asked(args: &WhyArgs) -> anyhow::Result<Vec<Asked>> {
    if !args.flow.is_empty() {
        let (server, sandbox) = (args.server.clone(), args.admin.sandbox.clone());
        let servers = TargetArgs { server, sandbox, timeout: args.admin.timeout, tls: args.tls.clone() };
        return asked_by_flows(&servers, &args.flow).await;
    }
    let (Some(from), Some(to), Some(port)) = (&args.from, &args.to, &args.port) else {
        return Err(UsageError::text("give a flow's uuid, or --from, --to and --port".to_owned()).into());
    };
    let (port, proto) = parse_port(port)?;
    let (from, to) = (from.as_str().into(), to.as_str().into());
    Ok(vec![Asked { flow: None, from, to, proto, port, carried: Vec::new() }])
}
