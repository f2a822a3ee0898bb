//! The whole of one node's datapath.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::{Map, MapData, RingBuf};
use ipnet::IpNet;
use specola_datapath_common::endpoint::{EndpointRecord, PolicyState};
use specola_datapath_common::event::lane;
use specola_datapath_common::ipcache::IpInfo;
use specola_datapath_common::metrics::LaneCount;
use specola_datapath_common::names;
use specola_datapath_common::policy::{PolicyKey, PolicyValue};

use crate::OBJECT;
use crate::attach::{self, AttachError, Attacher, Attachment};
use crate::book::{self, Book};
use crate::config::{AttachMode, Config};
use crate::events::{Bell, EventReader, FOLDS_PIN, Folds, Ledger, READER_PIN, ReaderCounts};
use crate::load::{self, LoadError, Pins, RecreatedMap};
use crate::maps::changes::{self, Changes, ConnectionCounts};
use crate::maps::conntrack::Conntrack;
use crate::maps::counters::{Counters, FoldBook, LaneBook, PacketCounts};
use crate::maps::endpoints::{self, EndpointError, EndpointTable};
use crate::maps::ipcache::Ipcache;
use crate::maps::policy::{ApplyError, PolicyMaps, PolicyUpdate};
use crate::maps::words::{Positions, Words};
use crate::maps::{MapsError, take, take_as};

/// Loaded programs with their maps.
///
/// Dropping it detaches and removes nothing: links and maps are pinned, and the next [`Self::load`] takes them over.
#[derive(Debug)]
pub struct Datapath {
    pub(crate) ebpf: Ebpf,
    attacher: Attacher,
    endpoints: EndpointTable,
    policy: PolicyMaps,
    ipcache: Ipcache,
    node: NodeEpoch,
    counters: Counters,
    backlogs: [Positions; lane::COUNT],
    conntrack: Option<Conntrack>,
    changes: Changes,
    reader: Option<EventReader>,
    ledger: Ledger,
    folds: Arc<Mutex<Folds>>,
    recreated: Vec<RecreatedMap>,
    build: load::migrate::Build,
    pins: Pins,
    book: Book,
}

impl Datapath {
    /// Loads the programs and makes or takes over the pinned maps. Programs that an earlier process attached run on
    /// until the same interface is attached again.
    ///
    /// Endpoints found in the maps keep their policy: see [`Self::endpoints`].
    ///
    /// # Errors
    /// No BPF file system, no right to load programs, a kernel that refuses them, or a setting out of range.
    pub fn load(config: &Config) -> Result<Self, LoadError> {
        Self::load_from(config, OBJECT, &load::migrate::THIS)
    }

    /// [`Self::load`] with programs from another object.
    pub(crate) fn load_from(
        config: &Config,
        object: &[u8],
        build: &load::migrate::Build,
    ) -> Result<Self, LoadError> {
        let mut loaded = load::maps(config, object, build)?;
        load::programs(&mut loaded.ebpf)?;
        Self::assemble(config, loaded, *build)
    }

    /// Like [`Self::load`], without giving the programs to the kernel, which takes a while: nothing can be attached.
    ///
    /// # Errors
    /// As for [`Self::load`].
    #[cfg(feature = "test-util")]
    pub fn load_maps(config: &Config) -> Result<Self, LoadError> {
        Self::assemble(config, load::maps(config, OBJECT, &load::migrate::THIS)?, load::migrate::THIS)
    }

