//! The one-line summary of a flow.

use std::fmt;

use crate::{EventType, Flow, icmp, protocol};

/// Prints a flow's summary: the last decoded layer, in Hubble's words.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a>(pub &'a Flow);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flow = self.0;
        if flow.event_type() == EventType::L7 {
            // The summary of what an application said is made of its details.
            return f.write_str("L7 (details no longer held)");
        }
        match (flow.ip_version, flow.protocol) {
            (4 | 6, protocol::TCP) => write_tcp_flags(f, flow.tcp_flags),
            (4 | 6, protocol::UDP) => f.write_str("UDP"),
            (4 | 6, protocol::SCTP) => f.write_str("SCTP"),
            (4 | 6, protocol::ICMP) => {
                f.write_str("ICMPv4 ")?;
                icmp::write_name(f, false, flow.icmp_type, flow.icmp_code)
            }
            (4 | 6, protocol::ICMPV6) => {
                f.write_str("ICMPv6 ")?;
                icmp::write_name(f, true, flow.icmp_type, flow.icmp_code)
            }
            (4, _) => f.write_str("IPv4"),
            (6, _) => f.write_str("IPv6"),
            _ => f.write_str("Ethernet"),
        }
    }
}

fn write_tcp_flags(f: &mut fmt::Formatter<'_>, set: u8) -> fmt::Result {
    f.write_str("TCP Flags: ")?;
    let mut separator = "";
    for (bit, name) in TCP_FLAGS {
        if set & bit != 0 {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
    }
    Ok(())
}

/// Bits of the header's flags byte in the order of the summary.
const TCP_FLAGS: [(u8, &str); 8] = [
    (0x02, "SYN"),
    (0x10, "ACK"),
    (0x04, "RST"),
    (0x01, "FIN"),
    (0x08, "PSH"),
    (0x20, "URG"),
    (0x40, "ECE"),
    (0x80, "CWR"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let tcp = |tcp_flags| Flow { ip_version: 4, protocol: protocol::TCP, tcp_flags, ..Flow::default() };
        let icmp = |ip_version, protocol, icmp_type, icmp_code| Flow {
            ip_version,
            protocol,
            icmp_type,
            icmp_code,
            ..Flow::default()
        };
        for (flow, text) in [
            (tcp(0x02), "TCP Flags: SYN"),
            (tcp(0x12), "TCP Flags: SYN, ACK"),
            (tcp(0xff), "TCP Flags: SYN, ACK, RST, FIN, PSH, URG, ECE, CWR"),
            (tcp(0), "TCP Flags: "),
            (icmp(4, protocol::UDP, 0, 0), "UDP"),
            (icmp(6, protocol::SCTP, 0, 0), "SCTP"),
            (icmp(4, protocol::ICMP, 8, 0), "ICMPv4 EchoRequest"),
            (icmp(4, protocol::ICMP, 8, 3), "ICMPv4 EchoRequest(Code: 3)"),
            (icmp(4, protocol::ICMP, 3, 3), "ICMPv4 DestinationUnreachable(Port)"),
            (icmp(4, protocol::ICMP, 3, 99), "ICMPv4 DestinationUnreachable(Code: 99)"),
            (icmp(4, protocol::ICMP, 77, 5), "ICMPv4 77(5)"),
            (icmp(6, protocol::ICMPV6, 133, 0), "ICMPv6 RouterSolicitation"),
            (icmp(6, protocol::ICMPV6, 1, 4), "ICMPv6 DestinationUnreachable(PortUnreachable)"),
            (icmp(4, 47, 0, 0), "IPv4"),
            (icmp(6, 47, 0, 0), "IPv6"),
            (icmp(0, 0, 0, 0), "Ethernet"),
            (Flow { event_type: EventType::L7.0, ..tcp(0x02) }, "L7 (details no longer held)"),
        ] {
            assert_eq!(Summary(&flow).to_string(), text);
        }
    }
}
