//! `specola list nodes|namespaces`.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use specola_proto::observer::observer_client::ObserverClient;
use specola_proto::observer::{GetNamespacesRequest, GetNodesRequest, Node};
use specola_proto::relay::NodeState;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::columns::Columns;
use crate::error::status_text;
use crate::node::{Output, block_on, print_json, stdout};
use crate::target::TargetArgs;

/// What to list.
#[derive(Subcommand)]
pub(crate) enum ListCommand {
    /// Nodes, their state, and how many flows they hold.
    #[command(visible_alias = "node")]
    Nodes(ListArgs),
    /// Namespaces with recent flows.
    #[command(visible_alias = "namespace")]
    Namespaces(ListArgs),
}

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Time in which a server must answer.
const REQUEST_TIME: Duration = Duration::from_secs(12);

/// Runs the command.
///
/// # Errors
/// A server does not answer, or refuses.
pub(crate) fn run(command: &ListCommand) -> anyhow::Result<ExitCode> {
    match command {
        ListCommand::Nodes(args) => block_on(nodes(args)),
        ListCommand::Namespaces(args) => block_on(namespaces(args)),
    }
}

async fn nodes(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let ask = |mut client: ObserverClient<Channel>| async move { client.get_nodes(GetNodesRequest {}).await };
    let mut nodes: Vec<Node> = Vec::new();
    for answer in ask_all(args, ask).await? {
        nodes.extend(answer.nodes);
    }
    if args.output == Output::Json {
        print_json(&mut stdout(), &nodes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Columns::new(["NAME", "STATUS", "AGE", "FLOWS/S", "CURRENT/MAX-FLOWS"]);
    nodes.iter().for_each(|node| table.row(row(node)));
    table.write(&mut stdout())?;
    Ok(ExitCode::SUCCESS)
}

fn row(node: &Node) -> Vec<String> {
    let state = match node.state() {
        NodeState::NodeConnected => "Connected",
        NodeState::NodeUnavailable => "Unavailable",
        NodeState::NodeGone => "Gone",
        NodeState::NodeError => "Error",
        NodeState::UnknownNodeState => "Unknown",
    };
    let seconds = node.uptime_ns as f64 / 1e9;
    let known = |text: String| if node.state() == NodeState::NodeConnected { text } else { "N/A".to_owned() };
    let rate = if seconds > 0.0 { node.seen_flows as f64 / seconds } else { 0.0 };
    let share = 100.0 * node.num_flows as f64 / node.max_flows.max(1) as f64;
    vec![
        node.name.clone(),
        state.to_owned(),
        known(age(node.uptime_ns / 1_000_000_000)),
        known(format!("{rate:.2}")),
        known(format!("{}/{} ({share:6.2}%)", node.num_flows, node.max_flows)),
    ]
}

/// The two largest units of a time.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

async fn namespaces(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let ask = |mut client: ObserverClient<Channel>| async move {
        client.get_namespaces(GetNamespacesRequest {}).await
    };
    let mut all = Vec::new();
    for answer in ask_all(args, ask).await? {
        all.extend(answer.namespaces);
    }
    all.sort_by(|a, b| (&a.cluster, &a.namespace).cmp(&(&b.cluster, &b.namespace)));
    all.dedup();
    if args.output == Output::Json {
        print_json(&mut stdout(), &all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let has_clusters = all.iter().any(|one| !one.cluster.is_empty());
    let mut table = Columns::new(["NAMESPACE"].into_iter().chain(has_clusters.then_some("CLUSTER")));
    for one in all {
        table.row([one.namespace].into_iter().chain(has_clusters.then_some(one.cluster)));
    }
    table.write(&mut stdout())?;
    Ok(ExitCode::SUCCESS)
}

async fn ask_all<T, F>(args: &ListArgs, ask: impl Fn(ObserverClient<Channel>) -> F) -> anyhow::Result<Vec<T>>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut answers = Vec::new();
    for target in args.target.resolve()? {
        let client = ObserverClient::new(target.connect(args.target.timeout).await?);
        let answer = tokio::time::timeout(REQUEST_TIME, ask(client)).await;
        let answer = answer.with_context(|| format!("{}: no answer in time", target.name))?;
        let answer = answer.map_err(|status| anyhow::anyhow!("{}: {}", target.name, status_text(&status)))?;
        answers.push(answer.into_inner());
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_has_no_numbers() {
        let node = Node { name: "n1".into(), state: NodeState::NodeUnavailable.into(), ..Node::default() };
        assert_eq!(row(&node), ["n1", "Unavailable", "N/A", "N/A", "N/A"]);
        let node = Node {
            state: NodeState::NodeConnected.into(),
            uptime_ns: 90_000_000_000,
            num_flows: 50,
            max_flows: 200,
            seen_flows: 45,
            ..node
        };
        assert_eq!(row(&node), ["n1", "Connected", "1m30s", "0.50", "50/200 ( 25.00%)"]);
    }
}