    fn assemble(
        config: &Config,
        loaded: load::Loaded,
        build: load::migrate::Build,
    ) -> Result<Self, LoadError> {
        let load::Loaded { mut ebpf, recreated, policy, pins } = loaded;
        let book = Book::open(&pins.map(book::NAME))?;
        let rings = rings(&mut ebpf)?;
        let backlogs = backlogs(&rings)?;
        let ledger = Ledger::open(&pins.map(READER_PIN))?;
        let folds = Arc::new(Mutex::new(Folds::open(&mut ebpf, &pins.map(FOLDS_PIN), ledger.clone())?));
        let bell = Bell::open(&mut ebpf)?;
        let lanes = config.lane_bytes;
        let changes = Changes::open(&mut ebpf, &pins.map(changes::NAME))?;
        if recreated.iter().any(|map| load::migrate::TABLES.contains(&map.name.as_str())) {
            changes.begin_anew();
        }
        let mut datapath = Self {
            attacher: Attacher::new(config.attach, pins.links()),
            endpoints: EndpointTable::open(&mut ebpf)?,
            policy: PolicyMaps::open(&mut ebpf, policy, pins.policy())?,
            ipcache: Ipcache::open(&mut ebpf)?,
            node: NodeEpoch::open(&mut ebpf)?,
            counters: Counters::open(&mut ebpf)?,
            conntrack: Conntrack::open_if_known(&mut ebpf, &build, &changes)?,
            changes,
            backlogs,
            reader: Some(EventReader::new(
                rings,
                lanes,
                bell,
                ledger.clone(),
                Arc::clone(&folds),
                pins.clone(),
            )),
            ledger,
            folds,
            ebpf,
            recreated,
            build,
            pins,
            book,
        };
        for (slot, record) in datapath.endpoints() {
            datapath.policy.open_slot(slot, EndpointRecord::active(record.word))?;
        }
        Ok(datapath)
    }

    /// Maps whose pins had another layout and were replaced by new ones at load.
    pub fn recreated(&self) -> &[RecreatedMap] {
        &self.recreated
    }

    /// Whether maps of another layout are pinned: programs that an earlier process attached may use them. Then, to
    /// change over without a wrong verdict: fill the new maps, call [`Self::migrate_connections`], attach every
    /// interface, call [`Self::remove_old_maps`].
    ///
    /// # Errors
    /// The pin directory cannot be read.
    pub fn has_old_maps(&self) -> Result<bool, MapsError> {
        Ok(!self.pins.other_layouts().map_err(self.pins_failed())?.is_empty())
    }

    /// Copies connections from the tables of other layouts, those that are not in the new ones. Gives what became of
    /// each old table; a layout that this program does not know stays behind, counted.
    ///
    /// # Errors
    /// A table cannot be read or written.
    pub fn migrate_connections(&mut self) -> Result<Vec<load::migrate::MigratedMap>, MapsError> {
        load::migrate::connections(&self.build, &self.pins)
    }

    /// Copies the connections that began since [`Self::migrate_connections`], and unpins the maps of other layouts. To
    /// be called once every interface is attached anew, when no program uses them any more. Gives their names.
    ///
    /// # Errors
    /// A table cannot be read or written, or a pin cannot be removed.
    pub fn remove_old_maps(&mut self) -> Result<Vec<String>, MapsError> {
        self.migrate_connections()?;
        let removed = self.pins.remove_other_layouts().map_err(self.pins_failed())?;
        if removed.iter().any(|pin| load::migrate::TABLES.iter().any(|table| pin.starts_with(table))) {
            self.changes.begin_anew();
        }
        Ok(removed)
    }

    fn pins_failed(&self) -> impl FnOnce(std::io::Error) -> MapsError + use<> {
        let path = self.pins.dir().to_owned();
        move |cause| MapsError::Pin { name: "SP_*", path, cause }
    }

    /// How programs are hooked: [`AttachMode::Tcx`] or [`AttachMode::Clsact`].
    pub fn attach_mode(&self) -> AttachMode {
        self.attacher.mode()
    }

    /// Attaches to the host side of a pod's veth pair, in this thread's network namespace. Repeating it does no harm
    /// and repairs what somebody removed; the same holds for the other kinds of interface.
    ///
    /// # Errors
    /// No such interface, or the kernel refuses.
    pub fn attach_endpoint(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.attacher.attach(&mut self.ebpf, ifindex, attach::ENDPOINT)
    }

    /// Attaches to a device of the node, in this thread's network namespace.
    ///
    /// # Errors
    /// No such interface, or the kernel refuses.
    pub fn attach_netdev(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.attacher.attach(&mut self.ebpf, ifindex, attach::NETDEV)
    }

    /// Attaches to the device between pods and the host's stack, in this thread's network namespace.
    ///
    /// # Errors
    /// No such interface, or the kernel refuses.
    pub fn attach_host(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.attacher.attach(&mut self.ebpf, ifindex, attach::HOST)
    }

