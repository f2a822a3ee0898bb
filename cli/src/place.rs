//! Which node's maps a command looks at.

use std::path::PathBuf;

use clap::Args;
use specola_agent::bpf::NodePlace;
use specola_sandbox::client;

/// Where pinned maps and the names for their numbers are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Node")]
pub(crate) struct PlaceArgs {
    /// Directory of pinned maps and links.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/specola/default/local")]
    pub(crate) pin_dir: PathBuf,
    /// State directory of the agent.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/specola/state")]
    pub(crate) state_dir: PathBuf,
    /// Directory that the agents of the cluster share.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/specola/store")]
    pub(crate) store_dir: PathBuf,
    /// All nodes of this sandbox.
    #[arg(
        long,
        visible_alias = "name",
        value_name = "NAME",
        conflicts_with_all = ["pin_dir", "state_dir", "store_dir"]
    )]
    pub(crate) sandbox: Option<String>,
    /// Only this node of the sandbox.
    #[arg(long, value_name = "NODE", requires = "sandbox")]
    pub(crate) node: Option<String>,
}

impl PlaceArgs {
    /// The nodes with their names; several only with `--sandbox`.
    ///
    /// # Errors
    /// There is no such sandbox or node.
    pub(crate) fn resolve(&self) -> anyhow::Result<Vec<(String, NodePlace)>> {
        let Some(name) = &self.sandbox else {
            let place = NodePlace {
                pin_dir: self.pin_dir.clone(),
                state_dir: self.state_dir.clone(),
                store_dir: self.store_dir.clone(),
                netns: None,
            };
            return Ok(vec![(self.pin_dir.display().to_string(), place)]);
        };
        let cluster = client::load(Some(name))?;
        let place = |node: &specola_sandbox::Node| NodePlace {
            pin_dir: client::pin_dir(&cluster, node),
            state_dir: client::state_dir(node),
            store_dir: cluster.store_dir.clone(),
            netns: Some(node.netns.clone()),
        };
        let is_wanted =
            |node: &&specola_sandbox::Node| self.node.as_ref().is_none_or(|wanted| node.name == *wanted);
        let places: Vec<_> =
            cluster.nodes.iter().filter(is_wanted).map(|node| (node.name.clone(), place(node))).collect();
        if places.is_empty() {
            let names: Vec<_> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
            anyhow::bail!("sandbox {name} has no such node; its nodes: {}", names.join(", "));
        }
        Ok(places)
    }
}
