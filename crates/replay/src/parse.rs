//! From bytes to the fields of the record, by the rules of the kernel programs. Nothing here decides; what contradicts
//! itself is a drop.

use specola_datapath_common::{
    IPV4, IPV6,
    event::{flags, tcp_flags},
    metrics::drop,
    proto, v4_mapped,
};

use crate::{
    fragment::{Fragment, Fragments},
    frame::{ETHERNET_LEN, Frame, Missing, ethertype},
    verdict::Stop,
    work::{Address, Work, class},
};

const IPV6_LEN: u32 = 40;
/// Extension headers that a packet may have.
const MAX_EXTENSIONS: u32 = 8;
/// Where the transport header must begin at the latest.
const MAX_L4_OFFSET: u32 = 1024;

/// What is behind the link header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Network {
    /// IPv4 or IPv6.
    Ip,
    /// Address resolution.
    Arp,
    /// Anything else.
    Other,
}

/// The fixed part of an IPv4 header.
#[derive(Clone, Copy)]
struct Ipv4([u8; 20]);

impl Ipv4 {
    const fn header_len(&self) -> u32 {
        (self.0[0] & 0x0f) as u32 * 4
    }

    const fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn address(&self, at: usize) -> Address {
        let [a, b, c, d] = [self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]];
        v4_mapped([a, b, c, d])
    }
}

/// An IPv6 header.
#[derive(Clone, Copy)]
struct Ipv6([u8; 40]);

impl Ipv6 {
    fn address(&self, at: usize) -> Address {
        let mut address = [0; 16];
        address.copy_from_slice(&self.0[at..at + 16]);
        address
    }
}

/// A header, or the drop reason for a packet that ends before.
fn need<const N: usize>(frame: &Frame<'_>, offset: u32, reason: u8) -> Result<[u8; N], Stop> {
    frame.load(offset).map_err(|missing| match missing {
        Missing::Beyond => Stop::drop(reason),
        Missing::Cut => Stop::Cut,
    })
}

/// Parses the fixed part of the network header.
///
/// # Errors
/// The headers contradict the packet's length, or were not captured.
pub(crate) fn network(frame: &Frame<'_>, work: &mut Work) -> Result<Network, Stop> {
    frame.put_macs(&mut work.event);
    match frame.ethertype {
        ethertype::IPV4 => ipv4(frame, work),
        ethertype::IPV6 => ipv6(frame, work),
        ethertype::ARP => Ok(Network::Arp),
        _ => Ok(Network::Other),
    }
}

fn ipv4(frame: &Frame<'_>, work: &mut Work) -> Result<Network, Stop> {
    let header = Ipv4(need(frame, ETHERNET_LEN, drop::INVALID_PACKET)?);
    let header_len = header.header_len();
    let total_len = u32::from(header.word(2));
    let have = work.event.length - ETHERNET_LEN;
    // A packet above 64 KiB that segmentation offload will cut carries a length of 0.
    let length_fits = total_len <= have && total_len >= header_len || total_len == 0 && have > 0xffff;
    if header.0[0] >> 4 != IPV4 || header_len < 20 || !length_fits {
        return Err(Stop::drop(drop::INVALID_PACKET));
    }
    let event = &mut work.event;
    event.ip_version = IPV4;
    event.proto = header.0[9];
    event.src_addr = header.address(12);
    event.dst_addr = header.address(16);
    work.hop_limit = header.0[8];
    work.fragment_field = header.word(6);
    work.fragment_id = u32::from(header.word(4));
    work.l4_offset = ETHERNET_LEN + header_len;
    work.end = if total_len == 0 { work.event.length } else { ETHERNET_LEN + total_len };
    Ok(Network::Ip)
}

fn ipv6(frame: &Frame<'_>, work: &mut Work) -> Result<Network, Stop> {
    let header = Ipv6(need(frame, ETHERNET_LEN, drop::INVALID_PACKET)?);
    let payload_len = u32::from(u16::from_be_bytes([header.0[4], header.0[5]]));
    if header.0[0] >> 4 != IPV6 || payload_len + IPV6_LEN > work.event.length - ETHERNET_LEN {
        return Err(Stop::drop(drop::INVALID_PACKET));
    }
    let (src, dst) = (header.address(8), header.address(24));
    // The tables keep IPv4 addresses in this form: such a packet would pass for an IPv4 one.
    if is_mapped(&src) || is_mapped(&dst) {
        return Err(Stop::drop(drop::INVALID_PACKET));
    }
    let event = &mut work.event;
    event.ip_version = IPV6;
    event.proto = header.0[6];
    (event.src_addr, event.dst_addr) = (src, dst);
    work.hop_limit = header.0[7];
    work.l4_offset = ETHERNET_LEN + IPV6_LEN;
    // A jumbogram, or a packet above 64 KiB that segmentation offload will cut, carries a length of 0.
    work.end = if payload_len == 0 { work.event.length } else { ETHERNET_LEN + IPV6_LEN + payload_len };
    Ok(Network::Ip)
}

