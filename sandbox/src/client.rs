//! Finds running sandboxes and asks about them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::join_all;
use tokio::time::timeout;

use crate::admin::{Admin, state_name};
use crate::layout::Layout;
use crate::state::{Cluster, Node};

/// The running sandboxes, by name. Cleans up after those whose supervisor is gone.
///
/// # Errors
/// When their state cannot be read, or a dead one cannot be cleaned up.
pub fn list() -> anyhow::Result<Vec<Cluster>> {
    crate::cleanup::clean_stale()?;
    let mut clusters = Vec::new();
    for layout in Layout::all()? {
        // One that has just begun has no state yet.
        clusters.extend(Cluster::read(&layout)?);
    }
    Ok(clusters)
}

/// The sandbox of that name, or the only one that runs.
///
/// # Errors
/// When there is none, or several and no name is given.
pub fn load(name: Option<&str>) -> anyhow::Result<Cluster> {
    let mut clusters = list()?;
    let names: Vec<String> = clusters.iter().map(|cluster| cluster.name.clone()).collect();
    match name {
        Some(name) => {
            let found = clusters.into_iter().find(|cluster| cluster.name == name);
            found.with_context(|| match names.is_empty() {
                true => {
                    format!("no sandbox {name:?}: none is running, start one with `specola sandbox up FILE`")
                }
                false => format!("no sandbox {name:?}; running: {}", names.join(", ")),
            })
        }
        None if clusters.len() == 1 => Ok(clusters.remove(0)),
        None if clusters.is_empty() => {
            bail!("no sandbox is running; start one with `specola sandbox up FILE`")
        }
        None => bail!("several sandboxes are running, choose one with --name: {}", names.join(", ")),
    }
}

/// Asks the agents what they know now and puts it into `cluster`; says so in a node's state when one does not answer.
pub async fn refresh(cluster: &mut Cluster) {
    let answers = join_all(cluster.nodes.iter().map(|node| async {
        match timeout(ASK_LIMIT, endpoints_of(node)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(anyhow::anyhow!("no answer in {} s", ASK_LIMIT.as_secs())),
        }
    }))
    .await;
    for (node, answer) in cluster.nodes.iter_mut().zip(answers) {
        let pods = cluster.pods.iter_mut().filter(|pod| pod.node == node.name);
        let endpoints = match answer {
            Ok(endpoints) => endpoints,
            Err(error) => {
                if node.pid.is_some() {
                    node.state = format!("not answering: {error:#}");
                }
                pods.for_each(|pod| pod.state = "unknown".to_owned());
                continue;
            }
        };
        for pod in pods {
            let found = endpoints.iter().find(|endpoint| {
                endpoint.pod.as_ref().is_some_and(|of| of.namespace == pod.namespace && of.name == pod.name)
            });
            match found {
                None => pod.state = "no endpoint".to_owned(),
                Some(endpoint) => {
                    pod.state = state_name(endpoint.state()).to_owned();
                    pod.identity = endpoint.identity;
                    pod.endpoint = endpoint.id;
                }
            }
        }
    }
}

/// Directory of a node's pinned maps and links.
pub fn pin_dir(cluster: &Cluster, node: &Node) -> PathBuf {
    // bpffs takes no dots in names.
    cluster.pin_dir.join(node.name.replace('.', "_"))
}

/// Directory of what a node's agent keeps.
pub fn state_dir(node: &Node) -> PathBuf {
    node.log.with_file_name("state")
}

async fn endpoints_of(node: &Node) -> anyhow::Result<Vec<specola_proto::specola::v1::Endpoint>> {
    Admin::connect(&node.admin_socket).await?.endpoints().await
}

const ASK_LIMIT: Duration = Duration::from_secs(3);
