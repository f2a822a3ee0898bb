//! Reserved security identities that the datapath itself uses.

/// Not known; in a policy key: any peer.
pub const UNKNOWN: u32 = 0;
/// The local node.
pub const HOST: u32 = 1;
/// Outside the cluster.
pub const WORLD: u32 = 2;
/// Another node of the cluster.
pub const REMOTE_NODE: u32 = 6;
/// Outside the cluster, IPv4 (dual stack).
pub const WORLD_IPV4: u32 = 9;
/// Outside the cluster, IPv6 (dual stack).
pub const WORLD_IPV6: u32 = 10;
