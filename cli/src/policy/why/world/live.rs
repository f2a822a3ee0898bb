//! What agents have.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use specola_labels::{Label, LabelSet, NumericIdentity};
use specola_policy::rule::AwsGroup;
use specola_policy::{
    AllowLocalhost, CidrGroup, IdentityTable, IpFamilies, Mode, NamedPorts, ParseOptions, PolicyRef,
    Repository, Service, Settings, parse_policies_with,
};
use specola_proto::specola::v1 as pb;

use super::{Endpoint, View, World};
use crate::node::Node;
use crate::target::AdminArgs;

/// What one agent says.
struct Answers {
    status: pb::GetStatusResponse,
    policy: pb::GetPolicyResponse,
    identities: Vec<pb::Identity>,
    addresses: Vec<pb::Address>,
    endpoints: Vec<(pb::Endpoint, Vec<pb::PolicyEntry>)>,
    names: Vec<pb::FqdnEntry>,
    audited: Vec<pb::Audited>,
}

impl World {
    /// What the agents have.
    ///
    /// # Errors
    /// One does not answer.
    pub(in crate::policy) async fn live(admin: &AdminArgs) -> anyhow::Result<Self> {
        let mut world: Option<Self> = None;
        for mut node in Node::all(admin).await? {
            let answers = Answers::ask(&mut node).await?;
            world.get_or_insert_with(|| Self::of_policies(&answers)).add_node(answers);
        }
        world.ok_or_else(|| anyhow::anyhow!("no agent was asked"))
    }

    fn of_policies(answers: &Answers) -> Self {
        let policy = &answers.policy;
        let settings = policy.settings.clone().unwrap_or_default();
        let mut repository = Repository::new(settings_of(&settings, &answers.status.cluster_name));
        for group in &policy.cidr_groups {
            repository.upsert_cidr_group(group_of(group));
        }
        for service in &policy.services {
            repository.upsert_service(service_of(service));
        }
        for group in &policy.provider_groups {
            let (group, prefixes) = provider_group_of(group);
            repository.set_provider_group(group, prefixes);
        }
        repository.advance(policy.revision);
        let options = ParseOptions {
            node_selector_labels: settings.node_selector_labels,
            extended_protocols: settings.extended_ip_protocols,
            cluster_network_policy: settings.k8s_cluster_network_policy,
        };
        for policy in &policy.policies {
            let (file, line) = policy.source.rsplit_once(':').unwrap_or((policy.source.as_str(), "1"));
            for mut object in parse_policies_with(file, &policy.yaml, options).objects {
                object.line += line.parse::<u32>().unwrap_or(1).saturating_sub(1);
                object.audit |= policy.audit;
                repository.restore(object, policy.revision);
            }
        }
        let by_operator = |audited: &&pb::Audited| audited.source == "admin";
        let audited = answers.audited.iter().filter(by_operator).collect::<Vec<_>>();
        let is_audited = |reference: &PolicyRef| {
            audited.iter().any(|one| {
                one.kind == reference.kind.as_str()
                    && one.namespace == reference.namespace
                    && one.name == reference.name
            })
        };
        let references = repository.iter().map(|stored| stored.object().reference.clone());
        let audited = references.filter(is_audited).collect();
        let names = answers.names.iter().map(name_of).collect();
        Self {
            repository,
            identities: IdentityTable::with_reserved(),
            nodes: Vec::new(),
            endpoints: BTreeMap::new(),
            names,
            audited,
        }
    }

    fn add_node(&mut self, answers: Answers) {
        let node = self.nodes.len();
        let mut view = View { name: answers.status.node_name, ..View::default() };
        let mut numbers = BTreeMap::new();
        for identity in answers.identities {
            let number = NumericIdentity(identity.id);
            let shown = if number < NumericIdentity::LOCAL_MIN { number } else { self.free_number() };
            if shown != number {
                view.own_numbers.insert(shown, identity.id);
            }
            numbers.insert(identity.id, shown);
            self.identities.insert(shown, parse_labels(&identity.labels));
            self.identities.set_named_ports(shown, ports_of(&identity.named_ports));
        }
        let shown = |number: u32| numbers.get(&number).copied().unwrap_or(NumericIdentity(number));
        for address in answers.addresses {
            if let Ok(prefix) = address.prefix.parse() {
                view.addresses.push((prefix, shown(address.identity)));
            }
        }
        for (endpoint, realized) in answers.endpoints {
            let (name, is_host) = match &endpoint.pod {
                Some(pod) => (format!("{}/{}", pod.namespace, pod.name), false),
                None => (format!("node:{}", view.name), true),
            };
            let endpoint = Endpoint {
                node,
                identity: NumericIdentity(endpoint.identity),
                labels: parse_labels(&endpoint.labels),
                ports: ports_of(&endpoint.named_ports),
                addresses: endpoint.ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
                is_host,
                audit: endpoint.audit,
                realized,
            };
            self.endpoints.insert(name, endpoint);
        }
        self.nodes.push(view);
    }

