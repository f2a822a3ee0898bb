//! Objects that policies refer to: groups of prefixes and services.

mod provider;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use specola_labels::{Label, LabelSet, NAMESPACE_KEY, Requirement, Selector, SelectorKey};

pub use self::provider::ProviderGroup;
use crate::rule::{AwsGroup, CidrGroupSelect, ServiceSelect};

/// A named group of prefixes outside the cluster (`CiliumCIDRGroup`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CidrGroup {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Member prefixes.
    pub prefixes: Vec<IpNet>,
}

/// A Kubernetes service with what stands behind it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels of the service.
    pub labels: BTreeMap<String, String>,
    /// Labels that its pods have; empty for a service without a selector.
    pub selector: BTreeMap<String, String>,
    /// Backends of a service without a selector.
    pub backends: Vec<IpAddr>,
}

/// All objects that policies may refer to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    groups: BTreeMap<String, CidrGroup>,
    services: BTreeMap<(String, String), Service>,
    provider_groups: BTreeMap<AwsGroup, Vec<IpNet>>,
}

impl Objects {
    /// Sets or replaces a group. Returns whether that changed anything.
    pub(crate) fn set_group(&mut self, group: CidrGroup) -> bool {
        self.groups.insert(group.name.clone(), group.clone()) != Some(group)
    }

    pub(crate) fn remove_group(&mut self, name: &str) -> bool {
        self.groups.remove(name).is_some()
    }

    /// Sets or replaces a service. Returns whether that changed anything.
    pub(crate) fn set_service(&mut self, service: Service) -> bool {
        let key = (service.namespace.clone(), service.name.clone());
        self.services.insert(key, service.clone()) != Some(service)
    }

    pub(crate) fn remove_service(&mut self, namespace: &str, name: &str) -> bool {
        self.services.remove(&(namespace.to_owned(), name.to_owned())).is_some()
    }

    /// Sets what a provider answered for a group. Returns whether that changed anything.
    pub(crate) fn set_provider_group(&mut self, group: AwsGroup, prefixes: Vec<IpNet>) -> bool {
        if prefixes.is_empty() {
            return self.provider_groups.remove(&group).is_some();
        }
        self.provider_groups.insert(group, prefixes.clone()) != Some(prefixes)
    }

    /// Prefixes that a provider gave for a group, or for the parts that it is made of.
    pub(crate) fn provider_prefixes(&self, group: &AwsGroup) -> impl Iterator<Item = IpNet> {
        let given: Vec<IpNet> = match self.provider_groups.get(group) {
            Some(prefixes) => prefixes.clone(),
            None => {
                let parts = group.parts();
                parts.iter().filter_map(|part| self.provider_groups.get(part)).flatten().copied().collect()
            }
        };
        given.into_iter().map(|prefix| prefix.trunc())
    }

    /// The group, or those parts of it, that have no address as far as is known.
    pub(crate) fn unknown_parts(&self, group: &AwsGroup) -> Vec<AwsGroup> {
        if self.provider_groups.contains_key(group) {
            return Vec::new();
        }
        let mut parts = group.parts();
        if parts.is_empty() {
            parts.push(group.clone());
        }
        parts.retain(|part| !self.provider_groups.contains_key(part));
        parts
    }

    /// Whether there is a group of prefixes that is meant.
    pub(crate) fn has_group(&self, select: &CidrGroupSelect) -> bool {
        self.group_prefixes(select).next().is_some()
    }

    /// Whether there is a service that is meant.
    pub(crate) fn has_service(&self, select: &ServiceSelect, namespace: Option<&str>) -> bool {
        self.services(select, namespace).next().is_some()
    }

    /// Groups of prefixes, in order.
    pub(crate) fn all_groups(&self) -> impl Iterator<Item = &CidrGroup> {
        self.groups.values()
    }

    /// Groups of cloud providers, in order.
    pub(crate) fn all_provider_groups(&self) -> impl Iterator<Item = (&AwsGroup, &[IpNet])> {
        self.provider_groups.iter().map(|(group, prefixes)| (group, prefixes.as_slice()))
    }

    /// Services, in order.
    pub(crate) fn all_services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// Prefixes of the groups that are meant.
    pub(crate) fn group_prefixes<'a>(
        &'a self,
        select: &'a CidrGroupSelect,
    ) -> impl Iterator<Item = IpNet> + 'a {
        let selected = |group: &&CidrGroup| match select {
            CidrGroupSelect::Name(name) => group.name == *name,
            CidrGroupSelect::Labels(selector) => selector.matches(&k8s_labels(&group.labels)),
        };
        self.groups.values().filter(selected).flat_map(|group| group.prefixes.iter().map(IpNet::trunc))
    }

    /// Services that are meant; without a namespace, those of every namespace.
    pub(crate) fn services<'a>(
        &'a self,
        select: &'a ServiceSelect,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Service> {
        self.services.values().filter(move |service| {
            let named = match select {
                ServiceSelect::Name(name) => service.name == *name,
                ServiceSelect::Labels(selector) => selector.matches(&k8s_labels(&service.labels)),
            };
            named && namespace.is_none_or(|namespace| service.namespace == namespace)
        })
    }
}

impl Service {
    /// Selector of the pods behind the service; none for one without a selector.
    pub(crate) fn pods(&self) -> Option<Selector> {
        let equals = |(key, value): (&String, &String)| Requirement::equals(SelectorKey::k8s(key), value);
        let own = Requirement::equals(SelectorKey::k8s(NAMESPACE_KEY), &self.namespace);
        (!self.selector.is_empty()).then(|| Selector::new(self.selector.iter().map(equals).chain([own])))
    }

    /// Prefixes of the backends that are no pods.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let external = if self.selector.is_empty() { self.backends.as_slice() } else { &[] };
        external.iter().map(|address| IpNet::from(*address))
    }
}

fn k8s_labels(labels: &BTreeMap<String, String>) -> LabelSet {
    labels.iter().map(|(key, value)| Label::k8s(key, value)).collect()
}
