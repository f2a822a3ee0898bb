//! Counting allowed packets and reporting them, one record for many.

use aya_ebpf::programs::TcContext;
use specola_datapath_common::{
    conntrack::{CtValue, state},
    direction,
    event::{ct_state, flags, kind, lane},
};

use crate::{
    config::CFG_TRACE_INTERVAL_MS,
    conntrack::{self, Progress, Track},
    endpoint::Endpoint,
    event, ipcache,
    parse::{self, Network},
    skb::{self, mark},
    verdict::Drop,
    work::{Work, class},
};

/// Enters an allowed packet into its connection. Gives back whether it is reported.
///
/// With a `point` the record goes out here; without one the next hook writes it, told by the packet's mark.
///
/// # Errors
/// The connection cannot be tracked.
#[inline(always)]
pub(crate) fn commit(
    ctx: &TcContext,
    work: &mut Work,
    track: &Track,
    point: Option<u8>,
) -> Result<bool, Drop> {
    let progress = match track.state {
        ct_state::UNKNOWN | ct_state::RELATED => Progress { report: true, closed: false },
        ct_state::NEW | ct_state::REOPENED => {
            if !track.entry.is_null() {
                close_previous(work, track.entry, point);
            }
            conntrack::create(work, track)?
        }
        _ if track.entry.is_null() => Progress { report: true, closed: false },
        _ if work.is(class::COUNTED) => {
            Progress { report: skb::marks(ctx) & mark::TRACE != 0, closed: false }
        }
        _ => {
            let interval_ns = u64::from(CFG_TRACE_INTERVAL_MS.load()) * 1_000_000;
            conntrack::advance(work, track.entry, track.dir, interval_ns)
        }
    };
    if !progress.report {
        return Ok(false);
    }
    let mut bits = 0;
    match track.state {
        ct_state::UNKNOWN | ct_state::RELATED => {}
        ct_state::NEW | ct_state::REOPENED => bits = flags::COUNTERS,
        _ if track.entry.is_null() => {}
        _ => {
            conntrack::report(work, track.entry, track.dir);
            bits = flags::COUNTERS;
        }
    }
    if progress.closed {
        bits |= flags::CLOSE;
    }
    if let Some(point) = point {
        trace_record(work, point, bits);
    }
    Ok(true)
}

/// Reports the end of a connection whose tuple another one takes over before anybody saw it end.
#[inline(always)]
fn close_previous(work: &mut Work, entry: *mut CtValue, point: Option<u8>) {
    // SAFETY: a live map value.
    let value = unsafe { &mut *entry };
    if value.state == state::CLOSED {
        return;
    }
    value.state = state::CLOSED;
    let (tcp_flags, bits, state) = (work.event.tcp_flags, work.event.flags, work.event.ct_state);
    let from_initiator = (work.src_is_lo != 0) == (value.initiator == 0);
    let dir = u8::from(!from_initiator);
    work.event.tcp_flags = 0;
    work.event.ct_state = if from_initiator { ct_state::ESTABLISHED } else { ct_state::REPLY };
    if !from_initiator {
        work.event.flags |= flags::REPLY;
    }
    conntrack::report(work, entry, dir);
    trace_record(work, point.unwrap_or(0), flags::COUNTERS | flags::CLOSE);
    work.event.tcp_flags = tcp_flags;
    work.event.flags = bits;
    work.event.ct_state = state;
}

#[inline(always)]
fn trace_record(work: &mut Work, point: u8, bits: u8) {
    ipcache::identify(work);
    let event = &mut work.event;
    event.kind = kind::TRACE;
    event.lane = lane::TRACE;
    event.obs_point = point;
    event.verdict = 0;
    event.match_type = 0;
    event.cookie = 0;
    event.flags = event.flags & !(flags::AUDIT | flags::CLOSE | flags::COUNTERS) | bits;
    event::emit(work);
}

/// A hook that only observes: reports packets of local pods that `from_container` marked for it.
///
/// `closes` = no other hook reported the end of the connection. What is malformed, or no longer a pod's, is left
/// alone: the packet's first hook judged it.
#[inline(always)]
pub(crate) fn observe(ctx: &TcContext, work: &mut Work, point: u8, closes: bool) {
    let Ok(Network::Ip) = parse::network(ctx, work) else {
        return;
    };
    if parse::transport(ctx, work).is_err() {
        return;
    }
    let version = work.event.ip_version;
    let src = ipcache::find(&work.src, version, &mut work.prefix);
    let Ok(sender) = Endpoint::of_slot(u32::from(src.slot)) else {
        return;
    };
    sender.enter(work, direction::EGRESS);
    work.event.src_identity = src.identity;
    let track = conntrack::track(ctx, work);
    let mut bits = 0;
    if !track.entry.is_null() {
        let ended = conntrack::report(work, track.entry, track.dir);
        bits = if ended && closes { flags::COUNTERS | flags::CLOSE } else { flags::COUNTERS };
        if track.state == ct_state::ESTABLISHED && work.event.packets_fwd == 1 {
            // The packet's first hook entered it: it is still the connection's first.
            work.event.ct_state = ct_state::NEW;
        }
    }
    trace_record(work, point, bits);
}

/// Whether `from_container` wants this packet reported.
#[inline(always)]
pub(crate) fn is_marked(ctx: &TcContext) -> bool {
    const BOTH: u32 = mark::FROM_POD | mark::TRACE;
    skb::marks(ctx) & BOTH == BOTH
}
