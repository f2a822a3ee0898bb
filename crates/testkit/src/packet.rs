//! Builds Ethernet frames for tests, right ones and, byte by byte, wrong ones.
//!
//! ```
//! use specola_testkit::packet::Frame;
//!
//! let syn = Frame::v4("10.0.1.1", "10.0.1.2").tcp(40000, 80, 0x02);
//! assert_eq!(syn.bytes().len(), 14 + 20 + 20);
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Link address of the sender unless [`Frame::macs`] says otherwise.
pub const SRC_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// Link address of the receiver unless [`Frame::macs`] says otherwise.
pub const DST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const FRAGMENT_HEADER: u8 = 44;

/// A frame in parts; [`Frame::bytes`] puts them together and computes lengths (checksums stay zero but for IPv4's).
#[derive(Clone, Debug)]
pub struct Frame {
    src_mac: [u8; 6],
    dst_mac: [u8; 6],
    src: IpAddr,
    dst: IpAddr,
    hop_limit: u8,
    /// IPv4: identification, offset in bytes, more follow. IPv6: the same in a fragment header.
    fragment: Option<(u16, u16, bool)>,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    proto: u8,
    payload: Vec<u8>,
}

impl Frame {
    /// An IPv4 packet without payload.
    ///
    /// # Panics
    /// An address is not one.
    pub fn v4(src: &str, dst: &str) -> Self {
        let parse = |text: &str| IpAddr::V4(text.parse::<Ipv4Addr>().expect("an IPv4 address"));
        Self::new(parse(src), parse(dst))
    }

    /// An IPv6 packet without payload.
    ///
    /// # Panics
    /// An address is not one.
    pub fn v6(src: &str, dst: &str) -> Self {
        let parse = |text: &str| IpAddr::V6(text.parse::<Ipv6Addr>().expect("an IPv6 address"));
        Self::new(parse(src), parse(dst))
    }

    /// A packet between two addresses of one family.
    pub fn new(src: IpAddr, dst: IpAddr) -> Self {
        Self {
            src_mac: SRC_MAC,
            dst_mac: DST_MAC,
            src,
            dst,
            hop_limit: 64,
            fragment: None,
            options: Vec::new(),
            extensions: Vec::new(),
            proto: 0xfd,
            payload: Vec::new(),
        }
    }

    /// The same packet the other way.
    #[must_use]
    pub fn swapped(mut self) -> Self {
        (self.src, self.dst) = (self.dst, self.src);
        self
    }

    /// Sets the link addresses.
    #[must_use]
    pub fn macs(mut self, src: [u8; 6], dst: [u8; 6]) -> Self {
        (self.src_mac, self.dst_mac) = (src, dst);
        self
    }

    /// Sets the time to live or hop limit.
    #[must_use]
    pub fn hop_limit(mut self, hops: u8) -> Self {
        self.hop_limit = hops;
        self
    }

    /// Makes it a fragment: identification, offset in bytes (a multiple of 8), whether more follow.
    #[must_use]
    pub fn fragment(mut self, id: u16, offset: u16, more: bool) -> Self {
        self.fragment = Some((id, offset, more));
        self
    }

