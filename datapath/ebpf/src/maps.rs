//! The maps, under the names of [`specola_datapath_common::names`]. The loader may change sizes.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use specola_datapath_common::{
    conntrack::{CtCount, CtValue},
    endpoint::{ADDRESS_HINTS, EndpointRecord, IFINDEX_HINTS, MAX_SLOTS},
    event::{Event, lane},
    fold::{FOLD_ENTRIES, FoldCount, FoldKey},
    ipcache::IpInfo,
    metrics::{LaneCount, METRIC_ENTRIES, PacketCount},
    policy::{MAX_ENTRIES, PolicyValue},
};

use crate::{
    address::{Address, Quads},
    keys::{Ct4, Ct6},
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const SLOTS: usize = MAX_SLOTS as usize;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A [`specola_datapath_common::policy::PolicyKey`] without its prefix length.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct PolicyBits {
    pub(crate) identity: u32,
    pub(crate) egress: u8,
    pub(crate) proto: u8,
    pub(crate) dport_be: u16,
}

/// One side of an endpoint's policy.
pub(crate) type PolicyTrie = LpmTrie<PolicyBits, PolicyValue, { MAX_ENTRIES as usize }>;

#[btf_map]
pub(crate) static SP_IPCACHE: HashMap<Address, IpInfo, 65536, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub(crate) static SP_IPCACHE_LPM: LpmTrie<Quads, IpInfo, 16384> = LpmTrie::new();

#[btf_map]
pub(crate) static SP_ENDPOINTS: Array<EndpointRecord, SLOTS, MMAPABLE> = Array::new();

#[btf_map]
pub(crate) static SP_IFINDEX_SLOT: HashMap<u32, u32, SLOTS> = HashMap::new();

#[btf_map]
pub(crate) static SP_IFINDEX_HINT: Array<u64, { IFINDEX_HINTS as usize }, MMAPABLE> = Array::new();

#[btf_map]
pub(crate) static SP_ADDRESS_HINT: Array<u64, { ADDRESS_HINTS as usize }, MMAPABLE> = Array::new();

#[btf_map]
pub(crate) static SP_POLICY: ArrayOfMaps<PolicyTrie, { 2 * SLOTS }> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static SP_CT4_TCP: LruHashMap<Ct4, CtValue, 65536> = LruHashMap::new();

#[btf_map]
pub(crate) static SP_CT4_ANY: LruHashMap<Ct4, CtValue, 65536> = LruHashMap::new();

#[btf_map]
pub(crate) static SP_CT6_TCP: LruHashMap<Ct6, CtValue, 65536> = LruHashMap::new();

#[btf_map]
pub(crate) static SP_CT6_ANY: LruHashMap<Ct6, CtValue, 65536> = LruHashMap::new();

#[btf_map]
pub(crate) static SP_CT_COUNTS: PerCpuArray<CtCount, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static SP_METRICS: PerCpuArray<PacketCount, { METRIC_ENTRIES as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static SP_LANES: PerCpuArray<LaneCount, { lane::COUNT }> = PerCpuArray::new();

#[btf_map]
pub(crate) static SP_FOLD: HashMap<FoldKey, FoldCount, { FOLD_ENTRIES as usize }> = HashMap::new();

#[btf_map]
pub(crate) static SP_FOLD_SAMPLE: HashMap<FoldKey, Event, { FOLD_ENTRIES as usize }> = HashMap::new();

#[btf_map]
pub(crate) static SP_NODE: Array<u64, 1, MMAPABLE> = Array::new();

#[btf_map]
pub(crate) static SP_HOST: Array<u64, 1, MMAPABLE> = Array::new();

#[btf_map]
pub(crate) static SP_RING_DENY: RingBuf<Event, { 4 * MIB }> = RingBuf::new();

#[btf_map]
pub(crate) static SP_RING_ALLOW: RingBuf<Event, { 4 * MIB }> = RingBuf::new();

#[btf_map]
pub(crate) static SP_RING_TRACE: RingBuf<Event, { 8 * MIB }> = RingBuf::new();

#[btf_map]
pub(crate) static SP_ASLEEP: Array<u64, 1, MMAPABLE> = Array::new();

/// A page at least, whatever the page size: room for a wake-up from each CPU.
#[btf_map]
pub(crate) static SP_WAKE: RingBuf<u64, { 64 * KIB }> = RingBuf::new();
