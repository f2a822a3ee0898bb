//! Which connection a packet belongs to, and what the connection remembers of it.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr,
};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST},
    programs::TcContext,
};
use specola_datapath_common::{
    IPV4,
    conntrack::{
        CtSide, CtValue, NO_SLOT, SIDE_NODE, ZONE_HOST, ZONE_POD, flags as ct_flags, lifetime_of, state,
    },
    event::{ct_state, flags, tcp_flags},
    metrics::drop,
    proto,
};

use crate::{
    address::Address,
    keys::{Ct4, Ct6},
    maps::{SP_CT_COUNTS, SP_CT4_ANY, SP_CT4_TCP, SP_CT6_ANY, SP_CT6_TCP},
    verdict::Drop,
    work::{Work, class, clear_words},
};

/// A packet's place in its connection.
#[derive(Clone, Copy)]
pub(crate) struct Track {
    /// The entry, or null. It stays readable for as long as the program runs; an eviction meanwhile makes writes go
    /// to an entry that is gone or another connection's, as with every LRU map.
    pub(crate) entry: *mut CtValue,
    /// See [`ct_state`].
    pub(crate) state: u8,
    /// 0 = the packet is the initiator's, 1 = the responder's.
    pub(crate) dir: u8,
}

impl Track {
    const fn none(state: u8) -> Self {
        Self { entry: ptr::null_mut(), state, dir: 0 }
    }

    /// What the connection remembers of a side, if it goes on.
    #[inline(always)]
    pub(crate) fn side(&self, side: usize) -> Option<*mut CtSide> {
        let goes_on = self.state == ct_state::ESTABLISHED || self.state == ct_state::REPLY;
        if !goes_on || self.entry.is_null() {
            return None;
        }
        // SAFETY: the entry is a live map value; `side` is 0 or 1.
        Some(unsafe { &raw mut (*self.entry).sides[side & 1] })
    }
}

/// Finds the connection of a parsed packet and fills the record's connection state.
#[inline(always)]
pub(crate) fn track(ctx: &TcContext, work: &mut Work) -> Track {
    let track = if work.is(class::ICMP_ERROR) {
        related(ctx, work)
    } else if work.is(class::UNTRACKED) {
        Track::none(ct_state::UNKNOWN)
    } else {
        lookup(work)
    };
    if track.state == ct_state::NEW || track.state == ct_state::REOPENED {
        undecided(&mut work.fresh.sides[0]);
        undecided(&mut work.fresh.sides[1]);
    }
    if track.dir != 0 {
        work.event.flags |= flags::REPLY;
    }
    work.event.ct_state = track.state;
    track
}

