//! `specola list nodes|namespaces`.

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use specola_proto::observer::observer_client::ObserverClient;
use specola_proto::observer::{GetNamespacesRequest, GetNodesRequest, Namespace, Node};
use specola_proto::relay::NodeState;
use tonic::{Response, Status};

use crate::columns::Columns;
use crate::error::status_text;
use crate::node::{block_on, print_json, stdout};
use crate::printer::escape;
use crate::target::{Connection, TargetArgs};

/// What to list.
#[derive(Subcommand)]
pub(crate) enum ListCommand {
    /// Nodes, their state, and how many flows they hold.
    #[command(
        visible_alias = "node",
        after_help = "Examples:\n  specola list nodes --server relay:4245\n  specola list nodes -o wide"
    )]
    Nodes(ListArgs),
    /// Namespaces with recent flows.
    #[command(
        visible_alias = "namespace",
        after_help = "Examples:\n  specola list namespaces\n  specola list namespaces -o json"
    )]
    Namespaces(ListArgs),
}

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Form of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    /// Aligned columns.
    #[value(alias = "compact")]
    Table,
    /// More columns.
    Wide,
    /// One JSON document.
    Json,
}

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
    let ask =
        |mut client: ObserverClient<Connection>| async move { client.get_nodes(GetNodesRequest {}).await };
    let mut nodes: Vec<Node> = Vec::new();
    for answer in ask_all(args, ask).await? {
        nodes.extend(answer.nodes);
    }
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    match args.output {
        Output::Json => print_json(&mut stdout(), &nodes)?,
        Output::Table => node_table(&nodes, false).write(&mut stdout())?,
        Output::Wide => node_table(&nodes, true).write(&mut stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn node_table(nodes: &[Node], wide: bool) -> Columns {
    let more: &[&str] = if wide { &["VERSION", "ADDRESS", "TLS"] } else { &[] };
    let names = ["NAME", "STATUS", "AGE", "FLOWS/S", "CURRENT/MAX-FLOWS"];
    let mut table = Columns::new(names.into_iter().chain(more.iter().copied()));
    for node in nodes {
        let more = if wide { wide_cells(node) } else { Vec::new() };
        table.row(row(node).into_iter().chain(more));
    }
    table
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
    let rate = (node.uptime_ns > 0).then(|| format!("{:.2}", node.seen_flows as f64 / seconds));
    let share = 100.0 * node.num_flows as f64 / node.max_flows.max(1) as f64;
    let fill = (node.max_flows > 0).then(|| format!("{}/{} ({share:6.2}%)", node.num_flows, node.max_flows));
    let age = (node.uptime_ns > 0).then(|| age(node.uptime_ns / 1_000_000_000));
    vec![escape(&node.name), state.to_owned(), or_absent(age), or_absent(rate), or_absent(fill)]
}

fn wide_cells(node: &Node) -> Vec<String> {
    let text = |text: &str| or_absent((!text.is_empty()).then(|| escape(text)));
    let tls = node.tls.as_ref().map(|tls| if tls.enabled { "Enabled" } else { "Disabled" }.to_owned());
    vec![text(&node.version), text(&node.address), or_absent(tls)]
}

fn or_absent(text: Option<String>) -> String {
    text.unwrap_or_else(|| "N/A".to_owned())
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
    let ask = |mut client: ObserverClient<Connection>| async move {
        client.get_namespaces(GetNamespacesRequest {}).await
    };
    let mut all = Vec::new();
    for answer in ask_all(args, ask).await? {
        all.extend(answer.namespaces);
    }
    all.sort_by(|a, b| (&a.namespace, &a.cluster).cmp(&(&b.namespace, &b.cluster)));
    all.dedup();
    match args.output {
        Output::Json => print_json(&mut stdout(), &all)?,
        Output::Table => namespace_table(&all, false).write(&mut stdout())?,
        Output::Wide => namespace_table(&all, true).write(&mut stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Without the clusters a namespace of several is shown once.
fn namespace_table(namespaces: &[Namespace], wide: bool) -> Columns {
    let mut table = Columns::new(["NAMESPACE"].into_iter().chain(wide.then_some("CLUSTER")));
    let mut rows: Vec<_> = namespaces
        .iter()
        .map(|one| {
            let cluster = wide.then(|| escape(&one.cluster));
            [escape(&one.namespace)].into_iter().chain(cluster).collect::<Vec<_>>()
        })
        .collect();
    rows.dedup();
    rows.into_iter().for_each(|row| table.row(row));
    table
}

async fn ask_all<T, F>(
    args: &ListArgs,
    ask: impl Fn(ObserverClient<Connection>) -> F,
) -> anyhow::Result<Vec<T>>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut answers = Vec::new();
    for target in args.target.resolve()? {
        let client = ObserverClient::new(target.connect(args.target.timeout).await?);
        let answer = tokio::time::timeout(args.target.request_timeout.0, ask(client)).await;
        let answer = answer.with_context(|| format!("{}: no answer in time", target.name))?;
        let answer = answer.map_err(|status| anyhow::anyhow!("{}: {}", target.name, status_text(&status)))?;
        answers.push(answer.into_inner());
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use specola_proto::observer::Tls;

    use super::*;

    fn text(table: &Columns) -> String {
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn node_tables_have_gaps_where_nothing_is_known() {
        let absent =
            Node { name: "c/n2".into(), state: NodeState::NodeUnavailable.into(), ..Node::default() };
        let node = Node {
            name: "n1".into(),
            state: NodeState::NodeConnected.into(),
            uptime_ns: 90_000_000_000,
            num_flows: 50,
            max_flows: 200,
            seen_flows: 45,
            version: "specola v1".into(),
            address: "10.0.0.8:4244".into(),
            tls: Some(Tls { enabled: true, server_name: String::new() }),
        };
        let nodes = [absent, node];
        assert_eq!(
            text(&node_table(&nodes, false)),
            "NAME   STATUS        AGE     FLOWS/S   CURRENT/MAX-FLOWS\n\
             c/n2   Unavailable   N/A     N/A       N/A\n\
             n1     Connected     1m30s   0.50      50/200 ( 25.00%)\n"
        );
        assert_eq!(
            text(&node_table(&nodes, true)),
            "NAME   STATUS        AGE     FLOWS/S   CURRENT/MAX-FLOWS   VERSION      ADDRESS         TLS\n\
             c/n2   Unavailable   N/A     N/A       N/A                 N/A          N/A             N/A\n\
             n1     Connected     1m30s   0.50      50/200 ( 25.00%)    specola v1   10.0.0.8:4244   Enabled\n"
        );
    }

    #[test]
    fn namespaces_show_their_clusters_when_asked() {
        let one =
            |cluster: &str, name: &str| Namespace { cluster: cluster.to_owned(), namespace: name.to_owned() };
        let all = [one("east", "shop"), one("west", "shop"), one("west", "tools")];
        assert_eq!(text(&namespace_table(&all, false)), "NAMESPACE\nshop\ntools\n");
        assert_eq!(
            text(&namespace_table(&all, true)),
            "NAMESPACE   CLUSTER\nshop        east\nshop        west\ntools       west\n"
        );
    }
}
