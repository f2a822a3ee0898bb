//! ipcache: address to identity. Whole addresses are in a hash; prefixes in an LPM trie that is asked on a miss.

/// Key of the hash: a 16-byte address, IPv4 as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct IpKey {
    /// The address.
    pub addr: [u8; 16],
}

/// Key of the trie: an IPv4 prefix of n bits is one of 96 + n.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct IpPrefixKey {
    /// Bits that count.
    pub prefix_len: u32,
    /// The address; host bits are zero.
    pub addr: [u8; 16],
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct IpInfo {
    /// Security identity.
    pub identity: u32,
    /// Endpoint slot when the address is a pod of this node, else 0.
    pub slot: u16,
    /// See [`ip_flags`].
    pub flags: u16,
    /// IPv4 address of the node that hosts it, as on the wire; zero = this node or none.
    pub node_ipv4: [u8; 4],
}

/// [`IpInfo::flags`] bits.
pub mod ip_flags {
    /// The address is one of the local node's own.
    pub const LOCAL_NODE: u16 = 1 << 0;
}

const _: () = assert!(size_of::<IpKey>() == 16);
const _: () = assert!(size_of::<IpPrefixKey>() == 20);
const _: () = assert!(size_of::<IpInfo>() == 12);
