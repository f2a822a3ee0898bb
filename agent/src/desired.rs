//! The desired state: Kubernetes objects in a watched directory of YAML files.
//!
//! Every change of the directory gives a new [`Desired`], which shares with the one before what is the same. A document
//! that is wrong is refused with file, line and field; its last good version stays in force until the document is corrected or removed.

mod directory;
mod file;
mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use specola_policy::rule::AwsGroup;
use specola_policy::{AUDIT_ANNOTATION, CidrGroup, PolicyObject, PolicyRef, Service};

pub(crate) use directory::DesiredDirectory;
use objects::ObjectMeta;
pub(crate) use objects::{Namespace, Node, Pod};

/// Namespace and name of a pod.
pub(crate) type PodKey = (String, String);

/// An object that several states have. It equals itself only, so that comparing is quick.
#[derive(Debug)]
pub(crate) struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// An object that nobody has yet.
    pub(crate) fn new(object: T) -> Self {
        Self(Arc::new(object))
    }

    /// The same object.
    pub(crate) fn of(object: &Arc<T>) -> Self {
        Self(Arc::clone(object))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Everything that shall be, at one moment. Copies share what they have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desired {
    pub(crate) namespaces: OrdMap<String, Shared<Namespace>>,
    pub(crate) nodes: OrdMap<String, Shared<Node>>,
    pub(crate) pods: OrdMap<PodKey, Shared<Pod>>,
    pub(crate) policies: OrdMap<PolicyRef, Shared<PolicyObject>>,
    /// Groups of prefixes that policies refer to.
    pub(crate) cidr_groups: OrdMap<String, CidrGroup>,
    /// Addresses of a cloud provider's groups.
    pub(crate) provider_groups: OrdMap<AwsGroup, BTreeSet<IpNet>>,
    /// Services that policies refer to, by namespace and name.
    pub(crate) services: OrdMap<(String, String), Service>,
    /// Addresses that DNS gave for names.
    pub(crate) fqdn: OrdMap<String, BTreeSet<IpAddr>>,
    /// Documents that are not in force.
    pub(crate) refused: Vec<Refused>,
    /// Documents of kinds that are not used here, and what else should be known.
    pub(crate) warnings: Vec<String>,
}

impl Desired {
    /// Whether namespaces, nodes and pods are the very ones of the other state, and the API server is where it was.
    pub(crate) fn same_cluster(&self, other: &Self) -> bool {
        same(&self.namespaces, &other.namespaces)
            && same(&self.nodes, &other.nodes)
            && same(&self.pods, &other.pods)
            && self.api_servers() == other.api_servers()
    }

    /// Addresses of the API server: those behind the service `default/kubernetes`.
    pub(crate) fn api_servers(&self) -> &[IpAddr] {
        let service = self.services.get(&("default".to_owned(), "kubernetes".to_owned()));
        service.filter(|service| service.selector.is_empty()).map_or(&[], |service| &service.backends)
    }

    /// Whether groups of prefixes, services and addresses of names are those of the other state.
    pub(crate) fn same_names(&self, other: &Self) -> bool {
        self.cidr_groups.diff(&other.cidr_groups).next().is_none()
            && self.provider_groups.diff(&other.provider_groups).next().is_none()
            && self.services.diff(&other.services).next().is_none()
            && self.fqdn.diff(&other.fqdn).next().is_none()
    }

    /// The pod of that name.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&Shared<Pod>> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Labels of a namespace; none when it is not defined.
    pub(crate) fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        self.namespaces.get(name).map(|namespace| namespace.metadata.labels.clone()).unwrap_or_default()
    }
}

fn same<K: Ord, V>(a: &OrdMap<K, Shared<V>>, b: &OrdMap<K, Shared<V>>) -> bool {
    a.diff(b).next().is_none()
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
