//! Which connection a packet belongs to, and what the connection remembers of it: the rules of the kernel programs.

use specola_datapath_common::{
    IPV4,
    conntrack::{
        CtKey6, CtSide, CtValue, NO_SLOT, SIDE_NODE, ZONE_HOST, ZONE_POD, flags as ct_flags, lifetime_of,
        state,
    },
    event::{ct_state, flags, tcp_flags},
    proto,
};

use crate::{
    frame::Frame,
    lru::{Lru, Place},
    parse,
    work::{Address, Work, class},
};

/// A packet's place in its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Track {
    /// The entry, if there is one.
    pub(crate) entry: Option<Entry>,
    /// See [`ct_state`].
    pub(crate) state: u8,
    /// 0 = the packet is the initiator's, 1 = the responder's.
    pub(crate) dir: u8,
}

/// A connection's entry, for as long as the packet in hand makes no other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    table: usize,
    place: Place,
}

impl Track {
    const fn none(state: u8) -> Self {
        Self { entry: None, state, dir: 0 }
    }

    /// Whose packet begins a connection.
    pub(crate) const fn is_new(&self) -> bool {
        matches!(self.state, ct_state::NEW | ct_state::REOPENED)
    }
}

/// What an allowed packet did to its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// A trace record is due.
    pub(crate) report: bool,
    /// The connection ended with this packet.
    pub(crate) closed: bool,
}

/// The connections: by address family, TCP apart from the rest, so that neither can displace the other.
#[derive(Debug)]
pub(crate) struct Connections {
    tables: [Lru<CtKey6, CtValue>; 4],
    pub(crate) created: u64,
    pub(crate) evicted: u64,
}

