//! Pods, identities and policies, of live agents or of files.

mod change;
mod files;
mod live;
mod offline;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use specola_labels::{LabelSet, NumericIdentity};
use specola_policy::eval::Verdict;
use specola_policy::explain::{Connection, End, Explanation, Step};
use specola_policy::{IdentityTable, NamedPorts, PolicyRef, Repository, Subject};
use specola_proto::specola::v1 as pb;

pub(in crate::policy) use self::change::Compared;
pub(in crate::policy) use self::files::Files;
use super::ends::Asked;
use crate::error::UsageError;

/// Everything that decides.
#[derive(Debug)]
pub(in crate::policy) struct World {
    pub(in crate::policy) repository: Repository,
    /// Identities of all nodes. Numbers that mean something else on each node are given anew.
    pub(in crate::policy) identities: IdentityTable,
    nodes: Vec<View>,
    /// By `namespace/name`; the nodes themselves by `node:name`.
    endpoints: BTreeMap<String, Endpoint>,
    /// Addresses of names of DNS.
    names: Vec<(String, Vec<IpAddr>)>,
    /// Policies whose audit mode was switched on by the operator.
    audited: BTreeSet<PolicyRef>,
}

/// How one node sees the world.
#[derive(Clone, Debug, Default)]
struct View {
    name: String,
    /// Which identity an address is taken for.
    addresses: Vec<(IpNet, NumericIdentity)>,
    /// Identities of the node's own scope, and their numbers there.
    own_numbers: BTreeMap<NumericIdentity, u32>,
}

/// An endpoint that policies govern.
#[derive(Clone, Debug, Default)]
struct Endpoint {
    /// Index of its node.
    node: usize,
    identity: NumericIdentity,
    labels: LabelSet,
    ports: NamedPorts,
    addresses: Vec<IpAddr>,
    is_host: bool,
    audit: bool,
    /// What the kernel holds for it; nothing offline.
    realized: Vec<pb::PolicyEntry>,
}

/// One end that was asked about.
#[derive(Clone, Copy, Debug)]
enum Known<'a> {
    Endpoint(&'a str, &'a Endpoint),
    Identity(&'a str, NumericIdentity),
    Address(&'a str, IpAddr),
}

impl World {
    /// The connection that is meant, each end as the other one's node sees it.
    ///
    /// # Errors
    /// An end is not known.
    pub(super) fn connection(&self, asked: &Asked) -> anyhow::Result<Connection> {
        let from = self.known(&asked.from.name, asked.from.address)?;
        let to = self.known(&asked.to.name, asked.to.address)?;
        let (from, to) = (self.end(from, to), self.end(to, from));
        Ok(Connection { from, to, proto: asked.proto, port: asked.port })
    }

    fn known<'a>(&'a self, name: &'a str, address: Option<IpAddr>) -> Result<Known<'a>, UsageError> {
        if let Some((name, endpoint)) = self.endpoints.get_key_value(name) {
            return Ok(Known::Endpoint(name, endpoint));
        }
        if let Some(identity) = NumericIdentity::from_reserved_name(name) {
            return Ok(Known::Identity(name, identity));
        }
        let Some(address) = name.parse::<IpAddr>().ok().or_else(|| self.address_of(name)).or(address) else {
            let known: Vec<&str> = self.endpoints.keys().take(8).map(String::as_str).collect();
            let known = if known.is_empty() { "no pod is known".to_owned() } else { known.join(", ") };
            return Err(UsageError::text(format!(
                "{name:?} is no pod, node, address, reserved identity or cached DNS name; pods are named namespace/pod: \
                 {known}"
            )));
        };
        let has_it = |(_, endpoint): &(&String, &Endpoint)| endpoint.addresses.contains(&address);
        Ok(match self.endpoints.iter().find(has_it) {
            Some((name, endpoint)) => Known::Endpoint(name, endpoint),
            None => Known::Address(name, address),
        })
    }

    /// The first address that DNS gave for a name.
    fn address_of(&self, name: &str) -> Option<IpAddr> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.names.iter().find(|(known, _)| *known == name).and_then(|(_, all)| all.first().copied())
    }

    /// One end as the other one's node sees it.
    fn end(&self, known: Known<'_>, other: Known<'_>) -> End {
        let viewer = match other {
            Known::Endpoint(_, endpoint) => endpoint.node,
            Known::Identity(..) | Known::Address(..) => 0,
        };
        match known {
            Known::Endpoint(name, endpoint) => {
                let is_remote_node = endpoint.is_host && endpoint.node != viewer;
                let seen = endpoint.addresses.first().filter(|_| is_remote_node);
                let identity = seen.map_or(endpoint.identity, |address| self.identity(viewer, *address));
                End {
                    name: name.to_owned(),
                    identity,
                    subject: Some(endpoint.subject(name)),
                    audit: endpoint.audit,
                }
            }
            Known::Identity(name, identity) => {
                End { name: name.to_owned(), identity, subject: None, audit: false }
            }
            Known::Address(name, address) => {
                let identity = self.identity(viewer, address);
                End { name: name.to_owned(), identity, subject: None, audit: false }
            }
        }
    }

    /// What a node takes an address for.
    fn identity(&self, node: usize, address: IpAddr) -> NumericIdentity {
        let addresses = self.nodes.get(node).map(|view| view.addresses.as_slice()).unwrap_or_default();
        let covering = addresses.iter().filter(|(prefix, _)| prefix.contains(&address));
        let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, identity)| *identity);
        let world = if address.is_ipv4() { NumericIdentity::WORLD_IPV4 } else { NumericIdentity::WORLD_IPV6 };
        longest.unwrap_or(world)
    }

    /// Where the kernel's policy of an endpoint says something else than its rules, as read here.
    pub(super) fn doubts(&self, connection: &Connection, explanation: &Explanation) -> Vec<String> {
        let doubt = |step: &Step| {
            let endpoint = self.endpoints.get(&step.endpoint).filter(|one| !one.realized.is_empty())?;
            let peer = if step.egress { &connection.to } else { &connection.from };
            let own = self.nodes.get(endpoint.node).and_then(|view| view.own_numbers.get(&peer.identity));
            let number = own.copied().unwrap_or(peer.identity.0);
            let kernel = in_kernel(&endpoint.realized, number, step.egress, connection);
            let expected = match step.decision.verdict {
                Verdict::Allow | Verdict::AuthRequired => "allow",
                Verdict::Redirect => "redirect",
                Verdict::Deny | Verdict::DefaultDeny => "deny",
            };
            (kernel != expected).then(|| {
                format!(
                    "the kernel's policy of {} says {kernel}: the newest policies are not realized yet",
                    step.endpoint
                )
            })
        };
        explanation.steps.iter().filter_map(doubt).collect()
    }
}

impl Endpoint {
    fn subject(&self, name: &str) -> Subject {
        let namespace = if self.is_host { "" } else { name.split('/').next().unwrap_or_default() };
        Subject {
            labels: self.labels.clone(),
            namespace: namespace.to_owned(),
            named_ports: self.ports.clone(),
            is_host: self.is_host,
        }
    }
}

/// What the entries of an endpoint decide.
fn in_kernel(entries: &[pb::PolicyEntry], peer: u32, egress: bool, connection: &Connection) -> &'static str {
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
    match best.map(|entry| entry.action.as_str()) {
        Some("allow") => "allow",
        Some("redirect") => "redirect",
        Some(_) | None => "deny",
    }
}
