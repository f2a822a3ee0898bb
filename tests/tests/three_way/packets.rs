//! Random packets between the pod under test and others.

use proptest::prelude::*;
use proptest::sample::select;

use crate::cluster::ENDS;

/// A packet in words; what it becomes depends on the family of the other end.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Index into [`ENDS`].
    pub(crate) end: usize,
    /// The pod sends it.
    pub(crate) egress: bool,
    /// Incoming: through the network device if the sender can be there, else through the stack.
    pub(crate) from_network: bool,
    pub(crate) kind: Kind,
}

/// What is in it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// TCP, UDP or SCTP to a port.
    Ports { proto: u8, port: u16 },
    /// Index into the ICMP types of the family.
    Icmp(usize),
}

impl Packet {
    pub(crate) fn has_ports(&self) -> bool {
        matches!(self.kind, Kind::Ports { .. })
    }
}

pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let port = prop_oneof![
        8 => 70u16..110,
        1 => select(vec![1, 443, 1024, 65_535]),
        1 => any::<u16>(),
    ];
    let kind = prop_oneof![
        6 => (select(vec![6u8, 6, 17, 132]), port).prop_map(|(proto, port)| Kind::Ports { proto, port }),
        1 => (0..ICMP_V4.len()).prop_map(Kind::Icmp),
    ];
    (0..ENDS.len(), any::<bool>(), any::<bool>(), kind).prop_map(|(end, egress, from_network, kind)| Packet {
        end,
        egress,
        from_network,
        kind,
    })
}

/// ICMP types: echo, errors, others.
pub(crate) const ICMP_V4: [u8; 5] = [8, 0, 3, 13, 80];
/// ICMPv6 types: echo, errors, others; none of neighbour discovery, which is no matter of policy.
pub(crate) const ICMP_V6: [u8; 5] = [128, 129, 1, 8, 80];
