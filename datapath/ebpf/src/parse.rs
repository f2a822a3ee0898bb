//! From bytes to the fields of the record. Nothing here decides; what contradicts itself is an error.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use specola_datapath_common::{
    IPV4, IPV6,
    event::{flags, tcp_flags},
    metrics::drop,
    proto,
};

use crate::{
    address::{Address, Mac},
    fragment::{self, Fragment},
    skb,
    verdict::Drop,
    work::{Work, class},
};

const ETHERNET_LEN: u32 = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV6_LEN: u32 = 40;
/// Extension headers that a packet may have.
const MAX_EXTENSIONS: u32 = 8;
/// Where the transport header must begin at the latest.
const MAX_L4_OFFSET: u32 = 1024;

/// What is behind the link header.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Network {
    /// IPv4 or IPv6.
    Ip,
    /// Address resolution.
    Arp,
    /// Anything else.
    Other,
}

/// How far the headers are parsed.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Cursor {
    next_header: u8,
    offset: u32,
    fragment: Fragment,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Ethernet {
    dst: Mac,
    src: Mac,
    ethertype: u16,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv4 {
    version_len: u8,
    tos: u8,
    total_len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    checksum: u16,
    src: u32,
    dst: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv6 {
    version: [u8; 4],
    payload_len: u16,
    next_header: u8,
    hop_limit: u8,
    src: Address,
    dst: Address,
}

/// Parses the link header and the fixed part of the network header.
///
/// # Errors
/// The headers are cut off or contradict the packet's length.
#[inline(always)]
pub(crate) fn network(ctx: &TcContext, work: &mut Work) -> Result<Network, Drop> {
    let Some(ethernet) = skb::load::<Ethernet>(ctx, 0) else {
        return Err(Drop::new(drop::INVALID_PACKET));
    };
    work.set_macs(ethernet.src, ethernet.dst);
    match u16::from_be(ethernet.ethertype) {
        ETHERTYPE_IPV4 => ipv4(ctx, work),
        ETHERTYPE_IPV6 => ipv6(ctx, work),
        ETHERTYPE_ARP => Ok(Network::Arp),
        _ => Ok(Network::Other),
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext, work: &mut Work) -> Result<Network, Drop> {
    let Some(header) = skb::load::<Ipv4>(ctx, ETHERNET_LEN) else {
        return Err(Drop::new(drop::INVALID_PACKET));
    };
    let header_len = u32::from(header.version_len & 0x0f) * 4;
    let total_len = u32::from(u16::from_be(header.total_len));
    let have = work.event.length - ETHERNET_LEN;
    // A packet above 64 KiB that segmentation offload will cut carries a length of 0.
    let length_fits = total_len <= have && total_len >= header_len || total_len == 0 && have > 0xffff;
    if header.version_len >> 4 != IPV4 || header_len < 20 || !length_fits {
        return Err(Drop::new(drop::INVALID_PACKET));
    }
    let event = &mut work.event;
    event.ip_version = IPV4;
    event.proto = header.proto;
    work.set_addresses(Address::mapped(header.src), Address::mapped(header.dst));
    work.hop_limit = header.ttl;
    work.fragment_field = u16::from_be(header.fragment);
    work.fragment_id = u32::from(u16::from_be(header.id));
    work.l4_offset = ETHERNET_LEN + header_len;
    work.end = if total_len == 0 { work.event.length } else { ETHERNET_LEN + total_len };
    Ok(Network::Ip)
}

#[inline(always)]
fn ipv6(ctx: &TcContext, work: &mut Work) -> Result<Network, Drop> {
    let Some(header) = skb::load::<Ipv6>(ctx, ETHERNET_LEN) else {
        return Err(Drop::new(drop::INVALID_PACKET));
    };
    let payload_len = u32::from(u16::from_be(header.payload_len));
    if header.version[0] >> 4 != IPV6 || payload_len + IPV6_LEN > work.event.length - ETHERNET_LEN {
        return Err(Drop::new(drop::INVALID_PACKET));
    }
    // The tables keep IPv4 addresses in this form: such a packet would pass for an IPv4 one.
    if header.src.is_mapped() || header.dst.is_mapped() {
        return Err(Drop::new(drop::INVALID_PACKET));
    }
    let event = &mut work.event;
    event.ip_version = IPV6;
    event.proto = header.next_header;
    work.set_addresses(header.src, header.dst);
    work.hop_limit = header.hop_limit;
    work.l4_offset = ETHERNET_LEN + IPV6_LEN;
    // A jumbogram, or a packet above 64 KiB that segmentation offload will cut, carries a length of 0.
    work.end = if payload_len == 0 { work.event.length } else { ETHERNET_LEN + IPV6_LEN + payload_len };
    Ok(Network::Ip)
}

/// Parses the transport header, for IPv6 the extension headers before it.
///
/// # Errors
/// Headers are cut off, malformed, too many, or of a protocol that cannot be tracked.
#[inline(always)]
pub(crate) fn transport(ctx: &TcContext, work: &mut Work) -> Result<(), Drop> {
    match work.lend(|| sp_transport(ctx.as_ptr().cast())) {
        0 => Ok(()),
        reason => Err(Drop::new(reason as u8)),
    }
}

/// [`transport`] as a global function, which the verifier walks through once, for itself. Returns 0 or the drop reason.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sp_transport(skb: *mut __sk_buff) -> i32 {
    let Some(work) = Work::current() else {
        return i32::from(drop::INVALID_PACKET);
    };
    match parse_transport(&TcContext::new(skb), work) {
        Ok(()) => 0,
        Err(drop) => i32::from(drop.reason()),
    }
}

#[inline(always)]
fn parse_transport(ctx: &TcContext, work: &mut Work) -> Result<(), Drop> {
    let fragment = if work.event.ip_version == IPV6 {
        let mut cursor =
            Cursor { next_header: work.event.proto, offset: work.l4_offset, fragment: Fragment::No };
        extensions(ctx, &mut cursor)?;
        work.event.proto = cursor.next_header;
        work.l4_offset = cursor.offset;
        cursor.fragment
    } else {
        match (work.fragment_field & 0x1fff, work.fragment_field & 0x2000) {
            (0, 0) => Fragment::No,
            (0, _) => Fragment::First(work.fragment_id),
            _ => Fragment::Later(work.fragment_id),
        }
    };
    if work.src == work.dst {
        work.class |= class::SELF;
    }
    match fragment {
        Fragment::No => ports(ctx, work),
        Fragment::First(id) => {
            ports(ctx, work)?;
            fragment::remember(work, id);
            Ok(())
        }
        Fragment::Later(id) => {
            work.event.flags |= flags::FRAGMENT;
            fragment::recall(work, id);
            known(work.event.proto)
        }
    }
}

/// Walks over IPv6 extension headers (RFC 8200 section 4).
#[inline(always)]
fn extensions(ctx: &TcContext, cursor: &mut Cursor) -> Result<(), Drop> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    for _ in 0..MAX_EXTENSIONS {
        let next = cursor.next_header;
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            return Ok(());
        }
        let Some(header) = skb::load::<[u8; 8]>(ctx, cursor.offset) else {
            return Err(Drop::new(drop::INVALID_EXTHDR));
        };
        let len = match next {
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        cursor.next_header = header[0];
        cursor.offset += len;
        if cursor.offset > MAX_L4_OFFSET {
            return Err(Drop::new(drop::INVALID_EXTHDR));
        }
        if next == FRAGMENT {
            let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let field = u16::from_be_bytes([header[2], header[3]]);
            if field >> 3 != 0 {
                // What follows is in the middle of the datagram.
                cursor.fragment = Fragment::Later(id);
                return Ok(());
            }
            if field & 1 != 0 {
                cursor.fragment = Fragment::First(id);
            }
        }
    }
    Err(Drop::new(drop::INVALID_EXTHDR))
}

/// Reads what the transport says of ports, flags and kinds.
#[inline(always)]
fn ports(ctx: &TcContext, work: &mut Work) -> Result<(), Drop> {
    match work.event.proto {
        proto::TCP => tcp(ctx, work),
        proto::UDP | proto::SCTP => {
            let header = transport_header::<[u8; 8]>(ctx, work)?;
            set_ports(work, [header[0], header[1]], [header[2], header[3]]);
            Ok(())
        }
        proto::ICMP if work.event.ip_version == IPV4 => icmp(ctx, work, 8, 0, &[3, 4, 11, 12]),
        proto::ICMPV6 if work.event.ip_version == IPV6 => icmp(ctx, work, 128, 129, &[1, 2, 3, 4]),
        _ => Err(Drop::new(drop::CT_UNKNOWN_L4)),
    }
}

/// Reads the transport header, which must be inside of the network packet: padding of the frame is no header.
#[inline(always)]
fn transport_header<T: Copy>(ctx: &TcContext, work: &Work) -> Result<T, Drop> {
    if work.l4_offset + size_of::<T>() as u32 > work.end {
        return Err(Drop::new(drop::CT_INVALID_HEADER));
    }
    skb::load(ctx, work.l4_offset).ok_or(Drop::new(drop::CT_INVALID_HEADER))
}

#[inline(always)]
fn known(next_header: u8) -> Result<(), Drop> {
    match next_header {
        proto::TCP | proto::UDP | proto::SCTP | proto::ICMP | proto::ICMPV6 => Ok(()),
        _ => Err(Drop::new(drop::CT_UNKNOWN_L4)),
    }
}

#[inline(always)]
fn tcp(ctx: &TcContext, work: &mut Work) -> Result<(), Drop> {
    let header = transport_header::<[u8; 20]>(ctx, work)?;
    if header[12] >> 4 < 5 {
        return Err(Drop::new(drop::CT_INVALID_HEADER));
    }
    set_ports(work, [header[0], header[1]], [header[2], header[3]]);
    let seen = header[13];
    work.event.tcp_flags = seen;
    if seen & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN {
        work.class |= class::OPENS;
    }
    Ok(())
}

#[inline(always)]
fn set_ports(work: &mut Work, src: [u8; 2], dst: [u8; 2]) {
    let (src, dst) = (u16::from_be_bytes(src), u16::from_be_bytes(dst));
    work.event.src_port = src;
    work.event.dst_port = dst;
    work.ct_src_port = src;
    work.ct_dst_port = dst;
    work.policy_port = dst;
}

#[inline(always)]
fn icmp(ctx: &TcContext, work: &mut Work, request: u8, reply: u8, errors: &[u8; 4]) -> Result<(), Drop> {
    let header = transport_header::<[u8; 8]>(ctx, work)?;
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
    let [a, b, c, d] = *errors;
    if kind == a || kind == b || kind == c || kind == d {
        work.class |= class::ICMP_ERROR;
    } else if work.event.ip_version == IPV6 && is_neighbor(kind, work.hop_limit) {
        work.class |= class::NEIGHBOR;
    }
    Ok(())
}

/// Whether the packet is one that only routers send: an advertisement or a redirect (RFC 4861).
#[inline(always)]
pub(crate) fn is_of_router(work: &Work) -> bool {
    const ADVERTISEMENT: u8 = 134;
    const REDIRECT: u8 = 137;
    work.event.proto == proto::ICMPV6 && matches!(work.event.icmp_type, ADVERTISEMENT | REDIRECT)
}

/// Neighbour discovery (RFC 4861) is valid only with a hop limit of 255, multicast listener reports (RFC 3810) only
/// with 1: what a router passed on is neither.
#[inline(always)]
fn is_neighbor(kind: u8, hop_limit: u8) -> bool {
    match kind {
        133..=137 => hop_limit == 255,
        130..=132 | 143 => hop_limit == 1,
        _ => false,
    }
}

/// The tuple of the packet that an ICMP error quotes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Quoted {
    pub(crate) src: Address,
    pub(crate) dst: Address,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    pub(crate) proto: u8,
}

