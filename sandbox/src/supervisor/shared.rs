//! The state that the supervisor's parts change, and its file.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::Settings;
use crate::layout::Layout;
use crate::state::{Cluster, Node, Pod};

/// Settings, and the one copy of the cluster's state.
#[derive(Debug)]
pub(super) struct Shared {
    settings: Settings,
    cluster: Mutex<Cluster>,
}

impl Shared {
    pub(super) fn new(settings: Settings, cluster: Cluster) -> Self {
        Self { settings, cluster: Mutex::new(cluster) }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.settings.layout
    }

    pub(super) fn program(&self) -> &Path {
        &self.settings.program
    }

    /// A copy of the state.
    pub(super) fn cluster(&self) -> Cluster {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the state and writes it.
    pub(super) fn update(&self, change: impl FnOnce(&mut Cluster)) -> anyhow::Result<()> {
        let mut cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut cluster);
        cluster.write(&self.settings.layout)
    }

    /// Changes what is known of one node.
    pub(super) fn update_node(&self, name: &str, change: impl FnOnce(&mut Node)) -> anyhow::Result<()> {
        self.update(|cluster| {
            if let Some(node) = cluster.nodes.iter_mut().find(|node| node.name == name) {
                change(node);
            }
        })
    }

    /// Changes what is known of one pod.
    pub(super) fn update_pod(
        &self,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Pod),
    ) -> anyhow::Result<()> {
        self.update(|cluster| {
            let found = cluster.pods.iter_mut().find(|pod| pod.namespace == namespace && pod.name == name);
            if let Some(pod) = found {
                change(pod);
            }
        })
    }
}
