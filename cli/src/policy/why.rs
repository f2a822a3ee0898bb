//! `specola policy why`.

mod ends;
mod show;
pub(super) mod world;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use specola_policy::explain::{Change, Connection, Explainer, Explanation};

use self::ends::{Asked, asked_by_flows, parse_port};
use self::world::World;
use super::LanguageArgs;
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
    /// Find the smallest change that turns the outcome also where several flows are asked about; it takes long.
    #[arg(long)]
    change: bool,
    /// Decide by files of Kubernetes YAML (pods, namespaces, policies) or directories of them, without a cluster.
    #[arg(long, short, value_name = "FILE")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    language: LanguageArgs,
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
pub(crate) fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    block_on(why(args))
}

/// What was asked and what is known of it.
struct Answer<'a> {
    asked: &'a Asked,
    connection: Connection,
    explanation: Explanation,
    /// Where the kernel may say otherwise.
    doubts: Vec<String>,
    /// The smallest change that turns the outcome, if one was looked for.
    change: Option<Option<Change>>,
}

async fn why(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let world = if args.file.is_empty() {
        World::live(&args.admin).await?
    } else {
        World::offline(&args.file, args.language.options())?
    };
    let asked = asked(args).await?;
    let wants_change = args.change || asked.len() == 1;
    let mut explainer = Explainer::new(&world.repository, &world.identities);
    let mut answers = Vec::new();
    for asked in &asked {
        let connection = world.connection(asked)?;
        let explanation = explainer.explain(&connection);
        let doubts = world.doubts(&connection, &explanation);
        let change = wants_change.then(|| explainer.smallest_change(&connection));
        answers.push(Answer { asked, connection, explanation, doubts, change });
    }
    let mut out = stdout();
    match (args.output, answers.as_slice()) {
        (Output::Json, [answer]) => print_json(&mut out, &show::json(answer))?,
        (Output::Json, answers) => {
            let shown: Vec<_> = answers.iter().map(show::json).collect();
            print_json(&mut out, &json!({ "answers": shown }))?;
        }
        (Output::Compact, answers) => {
            for (index, answer) in answers.iter().enumerate() {
                if index > 0 {
                    writeln!(out)?;
                }
                show::text(&mut out, answer)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) const EXAMPLES: &str = "\
Examples:
  specola policy why --from shop/web --to shop/db --port 5432/tcp
  specola policy why --from shop/web --to api.example.org --port 443/tcp --sandbox shop
  specola policy why --from other/rogue --to shop/db --port 5432/tcp --file cluster.yaml   without a cluster
  specola policy why $(specola observe --verdict DROPPED --last 5 -o json | jq -r .flow.uuid)";

/// The connections that the arguments name.
async fn asked(args: &WhyArgs) -> anyhow::Result<Vec<Asked>> {
    if !args.flow.is_empty() {
        let (server, sandbox) = (args.server.clone(), args.admin.sandbox.clone());
        let servers = TargetArgs {
            server,
            sandbox,
            timeout: args.admin.timeout,
            tls: args.tls.clone(),
            ..TargetArgs::default()
        };
        return asked_by_flows(&servers, &args.flow).await;
    }
    let (Some(from), Some(to), Some(port)) = (&args.from, &args.to, &args.port) else {
        return Err(UsageError::text("give a flow's uuid, or --from, --to and --port".to_owned()).into());
    };
    let (port, proto) = parse_port(port)?;
    let (from, to) = (from.as_str().into(), to.as_str().into());
    Ok(vec![Asked { flow: None, from, to, proto, port, carried: Vec::new() }])
}
