//! Talking to the agents of one or more nodes.

use std::future::Future;
use std::io::{self, Write};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use specola_proto::specola::v1::agent_client::AgentClient;
use specola_proto::specola::v1::policy_admin_client::PolicyAdminClient;
use tonic::Response;

use crate::error::status_text;
use crate::target::{AdminArgs, Connection, Target, Timeout};

/// Form of the output of the commands that print once.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[value(alias = "table")]
    Compact,
    /// One JSON document.
    Json,
}

/// An agent that is connected.
#[derive(Debug)]
pub(crate) struct Node {
    target: Target,
    timeout: Timeout,
    client: AgentClient<Connection>,
    policies: PolicyAdminClient<Connection>,
}

impl Node {
    /// Connects to the agents that the arguments name.
    ///
    /// # Errors
    /// There is no such sandbox, or an agent does not answer.
    pub(crate) async fn all(args: &AdminArgs) -> anyhow::Result<Vec<Self>> {
        let mut nodes = Vec::new();
        for target in args.resolve()? {
            nodes.push(Self::connect(target, args.timeout).await?);
        }
        Ok(nodes)
    }

    /// Connects to one agent.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn connect(target: Target, timeout: Timeout) -> anyhow::Result<Self> {
        let channel = target.connect(timeout).await?;
        let policies = PolicyAdminClient::new(channel.clone());
        Ok(Self { target, timeout, client: AgentClient::new(channel), policies })
    }

    /// Name of the node in a sandbox, else the path of the socket.
    pub(crate) fn name(&self) -> &str {
        &self.target.name
    }

    /// Makes one call.
    ///
    /// # Errors
    /// The agent refuses it or does not answer in time; `what` says what was tried.
    pub(crate) async fn call<T, F>(
        &mut self,
        what: &str,
        call: impl FnOnce(AgentClient<Connection>) -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = Result<Response<T>, tonic::Status>>,
    {
        self.answer(what, call(self.client.clone())).await
    }

    /// Makes one call about what an operator sets.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) async fn call_policies<T, F>(
        &mut self,
        what: &str,
        call: impl FnOnce(PolicyAdminClient<Connection>) -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = Result<Response<T>, tonic::Status>>,
    {
        self.answer(what, call(self.policies.clone())).await
    }

    async fn answer<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<Response<T>, tonic::Status>>,
    ) -> anyhow::Result<T> {
        let answer = tokio::time::timeout(self.timeout.0, call).await;
        let answer = answer.with_context(|| format!("{}: cannot {what}: no answer in time", self.name()))?;
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(anyhow::anyhow!("{}: cannot {what}: {}", self.name(), status_text(&status))),
        }
    }
}

/// Runs a short command.
///
/// # Errors
/// Those of the command, or the runtime cannot be started.
pub(crate) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(command)
}

/// Prints one JSON document, indented.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn print_json(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot print the answer as JSON")?;
    Ok(writeln!(out, "{text}")?)
}

/// Standard output for one command.
pub(crate) fn stdout() -> io::StdoutLock<'static> {
    io::stdout().lock()
}
