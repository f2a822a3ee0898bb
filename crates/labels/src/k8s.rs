//! Identity labels of a Kubernetes pod.

use std::collections::BTreeMap;

use crate::filter::LabelFilter;
use crate::label::Label;
use crate::set::LabelSet;

/// Key of the namespace name.
pub const NAMESPACE_KEY: &str = "io.kubernetes.pod.namespace";
/// Prefix of keys that carry labels of the namespace.
pub const NAMESPACE_LABEL_PREFIX: &str = "io.cilium.k8s.namespace.labels.";
/// Key of the service account.
pub const SERVICE_ACCOUNT_KEY: &str = "io.cilium.k8s.policy.serviceaccount";
/// Key of the cluster name.
pub const CLUSTER_KEY: &str = "io.cilium.k8s.policy.cluster";

/// What a pod's identity labels come from.
#[derive(Clone, Copy, Debug)]
pub struct PodLabels<'a> {
    /// The pod's own labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Namespace name.
    pub namespace: &'a str,
    /// Labels of the namespace; `kubernetes.io/metadata.name` is added when it is missing.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Service account, `default` when empty.
    pub service_account: &'a str,
    /// Name of the cluster.
    pub cluster: &'a str,
}

impl LabelSet {
    /// Makes the identity labels of a pod; labels that the filter drops are left out.
    ///
    /// Keys that describe namespace, service account or cluster are never taken from the pod itself.
    pub fn from_k8s(pod: &PodLabels<'_>, filter: &LabelFilter) -> Self {
        let own = pod
            .labels
            .iter()
            .filter(|(key, _)| !is_derived_key(key))
            .map(|(key, value)| Label::k8s(key, value));
        own.chain(derived_labels(pod)).filter(|label| filter.keeps(label)).collect()
    }
}

fn derived_labels(pod: &PodLabels<'_>) -> Vec<Label> {
    let account = match pod.service_account {
        "" => "default",
        account => account,
    };
    let namespace_label =
        |key: &str, value: &str| Label::k8s(&format!("{NAMESPACE_LABEL_PREFIX}{key}"), value);
    let mut labels = vec![
        Label::k8s(NAMESPACE_KEY, pod.namespace),
        Label::k8s(SERVICE_ACCOUNT_KEY, account),
        Label::k8s(CLUSTER_KEY, pod.cluster),
        namespace_label("kubernetes.io/metadata.name", pod.namespace),
    ];
    for (key, value) in pod.namespace_labels {
        labels.push(namespace_label(key, value));
    }
    labels
}

fn is_derived_key(key: &str) -> bool {
    key == NAMESPACE_KEY
        || key.starts_with(NAMESPACE_LABEL_PREFIX)
        || key.starts_with("io.cilium.k8s.policy.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn pod_labels_become_identity_labels() {
        let set = LabelSet::from_k8s(
            &PodLabels {
                labels: &map(&[("app", "web"), ("pod-template-hash", "abc")]),
                namespace: "shop",
                namespace_labels: &map(&[("team", "blue")]),
                service_account: "",
                cluster: "default",
            },
            &LabelFilter::default(),
        );
        assert_eq!(
            set.to_strings(),
            [
                "k8s:app=web",
                "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
                "k8s:io.cilium.k8s.namespace.labels.team=blue",
                "k8s:io.cilium.k8s.policy.cluster=default",
                "k8s:io.cilium.k8s.policy.serviceaccount=default",
                "k8s:io.kubernetes.pod.namespace=shop",
            ]
        );
    }

    #[test]
    fn a_pod_cannot_forge_what_its_namespace_says() {
        let forged = [
            ("io.kubernetes.pod.namespace", "kube-system"),
            ("io.cilium.k8s.namespace.labels.team", "admin"),
            ("io.cilium.k8s.policy.serviceaccount", "root"),
            ("io.cilium.k8s.policy.cluster", "other"),
        ];
        let with = |labels: &[(&str, &str)]| {
            LabelSet::from_k8s(
                &PodLabels {
                    labels: &map(labels),
                    namespace: "shop",
                    namespace_labels: &map(&[]),
                    service_account: "app",
                    cluster: "default",
                },
                &LabelFilter::default(),
            )
        };
        assert_eq!(with(&forged), with(&[]));
    }
}
