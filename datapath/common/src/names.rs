//! Names of maps and programs, as in the object files and in bpffs.

/// `HASH IpKey -> IpInfo`.
pub const IPCACHE: &str = "SP_IPCACHE";
/// `LPM_TRIE IpPrefixKey -> IpInfo`.
pub const IPCACHE_LPM: &str = "SP_IPCACHE_LPM";
/// `ARRAY slot -> EndpointRecord`, mmapable.
pub const ENDPOINTS: &str = "SP_ENDPOINTS";
/// `HASH ifindex u32 -> slot u32`.
pub const IFINDEX_SLOT: &str = "SP_IFINDEX_SLOT";
/// `ARRAY ifindex % IFINDEX_HINTS -> slot u64`, mmapable: where to look first. The endpoint's record says if it is right.
pub const IFINDEX_HINT: &str = "SP_IFINDEX_HINT";
/// `ARRAY last bits of an address -> slot u64`, mmapable: as [`IFINDEX_HINT`], for addresses of pods.
pub const ADDRESS_HINT: &str = "SP_ADDRESS_HINT";
/// `ARRAY_OF_MAPS 2 * slot + side -> LPM_TRIE PolicyKey -> PolicyValue`.
pub const POLICY: &str = "SP_POLICY";
/// `LRU_HASH CtKey4 -> CtValue`, TCP.
pub const CT4_TCP: &str = "SP_CT4_TCP";
/// `LRU_HASH CtKey4 -> CtValue`, everything else.
pub const CT4_ANY: &str = "SP_CT4_ANY";
/// `LRU_HASH CtKey6 -> CtValue`, TCP.
pub const CT6_TCP: &str = "SP_CT6_TCP";
/// `LRU_HASH CtKey6 -> CtValue`, everything else.
pub const CT6_ANY: &str = "SP_CT6_ANY";
/// `PERCPU_ARRAY 0 -> CtCount`.
pub const CT_COUNTS: &str = "SP_CT_COUNTS";
/// `PERCPU_ARRAY metric_index -> PacketCount`.
pub const METRICS: &str = "SP_METRICS";
/// `PERCPU_ARRAY lane -> LaneCount`.
pub const LANES: &str = "SP_LANES";
/// `ARRAY 0 -> u64` node-wide ipcache epoch, mmapable.
pub const NODE: &str = "SP_NODE";
/// `ARRAY 0 -> u64`, mmapable; see [`crate::endpoint::host_word`].
pub const HOST: &str = "SP_HOST";
/// `HASH FoldKey -> FoldCount`.
pub const FOLD: &str = "SP_FOLD";
/// `HASH FoldKey -> Event`: the first folded packet of the latest second that had any.
pub const FOLD_SAMPLE: &str = "SP_FOLD_SAMPLE";
/// `RINGBUF` of denies.
pub const RING_DENY: &str = "SP_RING_DENY";
/// `RINGBUF` of allowed verdicts.
pub const RING_ALLOW: &str = "SP_RING_ALLOW";
/// `RINGBUF` of traces.
pub const RING_TRACE: &str = "SP_RING_TRACE";

/// `ARRAY 0 -> u64` whether the reader sleeps until it is woken, mmapable.
pub const ASLEEP: &str = "SP_ASLEEP";
/// `RINGBUF` without records, over which programs wake the reader.
pub const WAKE: &str = "SP_WAKE";

/// Packets that leave a pod: ingress hook of the pod's host-side interface.
pub const FROM_CONTAINER: &str = "from_container";
/// Packets that the stack sends to a pod: egress hook of the pod's host-side interface.
pub const TO_CONTAINER: &str = "to_container";
/// Packets from the network: ingress hook of a node device.
pub const FROM_NETDEV: &str = "from_netdev";
/// Packets to the network: egress hook of a node device.
pub const TO_NETDEV: &str = "to_netdev";
/// Packets that the host's stack sends to pods: egress hook of the host device.
pub const FROM_HOST: &str = "from_host";
/// Packets for the host's own stack: ingress hook of the host device.
pub const TO_HOST: &str = "to_host";
