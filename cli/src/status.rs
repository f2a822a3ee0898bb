//! `specola status`: flow servers and agents, of this machine, of one server, or of a sandbox.

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use specola_proto::observer::observer_client::ObserverClient;
use specola_proto::observer::{ServerStatusRequest, ServerStatusResponse};
use specola_proto::specola::v1::{GetStatusRequest, GetStatusResponse};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::error::status_text;
use crate::node::{Node, Output, block_on, print_json, stdout};
use crate::target::{AdminArgs, Target, TargetArgs, Timeout, sandbox_nodes};

pub(crate) mod text;

/// Arguments of `status`.
#[derive(Args)]
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
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let questions = questions(args)?;
    let timeout = args.target.timeout;
    let answers = block_on(async {
        Ok(futures::future::join_all(questions.into_iter().map(|question| ask(question, timeout))).await)
    })?;
    let mut out = stdout();
    match args.output {
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
    let named_server =
        args.target.server.is_some() || env::var_os("HUBBLE_SERVER").is_some_and(|server| !server.is_empty());
    let ask_server = named_server || args.admin_socket.is_none();
    let ask_agent = args.admin_socket.is_some() || !named_server;
    let server = if ask_server { args.target.resolve()?.pop() } else { None };
    let admin = AdminArgs { admin_socket: args.admin_socket.clone(), ..AdminArgs::default() };
    let agent = if ask_agent { admin.resolve()?.pop() } else { None };
    let name = server.as_ref().or(agent.as_ref()).map(|target| target.name.clone()).unwrap_or_default();
    Ok(vec![Question { name, server, agent, agent_is_optional: args.admin_socket.is_none() }])
}

async fn ask(question: Question, timeout: Timeout) -> Answer {
    let mut answer =
        Answer { name: question.name, server: None, agent: None, errors: Vec::new(), notes: Vec::new() };
    if let Some(target) = question.server {
        match ask_server(target, timeout).await {
            Ok(server) => answer.server = Some(server),
            Err(error) => answer.errors.push(format!("failed getting status: {error:#}")),
        }
    }
    if let Some(target) = question.agent {
        match ask_agent(target, timeout).await {
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

async fn ask_server(target: Target, timeout: Timeout) -> anyhow::Result<Server> {
    let channel = target.connect(timeout).await?;
    let answers = async {
        let request = HealthCheckRequest { service: HEALTH_SERVICE.to_owned() };
        let health = HealthClient::new(channel.clone()).check(request).await?.into_inner();
        let status = ObserverClient::new(channel).server_status(ServerStatusRequest {}).await?.into_inner();
        Ok::<_, tonic::Status>((health.status(), status))
    };
    match tokio::time::timeout(timeout.0, answers).await {
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

#[cfg(test)]
mod tests;