/// Parses what follows the 8 bytes of an ICMP error's header. Only whole first packets without extension headers are
/// understood; anything else is an error about nothing known.
#[inline(always)]
pub(crate) fn quoted(ctx: &TcContext, work: &mut Work) -> Option<Quoted> {
    if work.lend(|| sp_quoted(ctx.as_ptr().cast())) == 0 { None } else { Some(work.quoted) }
}

/// [`quoted`] as a global function, which the verifier walks through once. Returns 1 when `work.quoted` is filled.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sp_quoted(skb: *mut __sk_buff) -> i32 {
    let Some(work) = Work::current() else {
        return 0;
    };
    match parse_quoted(&TcContext::new(skb), work) {
        Some(quoted) => {
            work.quoted = quoted;
            1
        }
        None => 0,
    }
}

#[inline(always)]
fn parse_quoted(ctx: &TcContext, work: &Work) -> Option<Quoted> {
    let inner = work.l4_offset + 8;
    let (src, dst, proto, transport) = if work.event.ip_version == IPV4 {
        let header = skb::load::<Ipv4>(ctx, inner)?;
        let later_fragment = u16::from_be(header.fragment) & 0x1fff != 0;
        if header.version_len >> 4 != IPV4 || header.version_len & 0x0f < 5 || later_fragment {
            return None;
        }
        let len = u32::from(header.version_len & 0x0f) * 4;
        (Address::mapped(header.src), Address::mapped(header.dst), header.proto, inner + len)
    } else {
        let header = skb::load::<Ipv6>(ctx, inner)?;
        if header.version[0] >> 4 != IPV6 {
            return None;
        }
        (header.src, header.dst, header.next_header, inner + IPV6_LEN)
    };
    let header = skb::load::<[u8; 8]>(ctx, transport)?;
    let (src_port, dst_port) = match proto {
        proto::TCP | proto::UDP | proto::SCTP => {
            (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]))
        }
        proto::ICMP if matches!(header[0], 0 | 8) => echo_ports(&header),
        proto::ICMPV6 if matches!(header[0], 128 | 129) => echo_ports(&header),
        _ => return None,
    };
    Some(Quoted { src, dst, src_port, dst_port, proto })
}

#[inline(always)]
fn echo_ports(header: &[u8; 8]) -> (u16, u16) {
    let id = u16::from_be_bytes([header[4], header[5]]);
    (id, id)
}
