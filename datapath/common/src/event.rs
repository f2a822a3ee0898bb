//! The event record: one fixed size for every kind, written by the kernel programs into the lanes.

/// Value of [`Event::abi`].
pub const EVENT_ABI: u8 = 1;

/// [`Event::kind`]: the numbers of Cilium's monitor messages.
pub mod kind {
    /// A packet was dropped for a reason other than policy, or by policy (see `expanded` in the flow pipeline).
    pub const DROP: u8 = 1;
    /// A packet passed an observation point (aggregated per connection).
    pub const TRACE: u8 = 4;
    /// A policy decision.
    pub const POLICY_VERDICT: u8 = 5;
}

/// [`Event::lane`]: which ring buffer carried the record.
pub mod lane {
    /// Denies, audits and drops.
    pub const DENY: u8 = 0;
    /// Allowed verdicts.
    pub const ALLOW: u8 = 1;
    /// Traces.
    pub const TRACE: u8 = 2;
    /// Number of lanes.
    pub const COUNT: usize = 3;
}

/// [`Event::obs_point`]: trace observation points (`event_type.sub_type` of a trace in Hubble's API).
pub mod point {
    /// Delivered to a local endpoint.
    pub const TO_ENDPOINT: u8 = 0;
    /// Handed to the L7 proxy.
    pub const TO_PROXY: u8 = 1;
    /// Handed to the host's own stack.
    pub const TO_HOST: u8 = 2;
    /// Handed to the stack for routing.
    pub const TO_STACK: u8 = 3;
    /// Sent into an overlay.
    pub const TO_OVERLAY: u8 = 4;
    /// Left a local endpoint.
    pub const FROM_ENDPOINT: u8 = 5;
    /// Came from the L7 proxy.
    pub const FROM_PROXY: u8 = 6;
    /// Came from the host's own stack.
    pub const FROM_HOST: u8 = 7;
    /// Came from the stack.
    pub const FROM_STACK: u8 = 8;
    /// Came from an overlay.
    pub const FROM_OVERLAY: u8 = 9;
    /// Came from the network.
    pub const FROM_NETWORK: u8 = 10;
    /// Sent to the network.
    pub const TO_NETWORK: u8 = 11;
}

/// [`Event::ct_state`]: Cilium's trace reasons (`TraceReason` of the API is this + 1 below [`ct_state::UNKNOWN`]).
pub mod ct_state {
    /// First packet of a connection.
    pub const NEW: u8 = 0;
    /// Later packet of the initiator.
    pub const ESTABLISHED: u8 = 1;
    /// Packet of the responder.
    pub const REPLY: u8 = 2;
    /// ICMP error about a known connection.
    pub const RELATED: u8 = 3;
    /// New connection on a tuple that was closing.
    pub const REOPENED: u8 = 4;
    /// Not tracked.
    pub const UNKNOWN: u8 = 5;
}

/// [`Event::flags`] bits.
pub mod flags {
    /// The packet is a later fragment: ports are those of the first one, if known, else 0.
    pub const FRAGMENT: u8 = 1 << 0;
    /// The connection was first seen in its middle (no SYN).
    pub const MID_STREAM: u8 = 1 << 1;
    /// The verdict would have been a deny; audit mode let the packet pass.
    pub const AUDIT: u8 = 1 << 2;
    /// A trace that closes a connection: counters are final.
    pub const CLOSE: u8 = 1 << 3;
    /// `packets_*`, `bytes_*` and `created_ns` are filled.
    pub const COUNTERS: u8 = 1 << 4;
    /// The source of the packet is the responder of the connection.
    pub const REPLY: u8 = 1 << 5;
    /// Written by the agent (conntrack sweep), not by a program.
    pub const BY_AGENT: u8 = 1 << 6;
}

/// [`Event::match_type`]: what of the policy key matched (Cilium's numbers, policy-verdict events only).
pub mod match_type {
    /// No entry: default deny.
    pub const NONE: u8 = 0;
    /// Identity only.
    pub const L3_ONLY: u8 = 1;
    /// Identity, protocol and port.
    pub const L3_L4: u8 = 2;
    /// Any identity, protocol and port.
    pub const L4_ONLY: u8 = 3;
    /// Any identity, any port.
    pub const ALL: u8 = 4;
    /// Identity and protocol.
    pub const L3_PROTO: u8 = 5;
    /// Any identity, protocol.
    pub const PROTO_ONLY: u8 = 6;
}