    /// Detaches everything of ours from an interface, which may be gone already.
    ///
    /// # Errors
    /// A pin cannot be removed, or the kernel refuses.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), AttachError> {
        self.attacher.detach(ifindex)
    }

    /// Pinned links, also those of interfaces that are gone.
    ///
    /// # Errors
    /// The pin directory cannot be read.
    pub fn attachments(&self) -> Result<Vec<Attachment>, AttachError> {
        self.attacher.attachments()
    }

    /// Endpoints in the table, with their slots; after a restart those of the earlier process.
    pub fn endpoints(&self) -> Vec<(u16, EndpointRecord)> {
        self.endpoints.iter().collect()
    }

    /// The endpoint of a slot.
    pub fn endpoint(&self, slot: u16) -> Option<EndpointRecord> {
        self.endpoints.live(slot)
    }

    /// The slot that packets of an interface find.
    ///
    /// # Errors
    /// The map fails.
    pub fn slot_of(&self, ifindex: u32) -> Result<Option<u16>, MapsError> {
        self.endpoints.slot_of(ifindex)
    }

    /// Whether an endpoint lives in a slot and has a realized policy.
    pub fn is_ready(&self, slot: u16) -> bool {
        self.endpoints.live(slot).is_some_and(|record| endpoints::is_ready(&record))
    }

    /// Adds an endpoint. A new one drops its packets until its first policy is applied; its `word` and `policy`
    /// fields do not matter. One that lives in the slot already (same id, interface and addresses) keeps its policy;
    /// its identity and MAC addresses are brought up to date.
    ///
    /// # Errors
    /// The slot does not exist or belongs to another endpoint, a field is unset, or a map fails.
    pub fn add_endpoint(&mut self, slot: u16, record: &EndpointRecord) -> Result<(), EndpointError> {
        endpoints::check_record(slot, record)?;
        if let Some(holder) = self.endpoints.live(slot) {
            if !endpoints::same_endpoint(&holder, record) {
                return Err(EndpointError::Taken { slot, holder: holder.id, ifindex: holder.ifindex });
            }
            self.policy.open_slot(slot, EndpointRecord::active(holder.word))?;
            return Ok(self.endpoints.refresh(slot, record)?);
        }
        let active = EndpointRecord::active(self.endpoints.record(slot).word);
        self.policy.open_slot(slot, active)?;
        self.policy.clear_slot(slot)?;
        Ok(self.endpoints.insert(slot, record)?)
    }

    /// Removes an endpoint and its policy; packets of its interface drop from now on. An empty slot is no error.
    ///
    /// # Errors
    /// The slot does not exist, or a map fails.
    pub fn remove_endpoint(&mut self, slot: u16) -> Result<(), EndpointError> {
        endpoints::check_slot(slot)?;
        if self.endpoints.live(slot).is_some() {
            self.endpoints.remove(slot)?;
        }
        Ok(self.policy.close_slot(slot)?)
    }

    /// Applies a change of one endpoint's policy, atomically for packets. Gives the endpoint's new policy epoch.
    ///
    /// Waits for a kernel grace period; to change many endpoints use [`Self::apply_policies`], to go on while it lasts
    /// [`Self::start_policies`].
    ///
    /// # Errors
    /// The policy does not fit, an entry is malformed, the slot is empty, or a map fails. The old policy holds then.
    pub fn apply_policy(
        &mut self,
        slot: u16,
        upserts: &[(PolicyKey, PolicyValue)],
        deletes: &[PolicyKey],
        state: PolicyState,
    ) -> Result<u32, ApplyError> {
        let update = PolicyUpdate { slot, upserts: upserts.to_vec(), deletes: deletes.to_vec(), state };
        let mut results = self.apply_policies(&[update]);
        results.pop().expect("one result per update")
    }

    /// Applies changes of several endpoints' policies under one grace period. One result per update, as
    /// [`Self::apply_policy`] gives it; an update that fails does not hold up the others.
    pub fn apply_policies(&mut self, updates: &[PolicyUpdate]) -> Vec<Result<u32, ApplyError>> {
        let results = self.start_policies(updates);
        self.policy.finish(true);
        results
    }

    /// The first half of [`Self::apply_policies`]: on return packets follow the new policies. The second half, which
    /// only the next change of the same endpoint needs, is [`Self::finish_policies`].
    pub fn start_policies(&mut self, updates: &[PolicyUpdate]) -> Vec<Result<u32, ApplyError>> {
        self.policy.start(&self.endpoints, updates)
    }

    /// Does what [`Self::start_policies`] left, as far as the grace periods for it are over. Never waits.
    pub fn finish_policies(&mut self) {
        self.policy.finish(false);
    }

    /// Waits until every program run that is under way has ended: some milliseconds.
    pub fn wait_for_readers(&self) {
        self.policy.wait_for_readers();
    }

    /// Whether there is anything left to finish.
    pub fn has_unfinished_policies(&self) -> bool {
        self.policy.is_unfinished()
    }

    /// Writes the inactive trie and makes it the active one, as a process does that dies before the grace period ends.
    ///
    /// # Errors
    /// As for [`Self::apply_policy`].
    #[cfg(feature = "test-util")]
    pub fn apply_first_half(&mut self, update: &PolicyUpdate) -> Result<u32, ApplyError> {
        self.policy.apply_first_half(&self.endpoints, update)
    }

    /// Policy entries in force for an endpoint.
    pub fn policy(&self, slot: u16) -> Option<&HashMap<PolicyKey, PolicyValue>> {
        self.policy.content(slot)
    }

    /// Policy entries that the kernel holds in one of an endpoint's two tries (0 or 1), read from the kernel.
    ///
    /// # Errors
    /// The trie cannot be read.
    pub fn policy_side(&self, slot: u16, side: u32) -> Result<HashMap<PolicyKey, PolicyValue>, MapsError> {
        self.policy.kernel_content(slot, side)
    }

    /// Sets what is known of an address or prefix, and lets cached verdicts be decided anew. A packet that finds the new
    /// identity is judged by policies that were applied before the call, never by older ones.
    ///
    /// # Errors
    /// The map is full or fails.
    pub fn upsert_ip(&mut self, net: IpNet, info: IpInfo) -> Result<(), MapsError> {
        // The programs look for identities first and for the active trie afterwards. Where the processor may load the
        // second before the first, only a grace period tells them apart.
        if !LOADS_ARE_ORDERED {
            self.policy.wait_for_replaced();
        }
        self.ipcache.upsert(net, info)?;
        self.node.bump();
        Ok(())
    }

    /// Forgets an address or prefix. Gives whether it was known.
    ///
    /// # Errors
    /// The map fails.
    pub fn remove_ip(&mut self, net: IpNet) -> Result<bool, MapsError> {
        let was_known = self.ipcache.remove(net)?;
        if was_known {
            self.node.bump();
        }
        Ok(was_known)
    }

    /// What is known of addresses and prefixes, read from the kernel.
    ///
    /// # Errors
    /// The map fails.
    pub fn ips(&self) -> Result<HashMap<IpNet, IpInfo>, MapsError> {
        self.ipcache.entries()
    }

    /// Makes the table of addresses equal to the one given, in place: unchanged entries are not touched. Gives how
    /// many entries were written or removed.
    ///
    /// # Errors
    /// The map is full or fails; what was changed until then stays.
    pub fn sync_ips(&mut self, wanted: &HashMap<IpNet, IpInfo>) -> Result<usize, MapsError> {
        let changed = self.ipcache.become_equal_to(wanted);
        self.node.bump();
        changed
    }

    /// Packets and bytes by direction and fate.
    ///
    /// # Errors
    /// The map fails.
    pub fn packet_counts(&self) -> Result<Vec<PacketCounts>, MapsError> {
        self.counters.packets()
    }

    /// What happened to the records of each lane; indexed by [`lane`].
    ///
    /// # Errors
    /// The map fails.
    pub fn lane_counts(&self) -> Result<[LaneCount; lane::COUNT], MapsError> {
        self.counters.lanes()
    }

    /// What became of the records of each lane since the maps were made; indexed by [`lane`].
    ///
    /// # Errors
    /// The map fails.
    pub fn lane_books(&self) -> Result<[LaneBook; lane::COUNT], MapsError> {
        self.counters.lane_books(&self.backlogs)
    }

    /// Connections that came and went since the tables were made.
    ///
    /// # Errors
    /// The map fails.
    pub fn connection_counts(&self) -> Result<ConnectionCounts, MapsError> {
        self.changes.read()
    }

    /// What became of the denied packets that the programs counted instead of writing a record.
    ///
    /// # Errors
    /// The counts cannot be read.
    pub fn fold_book(&self) -> Result<FoldBook, MapsError> {
        let mut before = self.counters.folded()?;
        for _ in 1..FoldBook::TRIES {
            let (reported, waiting, after) = self.folds_between()?;
            if before == after && after == reported + waiting {
                return Ok(FoldBook::new(before, reported, waiting, after));
            }
            before = after;
        }
        let (reported, waiting, after) = self.folds_between()?;
        Ok(FoldBook::new(before, reported, waiting, after))
    }

    /// Packets reported and not reported, of one moment, and those folded, of a later one.
    fn folds_between(&self) -> Result<(u64, u64, u64), MapsError> {
        let folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, reported) = (folds.waiting()?, self.ledger.read().folded);
        drop(folds);
        Ok((reported, waiting, self.counters.folded()?))
    }

    /// Numbers that survive this process, for those who keep books of the events.
    pub fn book(&self) -> Book {
        self.book.clone()
    }

    /// Bytes that wait in each lane, with the header of 8 bytes that each record has; indexed by [`lane`].
    pub fn lane_backlogs(&self) -> [u64; lane::COUNT] {
        self.backlogs.each_ref().map(Positions::backlog)
    }

    /// What readers took out of the lanes since the maps were made, also those of earlier processes.
    pub fn reader_counts(&self) -> ReaderCounts {
        self.ledger.read()
    }

    /// Denied packets that the programs counted and no record was made of yet. Folded (of the lanes' counts) = this +
    /// folded (of the reader's counts).
    ///
    /// # Errors
    /// The counts cannot be read.
    pub fn folds_waiting(&self) -> Result<u64, MapsError> {
        self.folds.lock().unwrap_or_else(PoisonError::into_inner).waiting()
    }

    /// The event reader; it can be taken once.
    pub fn take_reader(&mut self) -> Option<EventReader> {
        self.reader.take()
    }

    /// The connection tables; they can be taken once, so that a sweep does not hold up anything else.
    pub fn take_conntrack(&mut self) -> Option<Conntrack> {
        self.conntrack.take()
    }

    /// The node-wide epoch: verdicts that were cached under another one are decided anew.
    pub fn node_epoch(&self) -> u64 {
        self.node.0.word(0).load(Ordering::Relaxed)
    }
}

