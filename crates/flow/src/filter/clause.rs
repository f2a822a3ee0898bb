//! One condition of a filter.

use std::net::IpAddr;

use ipnet::IpNet;
use specola_proto::flow::layer7::Record;

use super::{
    app::AppClause,
    cel::Expression,
    node::{NodeLabelsClause, NodePattern},
    peer::PeerClause,
};
use crate::{FlowUuid, FlowView, Side, Verdict, protocol};

/// A condition; each variant matches when one of its values does.
#[derive(Clone, Debug)]
pub(super) enum Clause {
    Uuid(Vec<FlowUuid>),
    EventType(Vec<EventTypeMatch>),
    Verdict(NumberSet),
    DropReason(NumberSet),
    Reply { yes: bool, no: bool },
    Direction(NumberSet),
    IpVersion(NumberSet),
    Encrypted { yes: bool, no: bool },
    Protocol(Vec<ProtocolMatch>),
    TcpFlags(Vec<u8>),
    Identity(Side, Vec<u32>),
    Port(Side, Vec<u16>),
    Ip(Side, Vec<IpMatch>),
    IpXlated(Vec<IpMatch>),
    Peer(PeerClause),
    NodeName(Vec<NodePattern>),
    NodeLabels(NodeLabelsClause),
    Interface(Vec<InterfaceMatch>),
    IpTraceId(Vec<u64>),
    App(AppClause),
    Cel(Vec<Expression>),
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
    Dns,
    Http,
    Kafka,
}

/// An interface by index, name or both.
#[derive(Clone, Debug)]
pub(super) struct InterfaceMatch {
    /// 0 = any.
    pub(super) index: u32,
    /// Empty = any.
    pub(super) name: String,
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
            Self::Encrypted { yes, no } => {
                if view.detail.is_some_and(|detail| detail.encrypted) {
                    *yes
                } else {
                    *no
                }
            }
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
            Self::IpXlated(wanted) => {
                let ip = view.detail.and_then(|detail| detail.source_ip_xlated.parse().ok());
                ip.is_some_and(|ip| wanted.iter().any(|value| value.matches(ip)))
            }
            Self::Peer(clause) => clause.matches(view),
            Self::NodeName(patterns) => patterns.iter().any(|pattern| pattern.matches(view.node)),
            Self::NodeLabels(clause) => clause.matches(view.node),
            Self::Interface(wanted) => wanted.iter().any(|interface| interface.matches(view)),
            Self::IpTraceId(wanted) => {
                let id = view.detail.and_then(|detail| detail.ip_trace_id.as_ref());
                wanted.contains(&id.map_or(0, |id| id.trace_id))
            }
            Self::App(clause) => view.detail.is_some_and(|detail| clause.matches(detail)),
            Self::Cel(expressions) => expressions.iter().any(|expression| expression.matches(view)),
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
        let record = view.detail.and_then(|detail| detail.l7.as_ref()?.record.as_ref());
        let is_ip = flow.ip_version != 0;
        match self {
            Self::Number(number) => is_ip && flow.protocol == number,
            Self::Icmp => is_ip && matches!(flow.protocol, protocol::ICMP | protocol::ICMPV6),
            Self::Dns => matches!(record, Some(Record::Dns(_))),
            Self::Http => matches!(record, Some(Record::Http(_))),
            Self::Kafka => matches!(record, Some(Record::Kafka(_))),
        }
    }
}

impl InterfaceMatch {
    fn matches(&self, view: &FlowView<'_>) -> bool {
        let flow = view.flow;
        // As in the message: only traces say where they were seen.
        if flow.ifindex == 0 || flow.observation_point().is_none() {
            return false;
        }
        let has_name = || view.names.and_then(|names| names.interface_name(flow.ifindex));
        (self.index == 0 || self.index == flow.ifindex)
            && (self.name.is_empty() || has_name() == Some(self.name.as_str()))
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
