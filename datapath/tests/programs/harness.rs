//! The loaded programs and their maps, and a small world: two pods of this node, a pod elsewhere, the node, the world.

use std::{net::IpAddr, time::Duration};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, ArrayOfMaps, HashMap, LpmTrie, MapData, PerCpuArray, RingBuf, lpm_trie::Key},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use specola_datapath::{
    OBJECT,
    abi::{
        config::{self, host_mode},
        conntrack::{CtKey4, CtKey6, CtValue},
        endpoint::{EndpointRecord, HOST_SLOT, PolicyState, address_hint, policy_flags},
        event::Event,
        fold::{FOLD_ENTRIES, FoldCount, FoldKey},
        ipcache::{IpInfo, IpKey, ip_flags},
        metrics::{LaneCount, PacketCount, metric_index},
        names,
        policy::{MAX_ENTRIES, PolicyValue},
        v4_mapped,
    },
};
use specola_testkit::packet::Frame;

/// `TC_ACT_OK`.
pub(crate) const OK: u32 = 0;
/// `TC_ACT_SHOT`.
pub(crate) const SHOT: u32 = 2;
/// `TC_ACT_REDIRECT`.
pub(crate) const REDIRECT: u32 = 7;

/// A pod of the node under test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalPod {
    pub(crate) slot: u16,
    pub(crate) id: u16,
    pub(crate) identity: u32,
    pub(crate) v4: &'static str,
    pub(crate) v6: &'static str,
    pub(crate) mac: [u8; 6],
    pub(crate) host_mac: [u8; 6],
    pub(crate) ifindex: u32,
}

pub(crate) const A: LocalPod = LocalPod {
    slot: 1,
    id: 1001,
    identity: 5001,
    v4: "10.0.1.1",
    v6: "fd00:1::1",
    mac: [0x0a, 0, 0, 0, 0, 0x01],
    host_mac: [0x0a, 0, 0, 0, 1, 0x01],
    ifindex: 101,
};
pub(crate) const B: LocalPod = LocalPod {
    slot: 2,
    id: 1002,
    identity: 5002,
    v4: "10.0.1.2",
    v6: "fd00:1::2",
    mac: [0x0a, 0, 0, 0, 0, 0x02],
    host_mac: [0x0a, 0, 0, 0, 1, 0x02],
    ifindex: 102,
};
/// The node itself, where the programs work for it.
pub(crate) const HOST: LocalPod = LocalPod {
    slot: HOST_SLOT,
    id: 65535,
    identity: NODE.2,
    v4: "0.0.0.0",
    v6: "::",
    mac: [0; 6],
    host_mac: [0; 6],
    ifindex: 0,
};
/// A pod of another node.
pub(crate) const REMOTE: (&str, &str, u32) = ("10.0.2.9", "fd00:2::9", 5009);
/// The node's own addresses.
pub(crate) const NODE: (&str, &str, u32) = ("172.20.0.1", "fd00:ff::1", 1);
/// Somebody outside, found by its prefix.
pub(crate) const CIDR: (&str, u32) = ("203.0.113.7", (1 << 24) | 5);
/// Somebody outside whom no entry names.
pub(crate) const WORLD: (&str, u32) = ("198.51.100.1", 2);

/// Cookies of packets that no entry matches.
pub(crate) const DEFAULT_INGRESS: u32 = 901;
pub(crate) const DEFAULT_EGRESS: u32 = 902;
/// Realized revision.
pub(crate) const REVISION: u32 = 7;

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: used with the ABI's types only, which have no padding.
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

/// The interface that test runs happen on: the loopback device.
const TEST_IFINDEX: u32 = 1;
/// Size of `__sk_buff`.
const CONTEXT_LEN: usize = 192;
const MARK_AT: usize = 8;

/// What a program said, and what it left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) action: u32,
    pub(crate) events: Vec<Event>,
    pub(crate) frame: Vec<u8>,
    pub(crate) mark: u32,
}

impl Run {
    /// The one event.
    #[track_caller]
    pub(crate) fn only(&self) -> &Event {
        assert_eq!(self.events.len(), 1, "{self:#?}");
        &self.events[0]
    }
}

