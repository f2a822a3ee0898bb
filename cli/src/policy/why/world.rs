//! Pods, identities and policies, of live agents or of files.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use specola_labels::{Label, LabelFilter, LabelSet, NumericIdentity, PodLabels};
use specola_policy::document::{Document, split_documents};
use specola_policy::eval::Verdict;
use specola_policy::explain::{Connection, End, Explanation, Step};
use specola_policy::{
    IdentityTable, IpFamilies, NamedPorts, Repository, Settings, Subject, cidr_identity_labels,
    parse_policies,
};
use specola_proto::specola::v1 as pb;

use crate::error::UsageError;
use crate::node::Node;
use crate::target::AdminArgs;

/// Everything that decides.
#[derive(Debug)]
pub(super) struct World {
    pub(super) repository: Repository,
    pub(super) identities: IdentityTable,
    pods: BTreeMap<String, Pod>,
    /// Identities of the prefixes that policies name.
    prefixes: BTreeMap<IpNet, NumericIdentity>,
    /// What the kernel holds for a pod's endpoint.
    realized: BTreeMap<String, Vec<pb::PolicyEntry>>,
}

#[derive(Clone, Debug, Default)]
struct Pod {
    identity: NumericIdentity,
    labels: LabelSet,
    ports: NamedPorts,
    addresses: Vec<IpAddr>,
}

impl World {
    /// What the agents have.
    ///
    /// # Errors
    /// One does not answer.
    pub(super) async fn live(admin: &AdminArgs) -> anyhow::Result<Self> {
        let (mut cluster, mut policies, mut pods) = (String::new(), BTreeMap::new(), BTreeMap::new());
        let (mut identities, mut realized) = (IdentityTable::with_reserved(), BTreeMap::new());
        for mut node in Node::all(admin).await? {
            let status = pb::GetStatusRequest {};
            cluster = node
                .call("get the status", |mut c| async move { c.get_status(status).await })
                .await?
                .cluster_name;
            let all = pb::GetPolicyRequest::default();
            let answer = node.call("show policies", |mut c| async move { c.get_policy(all).await }).await?;
            policies.extend(answer.policies.into_iter().map(|policy| (policy.yaml, policy.source)));
            let request = pb::ListIdentitiesRequest {};
            let known =
                node.call("list identities", |mut c| async move { c.list_identities(request).await }).await?;
            for identity in known.identities {
                // Numbers of the local scope mean something else on each node.
                if NumericIdentity(identity.id) < NumericIdentity::LOCAL_MIN {
                    identities.insert(NumericIdentity(identity.id), parse_labels(&identity.labels));
                }
            }
            let request = pb::ListEndpointsRequest {};
            let list =
                node.call("list endpoints", |mut c| async move { c.list_endpoints(request).await }).await?;
            for endpoint in list.endpoints {
                let key = pb::get_endpoint_request::Key::Id(endpoint.id);
                let request = pb::GetEndpointRequest { key: Some(key) };
                let found = node
                    .call("show an endpoint", |mut c| async move { c.get_endpoint(request).await })
                    .await?;
                let Some((name, pod)) = live_pod(&endpoint) else { continue };
                realized.insert(name.clone(), found.policy);
                pods.insert(name, pod);
            }
        }
        let mut repository = Repository::new(Settings { cluster_name: cluster, ..Settings::default() });
        for (yaml, source) in policies {
            let (file, line) = source.rsplit_once(':').unwrap_or((source.as_str(), "1"));
            for mut object in parse_policies(file, &yaml).objects {
                object.line += line.parse::<u32>().unwrap_or(1).saturating_sub(1);
                repository.upsert(object);
            }
        }
        Ok(Self { repository, identities, pods, prefixes: BTreeMap::new(), realized }.with_prefixes())
    }

