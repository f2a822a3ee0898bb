//! Waits until every node knows every pod: a connection before that is judged by what its node knows so far.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::time::{Instant, sleep};

use crate::admin::{Admin, Knowledge};
use crate::state::Cluster;

/// What each node knew before the pods were wired, in the cluster's order.
pub(super) type Baseline = Vec<u32>;

/// Sizes of the nodes' address tables now.
pub(super) async fn baseline(cluster: &Cluster) -> anyhow::Result<Baseline> {
    Ok(ask_all(cluster).await?.into_iter().map(|known| known.addresses).collect())
}

/// Waits until all nodes know all pods and nothing changes any more; false when that takes too long.
pub(super) async fn wait(cluster: &Cluster, baseline: &Baseline) -> anyhow::Result<bool> {
    let identities: BTreeSet<u32> = cluster.pods.iter().map(|pod| pod.identity).collect();
    let addresses = cluster.pods.iter().map(|pod| pod.ips.len()).sum::<usize>();
    let deadline = Instant::now() + LIMIT;
    let mut quiet = 0;
    let mut before = Vec::new();
    while Instant::now() < deadline {
        let now = ask_all(cluster).await?;
        let complete = now.iter().zip(baseline).all(|(known, &base)| {
            known.all_ready
                && identities.is_subset(&known.identities)
                && known.addresses as usize >= base as usize + addresses
        });
        quiet = if complete && now == before { quiet + 1 } else { 0 };
        if quiet >= QUIET_POLLS {
            return Ok(true);
        }
        before = now;
        sleep(POLL).await;
    }
    Ok(false)
}

async fn ask_all(cluster: &Cluster) -> anyhow::Result<Vec<Knowledge>> {
    try_join_all(
        cluster
            .nodes
            .iter()
            .map(|node| async { Admin::connect(&node.admin_socket).await?.knowledge().await }),
    )
    .await
}

const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(40);
const QUIET_POLLS: u32 = 3;
