//! `specola status`: flow servers and agents, of this machine, of one server, or of a sandbox.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use specola_proto::observer::observer_client::ObserverClient;
use specola_proto::observer::{ServerStatusRequest, ServerStatusResponse};
use specola_proto::specola::v1::{GetStatusRequest, GetStatusResponse};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::error::status_text;
use crate::node::{Node, block_on, print_json, stdout};
use crate::personality::Personality;
use crate::printer::escape;
use crate::target::{AdminArgs, Target, TargetArgs, Timeout, sandbox_nodes};

mod forms;
pub(crate) mod text;

/// Arguments of `status`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Unix socket of the agent's admin API [default: /run/specola/admin.sock].
    #[arg(long, value_name = "PATH", conflicts_with = "sandbox", help_heading = "Server")]
    admin_socket: Option<PathBuf>,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Form of the output of `status`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// For people; says most.
    Compact,
    /// One field of the flow server per line.
    Dict,
    /// One JSON document.
    #[value(alias = "jsonpb")]
    Json,
    /// One row per flow server.
    #[value(alias = "tab")]
    Table,
}

/// One node, and what to ask there.
struct Question {
    name: String,
    server: Option<Target>,
    agent: Option<Target>,
    /// A silent agent is no error.
    agent_is_optional: bool,
}

/// What one node answered.
struct Answer {
    name: String,
    server: Option<Server>,
    agent: Option<GetStatusResponse>,
    errors: Vec<String>,
    notes: Vec<String>,
}

/// What a flow server answered.
struct Server {
    target: String,
    health: ServingStatus,
    status: ServerStatusResponse,
}

