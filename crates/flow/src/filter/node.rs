//! Conditions on the node that observed a flow.

use std::sync::OnceLock;

use specola_labels::{Label, LabelSet, Selector};

use super::name::NamePattern;
use crate::{DEFAULT_CLUSTER, NodeInfo};

/// `[cluster/]node`, where `*` stands for any run of `-`, `.`, digits and lower-case letters.
#[derive(Clone, Debug)]
pub(super) struct NodePattern {
    /// `None` = any.
    cluster: Option<NamePattern>,
    /// `None` = any.
    node: Option<NamePattern>,
}

impl NodePattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (cluster, node) = match text.split_once('/') {
            None => ("", text),
            Some((_, node)) if node.contains('/') => {
                return Err(format!("too many slashes in pattern \"{text}\""));
            }
            Some(parts) => parts,
        };
        if text.is_empty() {
            return Err("empty pattern".to_owned());
        }
        Ok(Self { cluster: NamePattern::parse(cluster)?, node: NamePattern::parse(node)? })
    }

    pub(super) fn matches(&self, node: &NodeInfo) -> bool {
        let cluster = if node.cluster_name.is_empty() { DEFAULT_CLUSTER } else { &node.cluster_name };
        self.cluster.as_ref().is_none_or(|pattern| pattern.matches(cluster))
            && self.node.as_ref().is_none_or(|pattern| pattern.matches(&node.name))
    }
}

/// Selectors of the node's labels, with the answer for the labels that were asked for first: a node's labels seldom
/// change.
#[derive(Clone, Debug)]
pub(super) struct NodeLabelsClause {
    selectors: Vec<Selector>,
    first: OnceLock<(Vec<String>, bool)>,
}

impl NodeLabelsClause {
    pub(super) const fn new(selectors: Vec<Selector>) -> Self {
        Self { selectors, first: OnceLock::new() }
    }

    pub(super) fn matches(&self, node: &NodeInfo) -> bool {
        let (labels, answer) = self.first.get_or_init(|| (node.labels.clone(), self.ask(&node.labels)));
        if *labels == node.labels { *answer } else { self.ask(&node.labels) }
    }

    fn ask(&self, labels: &[String]) -> bool {
        let own: LabelSet = labels.iter().filter_map(|text| text.parse::<Label>().ok()).collect();
        self.selectors.iter().any(|selector| selector.matches(&own))
    }
}

#[cfg(test)]
mod tests {
    use super::super::pattern::label_selector;
    use super::*;

    #[test]
    fn nodes() {
        let node = |cluster: &str, name: &str| NodeInfo {
            name: name.into(),
            cluster_name: cluster.into(),
            labels: vec![],
        };
        for (pattern, cluster, name, matches) in [
            ("n1", "default", "n1", true),
            ("n1", "east", "n1", true),
            ("n", "east", "n1", false),
            ("n*", "east", "n1", true),
            ("*1", "east", "n1", true),
            ("n*x*1", "east", "nyxz1", true),
            ("n*", "east", "n_1", false),
            ("default/n1", "", "n1", true),
            ("east/", "east", "n9", true),
            ("east/", "west", "n9", false),
            ("N1.", "east", "n1", true),
        ] {
            assert_eq!(
                NodePattern::parse(pattern).unwrap().matches(&node(cluster, name)),
                matches,
                "{pattern} {name}"
            );
        }
        for (pattern, error) in [
            ("", "empty pattern"),
            ("a/b/c", "too many slashes in pattern \"a/b/c\""),
            ("a..", "multiple trailing dots in pattern \"a..\""),
            ("a b", "'a b': invalid rune in pattern"),
        ] {
            assert_eq!(NodePattern::parse(pattern).unwrap_err(), error);
        }
    }

    #[test]
    fn labels_may_change() {
        let clause = NodeLabelsClause::new(vec![label_selector("zone=a").unwrap()]);
        let node = |label: &str| NodeInfo { labels: vec![label.into()], ..NodeInfo::default() };
        for (label, matches) in [("zone=a", true), ("zone=a", true), ("zone=b", false), ("zone=a", true)] {
            assert_eq!(clause.matches(&node(label)), matches, "{label}");
        }
    }
}
