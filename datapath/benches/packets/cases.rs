//! What is measured.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use specola_datapath::abi::names;
use specola_testkit::packet::Frame;

use crate::Options;
use crate::plan::{IS_IPV6, MAX_TUPLES, PEER_IS_DESTINATION, Plan, SWAP_PORTS, Tuple};
use crate::report::{Report, Row};
use crate::world::{A, ADDRESSES, B, CLOSED_PORT, CT_ENTRIES, LocalPod, OPEN_PORT, World, remote};

/// Connections that the table holds: half of its room.
const HELD: u32 = CT_ENTRIES / 2;
/// New connections of a round.
const NEW: u32 = 8_192;
/// Denied packets of a round: fewer than the lane has room for.
const DENIED: u32 = 16_384;
/// Packets of any other round.
const PACKETS: u32 = 50_000;
/// Source port of the first connection that is held, and of the first new one.
const FIRST_PORT: u16 = 1_024;
const FIRST_NEW_PORT: u16 = 40_000;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

const OK: u32 = 0;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// What each packet does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Belongs to one of so many connections.
    Known(u32),
    /// Opens a connection and makes so many records.
    New(u64),
    /// Is denied and makes a record, which somebody reads meanwhile.
    Denied,
    /// Is denied and counted.
    Folded,
}

/// One row of the table.
#[derive(Clone, Debug)]
struct Case {
    name: &'static str,
    program: &'static str,
    kind: Kind,
    frame: Vec<u8>,
    flags: u32,
    /// Pod whose interface the program runs on.
    at: LocalPod,
    /// Who is at the other end.
    peer: Peer,
    action: u32,
    /// Nanoseconds that it may take.
    goal: Option<u64>,
    /// Decides the order of the connections.
    seed: u64,
}

/// The other end of the connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Peer {
    Local(LocalPodAddress),
    Remote,
}

/// Last four bytes of a pod's addresses.
type LocalPodAddress = Ipv4Addr;

/// The benchmark.
pub(crate) struct Bench<'a> {
    object: &'a [u8],
    options: &'a Options,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(object: &'a [u8], options: &'a Options) -> Result<Self> {
        ensure!(HELD <= MAX_TUPLES && u32::from(FIRST_NEW_PORT) + NEW <= 65_535, "tuples fit");
        Ok(Self { object, options })
    }

    /// Measures everything.
    pub(crate) fn run(&self, report: &mut Report) -> Result<()> {
        let mut world = World::new(self.object, 0)?;
        self.group(&mut world, report, same_node())?;
        self.group(&mut world, report, same_node6())?;
        self.group(&mut world, report, outward())?;
        self.group(&mut world, report, inward())?;
        let mut folding = World::new(self.object, 100)?;
        self.group(&mut folding, report, folded())
    }

    /// Cases over one set of connections.
    fn group(&self, world: &mut World, report: &mut Report, group: Group) -> Result<()> {
        let is_wanted =
            |case: &Case| self.options.only.as_ref().is_none_or(|text| case.name.contains(text.as_str()));
        let cases: Vec<Case> = group.cases.into_iter().filter(is_wanted).collect();
        if cases.is_empty() {
            return Ok(());
        }
        world.remove_connections(|_| true)?;
        world.remove_connections6()?;
        for opener in &group.openers {
            // Not in the order in which they are met later: neighbours in memory would be neighbours in time.
            let opener = Case { seed: 1 << 40, ..opener.clone() };
            let (action, _) = opener.drive(world, group.held)?;
            ensure!(action == opener.action, "{}: action {action} while connections are made", opener.name);
            world.drain();
        }
        for case in &cases {
            self.measure(world, report, case)?;
        }
        Ok(())
    }

    fn measure(&self, world: &mut World, report: &mut Report, case: &Case) -> Result<()> {
        let mut row = Row::new(case.name, case.flows(), case.goal);
        for _ in 0..self.options.rounds {
            let (_, bare) = world.time("bench_empty", &case.frame, PACKETS)?;
            let empty = Case { program: "bench_empty", ..case.clone() };
            let (_, driver) = empty.drive(world, case.repeat())?;
            let time = case.round(world)?;
            row.add(bare, driver, time);
        }
        eprintln!("{}", row.line());
        report.add(row);
        Ok(())
    }
}

impl Case {
    /// How many connections there are.
    fn flows(&self) -> Option<u32> {
        if let Kind::Known(flows) = self.kind { Some(flows) } else { None }
    }

    fn repeat(&self) -> u32 {
        match self.kind {
            Kind::New(_) => NEW,
            Kind::Denied => DENIED,
            Kind::Known(_) | Kind::Folded => PACKETS,
        }
    }

    /// Runs the program on that many packets.
    fn drive(&self, world: &mut World, repeat: u32) -> Result<(u32, Duration)> {
        let tuples = self.tuples();
        world.plug(self.at)?;
        world.set_tuples(&tuples)?;
        let mut macs = [0; 6];
        for (word, pair) in macs.iter_mut().zip(self.frame.chunks_exact(2)) {
            *word = u16::from_ne_bytes([pair[0], pair[1]]);
        }
        let mask = u32::try_from(tuples.len())? - 1;
        world.drive(
            self.program,
            &self.frame,
            Plan { mask, macs, flags: self.flags, ..Plan::default() },
            repeat,
        )
    }