impl Connections {
    /// Tables for so many connections each.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { tables: std::array::from_fn(|_| Lru::new(capacity)), created: 0, evicted: 0 }
    }

    /// Connections that are known.
    pub(crate) fn len(&self) -> usize {
        self.tables.iter().map(Lru::len).sum()
    }

    pub(crate) fn at(&self, entry: Entry) -> &CtValue {
        self.tables[entry.table].at(entry.place)
    }

    pub(crate) fn at_mut(&mut self, entry: Entry) -> &mut CtValue {
        self.tables[entry.table].at_mut(entry.place)
    }

    /// What the connection remembers of a side, if it goes on.
    pub(crate) fn side(&self, track: &Track, side: usize) -> Option<&CtSide> {
        let goes_on = matches!(track.state, ct_state::ESTABLISHED | ct_state::REPLY);
        track.entry.filter(|_| goes_on).map(|entry| &self.at(entry).sides[side & 1])
    }

    /// The same, to be changed.
    pub(crate) fn side_mut(&mut self, track: &Track, side: usize) -> Option<&mut CtSide> {
        let goes_on = matches!(track.state, ct_state::ESTABLISHED | ct_state::REPLY);
        track.entry.filter(|_| goes_on).map(|entry| &mut self.at_mut(entry).sides[side & 1])
    }

    /// Finds the connection of a parsed packet and fills the record's connection state.
    pub(crate) fn track(&mut self, frame: &Frame<'_>, work: &mut Work) -> Track {
        let track = if work.is(class::ICMP_ERROR) {
            self.related(frame, work)
        } else if work.is(class::UNTRACKED) {
            Track::none(ct_state::UNKNOWN)
        } else {
            self.lookup(work)
        };
        if track.dir != 0 {
            work.event.flags |= flags::REPLY;
        }
        work.event.ct_state = track.state;
        track
    }

    fn lookup(&mut self, work: &mut Work) -> Track {
        let protocol = work.event.proto;
        let ends = (work.event.src_addr, work.event.dst_addr);
        set_key(work, ends, (work.ct_src_port, work.ct_dst_port), protocol);
        let opens = work.is(class::OPENS);
        let mid_stream = |work: &mut Work| {
            if protocol == proto::TCP && !opens {
                work.event.flags |= flags::MID_STREAM;
            }
        };
        let Some(entry) = self.find(work, protocol) else {
            mid_stream(work);
            return Track::none(ct_state::NEW);
        };
        let value = self.at(entry);
        let entry = Some(entry);
        let from_initiator = work.src_is_lo == (value.initiator == 0);
        if is_over(value, protocol, work.now_ns) {
            mid_stream(work);
            return Track { entry, state: ct_state::NEW, dir: 0 };
        }
        if opens && !from_initiator {
            // Who answers does not open: this is a connection of its own, on the same pair of ports.
            return Track { entry, state: ct_state::NEW, dir: 0 };
        }
        if value.flags & ct_flags::MID_STREAM != 0 {
            work.event.flags |= flags::MID_STREAM;
        }
        if !from_initiator {
            return Track { entry, state: ct_state::REPLY, dir: 1 };
        }
        if opens && value.state >= state::CLOSING {
            work.event.flags &= !flags::MID_STREAM;
            return Track { entry, state: ct_state::REOPENED, dir: 0 };
        }
        Track { entry, state: ct_state::ESTABLISHED, dir: 0 }
    }

    /// An ICMP error belongs to the connection of the packet that it quotes, if it goes to who sent that packet. A pod
    /// is no router: its errors are about packets to itself.
    fn related(&mut self, frame: &Frame<'_>, work: &mut Work) -> Track {
        let Some(quoted) = parse::quoted(frame, work) else {
            return Track::none(ct_state::UNKNOWN);
        };
        let to_sender = quoted.src == work.event.dst_addr;
        let from_receiver = quoted.dst == work.event.src_addr;
        if !to_sender || work.is(class::FROM_POD) && !from_receiver {
            return Track::none(ct_state::UNKNOWN);
        }
        set_key(work, (quoted.src, quoted.dst), (quoted.src_port, quoted.dst_port), quoted.proto);
        match self.find(work, quoted.proto) {
            Some(_) => Track::none(ct_state::RELATED),
            None => Track::none(ct_state::UNKNOWN),
        }
    }

    fn find(&mut self, work: &Work, protocol: u8) -> Option<Entry> {
        let table = table(work.event.ip_version, protocol);
        self.tables[table].find(&work.key).map(|place| Entry { table, place })
    }

    /// Enters a new connection; the packet is its first, and `work.fresh` has the verdicts of both sides already.
    pub(crate) fn create(&mut self, work: &mut Work) -> Progress {
        let (now, event, fresh) = (work.now_ns, &mut work.event, &mut work.fresh);
        let has_fin = event.tcp_flags & tcp_flags::FIN != 0;
        let bytes = u64::from(event.length);
        fresh.created_ns = event.boot_ns;
        fresh.last_seen_ns = now;
        fresh.packets = [1, 0];
        fresh.bytes = [bytes, 0];
        fresh.reported_bytes = [bytes, 0];
        fresh.last_report = [report_stamp(now), 0];
        fresh.tcp_flags = [event.tcp_flags, 0];
        fresh.initiator = u8::from(!work.src_is_lo);
        fresh.state = if has_fin { state::CLOSING } else { state::NEW };
        fresh.flags = if event.flags & flags::MID_STREAM != 0 { ct_flags::MID_STREAM } else { 0 };
        fresh.flags |= if has_fin { ct_flags::FIN_INITIATOR } else { 0 };
        (event.packets_fwd, event.packets_rev) = (1, 0);
        (event.bytes_fwd, event.bytes_rev) = (bytes, 0);
        event.created_ns = event.boot_ns;
        if event.tcp_flags & tcp_flags::RST != 0 {
            // Over before it began: nothing to remember.
            return Progress { report: true, closed: true };
        }
        let table = &mut self.tables[table(event.ip_version, event.proto)];
        let before = table.len();
        let displaced = table.insert(work.key, work.fresh).is_some();
        self.evicted += u64::from(displaced);
        self.created += u64::from(displaced || table.len() > before);
        Progress { report: true, closed: false }
    }

    /// Keeps with the connection that a side of it is no pod of this node.
    pub(crate) fn set_elsewhere(
        &mut self,
        work: &mut Work,
        track: &Track,
        side: usize,
        is_node: bool,
        node_epoch: u32,
    ) {
        let at = match self.side_mut(track, side) {
            Some(at) => at,
            None => &mut work.fresh.sides[side & 1],
        };
        at.slot = NO_SLOT;
        at.flags = if is_node { SIDE_NODE } else { 0 };
        at.stamp = CtSide::elsewhere(node_epoch);
    }

    /// Counts a packet of a known connection, moves its state, and says whether a record is due.
    pub(crate) fn advance(&mut self, work: &Work, entry: Entry, dir: u8, interval_ns: u64) -> Progress {
        let dir = usize::from(dir & 1);
        let now = work.now_ns;
        let value = self.at_mut(entry);
        value.last_seen_ns = now;
        value.packets[dir] += 1;
        value.bytes[dir] += u64::from(work.event.length);
        let first = dir == 1 && value.state == state::NEW || value.packets[dir] == 1;
        if dir == 1 && value.state == state::NEW {
            value.state = state::ESTABLISHED;
        }
        let mut closed = false;
        let mut news = false;
        if work.event.proto == proto::TCP {
            const MARKS: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
            let seen = work.event.tcp_flags;
            news = seen & MARKS & !value.tcp_flags[dir] != 0;
            value.tcp_flags[dir] |= seen;
            value.sides[dir].unreported_tcp_flags |= seen;
            closed = tcp_state(value, dir, seen);
        }
        let idle = now.wrapping_sub(u64::from(value.last_report[dir]) << REPORT_SHIFT);
        let due = idle & REPORT_MASK >= interval_ns;
        let report = first || closed || value.state != state::CLOSED && (news || due);
        Progress { report, closed }
    }

    /// Puts the connection's counters into the draft and notes that they were reported.
    pub(crate) fn report(&mut self, work: &mut Work, entry: Entry, dir: u8) {
        let dir = usize::from(dir & 1);
        let value = self.at_mut(entry);
        let event = &mut work.event;
        [event.packets_fwd, event.packets_rev] = value.packets;
        [event.bytes_fwd, event.bytes_rev] = value.bytes;
        event.created_ns = value.created_ns;
        value.reported_bytes = value.bytes;
        value.last_report[dir] = report_stamp(work.now_ns);
        event.tcp_flags |= value.sides[dir].unreported_tcp_flags;
        value.sides[dir].unreported_tcp_flags = 0;
    }

    /// Removes the connections that are over, in the order of their last packet, and gives them to `gone`.
    pub(crate) fn sweep(&mut self, now_ns: u64, mut gone: impl FnMut(&CtKey6, &CtValue)) {
        for table in &mut self.tables {
            let over = |(key, value): &(&CtKey6, &CtValue)| is_over(value, key.proto, now_ns);
            let keys: Vec<CtKey6> = table.iter().filter(over).map(|(key, _)| *key).collect();
            for key in keys {
                if let Some(value) = table.remove(&key) {
                    gone(&key, &value);
                }
            }
        }
    }

    /// All connections, by table, the least recently used first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&CtKey6, &CtValue)> {
        self.tables.iter().flat_map(Lru::iter)
    }
}