/// Loaded programs with maps of their own: nothing is pinned, nothing attached.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    rings: Vec<RingBuf<MapData>>,
    tries: Vec<LpmTrie<MapData, [u8; 8], Raw<PolicyValue>>>,
    host_trie: Option<LpmTrie<MapData, [u8; 8], Raw<PolicyValue>>>,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        Self::with(5_000, 0)
    }

    /// With this trace interval and this host device.
    pub(crate) fn with(trace_interval_ms: u32, host_ifindex: u32) -> Self {
        Self::load(trace_interval_ms, host_ifindex, 0, FOLD_ENTRIES, host_mode::OFF)
    }

    /// With so many records per second and key of denied packets, and room for so many keys.
    pub(crate) fn folding(per_second: u32, entries: u32) -> Self {
        Self::load(5_000, 0, per_second, entries, host_mode::OFF)
    }

    /// With programs that work for the node, whose endpoint has these policy flags.
    pub(crate) fn of_host(mode: u32, flags: u32) -> Self {
        let mut kernel = Self::load(5_000, 0, 0, FOLD_ENTRIES, mode);
        kernel.endpoint(HOST, flags, 1);
        kernel
    }

    fn load(
        trace_interval_ms: u32,
        host_ifindex: u32,
        fold_per_second: u32,
        fold_entries: u32,
        host_mode: u32,
    ) -> Self {
        specola_testkit::require_root();
        let mac = config::mac_word([0x0e, 0, 0, 0, 0, 1]);
        let mut loader = EbpfLoader::new();
        loader
            .override_global(config::TRACE_INTERVAL_MS, &trace_interval_ms, true)
            .override_global(config::FOLD_PER_SECOND, &fold_per_second, true)
            .override_global(config::HOST_IFINDEX, &host_ifindex, true)
            .override_global(config::HOST_MODE, &host_mode, true)
            .override_global(config::HOST_MAC, &mac, true);
        for table in [names::CT4_TCP, names::CT4_ANY, names::CT6_TCP, names::CT6_ANY] {
            loader.map_max_entries(table, 1024);
        }
        for table in [names::FOLD, names::FOLD_SAMPLE] {
            loader.map_max_entries(table, fold_entries);
        }
        for ring in [names::RING_DENY, names::RING_ALLOW, names::RING_TRACE] {
            loader.map_max_entries(ring, 1 << 20);
        }
        let object = specola_testkit::object_under_test(OBJECT);
        let mut ebpf = loader.load(&object).expect("the kernel takes the object; bpf() needs root");
        let rings = [names::RING_DENY, names::RING_ALLOW, names::RING_TRACE]
            .map(|name| RingBuf::try_from(ebpf.take_map(name).unwrap()).unwrap())
            .into();
        let mut kernel = Self { ebpf, rings, tries: Vec::new(), host_trie: None };
        kernel.tries = (0..6).map(|index| kernel.add_trie(index)).collect();
        kernel.host_trie = Some(kernel.add_trie(2 * u32::from(HOST_SLOT)));
        kernel.fill();
        kernel
    }

    fn add_trie(&mut self, index: u32) -> LpmTrie<MapData, [u8; 8], Raw<PolicyValue>> {
        const NO_PREALLOC: u32 = 1;
        let trie = LpmTrie::create(MAX_ENTRIES, NO_PREALLOC).unwrap();
        let mut outer: ArrayOfMaps<_, LpmTrie<MapData, [u8; 8], Raw<PolicyValue>>> =
            ArrayOfMaps::try_from(self.ebpf.map_mut(names::POLICY).unwrap()).unwrap();
        outer.set(index, &trie, 0).unwrap();
        trie
    }

    fn fill(&mut self) {
        for pod in [A, B] {
            self.endpoint(pod, policy_flags::READY, 1);
            let info = IpInfo { identity: pod.identity, slot: pod.slot, ..IpInfo::default() };
            for address in [pod.v4, pod.v6] {
                self.ip(address, info);
                self.hint(address, pod.slot);
            }
        }
        for (address, info) in [
            (REMOTE.0, IpInfo { identity: REMOTE.2, ..IpInfo::default() }),
            (REMOTE.1, IpInfo { identity: REMOTE.2, ..IpInfo::default() }),
            (NODE.0, IpInfo { identity: NODE.2, flags: ip_flags::LOCAL_NODE, ..IpInfo::default() }),
            (NODE.1, IpInfo { identity: NODE.2, flags: ip_flags::LOCAL_NODE, ..IpInfo::default() }),
        ] {
            self.ip(address, info);
        }
        let mut prefixes: LpmTrie<_, [u8; 16], Raw<IpInfo>> =
            LpmTrie::try_from(self.ebpf.map_mut(names::IPCACHE_LPM).unwrap()).unwrap();
        let key = Key::new(96 + 24, v4_mapped([203, 0, 113, 0]));
        prefixes.insert(&key, Raw(IpInfo { identity: CIDR.1, ..IpInfo::default() }), 0).unwrap();
        self.set_node_epoch(1);
    }

    /// Writes a pod's record: policy flags, and the epoch; trie 0 is active.
    pub(crate) fn endpoint(&mut self, pod: LocalPod, flags: u32, epoch: u32) {
        let state = PolicyState {
            default_cookie_ingress: DEFAULT_INGRESS,
            default_cookie_egress: DEFAULT_EGRESS,
            revision: REVISION,
            flags,
        };
        let record = EndpointRecord {
            word: EndpointRecord::word_of(0, epoch),
            policy: [state; 2],
            ifindex: pod.ifindex,
            identity: pod.identity,
            id: pod.id,
            mac: pod.mac,
            host_mac: pod.host_mac,
            ipv4: octets4(pod.v4),
            ipv6: octets16(pod.v6),
            ..EndpointRecord::default()
        };
        let mut table: Array<_, Raw<EndpointRecord>> =
            Array::try_from(self.ebpf.map_mut(names::ENDPOINTS).unwrap()).unwrap();
        table.set(pod.slot.into(), Raw(record), 0).unwrap();
    }

    pub(crate) fn ip(&mut self, address: &str, info: IpInfo) {
        let key = IpKey { addr: octets16(address) };
        let mut cache: HashMap<_, Raw<IpKey>, Raw<IpInfo>> =
            HashMap::try_from(self.ebpf.map_mut(names::IPCACHE).unwrap()).unwrap();
        cache.insert(Raw(key), Raw(info), 0).unwrap();
    }

    /// Says in which slot the programs look first for a pod with this address.
    pub(crate) fn hint(&mut self, address: &str, slot: u16) {
        let [.., a, b, c, d, e, f, g, h] = octets16(address);
        let index = address_hint(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        let mut hints: Array<_, u64> =
            Array::try_from(self.ebpf.map_mut(names::ADDRESS_HINT).unwrap()).unwrap();
        hints.set(index, u64::from(slot), 0).unwrap();
    }

    /// Takes an address out of the cache.
    pub(crate) fn forget_address(&mut self, address: &str) {
        let mut cache: HashMap<_, Raw<IpKey>, Raw<IpInfo>> =
            HashMap::try_from(self.ebpf.map_mut(names::IPCACHE).unwrap()).unwrap();
        cache.remove(&Raw(IpKey { addr: octets16(address) })).unwrap();
    }

    pub(crate) fn set_node_epoch(&mut self, epoch: u64) {
        let mut node: Array<_, u64> = Array::try_from(self.ebpf.map_mut(names::NODE).unwrap()).unwrap();
        node.set(0, epoch, 0).unwrap();
    }

    /// Adds an entry to the pod's active trie.
    pub(crate) fn allow(&mut self, pod: LocalPod, rule: Rule) {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&rule.peer.to_ne_bytes());
        data[4] = rule.egress.into();
        data[5] = rule.proto;
        data[6..].copy_from_slice(&rule.port.to_be_bytes());
        let l4_bits = if rule.proto == 0 { 0 } else { 8 + rule.port_bits };
        let value = PolicyValue {
            proxy_port_be: rule.proxy.to_be(),
            deny_plen: u8::from(rule.deny) | (u8::from(rule.audit) << 1) | (l4_bits << 3),
            auth: 0,
            precedence: if rule.deny { 0xffff_ffff } else { 0xffff_ff01 },
            cookie: rule.cookie,
        };
        let key = Key::new(40 + u32::from(l4_bits), data);
        self.trie(pod).insert(&key, Raw(value), 0).unwrap();
    }

    fn trie(&mut self, pod: LocalPod) -> &mut LpmTrie<MapData, [u8; 8], Raw<PolicyValue>> {
        match &mut self.host_trie {
            Some(trie) if pod.slot == HOST_SLOT => trie,
            _ => &mut self.tries[2 * usize::from(pod.slot)],
        }
    }

    /// Suspends the policy of the node, or takes that back.
    pub(crate) fn suspend_host(&mut self, word: u64) {
        let mut host: Array<_, u64> = Array::try_from(self.ebpf.map_mut(names::HOST).unwrap()).unwrap();
        host.set(0, word, 0).unwrap();
    }

    /// Enters a connection.
    pub(crate) fn connect(&mut self, key: CtKey4, value: CtValue) {
        let mut table: HashMap<_, Raw<CtKey4>, Raw<CtValue>> =
            HashMap::try_from(self.ebpf.map_mut(names::CT4_TCP).unwrap()).unwrap();
        table.insert(Raw(key), Raw(value), 0).unwrap();
    }

    /// Writes an entry as it is into the pod's active trie.
    pub(crate) fn write_entry(&mut self, pod: LocalPod, prefix_len: u32, data: [u8; 8], value: PolicyValue) {
        let trie = self.trie(pod);
        trie.insert(&Key::new(prefix_len, data), Raw(value), 0).unwrap();
    }

    /// Empties the pod's active trie.
    pub(crate) fn clear_entries(&mut self, pod: LocalPod) {
        let trie = self.trie(pod);
        let keys: Vec<_> = trie.keys().map(Result::unwrap).collect();
        for key in keys {
            trie.remove(&key).unwrap();
        }
    }

    /// Allows everything in and out of both pods (cookies 11 and 12).
    pub(crate) fn open(&mut self) {
        for pod in [A, B] {
            self.allow(pod, Rule::ingress().cookie(11));
            self.allow(pod, Rule::egress().cookie(12));
        }
    }

    /// Runs a program on a frame, at the interface of `pod` when there is one.
    pub(crate) fn run(&mut self, program: &str, pod: Option<LocalPod>, frame: &[u8]) -> Run {
        self.run_marked(program, pod, frame, 0)
    }

    /// [`Kernel::run`] on a packet that has a mark already.
    pub(crate) fn run_marked(
        &mut self,
        program: &str,
        pod: Option<LocalPod>,
        frame: &[u8],
        mark: u32,
    ) -> Run {
        let mut interfaces: HashMap<_, u32, u32> =
            HashMap::try_from(self.ebpf.map_mut(names::IFINDEX_SLOT).unwrap()).unwrap();
        match pod {
            Some(pod) => interfaces.insert(TEST_IFINDEX, u32::from(pod.slot), 0).unwrap(),
            None => drop(interfaces.remove(&TEST_IFINDEX)),
        }
        let (result, frame, mark) = self.test_run(program, frame, mark, 1);
        Run { action: result.0, events: self.events(), frame, mark }
    }

    /// Mean time of one run, for benchmarks.
    pub(crate) fn time(&mut self, program: &str, frame: &[u8], repeat: u32) -> Duration {
        let (result, ..) = self.test_run(program, frame, 0, repeat);
        result.1
    }

    /// Runs a program, which ran before, on a frame; many threads may do so at a time.
    pub(crate) fn repeat(&self, program: &str, frame: &[u8], repeat: u32) {
        let program: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        let mut out = vec![0; frame.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.repeat = repeat;
        program.test_run(options).unwrap();
    }

    /// Instructions that the verifier walked through.
    pub(crate) fn verified_instructions(&self, name: &str) -> u32 {
        let program: &SchedClassifier = self.ebpf.program(name).unwrap().try_into().unwrap();
        program.info().unwrap().verified_instruction_count().unwrap()
    }

    fn test_run(
        &mut self,
        name: &str,
        frame: &[u8],
        mark: u32,
        repeat: u32,
    ) -> ((u32, Duration), Vec<u8>, u32) {
        let program: &mut SchedClassifier = self.ebpf.program_mut(name).unwrap().try_into().unwrap();
        if program.fd().is_err() {
            program.load().unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        let mut context = [0; CONTEXT_LEN];
        context[MARK_AT..MARK_AT + 4].copy_from_slice(&mark.to_ne_bytes());
        let mut context_out = [0; CONTEXT_LEN];
        let mut out = vec![0; frame.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut context_out);
        options.repeat = repeat;
        let result = program.test_run(options).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        out.truncate(result.data_size_out as usize);
        let mark = u32::from_ne_bytes(context_out[MARK_AT..MARK_AT + 4].try_into().unwrap());
        ((result.return_value, result.duration), out, mark)
    }

    /// All records that wait, lane by lane, ordered by time.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for (index, ring) in self.rings.iter_mut().enumerate() {
            while let Some(sample) = ring.next() {
                let event = *Event::from_bytes(&sample).expect("an event record");
                assert_eq!(usize::from(event.lane), index, "{event:?}");
                events.push(event);
            }
        }
        events.sort_by_key(|event| event.boot_ns);
        events
    }

    /// Packets counted under a direction and a reason, over all CPUs.
    pub(crate) fn counted(&self, direction: u8, reason: u8) -> u64 {
        let metrics: PerCpuArray<_, Raw<PacketCount>> =
            PerCpuArray::try_from(self.ebpf.map(names::METRICS).unwrap()).unwrap();
        metrics.get(&metric_index(direction, reason), 0).unwrap().iter().map(|count| count.0.packets).sum()
    }

    /// A lane's counters, over all CPUs.
    pub(crate) fn lane(&self, lane: u8) -> LaneCount {
        let lanes: PerCpuArray<_, Raw<LaneCount>> =
            PerCpuArray::try_from(self.ebpf.map(names::LANES).unwrap()).unwrap();
        let mut sum = LaneCount::default();
        for Raw(count) in lanes.get(&lane.into(), 0).unwrap().iter() {
            sum.attempts += count.attempts;
            sum.submitted += count.submitted;
            sum.reserve_failed += count.reserve_failed;
            sum.folded += count.folded;
        }
        sum
    }

    /// What was counted instead of written.
    pub(crate) fn folds(&self) -> Vec<(FoldKey, FoldCount)> {
        let counts: HashMap<_, Raw<FoldKey>, Raw<FoldCount>> =
            HashMap::try_from(self.ebpf.map(names::FOLD).unwrap()).unwrap();
        let entries = counts.iter().map(Result::unwrap);
        entries.map(|(Raw(key), Raw(count))| (key, count)).collect()
    }

    /// The packet that stands for the counted ones of a key.
    pub(crate) fn fold_sample(&self, key: &FoldKey) -> Option<Event> {
        let samples: HashMap<_, Raw<FoldKey>, Raw<Event>> =
            HashMap::try_from(self.ebpf.map(names::FOLD_SAMPLE).unwrap()).unwrap();
        samples.get(&Raw(*key), 0).ok().map(|Raw(event)| event)
    }

    /// All conntrack entries: the IPv4 tables', then the IPv6 tables'.
    pub(crate) fn connections(&self) -> Vec<CtValue> {
        let mut found = Vec::new();
        for name in [names::CT4_TCP, names::CT4_ANY] {
            let table: HashMap<_, Raw<CtKey4>, Raw<CtValue>> =
                HashMap::try_from(self.ebpf.map(name).unwrap()).unwrap();
            found.extend(table.iter().map(|entry| entry.unwrap().1.0));
        }
        for name in [names::CT6_TCP, names::CT6_ANY] {
            let table: HashMap<_, Raw<CtKey6>, Raw<CtValue>> =
                HashMap::try_from(self.ebpf.map(name).unwrap()).unwrap();
            found.extend(table.iter().map(|entry| entry.unwrap().1.0));
        }
        found
    }

    /// Forgets connections and fragments.
    pub(crate) fn forget(&mut self) {
        for name in [names::CT4_TCP, names::CT4_ANY] {
            self.clear::<CtKey4, CtValue>(name);
        }
        for name in [names::CT6_TCP, names::CT6_ANY] {
            self.clear::<CtKey6, CtValue>(name);
        }
        self.clear::<[u8; 40], [u8; 12]>("SP_FRAGMENTS");
    }

    fn clear<K: Copy + 'static, V: Copy + 'static>(&mut self, name: &str) {
        let mut table: HashMap<_, Raw<K>, Raw<V>> =
            HashMap::try_from(self.ebpf.map_mut(name).unwrap()).unwrap();
        let keys: Vec<_> = table.keys().map(Result::unwrap).collect();
        for key in keys {
            table.remove(&key).unwrap();
        }
    }

    /// Removes every IPv4 TCP entry.
    pub(crate) fn clear_connections(&mut self) {
        let mut table: HashMap<_, Raw<CtKey4>, Raw<CtValue>> =
            HashMap::try_from(self.ebpf.map_mut(names::CT4_TCP).unwrap()).unwrap();
        let keys: Vec<_> = table.keys().map(Result::unwrap).collect();
        for key in keys {
            table.remove(&key).unwrap();
        }
    }

    /// Changes every IPv4 TCP entry in place.
    pub(crate) fn edit_connections(&mut self, change: impl Fn(&mut CtValue)) {
        let mut table: HashMap<_, Raw<CtKey4>, Raw<CtValue>> =
            HashMap::try_from(self.ebpf.map_mut(names::CT4_TCP).unwrap()).unwrap();
        let entries: Vec<_> = table.iter().map(|entry| entry.unwrap()).collect();
        for (key, Raw(mut value)) in entries {
            change(&mut value);
            table.insert(key, Raw(value), 0).unwrap();
        }
    }
}

