//! The node that observes.

/// Name and labels of the observing node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeInfo {
    /// Name without the cluster.
    pub name: String,
    /// Name of the cluster.
    pub cluster_name: String,
    /// Labels, `key=value`.
    pub labels: Vec<String>,
}

impl NodeInfo {
    /// The name that flows carry: `cluster/node`, or the bare name in a cluster called `default` or nothing.
    pub fn absolute_name(&self) -> String {
        if self.cluster_name.is_empty() || self.cluster_name == DEFAULT_CLUSTER {
            return self.name.clone();
        }
        format!("{}/{}", self.cluster_name, self.name)
    }
}

/// The cluster name that is left out of node names.
pub const DEFAULT_CLUSTER: &str = "default";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_cluster_is_left_out() {
        for (cluster, name) in [("", "n1"), ("default", "n1"), ("east", "east/n1")] {
            let node = NodeInfo { name: "n1".into(), cluster_name: cluster.into(), labels: vec![] };
            assert_eq!(node.absolute_name(), name);
        }
    }
}
