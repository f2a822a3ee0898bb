//! What files say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use specola_labels::{LabelFilter, LabelSet, NumericIdentity, PodLabels};
use specola_policy::document::{Document, split_documents};
use specola_policy::{IdentityTable, IpFamilies, NamedPorts, Repository, Settings, cidr_identity_labels};

use super::{Endpoint, View, World};

impl World {
    /// What files say.
    ///
    /// # Errors
    /// A file cannot be read, or says something wrong.
    pub(in super::super) fn offline(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut documents: Vec<(String, Document)> = Vec::new();
        for path in files {
            for (name, text) in super::super::super::read(path)? {
                for document in split_documents(&name, &text) {
                    documents.push((name.clone(), document?));
                }
            }
        }
        let settings = Settings::default();
        let mut repository = Repository::new(settings.clone());
        let mut namespaces: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (name, document) in &documents {
            match document.kind.as_str() {
                "Namespace" => {
                    let object: Object = serde_json::from_str(&document.json())?;
                    namespaces.insert(document.name.clone(), object.metadata.labels);
                }
                "Pod" => {}
                _ => {
                    let parsed = specola_policy::parse_policy_document(name, document, Default::default());
                    if let Some(error) = parsed.errors.first() {
                        anyhow::bail!("{error}");
                    }
                    for object in parsed.objects {
                        repository.upsert(object);
                    }
                }
            }
        }
        let mut world = Self {
            repository,
            identities: IdentityTable::with_reserved(),
            nodes: Vec::new(),
            endpoints: BTreeMap::new(),
        };
        for (_, document) in documents.iter().filter(|(_, document)| document.kind == "Pod") {
            world.add_pod(document, &namespaces, &settings.cluster_name)?;
        }
        Ok(world.with_prefixes())
    }

    fn add_pod(
        &mut self,
        document: &Document,
        namespaces: &BTreeMap<String, BTreeMap<String, String>>,
        cluster: &str,
    ) -> anyhow::Result<()> {
        let object: Object = serde_json::from_str(&document.json())?;
        let namespace = if document.namespace.is_empty() { "default" } else { &document.namespace };
        let labels = PodLabels {
            labels: &object.metadata.labels,
            namespace,
            namespace_labels: &namespaces.get(namespace).cloned().unwrap_or_default(),
            service_account: &object.spec.service_account_name,
            cluster,
        };
        let labels = LabelSet::from_k8s(&labels, &LabelFilter::identity_relevant());
        let mut ports = NamedPorts::new();
        for port in object.spec.containers.iter().flat_map(|container| &container.ports) {
            let proto = match port.protocol.as_str() {
                "UDP" => 17,
                "SCTP" => 132,
                _ => 6,
            };
            if !port.name.is_empty() {
                let key = (port.name.to_ascii_lowercase(), proto);
                ports.entry(key).or_default().insert(port.container_port);
            }
        }
        let known = self.endpoints.values().find(|pod| pod.labels == labels).map(|pod| pod.identity);
        let number = NumericIdentity::USER_MIN.0 + u32::try_from(self.endpoints.len()).unwrap_or(0);
        let identity = known.unwrap_or(NumericIdentity(number));
        self.identities.insert(identity, labels.clone());
        self.identities.set_named_ports(identity, ports.clone());
        let name = format!("{namespace}/{}", document.name);
        self.endpoints.insert(name, Endpoint { identity, labels, ports, ..Endpoint::default() });
        Ok(())
    }

    fn with_prefixes(mut self) -> Self {
        let mut view = View::default();
        for (number, prefix) in (NumericIdentity::LOCAL_MIN.0..).zip(self.repository.prefixes()) {
            self.identities.insert(NumericIdentity(number), cidr_identity_labels(prefix, IpFamilies::Dual));
            view.addresses.push((prefix, NumericIdentity(number)));
        }
        self.nodes.push(view);
        self
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: String,
    containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Vec<ContainerPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: String,
    container_port: u16,
    protocol: String,
}
