//! The file that says which addresses are whose. Users know it from docs/ingest.md.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

/// Pods and nodes with their addresses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointsFile {
    #[serde(default = "default_name")]
    pub(super) cluster_name: String,
    #[serde(default)]
    pub(super) nodes: BTreeMap<String, NodeEntry>,
    /// Labels of namespaces.
    #[serde(default)]
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// By `namespace/name`.
    #[serde(default)]
    pub(super) pods: BTreeMap<String, PodEntry>,
}

impl Default for EndpointsFile {
    fn default() -> Self {
        Self {
            cluster_name: default_name(),
            nodes: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeEntry {
    ip: Option<IpAddr>,
    #[serde(default)]
    ips: Vec<IpAddr>,
}

impl NodeEntry {
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ip.iter().chain(&self.ips).copied()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PodEntry {
    ip: Option<IpAddr>,
    #[serde(default)]
    ips: Vec<IpAddr>,
    /// Node that it runs on.
    #[serde(default)]
    pub(super) node: String,
    /// None = those of the Pod object among the policies.
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) serviceaccount: Option<String>,
    /// Name to `number/PROTOCOL`.
    #[serde(default)]
    pub(super) ports: BTreeMap<String, String>,
}

impl PodEntry {
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ip.iter().chain(&self.ips).copied()
    }
}

impl EndpointsFile {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, is not of the format, or gives an address to two.
    pub(super) fn read(path: &Path) -> anyhow::Result<(Self, String)> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let file: Self = serde_saphyr::from_str(&text).map_err(|error| {
            let line = error.location().map_or(0, |location| location.line());
            let cause = error.without_snippet().to_string();
            let cause = cause.lines().next().unwrap_or_default().to_owned();
            anyhow::anyhow!("{shown}:{line}: {cause}; the format is in docs/ingest.md")
        })?;
        file.check().with_context(|| shown.to_string())?;
        Ok((file, text))
    }

    fn check(&self) -> anyhow::Result<()> {
        let mut owners: BTreeMap<IpAddr, &String> = BTreeMap::new();
        let pods = self.pods.iter().map(|(name, pod)| (name, pod.addresses().collect::<Vec<_>>()));
        let nodes = self.nodes.iter().map(|(name, node)| (name, node.addresses().collect()));
        for (name, addresses) in pods.chain(nodes) {
            anyhow::ensure!(!addresses.is_empty(), "{name}: no address; give ip or ips");
            for address in addresses {
                if let Some(other) = owners.insert(address, name) {
                    anyhow::bail!("{name}: address {address} is {other}'s already; give each address once");
                }
            }
        }
        for name in self.pods.keys() {
            anyhow::ensure!(
                name.split_once('/')
                    .is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty()),
                "pods: \"{name}\" is no NAMESPACE/NAME"
            );
        }
        Ok(())
    }
}

fn default_name() -> String {
    "default".to_owned()
}
