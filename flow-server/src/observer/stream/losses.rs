//! Losses that the client was not told yet.

/// Losses are told at most this often.
const LOST_INTERVAL_NS: u64 = 1_000_000_000;

#[derive(Debug, Default)]
pub(super) struct Losses {
    pending: Option<PendingLoss>,
    told_ns: Option<u64>,
}

/// A number of lost flows, and when the first and last of them were missed.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingLoss {
    pub(super) count: u64,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

impl Losses {
    pub(super) fn add(&mut self, count: u64, now_ns: u64) {
        if count == 0 {
            return;
        }
        let pending = self.pending.get_or_insert(PendingLoss { count: 0, first_ns: now_ns, last_ns: now_ns });
        pending.count += count;
        pending.last_ns = now_ns;
    }

    pub(super) const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// When the pending losses may be told.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.pending.map(|_| self.told_ns.map_or(0, |told_ns| told_ns.saturating_add(LOST_INTERVAL_NS)))
    }

    /// The pending losses, when the last telling is long enough ago.
    pub(super) fn due(&mut self, now_ns: u64) -> Option<PendingLoss> {
        if self.due_ns()? > now_ns {
            return None;
        }
        self.told_ns = Some(now_ns);
        self.take()
    }

    pub(super) fn take(&mut self) -> Option<PendingLoss> {
        self.pending.take()
    }
}
