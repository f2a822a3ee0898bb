//! One packet with the headers of its link taken off.

use specola_datapath_common::event::Event;

/// Bytes of an Ethernet header, which every packet counts as having.
pub const ETHERNET_LEN: u32 = 14;

/// A packet as the kernel programs see one: link addresses, what is behind them, and the length that it had on the link.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Link address of the sender; zero = not known.
    pub src_mac: [u8; 6],
    /// Link address of the receiver; zero = not known.
    pub dst_mac: [u8; 6],
    /// What follows the link header: [`ethertype`], or any other.
    pub ethertype: u16,
    /// The bytes behind the link header, as far as they were captured.
    pub data: &'a [u8],
    /// Length with an Ethernet header, bytes; more than was captured when the capture cut the packet off.
    pub length: u32,
}

/// Values of [`Frame::ethertype`] that are looked at.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// Address resolution.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// Bytes that a packet does not have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Missing {
    /// The packet ends before.
    Beyond,
    /// The packet has them, the capture does not.
    Cut,
}

impl<'a> Frame<'a> {
    /// An Ethernet frame without VLAN tags, captured whole. `None` when it has no whole header.
    pub fn ethernet(bytes: &'a [u8]) -> Option<Self> {
        let (header, data) = bytes.split_first_chunk::<14>()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        Some(Self {
            src_mac: [s0, s1, s2, s3, s4, s5],
            dst_mac: [d0, d1, d2, d3, d4, d5],
            ethertype: u16::from_be_bytes([t0, t1]),
            data,
            length: u32::try_from(bytes.len()).ok()?,
        })
    }

    /// Reads at an offset from the beginning of the Ethernet header.
    pub(crate) fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], Missing> {
        let end = u64::from(offset) + N as u64;
        if end > u64::from(self.length) {
            return Err(Missing::Beyond);
        }
        let at = (offset as usize).checked_sub(ETHERNET_LEN as usize);
        let bytes = at.and_then(|at| self.data.get(at..)).and_then(|rest| rest.first_chunk());
        bytes.copied().ok_or(Missing::Cut)
    }

    /// Writes the link addresses into a record.
    pub(crate) fn put_macs(&self, event: &mut Event) {
        event.src_mac = self.src_mac;
        event.dst_mac = self.dst_mac;
    }
}
