//! One condition of a filter.

use std::net::IpAddr;

use ipnet::IpNet;
use specola_labels::{Label, LabelSet, Selector};

use super::pattern::{NodePattern, PodPattern};
use crate::{FlowUuid, FlowView, Side, Verdict, Workload, protocol};

/// A condition; each variant matches when one of its values does.
#[derive(Clone, Debug)]
pub(super) enum Clause {
    Uuid(Vec<FlowUuid>),
    EventType(Vec<EventTypeMatch>),
    Verdict(NumberSet),
    DropReason(NumberSet),
    Reply {
        yes: bool,
        no: bool,
    },
    Direction(NumberSet),
    IpVersion(NumberSet),
    /// No flow is encrypted: matches when unencrypted ones are wanted.
    Encrypted {
        wants_plain: bool,
    },
    Protocol(Vec<ProtocolMatch>),
    TcpFlags(Vec<u8>),
    Identity(Side, Vec<u32>),
    Port(Side, Vec<u16>),
    Ip(Side, Vec<IpMatch>),
    Pod(Side, Vec<PodPattern>),
    Workload(Side, Vec<Workload>),
    Cluster(Side, Vec<String>),
    Labels(Side, Vec<Selector>),
    NodeName(Vec<NodePattern>),
    NodeLabels(Vec<Selector>),
    /// The server has no data for the field, so no flow can match.
    Never,
}

/// Numbers 0 to 255.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NumberSet([u64; 4]);

impl NumberSet {
    pub(super) fn insert(&mut self, number: u8) {
        self.0[usize::from(number >> 6)] |= 1 << (number & 63);
    }

    fn contains(self, number: u8) -> bool {
        self.0[usize::from(number >> 6)] & (1 << (number & 63)) != 0
    }
}

/// Type and, when given, sub type of an event; type 0 is any.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventTypeMatch {
    pub(super) kind: i32,
    pub(super) sub_type: Option<i32>,
}

/// A protocol by name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ProtocolMatch {
    /// This IANA number.
    Number(u8),
    /// ICMP of either version.
    Icmp,
    /// A protocol of the application layer: no flow carries one yet.
    Application,
}

/// An address or a prefix.
#[derive(Clone, Copy, Debug)]
pub(super) enum IpMatch {
    Address(IpAddr),
    Prefix(IpNet),
}

impl Clause {
    pub(super) fn matches(&self, view: &FlowView<'_>) -> bool {
        let flow = view.flow;
        match self {
            Self::Uuid(ids) => ids.contains(&view.uuid),
            Self::EventType(kinds) => kinds.iter().any(|kind| kind.matches(flow.event_type, flow.sub_type)),
            Self::Verdict(set) => set.contains(flow.verdict),
            Self::DropReason(set) => flow.verdict() == Verdict::DROPPED && set.contains(flow.drop_reason),
            Self::Reply { yes, no } => match flow.is_reply() {
                Some(true) => *yes,
                Some(false) => *no,
                // A dropped packet got no answer, so it counts as one of the initiator.
                None => *no && flow.verdict() == Verdict::DROPPED,
            },
            Self::Direction(set) => set.contains(flow.direction),
            Self::IpVersion(set) => set.contains(ip_version(flow.source_ip())),
            Self::Encrypted { wants_plain } => *wants_plain,
            Self::Protocol(protocols) => protocols.iter().any(|wanted| wanted.matches(view)),
            Self::TcpFlags(masks) => {
                let is_tcp = flow.source_ip().is_some() && flow.protocol == protocol::TCP;
                is_tcp && masks.iter().any(|mask| flow.tcp_flags & mask == *mask)
            }
            Self::Identity(side, wanted) => wanted.contains(&identity(view, *side)),
            Self::Port(side, wanted) => flow.has_ports() && wanted.contains(&port(view, *side)),
            Self::Ip(side, wanted) => {
                address(view, *side).is_some_and(|ip| wanted.iter().any(|value| value.matches(ip)))
            }
            Self::Pod(side, patterns) => view.meta(*side).is_some_and(|meta| {
                patterns.iter().any(|pattern| pattern.matches(&meta.namespace, &meta.pod_name))
            }),
            Self::Workload(side, wanted) => view.meta(*side).is_some_and(|meta| {
                meta.workloads.iter().any(|own| wanted.iter().any(|w| workload_matches(w, own)))
            }),
            Self::Cluster(side, names) => {
                view.meta(*side).is_some_and(|meta| names.contains(&meta.cluster_name))
            }
            Self::Labels(side, selectors) => match view.meta(*side) {
                Some(meta) => selectors.iter().any(|selector| selector.matches(&meta.labels)),
                None => selectors.iter().any(|selector| selector.matches(&LabelSet::empty())),
            },
            Self::NodeName(patterns) => patterns.iter().any(|pattern| pattern.matches(view.node)),
            Self::NodeLabels(selectors) => node_labels_match(view, selectors),
            Self::Never => false,
        }
    }
}

impl EventTypeMatch {
    fn matches(self, kind: u8, sub_type: u8) -> bool {
        (self.kind == 0 || self.kind == i32::from(kind))
            && self.sub_type.is_none_or(|wanted| wanted == i32::from(sub_type))
    }
}

impl ProtocolMatch {
    fn matches(self, view: &FlowView<'_>) -> bool {
        let flow = view.flow;
        if flow.source_ip().is_none() {
            return false;
        }
        match self {
            Self::Number(number) => flow.protocol == number,
            Self::Icmp => matches!(flow.protocol, protocol::ICMP | protocol::ICMPV6),
            Self::Application => false,
        }
    }
}

impl IpMatch {
    fn matches(self, ip: IpAddr) -> bool {
        match self {
            Self::Address(address) => address == ip,
            Self::Prefix(prefix) => prefix.contains(&ip),
        }
    }
}

const fn ip_version(ip: Option<IpAddr>) -> u8 {
    match ip {
        None => 0,
        Some(IpAddr::V4(_)) => 1,
        Some(IpAddr::V6(_)) => 2,
    }
}

const fn identity(view: &FlowView<'_>, side: Side) -> u32 {
    match side {
        Side::Source => view.flow.source_identity,
        Side::Destination => view.flow.destination_identity,
    }
}

const fn port(view: &FlowView<'_>, side: Side) -> u16 {
    match side {
        Side::Source => view.flow.source_port,
        Side::Destination => view.flow.destination_port,
    }
}

fn address(view: &FlowView<'_>, side: Side) -> Option<IpAddr> {
    match side {
        Side::Source => view.flow.source_ip(),
        Side::Destination => view.flow.destination_ip(),
    }
}

/// An empty name or kind in the filter is any.
fn workload_matches(wanted: &Workload, own: &Workload) -> bool {
    (wanted.name.is_empty() || wanted.name == own.name) && (wanted.kind.is_empty() || wanted.kind == own.kind)
}

fn node_labels_match(view: &FlowView<'_>, selectors: &[Selector]) -> bool {
    let own: LabelSet = view.node.labels.iter().filter_map(|text| text.parse::<Label>().ok()).collect();
    selectors.iter().any(|selector| selector.matches(&own))
}
