//! Packets out of capture files: classic pcap and pcapng, either byte order, stamps of any resolution, plain or gzip.
//!
//! [`Capture`] reads a stream: memory is bounded by the longest record, which has a limit. The link header of each packet
//! is taken off ([`Packet`]); what cannot be taken off is [`Damage`], which the caller counts.
#![forbid(unsafe_code)]

mod buffer;
mod link;
mod reader;

pub use link::{Damage, LinkType, Packet, ethertype};
pub use reader::{Capture, CaptureError, Record};
