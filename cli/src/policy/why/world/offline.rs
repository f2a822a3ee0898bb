//! What files say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use specola_labels::{LabelFilter, LabelSet, NumericIdentity, PodLabels};
use specola_policy::{IdentityTable, NamedPorts, ParseOptions, Repository, Settings};

use super::files::{Files, Pod};
use super::{Endpoint, View, World};

/// Numbers of label sets.
type Numbers = BTreeMap<LabelSet, NumericIdentity>;

impl World {
    /// What files say.
    ///
    /// # Errors
    /// A file cannot be read, or says something wrong.
    pub(in crate::policy) fn offline(files: &[PathBuf], options: ParseOptions) -> anyhow::Result<Self> {
        let files = Files::read(files, options)?;
        let mut numbers = Numbers::new();
        let endpoints = endpoints(&files, &mut numbers);
        let mut world = Self::of_files(&files, endpoints, &numbers);
        let prefixes = world.named_prefixes();
        world.know(&prefixes);
        Ok(world)
    }

    /// What two sets of files say, about all pods of both: one that only one set has is in both.
    ///
    /// # Errors
    /// A file cannot be read, or says something wrong.
    pub(in crate::policy) fn offline_pair(
        before: &[PathBuf],
        after: &[PathBuf],
        options: ParseOptions,
    ) -> anyhow::Result<(Self, Self)> {
        let (before, after) = (Files::read(before, options)?, Files::read(after, options)?);
        let mut numbers = Numbers::new();
        let mut old = endpoints(&before, &mut numbers);
        let mut new = endpoints(&after, &mut numbers);
        fill(&mut old, &new);
        fill(&mut new, &old);
        let mut before = Self::of_files(&before, old, &numbers);
        let mut after = Self::of_files(&after, new, &numbers);
        Self::align(&mut before, &mut after);
        Ok((before, after))
    }

    fn of_files(files: &Files, endpoints: BTreeMap<String, Endpoint>, numbers: &Numbers) -> Self {
        let mut repository = Repository::new(Settings::default());
        files.put_into(&mut repository);
        let mut identities = IdentityTable::with_reserved();
        for (labels, number) in numbers {
            identities.insert(*number, labels.clone());
        }
        let mut ports: BTreeMap<NumericIdentity, NamedPorts> = BTreeMap::new();
        for endpoint in endpoints.values() {
            let of_identity = ports.entry(endpoint.identity).or_default();
            for (port, numbers) in &endpoint.ports {
                of_identity.entry(port.clone()).or_default().extend(numbers);
            }
        }
        for (identity, ports) in ports {
            identities.set_named_ports(identity, ports);
        }
        Self {
            repository,
            identities,
            nodes: vec![View::default()],
            endpoints,
            names: files.names.clone(),
            audited: Default::default(),
        }
    }
}

fn endpoints(files: &Files, numbers: &mut Numbers) -> BTreeMap<String, Endpoint> {
    let endpoint = |pod: &Pod| {
        let labels = labels_of(pod, files);
        let next = u32::try_from(numbers.len()).unwrap_or(0);
        let next = NumericIdentity(NumericIdentity::USER_MIN.0.saturating_add(next));
        let identity = *numbers.entry(labels.clone()).or_insert(next);
        let of_namespace = files.namespaces.get(&pod.namespace);
        let audit =
            pod.metadata.asks_for_audit() || of_namespace.is_some_and(|namespace| namespace.asks_for_audit());
        let endpoint = Endpoint { identity, labels, ports: ports_of(pod), audit, ..Endpoint::default() };
        (format!("{}/{}", pod.namespace, pod.name), endpoint)
    };
    files.pods.iter().map(endpoint).collect()
}

fn fill(endpoints: &mut BTreeMap<String, Endpoint>, others: &BTreeMap<String, Endpoint>) {
    for (name, endpoint) in others {
        endpoints.entry(name.clone()).or_insert_with(|| endpoint.clone());
    }
}

fn labels_of(pod: &Pod, files: &Files) -> LabelSet {
    let namespace = files.namespaces.get(&pod.namespace);
    let labels = PodLabels {
        labels: &pod.metadata.labels,
        namespace: &pod.namespace,
        namespace_labels: &namespace.map(|namespace| namespace.labels.clone()).unwrap_or_default(),
        service_account: &pod.spec.service_account_name,
        cluster: &Settings::default().cluster_name,
    };
    LabelSet::from_k8s(&labels, &LabelFilter::identity_relevant())
}

fn ports_of(pod: &Pod) -> NamedPorts {
    let mut ports = NamedPorts::new();
    let named = pod.spec.containers.iter().flat_map(|container| &container.ports);
    for port in named.filter(|port| !port.name.is_empty()) {
        let proto = match port.protocol.as_str() {
            "UDP" => 17,
            "SCTP" => 132,
            _ => 6,
        };
        ports.entry((port.name.to_ascii_lowercase(), proto)).or_default().insert(port.container_port);
    }
    ports
}
