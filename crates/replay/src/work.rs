//! What is known of the packet in hand.

use specola_datapath_common::{
    conntrack::{CtKey6, CtSide, CtValue, NO_SLOT},
    event::{EVENT_ABI, Event},
};

/// A 16-byte address; IPv4 as `::ffff:a.b.c.d`.
pub(crate) type Address = [u8; 16];

/// [`Work::class`]: facts about the packet that decide its way.
pub(crate) mod class {
    /// Neighbour discovery or multicast listener traffic of the link.
    pub(crate) const NEIGHBOR: u16 = 1 << 0;
    /// Opens a connection: TCP SYN, ICMP echo request.
    pub(crate) const OPENS: u16 = 1 << 1;
    /// Has no connection to belong to.
    pub(crate) const UNTRACKED: u16 = 1 << 2;
    /// A later fragment whose ports nobody knows.
    pub(crate) const NO_PORTS: u16 = 1 << 3;
    /// An ICMP error about another packet.
    pub(crate) const ICMP_ERROR: u16 = 1 << 4;
    /// Source and destination are the same address.
    pub(crate) const SELF: u16 = 1 << 5;
    /// The sender is a pod of this node.
    pub(crate) const FROM_POD: u16 = 1 << 6;
    /// Traffic that is no endpoint's, which has connections of its own.
    pub(crate) const OF_HOST: u16 = 1 << 8;
}

/// `event` is the draft of whatever record the packet will yield; parsing writes straight into it.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) event: Event,
    /// Value for a new connection.
    pub(crate) fresh: CtValue,
    /// Key of the packet's connection.
    pub(crate) key: CtKey6,
    /// When the packet came, on a clock that does not go back.
    pub(crate) now_ns: u64,
    /// Where the transport header begins.
    pub(crate) l4_offset: u32,
    /// Where the network packet ends by its own length; what follows in the frame is padding.
    pub(crate) end: u32,
    /// See [`class`].
    pub(crate) class: u16,
    /// Ports of the connection's key: the transport's, or the ICMP echo id twice.
    pub(crate) ct_src_port: u16,
    pub(crate) ct_dst_port: u16,
    /// Destination port of the policy key: the transport's, or the ICMP type.
    pub(crate) policy_port: u16,
    /// The source is the lower half of the connection's key.
    pub(crate) src_is_lo: bool,
    pub(crate) hop_limit: u8,
    /// IPv4: flags and offset.
    pub(crate) fragment_field: u16,
    /// IPv4: identification.
    pub(crate) fragment_id: u32,
}

impl Work {
    /// A draft for a packet that came at `time_ns`; `now_ns` is the same on a clock that does not go back.
    pub(crate) fn new(time_ns: u64, now_ns: u64, ifindex: u32, length: u32) -> Self {
        let side = CtSide { slot: NO_SLOT, ..CtSide::default() };
        Self {
            event: Event { abi: EVENT_ABI, boot_ns: time_ns, ifindex, length, ..Event::zeroed() },
            fresh: CtValue { sides: [side; 2], ..CtValue::default() },
            key: CtKey6::default(),
            now_ns,
            l4_offset: 0,
            end: 0,
            class: 0,
            ct_src_port: 0,
            ct_dst_port: 0,
            policy_port: 0,
            src_is_lo: false,
            hop_limit: 0,
            fragment_field: 0,
            fragment_id: 0,
        }
    }

    /// Whether any of `bits` of [`class`] is set.
    pub(crate) const fn is(&self, bits: u16) -> bool {
        self.class & bits != 0
    }
}