#[inline(always)]
fn lookup(work: &mut Work) -> Track {
    let protocol = work.event.proto;
    set_key(work, work.src, work.dst, work.ct_src_port, work.ct_dst_port, protocol);
    let opens = work.is(class::OPENS);
    let Some(entry) = find(work, protocol) else {
        if protocol == proto::TCP && !opens {
            work.event.flags |= flags::MID_STREAM;
        }
        return Track::none(ct_state::NEW);
    };
    // SAFETY: a live map value; other CPUs change single fields of it, each by one store.
    let value = unsafe { &*entry };
    let from_initiator = (work.src_is_lo != 0) == (value.initiator == 0);
    let idle_ns = work.now_ns.saturating_sub(value.last_seen_ns);
    if idle_ns > lifetime_of(protocol, value.state) * 1_000_000 {
        if protocol == proto::TCP && !opens {
            work.event.flags |= flags::MID_STREAM;
        }
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

/// An ICMP error belongs to the connection of the packet that it quotes, if it goes to who sent that packet. A pod is
/// no router: its errors are about packets to itself.
#[inline(always)]
fn related(ctx: &TcContext, work: &mut Work) -> Track {
    let Some(quoted) = crate::parse::quoted(ctx, work) else {
        return Track::none(ct_state::UNKNOWN);
    };
    let to_sender = quoted.src == work.dst;
    let from_receiver = quoted.dst == work.src;
    if !to_sender || work.is(class::FROM_POD) && !from_receiver {
        return Track::none(ct_state::UNKNOWN);
    }
    set_key(work, quoted.src, quoted.dst, quoted.src_port, quoted.dst_port, quoted.proto);
    match find(work, quoted.proto) {
        Some(_) => Track::none(ct_state::RELATED),
        None => Track::none(ct_state::UNKNOWN),
    }
}

/// Makes the canonical key; remembers which half the source is.
#[inline(always)]
fn set_key(work: &mut Work, src: Address, dst: Address, src_port: u16, dst_port: u16, protocol: u8) {
    let ([a, b], [c, d]) = (src.numbers(), dst.numbers());
    let src_is_lo = if a != c {
        a < c
    } else if b != d {
        b < d
    } else {
        src_port <= dst_port
    };
    work.src_is_lo = u8::from(src_is_lo);
    let zone = if work.is(class::OF_HOST) { ZONE_HOST } else { ZONE_POD };
    let (lo, hi, lo_port, hi_port) =
        if src_is_lo { (src, dst, src_port, dst_port) } else { (dst, src, dst_port, src_port) };
    if work.event.ip_version == IPV4 {
        work.key4 =
            Ct4 { lo_addr: lo.v4(), hi_addr: hi.v4(), lo_port, hi_port, proto: protocol, pad: 0, zone };
    } else {
        work.key6 = Ct6 { lo_addr: lo, hi_addr: hi, lo_port, hi_port, proto: protocol, pad: 0, zone };
    }
}

#[inline(always)]
fn find(work: &Work, protocol: u8) -> Option<*mut CtValue> {
    match (work.event.ip_version, protocol) {
        (IPV4, proto::TCP) => SP_CT4_TCP.get_ptr_mut(&work.key4),
        (IPV4, _) => SP_CT4_ANY.get_ptr_mut(&work.key4),
        (_, proto::TCP) => SP_CT6_TCP.get_ptr_mut(&work.key6),
        _ => SP_CT6_ANY.get_ptr_mut(&work.key6),
    }
}

/// What an allowed packet did to its connection.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    /// A trace record is due.
    pub(crate) report: bool,
    /// The connection ended with this packet.
    pub(crate) closed: bool,
}

/// Enters a new connection; the packet is its first, and `work.fresh` has the verdicts of both sides already.
///
/// # Errors
/// The map takes no entry.
#[inline(always)]
pub(crate) fn create(work: &mut Work, track: &Track) -> Result<Progress, Drop> {
    let (created_ns, now) = (work.boot_ns(), work.now_ns);
    let event = &work.event;
    let mut bits = if work.is(class::BESIDE) { ct_flags::BESIDE } else { 0 };
    if event.flags & flags::MID_STREAM != 0 {
        bits |= ct_flags::MID_STREAM;
    }
    if event.tcp_flags & tcp_flags::FIN != 0 {
        bits |= ct_flags::FIN_INITIATOR;
    }
    let bytes = u64::from(event.length);
    let fresh = &mut work.fresh;
    fresh.created_ns = created_ns;
    fresh.last_seen_ns = now;
    fresh.packets = [1, 0];
    fresh.bytes = [bytes, 0];
    fresh.reported_bytes = [bytes, 0];
    fresh.last_report = [report_stamp(now), 0];
    fresh.tcp_flags = [event.tcp_flags, 0];
    fresh.initiator = u8::from(work.src_is_lo == 0);
    fresh.state = if event.tcp_flags & tcp_flags::FIN != 0 { state::CLOSING } else { state::NEW };
    fresh.flags = bits;
    fresh.pad = 0;
    fresh.rev_nat = 0;
    work.event.packets_fwd = 1;
    work.event.packets_rev = 0;
    work.event.bytes_fwd = bytes;
    work.event.bytes_rev = 0;
    work.event.created_ns = created_ns;
    if work.event.tcp_flags & tcp_flags::RST != 0 {
        // Over before it began: nothing to remember.
        return Ok(Progress { report: true, closed: true });
    }
    match work.lend(|| sp_enter(u32::from(!track.entry.is_null()))) {
        0 => Ok(Progress { report: true, closed: false }),
        _ => Err(Drop::new(drop::CT_INSERT_FAILED)),
    }
}

/// Writes `work.fresh` into the table, instead of an earlier connection if `replaces`, and counts what is new there. A
/// global function, which the verifier walks through once. Returns 0, or an error.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sp_enter(replaces: u32) -> i32 {
    let Some(work) = Work::current() else {
        return 1;
    };
    if replaces != 0 && insert(work, BPF_EXIST).is_ok() {
        return 0;
    }
    if insert(work, BPF_NOEXIST).is_ok() {
        if let Some(count) = SP_CT_COUNTS.get_ptr_mut(0) {
            // SAFETY: the slot is this CPU's, and programs of one CPU do not nest.
            unsafe { (*count).created += 1 };
        }
        return 0;
    }
    // Another CPU made an entry of the same key meanwhile.
    i32::from(insert(work, BPF_ANY).is_err())
}