    /// One round, checked: it did what its name says.
    fn round(&self, world: &mut World) -> Result<Duration> {
        world.drain();
        let before = world.records()?;
        let reader = (self.kind == Kind::Denied).then(|| Reader::start(world));
        let (action, time) = self.drive(world, self.repeat())?;
        drop(reader);
        let after = world.records()?;
        let name = self.name;
        ensure!(action == self.action, "{name}: action {action}, expected {}", self.action);
        ensure!(after.reserve_failed == before.reserve_failed, "{name}: records were lost");
        let (packets, attempts) = (u64::from(self.repeat()), after.attempts - before.attempts);
        match self.kind {
            // A record now and then: the interval of a connection ended.
            Kind::Known(flows) => {
                ensure!(attempts <= u64::from(flows) + 1, "{name}: {attempts} records of {packets} packets");
            }
            Kind::New(records) => {
                ensure!(attempts == records * packets, "{name}: {attempts} records of {packets} packets");
                world.remove_connections(|key| key.lo_port.max(key.hi_port) >= FIRST_NEW_PORT)?;
                let held = world.connections()?;
                ensure!(held == HELD as usize, "{name}: {held} connections are held");
            }
            Kind::Denied => {
                ensure!(attempts == packets, "{name}: {attempts} records of {packets} packets");
            }
            Kind::Folded => {
                let folded = after.folded - before.folded;
                ensure!(attempts == packets && folded * 10 > packets * 9, "{name}: {folded} folded");
            }
        }
        Ok(time)
    }

    /// The connections in the order of their packets.
    fn tuples(&self) -> Vec<Tuple> {
        let (count, first_port) = match self.kind {
            Kind::Known(_) | Kind::Denied | Kind::Folded => (HELD, FIRST_PORT),
            Kind::New(_) => (NEW, FIRST_NEW_PORT),
        };
        let dst_port = if matches!(self.kind, Kind::Denied | Kind::Folded) { CLOSED_PORT } else { OPEN_PORT };
        let mut tuples: Vec<Tuple> = (0..count)
            .map(|number| {
                let peer = match self.peer {
                    Peer::Local(address) => address,
                    Peer::Remote => remote(number % ADDRESSES),
                };
                let src_port = first_port + u16::try_from(number).unwrap_or(0);
                Tuple {
                    peer: u32::from_ne_bytes(peer.octets()),
                    src_port: src_port.to_be(),
                    dst_port: dst_port.to_be(),
                }
            })
            .collect();
        shuffle(&mut tuples, self.seed);
        if let Kind::Known(flows) = self.kind {
            tuples.truncate(flows as usize);
        }
        tuples
    }
}

/// Cases over one set of connections, and the packets that make it.
struct Group {
    openers: Vec<Case>,
    held: u32,
    cases: Vec<Case>,
}

fn frame(from: IpAddr, to: IpAddr, macs: ([u8; 6], [u8; 6]), flags: u8) -> Vec<u8> {
    Frame::new(from, to).macs(macs.0, macs.1).tcp(1, 2, flags).data(&[0; 64]).bytes()
}

/// From a pod to another one, or to somebody elsewhere.
fn from_pod(name: &'static str, kind: Kind, at: LocalPod, peer: Peer, tcp_flags: u8) -> Case {
    let to = if let Peer::Local(address) = peer { address } else { remote(0) };
    let frame = frame(at.v4.into(), to.into(), (at.mac, at.host_mac), tcp_flags);
    let action = if peer == Peer::Remote { OK } else { REDIRECT };
    Case {
        name,
        program: names::FROM_CONTAINER,
        kind,
        frame,
        flags: PEER_IS_DESTINATION,
        at,
        peer,
        action,
        goal: None,
        seed: 0,
    }
}

/// From somebody elsewhere to pod A.
fn to_pod(name: &'static str, program: &'static str, kind: Kind, tcp_flags: u8) -> Case {
    let macs = ([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]);
    let frame = frame(remote(0).into(), A.v4.into(), macs, tcp_flags);
    let action = if program == names::TO_CONTAINER { OK } else { REDIRECT };
    Case { name, program, kind, frame, flags: 0, at: A, peer: Peer::Remote, action, goal: None, seed: 0 }
}

impl Case {
    const fn goal(mut self, nanoseconds: u64) -> Self {
        self.goal = Some(nanoseconds);
        self
    }

    const fn reply(mut self) -> Self {
        self.flags |= SWAP_PORTS;
        self
    }

    const fn program(mut self, program: &'static str) -> Self {
        (self.program, self.action) = (program, OK);
        self
    }

    const fn denied(mut self) -> Self {
        self.action = SHOT;
        self
    }
}

const FLOWS: [u32; 3] = [1, 1_024, HELD];