/// Runs the command.
///
/// # Errors
/// There is no such sandbox, or the output cannot be written. What does not work is shown, with exit code 1.
pub(crate) fn run(args: &StatusArgs, personality: Personality) -> anyhow::Result<ExitCode> {
    if personality == Personality::Hubble && args.target.sandbox.is_none() {
        return block_on(as_hubble(args));
    }
    let questions = questions(args)?;
    let asked = questions.into_iter().map(|question| ask(question, &args.target));
    let answers = block_on(async { Ok(futures::future::join_all(asked).await) })?;
    let mut out = stdout();
    match args.output {
        Output::Dict => {
            let servers: Vec<_> = answers.iter().filter_map(|answer| answer.server.as_ref()).collect();
            for (at, server) in servers.iter().enumerate() {
                if at > 0 {
                    writeln!(out, "------------")?;
                }
                forms::dict(&mut out, &server.status)?;
            }
            complain(&answers)?;
        }
        Output::Table => {
            let rows = answers.iter().filter_map(|answer| {
                answer.server.as_ref().map(|server| (answer.name.as_str(), &server.status))
            });
            forms::table(rows, answers.len() > 1).write(&mut out)?;
            complain(&answers)?;
        }
        Output::Json => {
            let nodes: Vec<_> = answers.iter().map(Answer::json).collect();
            print_json(&mut out, &json!({ "nodes": nodes }))?;
        }
        Output::Compact => {
            let several = answers.len() > 1;
            for (at, answer) in answers.iter().enumerate() {
                if at > 0 {
                    writeln!(out)?;
                }
                if several {
                    writeln!(out, "Node {}", answer.name)?;
                }
                text::print(&mut out, answer)?;
            }
        }
    }
    Ok(if answers.iter().all(Answer::is_healthy) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Errors of the forms that have no place for them.
fn complain(answers: &[Answer]) -> io::Result<()> {
    let mut errors = io::stderr().lock();
    let mut texts = answers.iter().flat_map(|answer| &answer.errors);
    texts.try_for_each(|error| writeln!(errors, "error: {}", escape(error)))
}

/// What Hubble's client shows: the flow server alone, and nothing but its health when it does not serve.
async fn as_hubble(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let target = args.target.resolve()?.pop().context("there is no server to ask")?;
    let server = ask_server(target, &args.target).await.context("failed getting status")?;
    let mut out = stdout();
    let is_healthy = server.health == ServingStatus::Serving;
    if !is_healthy {
        if args.output == Output::Compact {
            text::print_health(&mut out, &server)?;
        }
        anyhow::bail!("not healthy");
    }
    match args.output {
        Output::Compact => text::print_server(&mut out, &server)?,
        Output::Dict => forms::dict(&mut out, &server.status)?,
        Output::Table => forms::table([("", &server.status)].into_iter(), false).write(&mut out)?,
        Output::Json => writeln!(out, "{}", serde_json::to_string(&server.status)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn questions(args: &StatusArgs) -> anyhow::Result<Vec<Question>> {
    if let Some(name) = &args.target.sandbox {
        let question = |node: crate::target::NodeSockets| Question {
            server: Some(Target::unix(node.name.clone(), node.observer)),
            agent: Some(Target::unix(node.name.clone(), node.admin)),
            name: node.name,
            agent_is_optional: false,
        };
        return Ok(sandbox_nodes(name)?.into_iter().map(question).collect());
    }
    let named_server = args.target.server.is_some();
    let ask_server = named_server || args.admin_socket.is_none();
    let ask_agent = args.admin_socket.is_some() || !named_server;
    let server = if ask_server { args.target.resolve()?.pop() } else { None };
    let admin = AdminArgs { admin_socket: args.admin_socket.clone(), ..AdminArgs::default() };
    let agent = if ask_agent { admin.resolve()?.pop() } else { None };
    let name = server.as_ref().or(agent.as_ref()).map(|target| target.name.clone()).unwrap_or_default();
    Ok(vec![Question { name, server, agent, agent_is_optional: args.admin_socket.is_none() }])
}

async fn ask(question: Question, how: &TargetArgs) -> Answer {
    let mut answer =
        Answer { name: question.name, server: None, agent: None, errors: Vec::new(), notes: Vec::new() };
    if let Some(target) = question.server {
        match ask_server(target, how).await {
            Ok(server) => answer.server = Some(server),
            Err(error) => answer.errors.push(format!("failed getting status: {error:#}")),
        }
    }
    if let Some(target) = question.agent {
        match ask_agent(target, how.timeout).await {
            Ok(agent) => answer.agent = Some(agent),
            Err(error) => {
                let text = format!("failed getting the agent's status: {error:#}");
                let is_note = question.agent_is_optional && answer.server.is_some();
                if is_note { answer.notes.push(text) } else { answer.errors.push(text) }
            }
        }
    }
    answer
}

async fn ask_server(target: Target, how: &TargetArgs) -> anyhow::Result<Server> {
    let channel = target.connect(how.timeout).await?;
    let answers = async {
        let request = HealthCheckRequest { service: HEALTH_SERVICE.to_owned() };
        let health = HealthClient::new(channel.clone()).check(request).await?.into_inner();
        let status = ObserverClient::new(channel).server_status(ServerStatusRequest {}).await?.into_inner();
        Ok::<_, tonic::Status>((health.status(), status))
    };
    match tokio::time::timeout(how.request_timeout.0, answers).await {
        Ok(Ok((health, status))) => Ok(Server { target: target.name, health, status }),
        Ok(Err(status)) => Err(anyhow::anyhow!("{}: {}", target.name, status_text(&status))),
        Err(_elapsed) => Err(anyhow::anyhow!("{}: no answer in time", target.name)),
    }
}

async fn ask_agent(target: Target, timeout: Timeout) -> anyhow::Result<GetStatusResponse> {
    let mut node = Node::connect(target, timeout).await?;
    node.call("get the status", |mut client| async move { client.get_status(GetStatusRequest {}).await })
        .await
}

impl Answer {
    fn is_healthy(&self) -> bool {
        let server_is_fine =
            self.server.as_ref().is_none_or(|server| server.health == ServingStatus::Serving);
        self.errors.is_empty() && server_is_fine && self.agent.as_ref().is_none_or(|agent| agent.ready)
    }

    fn json(&self) -> Value {
        let server = self.server.as_ref().map(|server| {
            json!({ "target": server.target, "health": server.health.as_str_name(), "status": server.status })
        });
        json!({
            "name": self.name,
            "healthy": self.is_healthy(),
            "server": server,
            "agent": self.agent,
            "errors": self.errors,
            "notes": self.notes,
        })
    }
}

/// What Hubble's clients ask the health service for.
const HEALTH_SERVICE: &str = "hubble.server.Observer";

const AFTER_HELP: &str = "\
Examples:
  specola status
  specola status --sandbox shop
  specola status --server tls://relay.example:443 -o json

Exit codes: 0 everything is well; 1 something is not, or does not answer; 2 wrong usage.";

#[cfg(test)]
mod tests;
