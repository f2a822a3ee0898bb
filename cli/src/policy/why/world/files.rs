//! Kubernetes objects of files, as far as policies depend on them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use specola_policy::document::{Document, split_documents};
use specola_policy::rule::{AwsGroup, DnsRule};
use specola_policy::{
    AUDIT_ANNOTATION, CidrGroup, ParseOptions, PolicyObject, ProviderGroup, Repository, Service,
    parse_policy_document,
};

/// What files say.
#[derive(Debug, Default)]
pub(in crate::policy) struct Files {
    pub(super) policies: Vec<PolicyObject>,
    groups: Vec<CidrGroup>,
    provider_groups: BTreeMap<AwsGroup, Vec<IpNet>>,
    services: BTreeMap<(String, String), Service>,
    backends: Vec<((String, String), Vec<IpAddr>)>,
    /// Addresses of names.
    pub(super) names: Vec<(String, Vec<IpAddr>)>,
    pub(super) namespaces: BTreeMap<String, Metadata>,
    pub(super) pods: Vec<Pod>,
}

impl Files {
    /// Reads files and directories.
    ///
    /// # Errors
    /// One cannot be read, or an object is wrong; the message has all that are.
    pub(in crate::policy) fn read(paths: &[PathBuf], options: ParseOptions) -> anyhow::Result<Self> {
        let (mut files, mut errors) = (Self::default(), Vec::new());
        for path in paths {
            for (name, text) in crate::policy::read(path)? {
                for document in split_documents(&name, &text) {
                    match document {
                        Ok(document) => match files.add(&name, &document, options) {
                            Ok(()) => {}
                            Err(error) => errors.push(format!("{error:#}")),
                        },
                        Err(error) => errors.push(error.to_string()),
                    }
                }
            }
        }
        anyhow::ensure!(errors.is_empty(), "{}", errors.join("\n"));
        for (key, addresses) in std::mem::take(&mut files.backends) {
            if let Some(service) = files.services.get_mut(&key) {
                service.backends.extend(addresses);
            }
        }
        Ok(files)
    }

    /// Puts policies and what they refer to into force.
    pub(super) fn put_into(&self, repository: &mut Repository) {
        for group in &self.groups {
            repository.upsert_cidr_group(group.clone());
        }
        for (group, prefixes) in &self.provider_groups {
            repository.set_provider_group(group.clone(), prefixes.clone());
        }
        for service in self.services.values() {
            repository.upsert_service(service.clone());
        }
        for policy in &self.policies {
            repository.upsert(policy.clone());
        }
    }

    fn add(&mut self, file: &str, document: &Document, options: ParseOptions) -> anyhow::Result<()> {
        let place = || format!("{file}:{}: {} {}", document.line, document.kind, document.name);
        let namespace = match document.namespace.as_str() {
            "" => "default".to_owned(),
            namespace => namespace.to_owned(),
        };
        let key = (namespace.clone(), document.name.clone());
        match (document.api_version.as_str(), document.kind.as_str()) {
            ("v1", "Namespace") => {
                let object: Object = decode(document).with_context(place)?;
                self.namespaces.insert(document.name.clone(), object.metadata);
            }
            ("v1", "Pod") => {
                let Object { metadata, spec, .. } = decode(document).with_context(place)?;
                self.pods.push(Pod { namespace, name: document.name.clone(), metadata, spec });
            }
            ("v1", "Service") => {
                let object: ServiceObject = decode(document).with_context(place)?;
                let (labels, selector) = (object.metadata.labels, object.spec.selector);
                let name = document.name.clone();
                let service = Service { namespace, name, labels, selector, backends: Vec::new() };
                self.services.insert(key, service);
            }
            ("v1", "Endpoints") => {
                let object: Endpoints = decode(document).with_context(place)?;
                let addresses = object.subsets.iter().flat_map(|subset| &subset.addresses);
                self.backends.push((key, addresses.map(|address| address.ip).collect()));
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                let object: EndpointSlice = decode(document).with_context(place)?;
                if let Some(service) = object.metadata.labels.get("kubernetes.io/service-name") {
                    let addresses = object.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
                    let addresses = addresses.filter_map(|text| text.parse().ok()).collect();
                    self.backends.push(((namespace, service.clone()), addresses));
                }
            }
            ("cilium.io/v2" | "cilium.io/v2alpha1", "CiliumCIDRGroup") => {
                let object: Group = decode(document).with_context(place)?;
                let (name, labels) = (document.name.clone(), object.metadata.labels);
                self.groups.push(CidrGroup { name, labels, prefixes: object.spec.external_cidrs });
            }
            ("specola.io/v1alpha1", "FQDNCache") => {
                let object: Names = decode(document).with_context(place)?;
                for Name { name, addresses } in object.spec.names {
                    let rule = DnsRule::name(&name).map_err(|error| {
                        anyhow::anyhow!("{}: spec.names: {name:?} is no name of DNS: {error}", place())
                    })?;
                    self.names.push((rule.text().to_owned(), addresses));
                }
            }
            (ProviderGroup::API_VERSION, ProviderGroup::KIND) => {
                let ProviderGroup { group, prefixes } = ProviderGroup::read(file, document)?;
                self.provider_groups.entry(group).or_default().extend(prefixes);
            }
            _ => {
                let parsed = parse_policy_document(file, document, options);
                let errors: Vec<String> = parsed.errors.iter().map(ToString::to_string).collect();
                anyhow::ensure!(errors.is_empty(), "{}", errors.join("\n"));
                self.policies.extend(parsed.objects);
            }
        }
        Ok(())
    }
}

fn decode<T: DeserializeOwned>(document: &Document) -> serde_json::Result<T> {
    serde_json::from_str(&document.json())
}

/// A pod of a file.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) metadata: Metadata,
    pub(super) spec: PodSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub(super) labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Metadata {
    /// Whether an annotation asks for audit mode.
    pub(super) fn asks_for_audit(&self) -> bool {
        self.annotations.get(AUDIT_ANNOTATION).is_some_and(|value| value == "enabled")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Metadata,
    spec: PodSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    pub(super) service_account_name: String,
    pub(super) containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Container {
    pub(super) ports: Vec<ContainerPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerPort {
    pub(super) name: String,
    pub(super) container_port: u16,
    pub(super) protocol: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceObject {
    metadata: Metadata,
    spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceSpec {
    selector: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoints {
    subsets: Vec<Subset>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subset {
    addresses: Vec<SubsetAddress>,
}

#[derive(Debug, Deserialize)]
struct SubsetAddress {
    ip: IpAddr,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointSlice {
    metadata: Metadata,
    endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SliceEndpoint {
    addresses: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Group {
    #[serde(default)]
    metadata: Metadata,
    spec: GroupSpec,
}

#[derive(Debug, Deserialize)]
struct GroupSpec {
    #[serde(rename = "externalCIDRs")]
    external_cidrs: Vec<IpNet>,
}

#[derive(Debug, Deserialize)]
struct Names {
    spec: NamesSpec,
}

#[derive(Debug, Deserialize)]
struct NamesSpec {
    names: Vec<Name>,
}

#[derive(Debug, Deserialize)]
struct Name {
    name: String,
    addresses: Vec<IpAddr>,
}
