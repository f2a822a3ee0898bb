//! `specola sandbox ps`

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;

use super::{columns, print};
use crate::client;
use crate::state::Cluster;

/// How the cluster is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Output {
    Table,
    Json,
}

/// The table shows every sandbox, JSON the chosen one.
pub(super) fn run(name: Option<&str>, output: Output) -> anyhow::Result<ExitCode> {
    let mut clusters = match (name, output) {
        (None, Output::Table) => client::list()?,
        _ => vec![client::load(name)?],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(async {
        for cluster in &mut clusters {
            client::refresh(cluster).await;
        }
    });
    match output {
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&clusters[0])?))?,
        Output::Table if clusters.is_empty() => print("no sandbox is running\n")?,
        Output::Table => print(&clusters.iter().map(table).collect::<Vec<_>>().join("\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(cluster: &Cluster) -> String {
    let phase = serde_json::to_value(cluster.phase).ok();
    let phase = phase.as_ref().and_then(|phase| phase.as_str()).unwrap_or_default();
    let mut text = format!("SANDBOX {} ({phase}, {})\n", cluster.name, cluster.file.display());
    let mut nodes = vec![["NODE", "STATE", "PID", "ADDRESSES", "OBSERVER"].map(str::to_owned).to_vec()];
    nodes.extend(cluster.nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.state.clone(),
            node.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            join(&node.addresses),
            format!("unix://{}", node.observer_socket.display()),
        ]
    }));
    text.push_str(&columns(&nodes));
    if let Some(relay) = &cluster.relay {
        text.push_str(&columns(&[
            ["RELAY", "STATE", "PID", "ADDRESS", "OBSERVER"].map(str::to_owned).to_vec(),
            vec![
                "relay".to_owned(),
                relay.state.clone(),
                relay.pid.map_or("-".to_owned(), |pid| pid.to_string()),
                relay.address.clone(),
                format!("unix://{}", relay.socket.display()),
            ],
        ]));
    }
    let mut pods = vec![["POD", "NODE", "STATE", "IDENTITY", "IPS", "WORKLOAD"].map(str::to_owned).to_vec()];
    pods.extend(cluster.pods.iter().map(|pod| {
        vec![
            pod.full_name(),
            pod.node.clone(),
            pod.state.clone(),
            pod.identity.to_string(),
            join(&pod.ips),
            pod.workload_state.clone(),
        ]
    }));
    text.push_str(&columns(&pods));
    text
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}