/// Two pods of the node.
fn same_node() -> Group {
    let (to_b, to_a) = (Peer::Local(B.v4), Peer::Local(A.v4));
    let all = Kind::Known(HELD);
    let mut cases = Vec::new();
    for flows in FLOWS {
        let known = Kind::Known(flows);
        cases.push(from_pod("from_container, established, same node", known, A, to_b, ACK).goal(200));
        cases.push(from_pod("from_container, reply, same node", known, B, to_a, ACK).reply().goal(200));
        for (name, program) in [
            ("stage: parse", "bench_parse"),
            ("stage: parse, conntrack", "bench_conntrack"),
            ("stage: parse, conntrack, ipcache", "bench_ipcache"),
            ("stage: parse, conntrack, ipcache, policy", "bench_policy"),
        ] {
            cases.push(from_pod(name, known, A, to_b, ACK).program(program));
        }
    }
    cases.push(from_pod("from_container, new, same node", Kind::New(3), A, to_b, SYN).goal(1_500));
    cases.push(from_pod("from_container, denied, reader", Kind::Denied, A, to_b, SYN).denied().goal(500));
    Group {
        openers: vec![
            from_pod("first packets", all, A, to_b, SYN),
            from_pod("answers", all, B, to_a, SYN | ACK).reply(),
        ],
        held: HELD,
        cases,
    }
}

/// Two pods of the node, IPv6.
fn same_node6() -> Group {
    let case = |name, flows, from: LocalPod, to: LocalPod, tcp_flags| {
        let base = from_pod(name, Kind::Known(flows), from, Peer::Local(to.v4), tcp_flags);
        let frame = frame(from.v6.into(), to.v6.into(), (from.mac, from.host_mac), tcp_flags);
        Case { frame, flags: base.flags | IS_IPV6, ..base }
    };
    let name = "from_container, established, same node, IPv6";
    Group {
        // All of them: which ones a case meets depends on its order.
        openers: vec![case("first packets", HELD, A, B, SYN), case("answers", HELD, B, A, SYN | ACK).reply()],
        held: HELD,
        cases: FLOWS.into_iter().map(|flows| case(name, flows, A, B, ACK).goal(200)).collect(),
    }
}

/// A pod opens connections to other nodes.
fn outward() -> Group {
    let all = Kind::Known(HELD);
    let mut cases = Vec::new();
    for flows in FLOWS {
        let known = Kind::Known(flows);
        let name = "from_container, established, one side";
        cases.push(from_pod(name, known, A, Peer::Remote, ACK).goal(150));
        cases.push(to_pod("from_netdev, reply", names::FROM_NETDEV, known, ACK).reply().goal(150));
    }
    let unmarked = from_pod("to_netdev, nothing to report", all, A, Peer::Remote, ACK);
    cases.push(unmarked.program(names::TO_NETDEV));
    cases.push(from_pod("from_container, new, one side", Kind::New(2), A, Peer::Remote, SYN).goal(1_100));
    Group {
        openers: vec![
            from_pod("first packets", all, A, Peer::Remote, SYN),
            to_pod("answers", names::FROM_NETDEV, all, SYN | ACK).reply(),
        ],
        held: HELD,
        cases,
    }
}

/// Others open connections to a pod.
fn inward() -> Group {
    let all = Kind::Known(HELD);
    let mut cases = Vec::new();
    for flows in FLOWS {
        let known = Kind::Known(flows);
        cases.push(to_pod("from_netdev, established", names::FROM_NETDEV, known, ACK).goal(150));
        cases
            .push(from_pod("from_container, reply, one side", known, A, Peer::Remote, ACK).reply().goal(150));
    }
    cases.push(to_pod("from_host, established", names::FROM_HOST, all, ACK).goal(150));
    cases.push(to_pod("to_container, established", names::TO_CONTAINER, all, ACK).goal(150));
    cases.push(to_pod("from_netdev, new", names::FROM_NETDEV, Kind::New(2), SYN).goal(1_100));
    cases.push(
        to_pod("from_netdev, denied, reader", names::FROM_NETDEV, Kind::Denied, SYN).denied().goal(500),
    );
    Group {
        openers: vec![
            to_pod("first packets", names::FROM_NETDEV, all, SYN),
            from_pod("answers", all, A, Peer::Remote, SYN | ACK).reply(),
        ],
        held: HELD,
        cases,
    }
}

/// Denied packets under a limit of records.
fn folded() -> Group {
    let case = from_pod("from_container, denied, folded", Kind::Folded, A, Peer::Local(B.v4), SYN);
    Group { openers: Vec::new(), held: 0, cases: vec![case.denied().goal(500)] }
}

/// Drains the lanes as a reader does while events come.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Reader {
    fn start(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (lanes, stopped) = (Arc::clone(&world.lanes), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                lanes.lock().unwrap_or_else(PoisonError::into_inner).drain();
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("draining does not panic");
        }
    }
}

/// The same order each time.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ seed;
    for index in (1..items.len()).rev() {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (index as u64 + 1)).expect("below the length");
        items.swap(index, other);
    }
}
