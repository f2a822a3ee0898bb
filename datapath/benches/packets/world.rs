//! A loaded node: two pods with policies, an ipcache, connection tables, and the lanes.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, ArrayOfMaps, HashMap, LpmTrie, MapData, PerCpuArray, ProgramArray, RingBuf};
use aya::programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader, Pod};
use specola_datapath::abi::{
    config,
    conntrack::{CtKey4, CtKey6, CtValue},
    endpoint::{EndpointRecord, PolicyState, address_hint, policy_flags},
    event::lane,
    ipcache::{IpInfo, IpKey},
    metrics::LaneCount,
    names,
    policy::{MAX_ENTRIES, PRECEDENCE_ALLOW, PREFIX_FULL, PolicyValue},
    v4_mapped,
};

use crate::plan::{MAX_PROGRAMS, Plan, Tuple};

/// Entries of each pod's policy.
pub(crate) const POLICY_ENTRIES: u32 = 1_000;
/// Addresses of other nodes' pods in the ipcache.
pub(crate) const ADDRESSES: u32 = 10_000;
/// Room of each connection table.
pub(crate) const CT_ENTRIES: u32 = 65_536;
/// Port that policies allow.
pub(crate) const OPEN_PORT: u16 = 80;
/// Port that no policy allows.
pub(crate) const CLOSED_PORT: u16 = 81;

/// A pod of the node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalPod {
    pub(crate) slot: u16,
    pub(crate) identity: u32,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: [u8; 16],
    pub(crate) mac: [u8; 6],
    pub(crate) host_mac: [u8; 6],
}

const fn pod(slot: u16) -> LocalPod {
    let number = slot as u8;
    LocalPod {
        slot,
        identity: 5000 + slot as u32,
        v4: Ipv4Addr::new(10, 0, 1, number),
        v6: [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 1, number],
        mac: [0x0a, 0, 0, 0, 0, number],
        host_mac: [0x0a, 0, 0, 0, 1, number],
    }
}

pub(crate) const A: LocalPod = pod(1);
pub(crate) const B: LocalPod = pod(2);

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Raw<T>(T);

// SAFETY: used with types without padding only: those of the ABI and of `plan`.
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

type Trie = LpmTrie<MapData, [u8; 8], Raw<PolicyValue>>;

/// What is consumed of the lanes, by whoever holds the lock.
pub(crate) struct Lanes(Vec<RingBuf<MapData>>);

impl Lanes {
    /// Takes out everything; gives how many records.
    pub(crate) fn drain(&mut self) -> u64 {
        let mut records = 0;
        for ring in &mut self.0 {
            while ring.next().is_some() {
                records += 1;
            }
        }
        records
    }
}

/// The kernel side of the benchmark.
pub(crate) struct World {
    ebpf: Ebpf,
    pub(crate) lanes: Arc<Mutex<Lanes>>,
    programs: Vec<String>,
    _tries: Vec<Trie>,
}

/// The interface that test runs happen on: the loopback device.
const TEST_IFINDEX: u32 = 1;
/// Peers that policies name.
const IDENTITIES: u32 = POLICY_ENTRIES / 4;
const FIRST_IDENTITY: u32 = 20_000;

/// Address of a pod of another node, by number.
pub(crate) fn remote(number: u32) -> Ipv4Addr {
    // Spread over four nodes' ranges, so that neighbours in the table are none in the address.
    let [_, _, high, low] = number.wrapping_mul(40_503).to_be_bytes();
    let [.., node] = (number / 65_536).to_be_bytes();
    Ipv4Addr::new(10, 16 + node, high, low)
}

impl World {
    pub(crate) fn new(object: &[u8], fold_per_second: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.override_global(config::FOLD_PER_SECOND, &fold_per_second, true);
        for table in [names::CT4_TCP, names::CT4_ANY, names::CT6_TCP, names::CT6_ANY] {
            loader.map_max_entries(table, CT_ENTRIES);
        }
        let mut ebpf = loader.load(object).context("loading the maps; bpf() needs root")?;
        let rings = [names::RING_DENY, names::RING_ALLOW, names::RING_TRACE]
            .into_iter()
            .map(|name| Ok(RingBuf::try_from(ebpf.take_map(name).context(name)?)?))
            .collect::<Result<_>>()?;
        let mut programs = Vec::new();
        for (name, program) in ebpf.programs_mut() {
            let program: &mut SchedClassifier = program.try_into()?;
            program.load().with_context(|| format!("loading {name}"))?;
            programs.push(name.to_owned());
        }
        ensure!(programs.len() <= MAX_PROGRAMS as usize, "{} programs are too many", programs.len());
        let mut world =
            Self { ebpf, lanes: Arc::new(Mutex::new(Lanes(rings))), programs, _tries: Vec::new() };
        world.link_programs()?;
        world.fill()?;
        Ok(world)
    }

