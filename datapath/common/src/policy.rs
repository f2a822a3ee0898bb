//! Policy map: one LPM trie per endpoint side (A/B), key and value as in Cilium's `cilium_policy_v2`.

/// Bits of the key that are always specified: identity, direction and padding.
pub const FULL_PREFIX_STATIC: u32 = 40;
/// Bits of a key with the protocol given.
pub const PREFIX_PROTO: u32 = FULL_PREFIX_STATIC + 8;
/// Bits of a key with protocol and whole port given.
pub const PREFIX_FULL: u32 = PREFIX_PROTO + 16;
/// Entries in one trie.
pub const MAX_ENTRIES: u32 = 16384;
/// Precedence of a deny entry of priority 0.
pub const PRECEDENCE_DENY: u32 = 0xffff_ffff;
/// Precedence of a plain allow entry of priority 0.
pub const PRECEDENCE_ALLOW: u32 = 0xffff_ff01;

/// Key: what follows the prefix length of the trie key. `dport` is in network byte order; ICMP: type in it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct PolicyKey {
    /// Number of bits that count, [`FULL_PREFIX_STATIC`] to [`PREFIX_FULL`].
    pub prefix_len: u32,
    /// Peer identity; 0 = any.
    pub identity: u32,
    /// Bit 0: egress.
    pub egress: u8,
    /// IANA protocol number; 0 = any.
    pub proto: u8,
    /// Destination port, network byte order.
    pub dport_be: u16,
}

/// Value of a policy entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct PolicyValue {
    /// Proxy port, network byte order; 0 = no redirect.
    pub proxy_port_be: u16,
    /// Bit 0 deny, bit 1 audit (this entry alone), bit 2 denied by default, bits 3-7 specified protocol and port bits (0, 8, 9-24).
    pub deny_plen: u8,
    /// Authentication type (bits 0-6) and "explicit" (bit 7).
    pub auth: u8,
    /// Higher wins.
    pub precedence: u32,
    /// Origin set of the entry.
    pub cookie: u32,
}

/// [`PolicyValue::deny_plen`] bit: deny.
pub const VALUE_DENY: u8 = 1 << 0;
/// [`PolicyValue::deny_plen`] bit: would-be verdict of this entry is only audited.
pub const VALUE_AUDIT: u8 = 1 << 1;
/// [`PolicyValue::deny_plen`] bit: the deny is for want of an allow.
pub const VALUE_BY_DEFAULT: u8 = 1 << 2;
/// Bits of [`PolicyValue::auth`] with the authentication type.
pub const AUTH_TYPE_MASK: u8 = 0x7f;
/// Shift of the prefix bits in [`PolicyValue::deny_plen`].
pub const VALUE_PLEN_SHIFT: u8 = 3;

const _: () = assert!(size_of::<PolicyKey>() == 12);
const _: () = assert!(size_of::<PolicyValue>() == 12);

impl PolicyValue {
    /// Specified bits of protocol and port: 0, 8 or 9-24.
    #[inline(always)]
    pub const fn l4_prefix(&self) -> u8 {
        self.deny_plen >> VALUE_PLEN_SHIFT
    }

    /// Whether the entry denies.
    #[inline(always)]
    pub const fn is_deny(&self) -> bool {
        self.deny_plen & VALUE_DENY != 0
    }
}