/// TCP flag bits as in the header's 14th byte (RFC 9293).
pub mod tcp_flags {
    /// No more data from sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// Acknowledgment.
    pub const ACK: u8 = 0x10;
    /// Urgent pointer.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// One kernel event: 192 bytes, 8-byte aligned. Integers are in host byte order, addresses as on the wire.
///
/// A denied packet yields exactly one record (`kind` = policy verdict, `verdict` = minus the drop reason); the flow
/// pipeline makes the two flows out of it that Hubble's clients expect. A drop that no policy decided has `kind` = drop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C, align(8))]
pub struct Event {
    /// [`EVENT_ABI`].
    pub abi: u8,
    /// See [`kind`].
    pub kind: u8,
    /// See [`point`].
    pub obs_point: u8,
    /// See [`flags`].
    pub flags: u8,
    /// Per CPU and lane, starts at 1, counts every attempt that was not folded; a gap is a loss. 0 when `fold` is set.
    pub lane_seq: u32,
    /// `bpf_ktime_get_boot_ns` of the packet's first record; each further one has 1 ns more.
    pub boot_ns: u64,
    /// CPU that ran the program.
    pub cpu: u16,
    /// Slot in the endpoint table of the endpoint that the record is about.
    pub endpoint_slot: u16,
    /// Its endpoint id, 0 when no local endpoint is concerned.
    pub endpoint_id: u16,
    /// [`crate::IPV4`], [`crate::IPV6`] or 0.
    pub ip_version: u8,
    /// IANA protocol number.
    pub proto: u8,
    /// Interface that the program runs on.
    pub ifindex: u32,
    /// Length of the packet with its link header, bytes.
    pub length: u32,
    /// Security identity of the source.
    pub src_identity: u32,
    /// Security identity of the destination.
    pub dst_identity: u32,
    /// Source address; IPv4 as `::ffff:a.b.c.d`.
    pub src_addr: [u8; 16],
    /// Destination address; IPv4 as `::ffff:a.b.c.d`.
    pub dst_addr: [u8; 16],
    /// Source port; ICMP: 0.
    pub src_port: u16,
    /// Destination port; ICMP: 0.
    pub dst_port: u16,
    /// TCP flags of this packet; a trace carries all flags seen from this side since its last report.
    pub tcp_flags: u8,
    /// See [`ct_state`].
    pub ct_state: u8,
    /// See [`match_type`].
    pub match_type: u8,
    /// See [`crate::direction`]; relative to `endpoint_id`.
    pub direction: u8,
    /// Policy verdict: 0 allowed, negative = minus the drop reason, positive = proxy port. Drop: minus the reason.
    pub verdict: i32,
    /// Origin set of the deciding entry, or the default cookie of the direction; 0 = none.
    pub cookie: u32,
    /// Policy revision that the endpoint had realized.
    pub revision: u32,
    /// Policy epoch of the endpoint.
    pub epoch: u32,
    /// Source MAC.
    pub src_mac: [u8; 6],
    /// Destination MAC.
    pub dst_mac: [u8; 6],
    /// L7 proxy port, 0 = none.
    pub proxy_port: u16,
    /// See [`lane`].
    pub lane: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// 0: the record is about one packet. Else the record was made by the reader and stands for this many denied packets
    /// that have no record of their own ([`crate::fold`]); `bytes_fwd` are their bytes, `boot_ns` is the stamp of the
    /// last one, and what is not in their key (ports of the source, addresses, flags) is one packet's for all.
    pub fold: u32,
    /// ICMP code.
    pub icmp_code: u8,
    /// Must be zero.
    pub pad0: [u8; 3],
    /// Packets from the initiator since the connection began.
    pub packets_fwd: u64,
    /// Packets from the responder since the connection began.
    pub packets_rev: u64,
    /// Bytes (with link headers) from the initiator since the connection began.
    pub bytes_fwd: u64,
    /// Bytes (with link headers) from the responder since the connection began.
    pub bytes_rev: u64,
    /// `bpf_ktime_get_boot_ns` of the connection's first packet.
    pub created_ns: u64,
    /// Kept for smoothed RTT, retransmits, socket cookie. Zero.
    pub reserved: [u64; 4],
}

/// Size of [`Event`] in bytes.
pub const EVENT_SIZE: usize = 192;

const _: () = assert!(size_of::<Event>() == EVENT_SIZE);
const _: () = assert!(align_of::<Event>() == 8);
const _: () = assert!(core::mem::offset_of!(Event, boot_ns) == 8);
const _: () = assert!(core::mem::offset_of!(Event, src_addr) == 40);
const _: () = assert!(core::mem::offset_of!(Event, verdict) == 80);
const _: () = assert!(core::mem::offset_of!(Event, packets_fwd) == 120);
const _: () = assert!(core::mem::offset_of!(Event, created_ns) == 152);

/// Why a sample is not an [`Event`].
#[cfg(feature = "user")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BadEvent {
    /// The sample has another size or alignment.
    Size {
        /// Bytes in the sample.
        have: usize,
    },
    /// The record was written by another ABI.
    Abi {
        /// The version that it names.
        have: u8,
    },
    /// [`Event::kind`] is none of [`kind`].
    Kind {
        /// The kind that it names.
        have: u8,
    },
}

#[cfg(feature = "user")]
impl BadEvent {
    /// A stable, low-cardinality metric label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Size { .. } => "size",
            Self::Abi { .. } => "abi",
            Self::Kind { .. } => "kind",
        }
    }
}

#[cfg(feature = "user")]
impl core::fmt::Display for BadEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Size { have } => {
                write!(f, "sample of {have} bytes is no event record of {EVENT_SIZE} bytes")
            }
            Self::Abi { have } => write!(f, "event of ABI {have}, this program reads ABI {EVENT_ABI}"),
            Self::Kind { have } => write!(f, "unknown event kind {have}"),
        }
    }
}

#[cfg(feature = "user")]
impl core::error::Error for BadEvent {}

#[cfg(feature = "user")]
impl Event {
    /// Views a ring buffer sample as an event, without a copy.
    ///
    /// # Errors
    /// The sample's size or alignment, its ABI version or its kind is wrong.
    pub fn from_bytes(sample: &[u8]) -> Result<&Self, BadEvent> {
        let event = <Self as zerocopy::FromBytes>::ref_from_bytes(sample)
            .map_err(|_: zerocopy::CastError<_, _>| BadEvent::Size { have: sample.len() })?;
        if event.abi != EVENT_ABI {
            return Err(BadEvent::Abi { have: event.abi });
        }
        match event.kind {
            kind::DROP | kind::TRACE | kind::POLICY_VERDICT => Ok(event),
            have => Err(BadEvent::Kind { have }),
        }
    }

    /// The record as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        zerocopy::IntoBytes::as_bytes(self)
    }

    /// A record of zeros with the right ABI number, to be filled.
    pub fn zeroed() -> Self {
        let mut event = <Self as zerocopy::FromZeros>::new_zeroed();
        event.abi = EVENT_ABI;
        event
    }
}