/// One policy entry in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    peer: u32,
    egress: bool,
    proto: u8,
    port: u16,
    port_bits: u8,
    deny: bool,
    audit: bool,
    proxy: u16,
    cookie: u32,
}

impl Rule {
    const fn new(egress: bool) -> Self {
        Self {
            peer: 0,
            egress,
            proto: 0,
            port: 0,
            port_bits: 0,
            deny: false,
            audit: false,
            proxy: 0,
            cookie: 1,
        }
    }

    /// Allows everything in.
    pub(crate) const fn ingress() -> Self {
        Self::new(false)
    }

    /// Allows everything out.
    pub(crate) const fn egress() -> Self {
        Self::new(true)
    }

    pub(crate) const fn peer(mut self, identity: u32) -> Self {
        self.peer = identity;
        self
    }

    pub(crate) const fn proto(mut self, proto: u8) -> Self {
        self.proto = proto;
        self
    }

    pub(crate) const fn port(self, proto: u8, port: u16) -> Self {
        self.ports(proto, port, 16)
    }

    /// The ports that share the first `bits` bits with `port`.
    pub(crate) const fn ports(mut self, proto: u8, port: u16, bits: u8) -> Self {
        (self.proto, self.port, self.port_bits) = (proto, port, bits);
        self
    }

    pub(crate) const fn deny(mut self) -> Self {
        self.deny = true;
        self
    }

    pub(crate) const fn audit(mut self) -> Self {
        self.audit = true;
        self
    }

    pub(crate) const fn proxy(mut self, port: u16) -> Self {
        self.proxy = port;
        self
    }

    pub(crate) const fn cookie(mut self, cookie: u32) -> Self {
        self.cookie = cookie;
        self
    }
}

/// A frame that a pod sends: its MAC, to its gateway.
pub(crate) fn from_pod(pod: LocalPod, frame: Frame) -> Vec<u8> {
    frame.macs(pod.mac, pod.host_mac).bytes()
}

/// Mapped form of an address.
pub(crate) fn octets16(address: &str) -> [u8; 16] {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn octets4(address: &str) -> [u8; 4] {
    address.parse::<std::net::Ipv4Addr>().unwrap().octets()
}
