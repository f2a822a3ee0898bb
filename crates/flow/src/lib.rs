//! The flow as Specola sees it.
//!
//! [`Flow`] is the compact record that lies in the ring: plain integers, no pointer. Names are in an append-only
//! [`MetaTable`] and in [`PolicyOrigin`] lists, found through the handles and the cookie in the record. The numbers are
//! Hubble's; the types here say what they mean. Feature `proto` adds Hubble's messages and the filters made of them.
//!
//! No I/O, no clock: every function is pure. Only the parser of CEL filters runs on a thread, for its stack.
#![forbid(unsafe_code)]

#[cfg(feature = "proto")]
mod detail;
mod drop_reason;
#[cfg(feature = "proto")]
mod filter;
mod icmp;
mod kinds;
#[cfg(feature = "proto")]
mod mask;
#[cfg(feature = "proto")]
mod message;
mod meta;
mod node;
mod origin;
mod record;
mod summary;
mod uuid;
mod view;
#[cfg(feature = "proto")]
mod wire;

#[cfg(feature = "proto")]
pub use detail::{Clipped, FlowDetail};
pub use drop_reason::DropReason;
#[cfg(feature = "proto")]
pub use filter::{FilterSet, InvalidFilter};
pub use kinds::{Direction, EventType, MatchType, ObservationPoint, TraceReason, Verdict};
#[cfg(feature = "proto")]
pub use mask::{FlowMask, InvalidMask, MaskError};
#[cfg(feature = "proto")]
pub use message::{MessageContext, flow_message, timestamp};
pub use meta::{EndpointMeta, LastUse, MetaHandle, MetaInterner, MetaTable, Metas, TableFull, Workload};
pub use node::{DEFAULT_CLUSTER, NodeInfo};
pub use origin::PolicyOrigin;
pub use record::{Flow, flags};
pub use summary::Summary;
pub use uuid::{FlowUuid, InstanceId};
pub use view::{FlowNames, FlowView, Side};
#[cfg(feature = "proto")]
pub use wire::{FlowEncoder, WireDetail, WireFlow, WireOrigins};

/// IANA protocol numbers that a flow may carry.
pub mod protocol {
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// IGMP (RFC 3376).
    pub const IGMP: u8 = 2;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// VRRP (RFC 9568).
    pub const VRRP: u8 = 112;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
}