    /// Gives the driver the programs to call.
    fn link_programs(&mut self) -> Result<()> {
        let fds: Vec<ProgramFd> = self
            .programs
            .iter()
            .map(|name| {
                let program: &SchedClassifier = self.ebpf.program(name).context("a program")?.try_into()?;
                Ok(program.fd()?.try_clone()?)
            })
            .collect::<Result<_>>()?;
        let mut table = ProgramArray::try_from(self.ebpf.map_mut("BN_PROGRAMS").context("BN_PROGRAMS")?)?;
        for (index, fd) in (0..).zip(&fds) {
            table.set(index, fd, 0)?;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        for pod in [A, B] {
            for address in [v4_mapped(pod.v4.octets()), pod.v6] {
                self.address(
                    address,
                    IpInfo { identity: pod.identity, slot: pod.slot, ..IpInfo::default() },
                )?;
            }
            let trie = self.policy(pod)?;
            self._tries.push(trie);
        }
        for number in 0..ADDRESSES {
            let identity = FIRST_IDENTITY + number % IDENTITIES;
            let address = v4_mapped(remote(number).octets());
            self.address(address, IpInfo { identity, ..IpInfo::default() })?;
        }
        let mut node: Array<_, u64> = Array::try_from(self.ebpf.map_mut(names::NODE).context("node")?)?;
        Ok(node.set(0, 1, 0)?)
    }

    fn endpoint(&mut self, pod: LocalPod, ifindex: u32) -> Result<()> {
        let state = PolicyState { revision: 1, flags: policy_flags::READY, ..PolicyState::default() };
        let record = EndpointRecord {
            word: EndpointRecord::word_of(0, 1),
            policy: [state; 2],
            ifindex,
            identity: pod.identity,
            id: pod.slot,
            mac: pod.mac,
            host_mac: pod.host_mac,
            ipv4: pod.v4.octets(),
            ipv6: pod.v6,
            ..EndpointRecord::default()
        };
        let mut table: Array<_, Raw<EndpointRecord>> =
            Array::try_from(self.ebpf.map_mut(names::ENDPOINTS).context("endpoints")?)?;
        Ok(table.set(pod.slot.into(), Raw(record), 0)?)
    }

    fn address(&mut self, addr: [u8; 16], info: IpInfo) -> Result<()> {
        let mut cache: HashMap<_, Raw<IpKey>, Raw<IpInfo>> =
            HashMap::try_from(self.ebpf.map_mut(names::IPCACHE).context("ipcache")?)?;
        Ok(cache.insert(Raw(IpKey { addr }), Raw(info), 0)?)
    }

    /// Each remote identity and the other pod may use the open port and one more, in both directions.
    fn policy(&mut self, pod: LocalPod) -> Result<Trie> {
        const NO_PREALLOC: u32 = 1;
        const TCP: u8 = 6;
        let mut trie: Trie = LpmTrie::create(MAX_ENTRIES, NO_PREALLOC)?;
        let peers = (FIRST_IDENTITY..FIRST_IDENTITY + IDENTITIES).chain([A.identity, B.identity]);
        let entries = peers.flat_map(|peer| {
            [(0, OPEN_PORT), (0, 443), (1, OPEN_PORT), (1, 443)].map(|(egress, port)| (peer, egress, port))
        });
        for ((peer, egress, port), cookie) in entries.zip(1..) {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&u32::to_ne_bytes(peer));
            (data[4], data[5]) = (egress, TCP);
            data[6..].copy_from_slice(&u16::to_be_bytes(port));
            let value = PolicyValue {
                proxy_port_be: 0,
                deny_plen: 24 << 3,
                auth: 0,
                precedence: PRECEDENCE_ALLOW,
                cookie,
            };
            trie.insert(&Key::new(PREFIX_FULL, data), Raw(value), 0)?;
        }
        let mut outer: ArrayOfMaps<_, Trie> =
            ArrayOfMaps::try_from(self.ebpf.map_mut(names::POLICY).context("policy")?)?;
        outer.set(2 * u32::from(pod.slot), &trie, 0)?;
        Ok(trie)
    }

