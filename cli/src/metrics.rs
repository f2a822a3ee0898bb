//! `specola metrics`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use specola_proto::specola::v1::{ListMetricsRequest, ListMetricsResponse, MetricFamily};

use crate::columns::Columns;
use crate::node::{Node, Output, block_on, print_json, stdout};
use crate::printer::escape;
use crate::target::AdminArgs;

/// What to show of metrics.
#[derive(Subcommand)]
pub(crate) enum MetricsCommand {
    /// List the families of metrics that are made of flows, with their labels and options.
    List(MetricsArgs),
    /// Show how many series each family has, and how many it may have.
    Cardinality(MetricsArgs),
}

/// Arguments of both.
#[derive(Args)]
pub(crate) struct MetricsArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// An agent does not answer.
pub(crate) fn run(command: MetricsCommand) -> anyhow::Result<ExitCode> {
    let (args, header, row): (_, &[&str], Row) = match command {
        MetricsCommand::List(args) => (args, &["FAMILY", "METRIC", "LABELS", "OPTIONS"], list_row),
        MetricsCommand::Cardinality(args) => {
            (args, &["FAMILY", "SERIES", "BUDGET", "OTHER"], cardinality_row)
        }
    };
    block_on(show(&args, header, row))
}

type Row = fn(&MetricFamily) -> Vec<String>;

fn list_row(family: &MetricFamily) -> Vec<String> {
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { escape(&text).to_string() };
    vec![
        family.name.clone(),
        family.metric.clone(),
        or_none(family.labels.join(",")),
        or_none(family.options.clone()),
    ]
}

fn cardinality_row(family: &MetricFamily) -> Vec<String> {
    vec![
        family.name.clone(),
        family.series.to_string(),
        family.budget.to_string(),
        family.limited.to_string(),
    ]
}

async fn show(args: &MetricsArgs, header: &[&str], row: Row) -> anyhow::Result<ExitCode> {
    let mut answers: Vec<(String, ListMetricsResponse)> = Vec::new();
    for mut node in Node::all(&args.admin).await? {
        let answer = node.call("list metrics", |mut client| async move {
            client.list_metrics(ListMetricsRequest {}).await
        });
        let answer = answer.await?;
        answers.push((node.name().to_owned(), answer));
    }
    let mut out = stdout();
    match args.output {
        Output::Json => {
            let of =
                |(node, answer): &(String, ListMetricsResponse)| json!({ "node": node, "metrics": answer });
            print_json(&mut out, &json!({ "nodes": answers.iter().map(of).collect::<Vec<Value>>() }))?;
        }
        Output::Compact => {
            let is_one = answers.len() == 1;
            let node_header = (!is_one).then_some("NODE");
            let mut table = Columns::new(node_header.into_iter().chain(header.iter().copied()));
            for (node, answer) in &answers {
                for family in &answer.families {
                    table.row((!is_one).then(|| node.clone()).into_iter().chain(row(family)));
                }
            }
            table.write(&mut out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