    /// A number of the local scope that no node has been given here.
    pub(super) fn free_number(&self) -> NumericIdentity {
        let last = self.identities.iter().last().map_or(NumericIdentity::UNKNOWN, |(identity, _)| identity);
        NumericIdentity(last.0.saturating_add(1).max(NumericIdentity::LOCAL_MIN.0))
    }
}

impl Answers {
    async fn ask(node: &mut Node) -> anyhow::Result<Self> {
        let request = pb::GetStatusRequest {};
        let status = node.call("get the status", |mut c| async move { c.get_status(request).await }).await?;
        let all = pb::GetPolicyRequest::default();
        let policy = node.call("show policies", |mut c| async move { c.get_policy(all).await }).await?;
        let request = pb::ListIdentitiesRequest {};
        let identities =
            node.call("list identities", |mut c| async move { c.list_identities(request).await }).await?;
        let request = pb::ListAddressesRequest {};
        let addresses =
            node.call("list addresses", |mut c| async move { c.list_addresses(request).await }).await?;
        let request = pb::ListEndpointsRequest {};
        let list =
            node.call("list endpoints", |mut c| async move { c.list_endpoints(request).await }).await?;
        let mut endpoints = Vec::new();
        for endpoint in list.endpoints {
            let key = Some(pb::get_endpoint_request::Key::Id(endpoint.id));
            let request = pb::GetEndpointRequest { key };
            let found =
                node.call("show an endpoint", |mut c| async move { c.get_endpoint(request).await }).await?;
            endpoints.push((endpoint, found.policy));
        }
        let request = pb::ListFqdnCacheRequest {};
        let names =
            node.call_policies("list names", |mut c| async move { c.list_fqdn_cache(request).await }).await?;
        let request = pb::ListAuditRequest {};
        let audited =
            node.call_policies("list audit mode", |mut c| async move { c.list_audit(request).await }).await?;
        Ok(Self {
            names: names.entries,
            audited: audited.audited,
            status,
            policy,
            identities: identities.identities,
            addresses: addresses.addresses,
            endpoints,
        })
    }
}

fn settings_of(settings: &pb::PolicySettings, cluster: &str) -> Settings {
    Settings {
        cluster_name: cluster.to_owned(),
        mode: match settings.mode.as_str() {
            "always" => Mode::Always,
            "never" => Mode::Never,
            _ => Mode::Default,
        },
        allow_localhost: match settings.allow_localhost.as_str() {
            "policy" => AllowLocalhost::Policy,
            "always" => AllowLocalhost::Always,
            _ => AllowLocalhost::Auto,
        },
        ip_families: match (settings.ipv4, settings.ipv6) {
            (true, false) => IpFamilies::V4,
            (false, true) => IpFamilies::V6,
            _ => IpFamilies::Dual,
        },
        host_firewall: settings.host_firewall,
        ..Settings::default()
    }
}

fn group_of(group: &pb::CidrGroup) -> CidrGroup {
    CidrGroup {
        name: group.name.clone(),
        labels: group.labels.clone().into_iter().collect(),
        prefixes: group.prefixes.iter().filter_map(|prefix| prefix.parse().ok()).collect(),
    }
}

fn provider_group_of(group: &pb::ProviderGroup) -> (AwsGroup, Vec<IpNet>) {
    let known = AwsGroup {
        region: group.region.clone(),
        labels: group.labels.clone().into_iter().collect(),
        security_group_ids: group.security_group_ids.iter().cloned().collect(),
        security_group_names: group.security_group_names.iter().cloned().collect(),
    };
    (known, group.prefixes.iter().filter_map(|prefix| prefix.parse().ok()).collect())
}

fn service_of(service: &pb::Service) -> Service {
    Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        labels: service.labels.clone().into_iter().collect(),
        selector: service.selector.clone().into_iter().collect(),
        backends: service.backends.iter().filter_map(|address| address.parse().ok()).collect(),
    }
}

fn name_of(entry: &pb::FqdnEntry) -> (String, Vec<IpAddr>) {
    (entry.name.clone(), entry.addresses.iter().filter_map(|address| address.parse().ok()).collect())
}

fn ports_of(list: &[pb::NamedPort]) -> NamedPorts {
    let mut ports = NamedPorts::new();
    for port in list {
        if let (Ok(proto), Ok(number)) = (u8::try_from(port.protocol), u16::try_from(port.port)) {
            ports.entry((port.name.clone(), proto)).or_default().insert(number);
        }
    }
    ports
}

fn parse_labels(labels: &[String]) -> LabelSet {
    labels.iter().filter_map(|label| label.parse::<Label>().ok()).collect()
}

#[cfg(test)]
mod tests;
