//! How a hook ends.

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT};
use specola_datapath_common::{
    event::{kind, lane},
    metrics::metric_index,
};

use crate::{
    event, ipcache,
    maps::SP_METRICS,
    work::{self, Work},
};

/// Why a packet is dropped.
#[derive(Clone, Copy)]
pub(crate) struct Drop {
    reason: u8,
    /// The record went out already (a policy verdict).
    reported: bool,
}

impl Drop {
    /// A drop that still needs its record.
    pub(crate) const fn new(reason: u8) -> Self {
        Self { reason, reported: false }
    }

    /// See [`drop`](specola_datapath_common::metrics::drop).
    pub(crate) const fn reason(self) -> u8 {
        self.reason
    }

    /// A drop whose policy verdict record is its record.
    pub(crate) const fn reported(reason: u8) -> Self {
        Self { reason, reported: true }
    }
}

/// The action, or why there is none.
pub(crate) type Outcome = Result<i32, Drop>;

/// Lets the packet go on.
pub(crate) const PASS: Outcome = Ok(TC_ACT_OK);

/// Counts the packet, reports a drop that was not reported, and gives the action back.
#[inline(always)]
pub(crate) fn finish(work: &mut Work, outcome: Outcome) -> i32 {
    match outcome {
        Ok(action) => {
            count(work, work.event.direction, 0);
            action
        }
        Err(drop) => {
            count(work, work.event.direction, drop.reason);
            if !drop.reported {
                if work.event.ip_version == 0 {
                    work::forget_addresses(work);
                } else {
                    ipcache::identify(work);
                }
                let event = &mut work.event;
                event.kind = kind::DROP;
                event.lane = lane::DENY;
                event.verdict = -i32::from(drop.reason);
                event.match_type = 0;
                event.ct_state = specola_datapath_common::event::ct_state::UNKNOWN;
                event.cookie = 0;
                event::emit(work);
            }
            TC_ACT_SHOT
        }
    }
}

/// Counts the packet under a direction and a drop reason, 0 = forwarded.
#[inline(always)]
pub(crate) fn count(work: &Work, direction: u8, reason: u8) {
    if let Some(counter) = SP_METRICS.get_ptr_mut(metric_index(direction, reason)) {
        // SAFETY: the slot is this CPU's, and programs of one CPU do not nest.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(work.event.length);
        }
    }
}
