//! Policies, and everything else that a verdict depends on.

use ipnet::IpNet;
use specola_labels::NumericIdentity;
use specola_policy::rule::AwsGroup;
use specola_policy::{AllowLocalhost, CidrGroup, Mode, NamedPorts, Service};
use specola_proto::specola::v1 as pb;

use super::super::Node;
use super::super::identities::add_ports;
use super::super::life::Endpoint;
use super::show_refused;

impl Node {
    /// Every identity that this node knows.
    pub(crate) fn show_identities(&self) -> Vec<pb::Identity> {
        let known = self.engine.identities();
        let show = |(identity, labels): (NumericIdentity, &specola_labels::LabelSet)| {
            let ports = known.named_ports(identity).map(|(name, proto, port)| show_port(name, proto, port));
            pb::Identity { id: identity.0, labels: labels.to_strings(), named_ports: ports.collect() }
        };
        known.iter().map(show).collect()
    }

    /// Which identity the kernel takes each address for.
    pub(crate) fn show_addresses(&self) -> Vec<pb::Address> {
        let mut addresses: Vec<_> = self.ips.iter().map(|(prefix, info)| (*prefix, info.identity)).collect();
        addresses.sort_unstable();
        let show = |(prefix, identity): (IpNet, u32)| pb::Address { prefix: prefix.to_string(), identity };
        addresses.into_iter().map(show).collect()
    }

    /// Policies in force, all of them or those of a namespace or name, and what they are understood by.
    pub(crate) fn show_policies(&self, namespace: &str, name: &str) -> pb::GetPolicyResponse {
        let repository = self.engine.repository();
        let chosen = repository.iter().filter(|stored| {
            let reference = &stored.object().reference;
            (namespace.is_empty() || reference.namespace == namespace)
                && (name.is_empty() || reference.name == name)
        });
        pb::GetPolicyResponse {
            revision: repository.revision(),
            policies: self.show_chosen(chosen),
            refused: self.desired.refused.iter().map(show_refused).collect(),
            settings: Some(self.show_settings()),
            cidr_groups: repository.cidr_groups().map(show_group).collect(),
            services: repository.services().map(show_service).collect(),
            provider_groups: repository.known_provider_groups().map(show_provider_group).collect(),
        }
    }

    /// Container ports of an endpoint that have a name.
    pub(super) fn show_own_ports(&self, endpoint: &Endpoint) -> Vec<pb::NamedPort> {
        let pod = self.desired.pod(&endpoint.file.pod_namespace, &endpoint.file.pod_name);
        let mut ports = NamedPorts::new();
        let own = pod.into_iter().flat_map(|pod| pod.named_ports());
        add_ports(&mut ports, own.map(|(name, protocol, port)| (name, protocol.to_owned(), port)));
        let ports = ports.iter().flat_map(|((name, proto), numbers)| {
            numbers.iter().map(|number| show_port(name, *proto, *number))
        });
        ports.collect()
    }

    fn show_settings(&self) -> pb::PolicySettings {
        let (policy, language) = (&self.settings.policy, self.settings.language);
        pb::PolicySettings {
            mode: match policy.mode {
                Mode::Default => "default",
                Mode::Always => "always",
                Mode::Never => "never",
            }
            .to_owned(),
            audit: self.settings.audit_mode,
            allow_localhost: match policy.allow_localhost {
                AllowLocalhost::Auto => "auto",
                AllowLocalhost::Always => "always",
                AllowLocalhost::Policy => "policy",
            }
            .to_owned(),
            ipv4: policy.ip_families.has(specola_labels::Family::V4),
            ipv6: policy.ip_families.has(specola_labels::Family::V6),
            host_firewall: policy.host_firewall,
            node_selector_labels: language.node_selector_labels,
            extended_ip_protocols: language.extended_protocols,
            k8s_cluster_network_policy: language.cluster_network_policy,
        }
    }
}

fn show_port(name: &str, proto: u8, port: u16) -> pb::NamedPort {
    pb::NamedPort { name: name.to_owned(), protocol: proto.into(), port: port.into() }
}

fn show_group(group: &CidrGroup) -> pb::CidrGroup {
    pb::CidrGroup {
        name: group.name.clone(),
        labels: group.labels.clone().into_iter().collect(),
        prefixes: group.prefixes.iter().map(ToString::to_string).collect(),
    }
}

fn show_provider_group((group, prefixes): (&AwsGroup, &[IpNet])) -> pb::ProviderGroup {
    pb::ProviderGroup {
        region: group.region.clone(),
        labels: group.labels.clone().into_iter().collect(),
        security_group_ids: group.security_group_ids.iter().cloned().collect(),
        security_group_names: group.security_group_names.iter().cloned().collect(),
        prefixes: prefixes.iter().map(ToString::to_string).collect(),
    }
}

fn show_service(service: &Service) -> pb::Service {
    pb::Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        labels: service.labels.clone().into_iter().collect(),
        selector: service.selector.clone().into_iter().collect(),
        backends: service.backends.iter().map(ToString::to_string).collect(),
    }
}