fn is_mapped(address: &Address) -> bool {
    address.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])
}

/// IPv6 link-local (fe80::/10).
pub(crate) const fn is_link_local(address: &Address) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

/// IPv6 multicast (ff00::/8).
pub(crate) const fn is_multicast(address: &Address) -> bool {
    address[0] == 0xff
}

/// Parses the transport header, for IPv6 the extension headers before it.
///
/// # Errors
/// Headers are malformed, too many, of a protocol that cannot be tracked, or were not captured.
pub(crate) fn transport(frame: &Frame<'_>, work: &mut Work, fragments: &mut Fragments) -> Result<(), Stop> {
    let fragment = if work.event.ip_version == IPV6 {
        extensions(frame, work)?
    } else {
        match (work.fragment_field & 0x1fff, work.fragment_field & 0x2000) {
            (0, 0) => Fragment::No,
            (0, _) => Fragment::First(work.fragment_id),
            _ => Fragment::Later(work.fragment_id),
        }
    };
    if work.event.src_addr == work.event.dst_addr {
        work.class |= class::SELF;
    }
    match fragment {
        Fragment::No => ports(frame, work),
        Fragment::First(id) => {
            ports(frame, work)?;
            fragments.remember(work, id);
            Ok(())
        }
        Fragment::Later(id) => {
            work.event.flags |= flags::FRAGMENT;
            fragments.recall(work, id);
            known(work.event.proto)
        }
    }
}

/// Walks over IPv6 extension headers (RFC 8200 section 4).
fn extensions(frame: &Frame<'_>, work: &mut Work) -> Result<Fragment, Stop> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    // What is found counts only when all headers are right.
    let (mut next_header, mut offset, mut fragment) = (work.event.proto, work.l4_offset, Fragment::No);
    for _ in 0..MAX_EXTENSIONS {
        let next = next_header;
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            (work.event.proto, work.l4_offset) = (next_header, offset);
            return Ok(fragment);
        }
        let header: [u8; 8] = need(frame, offset, drop::INVALID_EXTHDR)?;
        let len = match next {
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        next_header = header[0];
        offset += len;
        if offset > MAX_L4_OFFSET {
            return Err(Stop::drop(drop::INVALID_EXTHDR));
        }
        if next == FRAGMENT {
            let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let field = u16::from_be_bytes([header[2], header[3]]);
            if field >> 3 != 0 {
                // What follows is in the middle of the datagram.
                (work.event.proto, work.l4_offset) = (next_header, offset);
                return Ok(Fragment::Later(id));
            }
            if field & 1 != 0 {
                fragment = Fragment::First(id);
            }
        }
    }
    Err(Stop::drop(drop::INVALID_EXTHDR))
}

/// Reads what the transport says of ports, flags and kinds.
fn ports(frame: &Frame<'_>, work: &mut Work) -> Result<(), Stop> {
    match work.event.proto {
        proto::TCP => tcp(frame, work),
        proto::UDP | proto::SCTP => {
            let header: [u8; 8] = transport_header(frame, work)?;
            set_ports(work, [header[0], header[1]], [header[2], header[3]]);
            Ok(())
        }
        proto::ICMP if work.event.ip_version == IPV4 => icmp(frame, work, 8, 0, [3, 4, 11, 12]),
        proto::ICMPV6 if work.event.ip_version == IPV6 => icmp(frame, work, 128, 129, [1, 2, 3, 4]),
        _ => Err(Stop::drop(drop::CT_UNKNOWN_L4)),
    }
}

/// Reads the transport header, which must be inside of the network packet: padding of the frame is no header.
fn transport_header<const N: usize>(frame: &Frame<'_>, work: &Work) -> Result<[u8; N], Stop> {
    if work.l4_offset + N as u32 > work.end {
        return Err(Stop::drop(drop::CT_INVALID_HEADER));
    }
    need(frame, work.l4_offset, drop::CT_INVALID_HEADER)
}

