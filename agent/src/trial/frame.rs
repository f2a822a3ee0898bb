//! Packets of a trial: from the pod to its peer, or from the peer to the pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use specola_datapath::abi::proto;
use specola_policy::eval::Packet;

/// Addresses of the pod.
pub(super) const POD: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
const PEER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
/// Link address of the pod.
pub(super) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Link address of the host's end.
pub(super) const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

/// Address of the other end: of the family that the protocol needs.
pub(super) const fn peer(proto: u8) -> IpAddr {
    if proto == proto::ICMPV6 { IpAddr::V6(PEER.1) } else { IpAddr::V4(PEER.0) }
}

/// The first packet of a connection; `unique` is its source port or ICMP id.
pub(super) fn bytes(packet: Packet, unique: u16) -> Vec<u8> {
    let (from, to) = if packet.egress { (POD_MAC, HOST_MAC) } else { (HOST_MAC, POD_MAC) };
    let payload = payload(packet, unique);
    let is_v6 = packet.proto == proto::ICMPV6;
    let ether_type: [u8; 2] = if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    let mut frame = [to, from].concat();
    frame.extend(ether_type);
    let length = u16::try_from(payload.len()).expect("payloads are short");
    if is_v6 {
        let (src, dst) = if packet.egress { (POD.1, PEER.1) } else { (PEER.1, POD.1) };
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([packet.proto, 64]);
        frame.extend(src.octets());
        frame.extend(dst.octets());
    } else {
        let (src, dst) = if packet.egress { (POD.0, PEER.0) } else { (PEER.0, POD.0) };
        let mut header = vec![0x45, 0];
        header.extend((length + 20).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, packet.proto, 0, 0]);
        header.extend(src.octets());
        header.extend(dst.octets());
        let sum = checksum(&header).to_be_bytes();
        frame.extend(&header[..10]);
        frame.extend(sum);
        frame.extend(&header[12..]);
    }
    frame.extend(payload);
    frame
}

fn payload(packet: Packet, unique: u16) -> Vec<u8> {
    let [unique_high, unique_low] = unique.to_be_bytes();
    let [port_high, port_low] = packet.port.to_be_bytes();
    let ports = [unique_high, unique_low, port_high, port_low];
    match packet.proto {
        proto::TCP => [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]].concat(),
        proto::UDP => [&ports[..], &[0, 8, 0, 0]].concat(),
        proto::ICMP | proto::ICMPV6 => vec![port_low, 0, 0, 0, unique_high, unique_low, 0, 1],
        _ => [&ports[..], &[0; 8]].concat(),
    }
}

fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("two folds leave 16 bits")
}

const SYN: u8 = 0x02;
