//! Writing records into the lanes: every attempt is counted, a full ring never stops a packet.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE},
    btf_maps::RingBuf,
    helpers::{bpf_get_smp_processor_id, bpf_ringbuf_query},
};
use specola_datapath_common::event::{Event, flags, lane};

use crate::{
    fold::fold,
    maps::{SP_LANES, SP_RING_ALLOW, SP_RING_DENY, SP_RING_TRACE},
    wake::{wake, wake_sleeper},
    work::{Work, clear_words as clear},
};

/// Records of one CPU and lane between two looks at how full the lane is.
const LOOK_INTERVAL: u64 = 256;

/// Sends the draft in `work.event` into the lane that it names.
#[inline(always)]
pub(crate) fn emit(work: &mut Work) {
    work.lend(|| sp_emit());
}

/// [`emit`] as a global function: the verifier walks through it once, not once for each way to each call. Such a
/// function takes no pointers to map values, hence it looks the draft up itself. Returns 0, as the kernel wants a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sp_emit() -> i32 {
    let Some(work) = Work::current() else {
        return 0;
    };
    let Some(counts) = SP_LANES.get_ptr_mut(u32::from(work.event.lane)) else {
        return 0;
    };
    // SAFETY: the slot is this CPU's, and programs of one CPU do not nest.
    let counts = unsafe { &mut *counts };
    counts.attempts += 1;
    work.boot_ns();
    // SAFETY: the helper has no precondition.
    work.event.cpu = unsafe { bpf_get_smp_processor_id() } as u16;
    if work.event.lane == lane::DENY && fold(work) {
        counts.folded += 1;
        return 0;
    }
    let event = &mut work.event;
    event.lane_seq = (counts.attempts - counts.folded) as u32;
    if event.flags & flags::COUNTERS == 0 {
        clear(&mut event.packets_fwd);
        clear(&mut event.packets_rev);
        clear(&mut event.bytes_fwd);
        clear(&mut event.bytes_rev);
        clear(&mut event.created_ns);
    }
    let wakeup = u64::from(BPF_RB_NO_WAKEUP);
    let sent = match event.lane {
        lane::DENY => SP_RING_DENY.output(&*event, wakeup),
        lane::ALLOW => SP_RING_ALLOW.output(&*event, wakeup),
        _ => SP_RING_TRACE.output(&*event, wakeup),
    };
    if sent.is_ok() {
        counts.submitted += 1;
        wake_sleeper();
    } else {
        counts.reserve_failed += 1;
    }
    if counts.attempts.is_multiple_of(LOOK_INTERVAL) && is_filling(event.lane) {
        wake();
    }
    // Records of one packet stay in order when user space merges the lanes by time.
    event.boot_ns += 1;
    0
}

/// Whether a quarter of a lane waits for the reader, who pauses between its rounds.
#[inline(always)]
fn is_filling(lane: u8) -> bool {
    match lane {
        lane::DENY => has_quarter(&SP_RING_DENY),
        lane::ALLOW => has_quarter(&SP_RING_ALLOW),
        _ => has_quarter(&SP_RING_TRACE),
    }
}

#[inline(always)]
fn has_quarter<const BYTES: usize>(ring: &RingBuf<Event, BYTES>) -> bool {
    let map: *mut c_void = ptr::from_ref(ring).cast_mut().cast();
    // SAFETY: a ring buffer, which this helper only reads.
    let query = |what: u32| unsafe { bpf_ringbuf_query(map, u64::from(what)) };
    query(BPF_RB_AVAIL_DATA) > query(BPF_RB_RING_SIZE) / 4
}
