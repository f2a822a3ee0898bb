//! What is before the network header.

use std::fmt;

/// A packet with its link header taken off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet<'a> {
    /// Link address of the sender; zero = not known.
    pub src_mac: [u8; 6],
    /// Link address of the receiver; zero = not known.
    pub dst_mac: [u8; 6],
    /// What follows the link header: [`ethertype`], or any other.
    pub ethertype: u16,
    /// The bytes behind the link header and VLAN tags, as far as they were captured.
    pub data: &'a [u8],
    /// How many bytes they were on the link.
    pub length: u32,
}

/// Values of [`Packet::ethertype`].
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// None of those that have a number here.
    pub const OTHER: u16 = 0;
}

/// Number of a link type in capture files.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LinkType(pub u32);

impl LinkType {
    /// BSD loopback: address family in the byte order of the machine that captured.
    pub const NULL: Self = Self(0);
    /// Ethernet.
    pub const ETHERNET: Self = Self(1);
    /// IPv4 or IPv6, as some systems number it in files.
    pub const RAW_OTHERS: [Self; 2] = [Self(12), Self(14)];
    /// IPv4 or IPv6.
    pub const RAW: Self = Self(101);
    /// OpenBSD loopback: address family in network byte order.
    pub const LOOP: Self = Self(108);
    /// Linux "cooked" capture.
    pub const LINUX_SLL: Self = Self(113);
    /// IPv4.
    pub const IPV4: Self = Self(228);
    /// IPv6.
    pub const IPV6: Self = Self(229);
    /// Linux "cooked" capture, version 2.
    pub const LINUX_SLL2: Self = Self(276);
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why nothing can be said of a record.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Damage {
    /// Its link type is none of [`LinkType`].
    LinkType(LinkType),
    /// Its interface is not described before it.
    Interface,
    /// More bytes were captured than it had.
    Lengths,
    /// The link header is not whole.
    LinkHeader,
    /// It has no captured bytes, or its stamp is beyond the year 2500.
    Record,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkType(link) => write!(f, "link type {link} is not supported"),
            Self::Interface => f.write_str("the interface is not described before the packet"),
            Self::Lengths => f.write_str("more bytes captured than the packet had"),
            Self::LinkHeader => f.write_str("the link header is cut off"),
            Self::Record => f.write_str("the record is empty, or has an impossible stamp"),
        }
    }
}

impl<'a> Packet<'a> {
    /// Takes the link header and VLAN tags off. `length` is what the packet had on the link.
    ///
    /// # Errors
    /// The header is cut off, or the link type is not known.
    pub fn of(link: LinkType, data: &'a [u8], length: u32) -> Result<Self, Damage> {
        if data.len() as u64 > u64::from(length) {
            return Err(Damage::Lengths);
        }
        match link {
            LinkType::ETHERNET => Self::ethernet(data, length),
            LinkType::LINUX_SLL => Self::cooked(data, length),
            LinkType::LINUX_SLL2 => Self::cooked2(data, length),
            LinkType::NULL | LinkType::LOOP => Self::loopback(link, data, length),
            link if link == LinkType::RAW || LinkType::RAW_OTHERS.contains(&link) => {
                let first = data.first().ok_or(Damage::LinkHeader)?;
                let ethertype = match first >> 4 {
                    4 => ethertype::IPV4,
                    6 => ethertype::IPV6,
                    _ => ethertype::OTHER,
                };
                Ok(Self::bare(ethertype, data, length))
            }
            LinkType::IPV4 => Ok(Self::bare(ethertype::IPV4, data, length)),
            LinkType::IPV6 => Ok(Self::bare(ethertype::IPV6, data, length)),
            other => Err(Damage::LinkType(other)),
        }
    }

    const fn bare(ethertype: u16, data: &'a [u8], length: u32) -> Self {
        Self { src_mac: [0; 6], dst_mac: [0; 6], ethertype, data, length }
    }

    fn ethernet(data: &'a [u8], length: u32) -> Result<Self, Damage> {
        let (header, rest) = data.split_first_chunk::<14>().ok_or(Damage::LinkHeader)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let tagged = Self {
            src_mac: [s0, s1, s2, s3, s4, s5],
            dst_mac: [d0, d1, d2, d3, d4, d5],
            ..Self::bare(u16::from_be_bytes([t0, t1]), rest, length - 14)
        };
        tagged.without_tags()
    }

    /// Takes off VLAN tags (IEEE 802.1Q, 802.1ad), two at most.
    fn without_tags(mut self) -> Result<Self, Damage> {
        for _ in 0..2 {
            if !matches!(self.ethertype, 0x8100 | 0x88a8) {
                break;
            }
            let ([_, _, t0, t1], rest) = self.data.split_first_chunk::<4>().ok_or(Damage::LinkHeader)?;
            self.ethertype = u16::from_be_bytes([*t0, *t1]);
            (self.data, self.length) = (rest, self.length - 4);
        }
        Ok(self)
    }

    fn cooked(data: &'a [u8], length: u32) -> Result<Self, Damage> {
        let (header, rest) = data.split_first_chunk::<16>().ok_or(Damage::LinkHeader)?;
        let ethertype = u16::from_be_bytes([header[14], header[15]]);
        let mut packet = Self::bare(ethertype, rest, length - 16);
        if header[4..6] == [0, 6] {
            packet.src_mac.copy_from_slice(&header[6..12]);
        }
        packet.without_tags()
    }

    fn cooked2(data: &'a [u8], length: u32) -> Result<Self, Damage> {
        let (header, rest) = data.split_first_chunk::<20>().ok_or(Damage::LinkHeader)?;
        let mut packet = Self::bare(u16::from_be_bytes([header[0], header[1]]), rest, length - 20);
        if header[11] == 6 {
            packet.src_mac.copy_from_slice(&header[12..18]);
        }
        packet.without_tags()
    }

    fn loopback(link: LinkType, data: &'a [u8], length: u32) -> Result<Self, Damage> {
        let (header, rest) = data.split_first_chunk::<4>().ok_or(Damage::LinkHeader)?;
        let mut family = u32::from_be_bytes(*header);
        if link == LinkType::NULL && family > 0xffff {
            family = family.swap_bytes();
        }
        // IPv6 has a number of its own on each system.
        let ethertype = match family {
            2 => ethertype::IPV4,
            10 | 24 | 28 | 30 => ethertype::IPV6,
            _ => ethertype::OTHER,
        };
        Ok(Self::bare(ethertype, rest, length - 4))
    }
}
