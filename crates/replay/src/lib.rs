//! What the kernel programs would say of recorded packets.
//!
//! [`Datapath`] holds what the kernel's maps hold (endpoints with their policies, addresses, connections) and follows
//! the rules of the programs in `datapath/ebpf`: a packet gives the records that they would write, in their ABI. Pure:
//! no I/O and no clock but the packets' own stamps. `datapath/tests` compares the two packet by packet.
#![forbid(unsafe_code)]

mod addresses;
mod conntrack;
mod datapath;
mod fragment;
mod frame;
mod hooks;
mod judge;
mod lru;
mod parse;
mod policy;
mod sweep;
mod trace;
mod verdict;
mod work;

pub use datapath::{Config, ConnectionCounts, Datapath, Endpoint, Packet};
pub use frame::{ETHERNET_LEN, Frame, ethertype};
pub use policy::Policy;
pub use verdict::Action;
