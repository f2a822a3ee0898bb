//! The desired state: Kubernetes objects in a watched directory of YAML files.
//!
//! Every change of the directory gives one new [`Desired`], whole. A document that is wrong is refused with file, line
//! and field; its last good version stays in force until the document is corrected or removed.

mod directory;
mod file;
mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use specola_policy::{AUDIT_ANNOTATION, CidrGroup, PolicyObject, PolicyRef, Service};

pub(crate) use directory::DesiredDirectory;
use objects::ObjectMeta;
pub(crate) use objects::{Namespace, Node, Pod};

/// Namespace and name of a pod.
pub(crate) type PodKey = (String, String);

/// Everything that shall be, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desired {
    pub(crate) namespaces: BTreeMap<String, Arc<Namespace>>,
    pub(crate) nodes: BTreeMap<String, Arc<Node>>,
    pub(crate) pods: BTreeMap<PodKey, Arc<Pod>>,
    pub(crate) policies: BTreeMap<PolicyRef, Arc<PolicyObject>>,
    /// Groups of prefixes that policies refer to.
    pub(crate) cidr_groups: BTreeMap<String, CidrGroup>,
    /// Services that policies refer to, by namespace and name.
    pub(crate) services: BTreeMap<(String, String), Service>,
    /// Addresses that DNS gave for names.
    pub(crate) fqdn: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Documents that are not in force.
    pub(crate) refused: Vec<Refused>,
    /// Documents of kinds that are not used here, and what else should be known.
    pub(crate) warnings: Vec<String>,
}

impl Desired {
    /// Whether namespaces, nodes and pods are the very ones of the other state.
    pub(crate) fn same_cluster(&self, other: &Self) -> bool {
        same(&self.namespaces, &other.namespaces)
            && same(&self.nodes, &other.nodes)
            && same(&self.pods, &other.pods)
    }

    /// The pod of that name.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Labels of a namespace; none when it is not defined.
    pub(crate) fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        self.namespaces.get(name).map(|namespace| namespace.metadata.labels.clone()).unwrap_or_default()
    }
}

fn same<K: Eq, V>(a: &BTreeMap<K, Arc<V>>, b: &BTreeMap<K, Arc<V>>) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
}

impl Desired {
    /// Whether the policies of a pod are only reported: its own annotation says so, or that of its namespace.
    pub(crate) fn is_audited(&self, namespace: &str, pod: &str) -> bool {
        self.pod(namespace, pod).is_some_and(|pod| asks_for_audit(&pod.metadata))
            || self.namespaces.get(namespace).is_some_and(|namespace| asks_for_audit(&namespace.metadata))
    }

    /// Namespaces and pods whose own annotation says so.
    pub(crate) fn annotated_audit(&self) -> (impl Iterator<Item = &String>, impl Iterator<Item = &PodKey>) {
        let namespaces = self.namespaces.iter().filter(|(_, namespace)| asks_for_audit(&namespace.metadata));
        let pods = self.pods.iter().filter(|(_, pod)| asks_for_audit(&pod.metadata));
        (namespaces.map(|(name, _)| name), pods.map(|(key, _)| key))
    }
}

fn asks_for_audit(metadata: &ObjectMeta) -> bool {
    metadata.annotations.get(AUDIT_ANNOTATION).is_some_and(|value| value == "enabled")
}

/// A document that is not in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refused {
    pub(crate) file: String,
    pub(crate) line: u32,
    /// `field: cause`, one for each error.
    pub(crate) errors: Vec<String>,
    /// `kind namespace/name`; empty when the document does not say.
    pub(crate) object: String,
}