    /// Says which pod's interface the test interface is.
    pub(crate) fn plug(&mut self, pod: LocalPod) -> Result<()> {
        for other in [A, B] {
            let ifindex = if other.slot == pod.slot { TEST_IFINDEX } else { 100 + u32::from(other.slot) };
            self.endpoint(other, ifindex)?;
        }
        let mut hints: Array<_, u64> =
            Array::try_from(self.ebpf.map_mut(names::IFINDEX_HINT).context("interfaces")?)?;
        hints.set(TEST_IFINDEX, u64::from(pod.slot), 0)?;
        let mut hints: Array<_, u64> =
            Array::try_from(self.ebpf.map_mut(names::ADDRESS_HINT).context("addresses")?)?;
        for pod in [A, B] {
            for address in [v4_mapped(pod.v4.octets()), pod.v6] {
                let [.., a, b, c, d, e, f, g, h] = address;
                let half = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                hints.set(address_hint(half), u64::from(pod.slot), 0)?;
            }
        }
        let mut interfaces: HashMap<_, u32, u32> =
            HashMap::try_from(self.ebpf.map_mut(names::IFINDEX_SLOT).context("interfaces")?)?;
        Ok(interfaces.insert(TEST_IFINDEX, u32::from(pod.slot), 0)?)
    }

    /// Gives the driver its tuples.
    pub(crate) fn set_tuples(&mut self, tuples: &[Tuple]) -> Result<()> {
        let mut table: Array<_, Raw<Tuple>> =
            Array::try_from(self.ebpf.map_mut("BN_TUPLES").context("BN_TUPLES")?)?;
        for (index, tuple) in (0..).zip(tuples) {
            table.set(index, Raw(*tuple), 0)?;
        }
        Ok(())
    }

    /// Runs a program through the driver, from the first tuple on. Gives the last action and the mean time of a run.
    pub(crate) fn drive(
        &mut self,
        program: &str,
        frame: &[u8],
        plan: Plan,
        repeat: u32,
    ) -> Result<(u32, Duration)> {
        let index =
            self.programs.iter().position(|name| name == program).context("a program of the object")?;
        let plan = Plan { program: u32::try_from(index)?, ..plan };
        let mut table: Array<_, Raw<Plan>> =
            Array::try_from(self.ebpf.map_mut("BN_PLAN").context("BN_PLAN")?)?;
        table.set(0, Raw(plan), 0)?;
        self.time("bench_driver", frame, repeat)
    }

    /// Runs a program by itself.
    pub(crate) fn time(&mut self, program: &str, frame: &[u8], repeat: u32) -> Result<(u32, Duration)> {
        let program: &SchedClassifier = self.ebpf.program(program).context("a program")?.try_into()?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let result = program.test_run(options)?;
        Ok((result.return_value, result.duration))
    }

    /// Empties the lanes.
    pub(crate) fn drain(&self) -> u64 {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).drain()
    }

    /// All lanes' counters, over all CPUs.
    pub(crate) fn records(&self) -> Result<LaneCount> {
        let lanes: PerCpuArray<_, Raw<LaneCount>> =
            PerCpuArray::try_from(self.ebpf.map(names::LANES).context("lanes")?)?;
        let mut sum = LaneCount::default();
        for index in 0..u32::try_from(lane::COUNT)? {
            for Raw(count) in lanes.get(&index, 0)?.iter() {
                sum.attempts += count.attempts;
                sum.submitted += count.submitted;
                sum.reserve_failed += count.reserve_failed;
                sum.folded += count.folded;
            }
        }
        Ok(sum)
    }

    /// Removes the TCP connections for which `goes` says so.
    pub(crate) fn remove_connections(&mut self, goes: impl Fn(&CtKey4) -> bool) -> Result<()> {
        let mut table: HashMap<_, Raw<CtKey4>, Raw<CtValue>> =
            HashMap::try_from(self.ebpf.map_mut(names::CT4_TCP).context("connections")?)?;
        let keys: Vec<_> = table.keys().collect::<Result<_, _>>()?;
        for key in keys.into_iter().filter(|key| goes(&key.0)) {
            table.remove(&key)?;
        }
        Ok(())
    }

    /// Removes every IPv6 TCP connection.
    pub(crate) fn remove_connections6(&mut self) -> Result<()> {
        let mut table: HashMap<_, Raw<CtKey6>, Raw<CtValue>> =
            HashMap::try_from(self.ebpf.map_mut(names::CT6_TCP).context("connections")?)?;
        let keys: Vec<_> = table.keys().collect::<Result<_, _>>()?;
        for key in keys {
            table.remove(&key)?;
        }
        Ok(())
    }

    /// IPv4 TCP connections in the table.
    pub(crate) fn connections(&self) -> Result<usize> {
        let table: HashMap<_, Raw<CtKey4>, Raw<CtValue>> =
            HashMap::try_from(self.ebpf.map(names::CT4_TCP).context("connections")?)?;
        let keys: Vec<_> = table.keys().collect::<Result<_, _>>()?;
        Ok(keys.len())
    }
}
