//! What a policy that is in force cannot do here.

use std::collections::BTreeSet;
use std::fmt;

use crate::objects::Objects;
use crate::origin::Section;
use crate::repository::Repository;
use crate::rule::{
    AwsGroup, CidrGroupSelect, L4, L7Rules, Peer, PolicyObject, Protocol, RuleEntry, ServiceSelect,
    TlsContext,
};

/// What one entry of a policy cannot do here, and what helps.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Condition {
    /// Section of the entry.
    pub section: Section,
    /// Index in the section.
    pub index: u32,
    /// What is the matter.
    pub cause: Cause,
}

/// Why an entry does not do what it says.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Cause {
    /// No address of a cloud provider's group is known.
    UnknownGroup(AwsGroup),
    /// There is no such group of prefixes, or it is empty.
    NoCidrGroup(String),
    /// There is no such service.
    NoService(String),
    /// Material for TLS is in a secret, and secrets cannot be read here.
    TlsSecret {
        /// Field that names it.
        field: &'static str,
        /// `namespace/name`.
        secret: String,
    },
    /// The value of a header is in a secret, and secrets cannot be read here.
    HeaderSecret {
        /// The header.
        header: String,
        /// `namespace/name`.
        secret: String,
    },
    /// Requests are to be looked at, and no proxy runs.
    NoProxy,
    /// The kernel programs drop every packet of the protocol.
    UnknownProtocol(&'static str),
}

impl Condition {
    /// Whether something passes that the policy means to deny.
    pub const fn leaves_open(&self) -> bool {
        self.section.is_deny()
    }
}

impl Repository {
    /// What the policy cannot do, in the order of its entries. Without a proxy and secrets, which nothing here has.
    pub fn conditions(&self, object: &PolicyObject) -> Vec<Condition> {
        let mut conditions: BTreeSet<Condition> = BTreeSet::new();
        for entry in object.rules.iter().flat_map(|rule| &rule.entries) {
            let causes =
                entry.peers.iter().flat_map(|peer| missing(peer, self.objects())).chain(requests(entry));
            let (section, index) = (entry.section, entry.index);
            conditions.extend(causes.map(|cause| Condition { section, index, cause }));
        }
        conditions.into_iter().collect()
    }
}

/// What a peer refers to and is not there.
fn missing(peer: &Peer, objects: &Objects) -> Vec<Cause> {
    match peer {
        Peer::Group(group) => objects.unknown_parts(group).into_iter().map(Cause::UnknownGroup).collect(),
        Peer::CidrGroup { groups, .. } if !objects.has_group(groups) => {
            vec![Cause::NoCidrGroup(match groups {
                CidrGroupSelect::Name(name) => name.clone(),
                CidrGroupSelect::Labels(selector) => format!("with labels {selector}"),
            })]
        }
        Peer::Service { services, namespace } if !objects.has_service(services, namespace.as_deref()) => {
            let namespace =
                namespace.as_deref().map_or_else(String::new, |namespace| format!("{namespace}/"));
            vec![Cause::NoService(match services {
                ServiceSelect::Name(name) => format!("{namespace}{name}"),
                ServiceSelect::Labels(selector) => format!("{namespace} with labels {selector}"),
            })]
        }
        _ => Vec::new(),
    }
}

/// What an entry asks of a proxy.
fn requests(entry: &RuleEntry) -> Vec<Cause> {
    let L4::Ports(ports) = &entry.l4 else { return Vec::new() };
    let rules: Vec<&L7Rules> = ports.iter().filter_map(|port| port.l7.as_deref()).collect();
    let mut causes: Vec<Cause> = rules.iter().flat_map(|rules| secrets(rules)).collect();
    causes.extend((!rules.is_empty()).then_some(Cause::NoProxy));
    let protocols = ports.iter().map(|port| port.protocol);
    let unknown = protocols.filter(|protocol| matches!(protocol, Protocol::Vrrp | Protocol::Igmp));
    causes.extend(unknown.filter(|_| !entry.section.is_deny()).map(|one| Cause::UnknownProtocol(one.name())));
    causes
}

fn secrets(rules: &L7Rules) -> Vec<Cause> {
    match rules {
        L7Rules::Tls(tls) => {
            let named = |field, context: &Option<TlsContext>| {
                let secret = context.as_ref().map(|context| name(&context.namespace, &context.name));
                secret.map(|secret| Cause::TlsSecret { field, secret })
            };
            let own = [named("terminatingTLS", &tls.terminating), named("originatingTLS", &tls.originating)];
            own.into_iter().flatten().chain(tls.inner.iter().flat_map(|inner| secrets(inner))).collect()
        }
        L7Rules::Http(rules) => {
            let headers = rules.iter().flat_map(|rule| &rule.header_matches);
            let secret = headers.filter_map(|header| {
                let (namespace, secret) = header.secret.as_ref()?;
                Some(Cause::HeaderSecret { header: header.name.clone(), secret: name(namespace, secret) })
            });
            secret.collect()
        }
        _ => Vec::new(),
    }
}

