//! Losses of a reader that were not told yet: they are told once a second, added up.

use specola_flow::{Flow, timestamp};
use specola_proto::flow::{LostEvent, LostEventSource};

/// Losses are told at most this often.
const LOST_INTERVAL_NS: u64 = 1_000_000_000;

#[derive(Debug, Default)]
pub(crate) struct Losses {
    pending: Option<PendingLoss>,
    told_ns: Option<u64>,
}

/// A number of lost flows, and when the first and last of them were missed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingLoss {
    pub(crate) count: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
}

impl PendingLoss {
    /// As Hubble tells of it.
    pub(crate) fn event(&self) -> LostEvent {
        LostEvent {
            source: LostEventSource::HubbleRingBuffer.into(),
            num_events_lost: self.count,
            cpu: None,
            first: Some(timestamp(self.first_ns)),
            last: Some(timestamp(self.last_ns)),
        }
    }
}

/// A record of events that the kernel could not hand over, as Hubble tells of them.
pub(crate) fn kernel_loss(flow: &Flow, count: u64) -> LostEvent {
    LostEvent {
        source: LostEventSource::PerfEventRingBuffer.into(),
        num_events_lost: count,
        cpu: Some(flow.cpu.into()),
        first: Some(timestamp(flow.time_ns.saturating_sub(flow.duration_ns))),
        last: Some(timestamp(flow.time_ns)),
    }
}

impl Losses {
    pub(crate) fn add(&mut self, count: u64, now_ns: u64) {
        if count == 0 {
            return;
        }
        let pending = self.pending.get_or_insert(PendingLoss { count: 0, first_ns: now_ns, last_ns: now_ns });
        pending.count += count;
        pending.last_ns = now_ns;
    }

    pub(crate) const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// When the pending losses may be told.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.pending.map(|_| self.told_ns.map_or(0, |told_ns| told_ns.saturating_add(LOST_INTERVAL_NS)))
    }

    /// The pending losses, when the last telling is long enough ago.
    pub(crate) fn due(&mut self, now_ns: u64) -> Option<PendingLoss> {
        if self.due_ns()? > now_ns {
            return None;
        }
        self.told_ns = Some(now_ns);
        self.take()
    }

    pub(crate) fn take(&mut self) -> Option<PendingLoss> {
        self.pending.take()
    }
}