#[inline(always)]
fn insert(work: &Work, how: u32) -> Result<(), i32> {
    let how = u64::from(how);
    match (work.event.ip_version, work.event.proto) {
        (IPV4, proto::TCP) => SP_CT4_TCP.insert(&work.key4, &work.fresh, how),
        (IPV4, _) => SP_CT4_ANY.insert(&work.key4, &work.fresh, how),
        (_, proto::TCP) => SP_CT6_TCP.insert(&work.key6, &work.fresh, how),
        _ => SP_CT6_ANY.insert(&work.key6, &work.fresh, how),
    }
}

/// Keeps with the connection that a side of it is no pod of this node, so that later packets need not ask who it is.
#[inline(always)]
pub(crate) fn set_elsewhere(work: &mut Work, track: &Track, side: usize, is_node: bool) {
    let stamp = CtSide::elsewhere(work.node_epoch);
    let flags = if is_node { SIDE_NODE } else { 0 };
    let at = match track.side(side) {
        Some(at) => at,
        None => &raw mut work.fresh.sides[side & 1],
    };
    // SAFETY: a live map value; the stamp goes last, so that nobody takes the other fields for another time's.
    unsafe {
        (*at).slot = NO_SLOT;
        (*at).flags = flags;
        ptr::write_volatile(&raw mut (*at).stamp, stamp);
    }
}

/// Enters an allowed packet into a connection that is not reported, as another entry of the same is.
///
/// # Errors
/// The map takes no entry.
#[inline(always)]
pub(crate) fn follow(work: &mut Work, track: &Track) -> Result<(), Drop> {
    match track.state {
        ct_state::NEW | ct_state::REOPENED => create(work, track).map(|_| ()),
        _ if track.entry.is_null() => Ok(()),
        _ => {
            advance(work, track.entry, track.dir, u64::MAX);
            // SAFETY: a live map value; the flag never goes.
            unsafe { (*track.entry).flags |= ct_flags::BESIDE };
            Ok(())
        }
    }
}

/// Counts a packet of a known connection, moves its state, and says whether a record is due.
#[inline(always)]
pub(crate) fn advance(work: &mut Work, entry: *mut CtValue, dir: u8, interval_ns: u64) -> Progress {
    let dir = usize::from(dir & 1);
    let now = work.now_ns;
    // SAFETY: a live map value. The counters are changed atomically; every other field by single stores, where the
    // last writer wins and each outcome is a valid one.
    let value = unsafe { &mut *entry };
    value.last_seen_ns = now;
    add(&mut value.packets[dir], 1);
    add(&mut value.bytes[dir], u64::from(work.event.length));
    let first = dir == 1 && value.state == state::NEW || value.packets[dir] == 1;
    if dir == 1 && value.state == state::NEW {
        value.state = state::ESTABLISHED;
    }
    let mut closed = false;
    let mut news = false;
    if work.event.proto == proto::TCP {
        let seen = work.event.tcp_flags;
        const MARKS: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
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

/// Moves the state of a TCP connection; whether this packet ended it.
#[inline(always)]
fn tcp_state(value: &mut CtValue, dir: usize, seen: u8) -> bool {
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

/// Puts the connection's counters into the draft and notes that they were reported. Gives back whether the
/// connection is over.
#[inline(always)]
pub(crate) fn report(work: &mut Work, entry: *mut CtValue, dir: u8) -> bool {
    let dir = usize::from(dir & 1);
    // SAFETY: as in `advance`.
    let value = unsafe { &mut *entry };
    let event = &mut work.event;
    event.packets_fwd = value.packets[0];
    event.packets_rev = value.packets[1];
    event.bytes_fwd = value.bytes[0];
    event.bytes_rev = value.bytes[1];
    event.created_ns = value.created_ns;
    value.reported_bytes = [event.bytes_fwd, event.bytes_rev];
    value.last_report[dir] = report_stamp(work.now_ns);
    event.tcp_flags |= value.sides[dir].unreported_tcp_flags;
    value.sides[dir].unreported_tcp_flags = 0;
    value.state == state::CLOSED
}

/// Makes a side one that is no local endpoint, or not decided.
#[inline(always)]
fn undecided(side: &mut CtSide) {
    clear_words(side);
    side.slot = NO_SLOT;
}

const REPORT_SHIFT: u32 = 20;
/// `last_report` has 32 bits: ages count modulo this.
const REPORT_MASK: u64 = (1 << (32 + REPORT_SHIFT)) - 1;

const fn report_stamp(now_ns: u64) -> u32 {
    (now_ns >> REPORT_SHIFT) as u32
}

#[inline(always)]
pub(crate) fn add(counter: &mut u64, amount: u64) {
    // SAFETY: aligned, and valid for as long as the reference; without its result a relaxed add is one instruction of
    // the machine. (The target has no compare-and-swap in its lowest version, hence `AtomicU64` offers no `fetch_add`.)
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}