fn name(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: ", self.section.as_str(), self.index)?;
        let effect = match (self.section.is_deny(), &self.cause) {
            (
                _,
                Cause::TlsSecret { .. }
                | Cause::HeaderSecret { .. }
                | Cause::NoProxy
                | Cause::UnknownProtocol(_),
            ) => "",
            (true, _) => ", so nothing is denied by it",
            (false, _) => ", so nobody is allowed by it",
        };
        match &self.cause {
            Cause::UnknownGroup(group) => {
                write!(f, "no address of the AWS group ({group}) is known{effect}; give its addresses in a ProviderGroup")
            }
            Cause::NoCidrGroup(name) => {
                write!(f, "CiliumCIDRGroup {name} is missing or empty{effect}; add it")
            }
            Cause::NoService(name) => write!(f, "service {name} is missing{effect}; add it"),
            Cause::TlsSecret { field, secret } => write!(
                f,
                "{field} names secret {secret}, which cannot be read: no proxy runs on this node; connections are refused \
                 (drop reason 180); remove {field} and the rules about requests to allow the port as it is"
            ),
            Cause::HeaderSecret { header, secret } => write!(
                f,
                "the value of header {header} is in secret {secret}, which cannot be read: no proxy runs on this node"
            ),
            Cause::UnknownProtocol(name) => write!(
                f,
                "packets of protocol {name} are dropped at pods and governed nodes whatever is allowed (drop reason 137)"
            ),
            Cause::NoProxy => f.write_str(
                "rules about requests need a proxy and none runs on this node; connections are refused (drop reason 180)",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::{CidrGroup, parse_policies};

    fn conditions(repository: &Repository, rules: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: ns}}\nspec:\n  \
             endpointSelector: {{}}\n{rules}"
        );
        let parsed = parse_policies("p", &text);
        assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
        repository.conditions(&parsed.objects[0]).iter().map(ToString::to_string).collect()
    }

    fn group(ids: &[&str]) -> AwsGroup {
        let security_group_ids = ids.iter().map(|id| (*id).to_owned()).collect();
        AwsGroup { security_group_ids, ..AwsGroup::default() }
    }

    #[test]
    fn what_is_missing_is_named_with_what_helps() {
        let repository = Repository::new(Settings::default());
        for (rules, parts) in [
            ("  egress:\n  - toEntities: [world]\n", &[][..]),
            (
                "  egressDeny:\n  - toGroups: [{aws: {securityGroupsIds: [sg-1]}}]\n",
                &["egressDeny[0]", "security group sg-1", "nothing is denied", "ProviderGroup"],
            ),
            (
                "  ingress:\n  - fromEndpoints: [{}]\n  - fromGroups: [{aws: {labels: {a: b}, region: r}}]\n",
                &["ingress[1]", "region r, tag a=b", "nobody is allowed"],
            ),
            ("  egress:\n  - toCIDRSet: [{cidrGroupRef: g}]\n", &["CiliumCIDRGroup g", "nobody is allowed"]),
            (
                "  egressDeny:\n  - toServices: [{k8sService: {serviceName: s, namespace: ns}}]\n",
                &["ns/s", "denied"],
            ),
            (
                "  ingress:\n  - toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]\n",
                &["need a proxy", "180"],
            ),
        ] {
            let found = conditions(&repository, rules);
            assert_eq!(found.len(), usize::from(!parts.is_empty()), "{rules}: {found:?}");
            for part in parts {
                assert!(found[0].contains(part), "{found:?} lacks {part}");
            }
        }
    }

    #[test]
    fn secrets_are_named() {
        let repository = Repository::new(Settings::default());
        let rules = "  egress:\n  - toPorts:\n    - ports: [{port: '443', protocol: TCP}]\n      \
                     terminatingTLS: {secret: {namespace: kube-system, name: web}}\n      \
                     originatingTLS: {secret: {name: own}}\n      rules:\n        http:\n        \
                     - headerMatches: [{name: X-Token, secret: {namespace: ns, name: token}}]\n";
        let found = conditions(&repository, rules);
        let named = [
            "originatingTLS names secret own",
            "terminatingTLS names secret kube-system/web",
            "X-Token is in secret ns/token",
        ];
        for part in named {
            assert!(found.iter().any(|text| text.contains(part)), "{found:?} lacks {part}");
        }
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn protocols_that_the_kernel_programs_drop_are_named() {
        let rules = "  ingress:\n  - toPorts: [{ports: [{protocol: VRRP}, {protocol: IGMP, port: '0'}]}]\n  \
                     ingressDeny:\n  - toPorts: [{ports: [{protocol: VRRP}]}]\n";
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: ns}}\nspec:\n  \
             endpointSelector: {{}}\n{rules}"
        );
        let options = crate::ParseOptions { extended_protocols: true, ..crate::ParseOptions::default() };
        let parsed = crate::parse_policies_with("p", &text, options);
        let found = Repository::new(Settings::default()).conditions(&parsed.objects[0]);
        let causes: Vec<Cause> = found.into_iter().map(|condition| condition.cause).collect();
        assert_eq!(causes, [Cause::UnknownProtocol("IGMP"), Cause::UnknownProtocol("VRRP")]);
    }

    #[test]
    fn known_members_end_it() {
        let mut repository = Repository::new(Settings::default());
        let rules = "  egressDeny:\n  - toGroups: [{aws: {securityGroupsIds: [sg-1, sg-2]}}]\n  \
                     - toCIDRSet: [{cidrGroupRef: g}]\n";
        assert_eq!(conditions(&repository, rules).len(), 3);
        repository.set_provider_group(group(&["sg-1"]), vec!["192.0.2.1/32".parse().unwrap()]);
        repository.upsert_cidr_group(CidrGroup {
            name: "g".to_owned(),
            labels: Default::default(),
            prefixes: vec!["198.51.100.0/24".parse().unwrap()],
        });
        let found = conditions(&repository, rules);
        assert!(matches!(found.as_slice(), [one] if one.contains("sg-2")), "{found:?}");
        repository.set_provider_group(group(&["sg-2"]), vec!["192.0.2.2/32".parse().unwrap()]);
        assert_eq!(conditions(&repository, rules), Vec::<String>::new());
        let both = repository.objects().provider_prefixes(&group(&["sg-1", "sg-2"])).count();
        assert_eq!(both, 2, "the parts are taken together");
    }
}