fn known(next_header: u8) -> Result<(), Stop> {
    match next_header {
        proto::TCP | proto::UDP | proto::SCTP | proto::ICMP | proto::ICMPV6 => Ok(()),
        _ => Err(Stop::drop(drop::CT_UNKNOWN_L4)),
    }
}

fn tcp(frame: &Frame<'_>, work: &mut Work) -> Result<(), Stop> {
    let header: [u8; 20] = transport_header(frame, work)?;
    if header[12] >> 4 < 5 {
        return Err(Stop::drop(drop::CT_INVALID_HEADER));
    }
    set_ports(work, [header[0], header[1]], [header[2], header[3]]);
    let seen = header[13];
    work.event.tcp_flags = seen;
    if seen & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN {
        work.class |= class::OPENS;
    }
    Ok(())
}

fn set_ports(work: &mut Work, src: [u8; 2], dst: [u8; 2]) {
    let (src, dst) = (u16::from_be_bytes(src), u16::from_be_bytes(dst));
    work.event.src_port = src;
    work.event.dst_port = dst;
    work.ct_src_port = src;
    work.ct_dst_port = dst;
    work.policy_port = dst;
}

fn icmp(frame: &Frame<'_>, work: &mut Work, request: u8, reply: u8, errors: [u8; 4]) -> Result<(), Stop> {
    let header: [u8; 8] = transport_header(frame, work)?;
    let kind = header[0];
    work.event.icmp_type = kind;
    work.event.icmp_code = header[1];
    work.policy_port = u16::from(kind);
    if kind == request || kind == reply {
        let id = u16::from_be_bytes([header[4], header[5]]);
        work.ct_src_port = id;
        work.ct_dst_port = id;
        if kind == request {
            work.class |= class::OPENS;
        }
        return Ok(());
    }
    work.class |= class::UNTRACKED;
    if errors.contains(&kind) {
        work.class |= class::ICMP_ERROR;
    } else if work.event.ip_version == IPV6 && is_neighbor(kind, work.hop_limit) {
        work.class |= class::NEIGHBOR;
    }
    Ok(())
}

/// Whether the packet is one that only routers send: an advertisement or a redirect (RFC 4861).
pub(crate) const fn is_of_router(work: &Work) -> bool {
    const ADVERTISEMENT: u8 = 134;
    const REDIRECT: u8 = 137;
    work.event.proto == proto::ICMPV6 && matches!(work.event.icmp_type, ADVERTISEMENT | REDIRECT)
}

/// Neighbour discovery (RFC 4861) is valid only with a hop limit of 255, multicast listener reports (RFC 3810) only
/// with 1: what a router passed on is neither.
const fn is_neighbor(kind: u8, hop_limit: u8) -> bool {
    match kind {
        133..=137 => hop_limit == 255,
        130..=132 | 143 => hop_limit == 1,
        _ => false,
    }
}

/// The tuple of the packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted {
    pub(crate) src: Address,
    pub(crate) dst: Address,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    pub(crate) proto: u8,
}

/// Parses what follows the 8 bytes of an ICMP error's header. Only whole first packets without extension headers are
/// understood; anything else is an error about nothing known.
pub(crate) fn quoted(frame: &Frame<'_>, work: &Work) -> Option<Quoted> {
    let inner = work.l4_offset + 8;
    let (src, dst, proto, transport) = if work.event.ip_version == IPV4 {
        let header = Ipv4(frame.load(inner).ok()?);
        let later_fragment = header.word(6) & 0x1fff != 0;
        if header.0[0] >> 4 != IPV4 || header.header_len() < 20 || later_fragment {
            return None;
        }
        (header.address(12), header.address(16), header.0[9], inner + header.header_len())
    } else {
        let header = Ipv6(frame.load(inner).ok()?);
        if header.0[0] >> 4 != IPV6 {
            return None;
        }
        (header.address(8), header.address(24), header.0[6], inner + IPV6_LEN)
    };
    let header: [u8; 8] = frame.load(transport).ok()?;
    let id = u16::from_be_bytes([header[4], header[5]]);
    let (src_port, dst_port) = match proto {
        proto::TCP | proto::UDP | proto::SCTP => {
            (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]))
        }
        proto::ICMP if matches!(header[0], 0 | 8) => (id, id),
        proto::ICMPV6 if matches!(header[0], 128 | 129) => (id, id),
        _ => return None,
    };
    Some(Quoted { src, dst, src_port, dst_port, proto })
}