const fn is_over(value: &CtValue, protocol: u8, now_ns: u64) -> bool {
    now_ns.saturating_sub(value.last_seen_ns) > lifetime_of(protocol, value.state) * 1_000_000
}

const fn table(ip_version: u8, protocol: u8) -> usize {
    2 * (ip_version != IPV4) as usize + (protocol != proto::TCP) as usize
}

/// Makes the canonical key; remembers which half the source is.
fn set_key(work: &mut Work, (src, dst): (Address, Address), (src_port, dst_port): (u16, u16), protocol: u8) {
    work.src_is_lo = (src, src_port) <= (dst, dst_port);
    let zone = if work.is(class::OF_HOST) { ZONE_HOST } else { ZONE_POD };
    let ((lo_addr, lo_port), (hi_addr, hi_port)) =
        if work.src_is_lo { ((src, src_port), (dst, dst_port)) } else { ((dst, dst_port), (src, src_port)) };
    work.key = CtKey6 { lo_addr, hi_addr, lo_port, hi_port, proto: protocol, pad: 0, zone };
}

/// Moves the state of a TCP connection; whether this packet ended it.
const fn tcp_state(value: &mut CtValue, dir: usize, seen: u8) -> bool {
    const BOTH: u8 = ct_flags::FIN_INITIATOR | ct_flags::FIN_RESPONDER;
    if value.state == state::CLOSED {
        return false;
    }
    if seen & tcp_flags::RST != 0 {
        value.flags |= ct_flags::RST;
        value.state = state::CLOSED;
        return true;
    }
    if seen & tcp_flags::FIN != 0 {
        value.flags |= if dir == 0 { ct_flags::FIN_INITIATOR } else { ct_flags::FIN_RESPONDER };
        value.state = state::CLOSING;
        return false;
    }
    if value.flags & BOTH == BOTH {
        // Acknowledges the second FIN: the last packet of an orderly end.
        value.state = state::CLOSED;
        return true;
    }
    false
}

const REPORT_SHIFT: u32 = 20;
/// `last_report` has 32 bits: ages count modulo this.
const REPORT_MASK: u64 = (1 << (32 + REPORT_SHIFT)) - 1;

const fn report_stamp(now_ns: u64) -> u32 {
    ((now_ns >> REPORT_SHIFT) & u32::MAX as u64) as u32
}