    /// Adds IPv4 options, padded to 4 bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an IPv6 extension header of this number: body without "next header" and length, padded to 8 bytes.
    #[must_use]
    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        let mut whole = body.to_vec();
        whole.resize((body.len() + 2).next_multiple_of(8) - 2, 0);
        self.extensions.push((number, whole));
        self
    }

    /// A TCP segment without options or data.
    #[must_use]
    pub fn tcp(mut self, src_port: u16, dst_port: u16, flags: u8) -> Self {
        self.proto = TCP;
        self.payload = [src_port.to_be_bytes(), dst_port.to_be_bytes()].concat();
        self.payload.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        self
    }

    /// A UDP datagram without data.
    #[must_use]
    pub fn udp(mut self, src_port: u16, dst_port: u16) -> Self {
        self.proto = UDP;
        self.payload = [src_port.to_be_bytes(), dst_port.to_be_bytes(), [0, 8], [0, 0]].concat();
        self
    }

    /// An ICMP or ICMPv6 message by the packet's family: type, code, and the id of echo messages.
    #[must_use]
    pub fn icmp(mut self, kind: u8, code: u8, id: u16) -> Self {
        self.proto = if self.src.is_ipv4() { ICMP } else { ICMPV6 };
        let [a, b] = id.to_be_bytes();
        self.payload = vec![kind, code, 0, 0, a, b, 0, 1];
        self
    }

    /// A payload of any protocol.
    #[must_use]
    pub fn raw(mut self, proto: u8, payload: &[u8]) -> Self {
        self.proto = proto;
        self.payload = payload.to_vec();
        self
    }

    /// Adds data behind the transport header.
    #[must_use]
    pub fn data(mut self, data: &[u8]) -> Self {
        self.payload.extend_from_slice(data);
        self
    }

    /// The whole frame.
    ///
    /// # Panics
    /// The addresses are of two families, or the packet is longer than 64 KiB.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = [self.dst_mac, self.src_mac].concat();
        frame.extend(if self.src.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.packet());
        frame
    }

    /// The packet without the link header, as ICMP errors quote it.
    ///
    /// # Panics
    /// As [`Frame::bytes`].
    pub fn packet(&self) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.packet4(src, dst),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.packet6(src, dst),
            (src, dst) => panic!("{src} and {dst} are of two families"),
        }
    }

    fn packet4(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let total = u16::try_from(header_len + self.payload.len()).expect("at most 64 KiB");
        let (id, offset, more) = self.fragment.unwrap_or((0, 0, false));
        let field = (u16::from(more) << 13) | (offset / 8);
        let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
        packet.extend(total.to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(field.to_be_bytes());
        packet.extend([self.hop_limit, self.proto, 0, 0]);
        packet.extend(src.octets());
        packet.extend(dst.octets());
        packet.extend(&self.options);
        let checksum = internet_checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&checksum);
        packet.extend(&self.payload);
        packet
    }

    fn packet6(&self, src: Ipv6Addr, dst: Ipv6Addr) -> Vec<u8> {
        let mut chain = self.extensions.clone();
        if let Some((id, offset, more)) = self.fragment {
            let mut body = ((offset & !7) | u16::from(more)).to_be_bytes().to_vec();
            body.extend(u32::from(id).to_be_bytes());
            chain.push((FRAGMENT_HEADER, body));
        }
        let mut rest = Vec::new();
        for (index, (number, body)) in chain.iter().enumerate() {
            let next = chain.get(index + 1).map_or(self.proto, |(number, _)| *number);
            let units = if *number == FRAGMENT_HEADER { 0 } else { ((body.len() + 2) / 8 - 1) as u8 };
            rest.extend([next, units]);
            rest.extend(body);
        }
        rest.extend(&self.payload);
        let first = chain.first().map_or(self.proto, |(number, _)| *number);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(u16::try_from(rest.len()).expect("at most 64 KiB").to_be_bytes());
        packet.extend([first, self.hop_limit]);
        packet.extend(src.octets());
        packet.extend(dst.octets());
        packet.extend(rest);
        packet
    }
}

/// A frame of another network protocol: its EtherType and 46 bytes of zeros.
pub fn other(ethertype: u16) -> Vec<u8> {
    let mut frame = [DST_MAC, SRC_MAC].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.resize(60, 0);
    frame
}

fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from)).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn frames_are_what_a_parser_of_others_reads() {
        let frame = Frame::v4("10.0.1.1", "10.0.1.2").options(&[7, 3, 4]).tcp(40000, 80, 0x12).bytes();
        let read = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = read.transport else { panic!("{read:?}") };
        assert_eq!(
            (tcp.source_port(), tcp.destination_port(), tcp.syn(), tcp.ack()),
            (40000, 80, true, true)
        );

        let frame = Frame::v6("fd00::1", "fd00::2").extension(0, &[1, 2, 0, 0]).udp(53, 5353).bytes();
        let read = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Udp(udp)) = read.transport else { panic!("{read:?}") };
        assert_eq!((udp.source_port(), udp.destination_port()), (53, 5353));
    }

    #[test]
    fn fragments_are_marked() {
        for frame in [Frame::v4("10.0.1.1", "10.0.1.2"), Frame::v6("fd00::1", "fd00::2")] {
            let bytes = frame.fragment(7, 16, true).raw(UDP, &[0; 8]).bytes();
            let read = SlicedPacket::from_ethernet(&bytes).unwrap();
            let payload = match read.net.unwrap() {
                NetSlice::Ipv4(ip) => ip.payload().fragmented,
                NetSlice::Ipv6(ip) => ip.payload().fragmented,
                NetSlice::Arp(arp) => panic!("{arp:?}"),
            };
            assert!(payload);
        }
    }
}
