//! 16-byte addresses (IPv4 as `::ffff:a.b.c.d`), held as two words so that the machine copies and compares words.

/// An address; the words are the bytes in memory order.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct Address(pub(crate) [u64; 2]);

/// An address where only 4-byte alignment is known.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Quads(pub(crate) [u32; 4]);

/// Six bytes of a link address, as in memory.
pub(crate) type Mac = [u16; 3];

/// `::ffff:0:0` without the IPv4 address.
const MAPPED: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
const MAPPED_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
const V4_SHIFT: u32 = if cfg!(target_endian = "little") { 32 } else { 0 };

impl Address {
    /// The mapped form of an IPv4 address in memory order.
    #[inline(always)]
    pub(crate) const fn mapped(v4: u32) -> Self {
        Self([0, MAPPED | (v4 as u64) << V4_SHIFT])
    }

    /// The IPv4 address inside, in memory order.
    #[inline(always)]
    pub(crate) const fn v4(&self) -> u32 {
        (self.0[1] >> V4_SHIFT) as u32
    }

    /// The words as numbers that sort like the bytes.
    #[inline(always)]
    pub(crate) const fn numbers(&self) -> [u64; 2] {
        [u64::from_be(self.0[0]), u64::from_be(self.0[1])]
    }

    /// IPv6 link-local (fe80::/10).
    #[inline(always)]
    pub(crate) const fn is_link_local(&self) -> bool {
        self.numbers()[0] >> 54 == 0xfe80 >> 6
    }

    /// IPv6 multicast (ff00::/8).
    #[inline(always)]
    pub(crate) const fn is_multicast(&self) -> bool {
        self.numbers()[0] >> 56 == 0xff
    }

    /// The mapped form of some IPv4 address (::ffff:0:0/96).
    #[inline(always)]
    pub(crate) const fn is_mapped(&self) -> bool {
        self.0[0] == 0 && self.0[1] & MAPPED_MASK == MAPPED
    }

    /// IPv6 unspecified.
    #[inline(always)]
    pub(crate) const fn is_unspecified(&self) -> bool {
        self.0[0] | self.0[1] == 0
    }

    /// The same bytes in units of four.
    #[inline(always)]
    pub(crate) const fn quads(&self) -> Quads {
        let Self([a, b]) = *self;
        if cfg!(target_endian = "little") {
            Quads([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32])
        } else {
            Quads([(a >> 32) as u32, a as u32, (b >> 32) as u32, b as u32])
        }
    }
}
