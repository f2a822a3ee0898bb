//! Protocols, ports and ICMP types.

use std::sync::Arc;

use super::l7::L7Rules;

/// What an entry asks of protocol and port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum L4 {
    /// Every protocol and port, ICMP included.
    All,
    /// One of these; empty: none.
    Ports(Vec<PortMatch>),
    /// One of these ICMP types; empty: none.
    Icmp(Vec<IcmpMatch>),
}

/// A port or a range of one protocol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortMatch {
    /// Protocol.
    pub protocol: Protocol,
    /// Ports.
    pub port: Port,
    /// Requests that are let through on it; none: not looked at.
    pub l7: Option<Arc<L7Rules>>,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// TCP, UDP and SCTP.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// VRRP, without ports.
    Vrrp,
    /// IGMP, without ports.
    Igmp,
}

/// Ports of one element.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Port {
    /// Every port.
    All,
    /// `first..=last`, `first <= last`.
    Range {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// A container port's name, lower case.
    Named(String),
}

/// Family of an ICMP type.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IcmpFamily {
    /// ICMP.
    V4,
    /// ICMPv6.
    V6,
}

/// One ICMP type.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct IcmpMatch {
    /// Family.
    pub family: IcmpFamily,
    /// Type number.
    pub icmp_type: u8,
}

impl Protocol {
    /// IANA numbers of the protocol.
    pub const fn numbers(self) -> &'static [u8] {
        match self {
            Self::Any => &[6, 17, 132],
            Self::Tcp => &[6],
            Self::Udp => &[17],
            Self::Sctp => &[132],
            Self::Vrrp => &[112],
            Self::Igmp => &[2],
        }
    }

    /// Name in policies, upper case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "ANY",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Vrrp => "VRRP",
            Self::Igmp => "IGMP",
        }
    }
}

impl IcmpFamily {
    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 58,
        }
    }
}