/// Whether this kind of processor makes loads in the order of the program.
const LOADS_ARE_ORDERED: bool = cfg!(any(target_arch = "x86", target_arch = "x86_64"));

/// The epoch of everything that is known of addresses.
#[derive(Debug)]
struct NodeEpoch(Words, #[expect(dead_code, reason = "keeps the map open as long as its mapping")] Map);

impl NodeEpoch {
    fn open(ebpf: &mut Ebpf) -> Result<Self, MapsError> {
        let map = take(ebpf, names::NODE)?;
        let Map::Array(data) = &map else {
            return Err(MapsError::Missing { name: names::NODE });
        };
        let words = Words::map(data.fd().as_fd(), size_of::<u64>())
            .map_err(|source| MapsError::Mmap { name: names::NODE, source })?;
        Ok(Self(words, map))
    }

    /// Release: a program that sees the new epoch sees the entries written before.
    fn bump(&self) {
        self.0.word(0).fetch_add(1, Ordering::Release);
    }
}

fn rings(ebpf: &mut Ebpf) -> Result<[RingBuf<MapData>; lane::COUNT], MapsError> {
    let [deny, allow, trace] = load::LANES;
    Ok([take_as(ebpf, deny)?, take_as(ebpf, allow)?, take_as(ebpf, trace)?])
}

fn backlogs(rings: &[RingBuf<MapData>; lane::COUNT]) -> Result<[Positions; lane::COUNT], MapsError> {
    let [deny, allow, trace] = rings;
    let open = |ring: &RingBuf<MapData>, name| {
        Words::map_positions(ring.as_fd()).map_err(|source| MapsError::Mmap { name, source })
    };
    let [deny_name, allow_name, trace_name] = load::LANES;
    Ok([open(deny, deny_name)?, open(allow, allow_name)?, open(trace, trace_name)?])
}
