//! The ABI between Specola's kernel programs and user space.
//!
//! Everything here is `#[repr(C)]`, free of implicit padding, of `bool`, of enums and of `Option`, because both sides
//! read the same bytes: the kernel programs (`datapath/ebpf`) and the loader, reader and flow pipeline.
//! Numbers that users see (observation points, drop reasons, match types, identities) are Hubble's and Cilium's.
#![no_std]
#![forbid(unsafe_code)]

pub mod config;
pub mod conntrack;
pub mod endpoint;
pub mod event;
pub mod fold;
pub mod identity;
pub mod ipcache;
pub mod metrics;
pub mod names;
pub mod policy;

/// Version of every pinned layout. A change of any size or meaning below raises it.
pub const LAYOUT_VERSION: u32 = 1;

/// Address family: IPv4.
pub const IPV4: u8 = 4;
/// Address family: IPv6.
pub const IPV6: u8 = 6;

/// IANA protocol numbers that the datapath knows.
pub mod proto {
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
}

/// Traffic direction as in Hubble's `TrafficDirection`.
pub mod direction {
    /// Not known.
    pub const UNKNOWN: u8 = 0;
    /// Towards the endpoint.
    pub const INGRESS: u8 = 1;
    /// From the endpoint.
    pub const EGRESS: u8 = 2;
}

/// Maps an IPv4 address (network byte order) to `::ffff:a.b.c.d`, the form that all 16-byte addresses here use.
#[inline(always)]
pub const fn v4_mapped(octets: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = octets;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
