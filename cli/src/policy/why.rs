//! `specola policy why`.

mod ends;
mod show;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use specola_policy::explain::{Connection, explain};

use self::ends::{Asked, asked_by_flow, parse_port};
use self::world::World;
use crate::error::UsageError;
use crate::node::{Output, block_on, print_json, stdout};
use crate::target::{AdminArgs, TargetArgs};
use crate::tls::TlsArgs;

/// Arguments of `policy why`.
#[derive(Args)]
pub(crate) struct WhyArgs {
    /// A flow, by its uuid, as `specola observe -o json` shows it.
    #[arg(value_name = "UUID", conflicts_with_all = ["from", "to", "port", "file"])]
    flow: Option<String>,
    /// Who opens the connection: namespace/pod, an address, or a reserved identity such as world.
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
    let asked = match (&args.flow, &args.from, &args.to, &args.port) {
        (Some(uuid), ..) => {
            let (server, sandbox) = (args.server.clone(), args.admin.sandbox.clone());
            asked_by_flow(
                &TargetArgs { server, sandbox, timeout: args.admin.timeout, tls: args.tls.clone() },
                uuid,
            )
            .await?
        }
        (None, Some(from), Some(to), Some(port)) => {
            let (port, proto) = parse_port(port)?;
            Asked { from: from.clone(), to: to.clone(), proto, port, carried: Vec::new() }
        }
        _ => return Err(UsageError::text("give a flow's uuid, or --from, --to and --port".to_owned()).into()),
    };
    let (from, to) = (world.end(&asked.from)?, world.end(&asked.to)?);
    let connection = Connection { from, to, proto: asked.proto, port: asked.port };
    let explanation = explain(&world.repository, &world.identities, &connection);
    let doubts = world.doubts(&connection, &explanation);
    let mut out = stdout();
    match args.output {
        Output::Json => print_json(&mut out, &show::json(&connection, &explanation, &asked, &doubts))?,
        Output::Compact => show::text(&mut out, &connection, &explanation, &asked, &doubts)?,
    }
    Ok(ExitCode::SUCCESS)
}