    /// What files say.
    ///
    /// # Errors
    /// A file cannot be read, or says something wrong.
    pub(super) fn offline(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut documents: Vec<(String, Document)> = Vec::new();
        for path in files {
            for (name, text) in super::super::read(path)? {
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
            pods: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            realized: BTreeMap::new(),
        };
        for (_, document) in documents.iter().filter(|(_, document)| document.kind == "Pod") {
            world.add_pod(document, &namespaces, &settings.cluster_name)?;
        }
        Ok(world.with_prefixes())
    }

    /// The end that a text names.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn end(&self, text: &str) -> anyhow::Result<End> {
        if let Some((name, pod)) = self.pods.get_key_value(text) {
            return Ok(pod.end(name));
        }
        if let Some(identity) = NumericIdentity::from_reserved_name(text) {
            return Ok(End { name: text.to_owned(), identity, subject: None });
        }
        let Ok(address) = text.parse::<IpAddr>() else {
            let known: Vec<&str> = self.pods.keys().take(8).map(String::as_str).collect();
            let known = if known.is_empty() { "no pod is known".to_owned() } else { known.join(", ") };
            return Err(UsageError::text(format!(
                "{text:?} is no pod, address or reserved identity; pods are named namespace/pod: {known}"
            ))
            .into());
        };
        if let Some((name, pod)) = self.pods.iter().find(|(_, pod)| pod.addresses.contains(&address)) {
            return Ok(pod.end(name));
        }
        let covering = self.prefixes.iter().filter(|(prefix, _)| prefix.contains(&address));
        let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, identity)| *identity);
        let world = if address.is_ipv4() { NumericIdentity::WORLD_IPV4 } else { NumericIdentity::WORLD_IPV6 };
        Ok(End { name: text.to_owned(), identity: longest.unwrap_or(world), subject: None })
    }

    /// Where the kernel's policy of an endpoint says something else than its rules, as read here.
    pub(super) fn doubts(&self, connection: &Connection, explanation: &Explanation) -> Vec<String> {
        let doubt = |step: &Step| {
            let entries = self.realized.get(&step.endpoint)?;
            let peer = if step.egress { &connection.to } else { &connection.from };
            if peer.identity >= NumericIdentity::LOCAL_MIN {
                return None;
            }
            let kernel = in_kernel(entries, peer.identity.0, step.egress, connection)?;
            let expected = match step.decision.verdict {
                Verdict::Allow | Verdict::AuthRequired => "allow",
                Verdict::Redirect => "redirect",
                Verdict::Deny | Verdict::DefaultDeny => "deny",
            };
            (kernel != expected).then(|| {
                format!(
                    "the kernel's policy of {} says {kernel}: it is not realized yet, or the agent decides by settings \
                     or named ports that this command does not see",
                    step.endpoint
                )
            })
        };
        explanation.steps.iter().filter_map(doubt).collect()
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
        let known = self.pods.values().find(|pod| pod.labels == labels).map(|pod| pod.identity);
        let number = NumericIdentity::USER_MIN.0 + u32::try_from(self.pods.len()).unwrap_or(0);
        let identity = known.unwrap_or(NumericIdentity(number));
        self.identities.insert(identity, labels.clone());
        self.identities.set_named_ports(identity, ports.clone());
        let name = format!("{namespace}/{}", document.name);
        self.pods.insert(name, Pod { identity, labels, ports, addresses: Vec::new() });
        Ok(())
    }

    fn with_prefixes(mut self) -> Self {
        for (number, prefix) in (NumericIdentity::LOCAL_MIN.0..).zip(self.repository.prefixes()) {
            self.identities.insert(NumericIdentity(number), cidr_identity_labels(prefix, IpFamilies::Dual));
            self.prefixes.insert(prefix, NumericIdentity(number));
        }
        self
    }
}

impl Pod {
    fn end(&self, name: &str) -> End {
        let namespace = name.split('/').next().unwrap_or_default().to_owned();
        let named_ports = self.ports.clone();
        let subject = Subject { labels: self.labels.clone(), namespace, named_ports, is_host: false };
        End { name: name.to_owned(), identity: self.identity, subject: Some(subject) }
    }
}

fn live_pod(endpoint: &pb::Endpoint) -> Option<(String, Pod)> {
    let pod = endpoint.pod.as_ref()?;
    let addresses = endpoint.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let labels = parse_labels(&endpoint.labels);
    let identity = NumericIdentity(endpoint.identity);
    Some((
        format!("{}/{}", pod.namespace, pod.name),
        Pod { identity, labels, ports: NamedPorts::new(), addresses },
    ))
}

fn parse_labels(labels: &[String]) -> LabelSet {
    labels.iter().filter_map(|label| label.parse::<Label>().ok()).collect()
}

/// What the entries of an endpoint decide; none when they are unknown.
fn in_kernel(
    entries: &[pb::PolicyEntry],
    peer: u32,
    egress: bool,
    connection: &Connection,
) -> Option<&'static str> {
    let direction = if egress { "egress" } else { "ingress" };
    let (proto, port) = (u32::from(connection.proto), u32::from(connection.port));
    let matching = |identity: u32| {
        entries
            .iter()
            .filter(move |entry| entry.direction == direction && entry.identity == identity)
            .filter(move |entry| {
                entry.protocol == 0
                    || (entry.protocol == proto && (entry.first_port..=entry.last_port).contains(&port))
            })
            .min_by_key(|entry| (entry.protocol == 0, entry.last_port - entry.first_port))
    };
    let rank = |entry: &&pb::PolicyEntry| (entry.precedence, u32::MAX - (entry.last_port - entry.first_port));
    let best = [matching(0), matching(peer)].into_iter().flatten().max_by_key(rank);
    Some(match best.map(|entry| entry.action.as_str()) {
        Some("allow") => "allow",
        Some("redirect") => "redirect",
        Some(_) | None => "deny",
    })
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
