//! Merges the lanes in the order of their stamps, up to a cut.

use specola_datapath_common::event::{BadEvent, Event, lane};

/// Where events come from.
pub(super) trait Lane {
    /// Takes the next sample, if one is complete.
    fn pop(&mut self) -> Option<Result<Event, BadEvent>>;
}

/// Samples that were no events of this ABI.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rejected {
    /// Wrong size or alignment.
    pub size: u64,
    /// Written by another ABI.
    pub abi: u64,
    /// Unknown kind.
    pub kind: u64,
}

impl Rejected {
    /// Counts by reason, with the stable names of [`BadEvent::reason`].
    pub fn by_reason(&self) -> [(&'static str, u64); 3] {
        [("size", self.size), ("abi", self.abi), ("kind", self.kind)]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.size + self.abi + self.kind
    }

    fn count(&mut self, bad: BadEvent) {
        match bad {
            BadEvent::Size { .. } => self.size += 1,
            BadEvent::Abi { .. } => self.abi += 1,
            BadEvent::Kind { .. } => self.kind += 1,
        }
    }
}

impl std::ops::AddAssign for Rejected {
    fn add_assign(&mut self, other: Self) {
        self.size += other.size;
        self.abi += other.abi;
        self.kind += other.kind;
    }
}

/// The lanes with one event of look-ahead each.
#[derive(Debug)]
pub(super) struct Merge<L> {
    lanes: [L; lane::COUNT],
    heads: [Option<Event>; lane::COUNT],
    batch: Vec<Event>,
    limit: usize,
    /// Bad samples since the last [`Self::collect`].
    rejected: Rejected,
    /// Samples taken out of each lane, good and bad, since the beginning.
    consumed: [u64; lane::COUNT],
}

impl<L: Lane> Merge<L> {
    /// Merges `lanes` into batches of at most `limit` events.
    pub(super) fn new(lanes: [L; lane::COUNT], limit: usize) -> Self {
        Self {
            lanes,
            heads: [None; lane::COUNT],
            batch: Vec::with_capacity(limit),
            limit,
            rejected: Rejected::default(),
            consumed: [0; lane::COUNT],
        }
    }

    /// Takes events stamped up to `cut` (boot time, ns); later ones wait. At most the limit, so a full batch means
    /// that there may be more. Events of one lane keep their order unless their stamps say otherwise.
    pub(super) fn collect(&mut self, cut: u64) {
        self.batch.clear();
        self.rejected = Rejected::default();
        let mut dry = [false; lane::COUNT];
        let mut ordered = true;
        let mut last = 0;
        while self.batch.len() < self.limit {
            self.refill(&mut dry);
            let Some(event) = self.take_earliest(cut) else { break };
            ordered &= event.boot_ns >= last;
            last = event.boot_ns;
            self.batch.push(event);
        }
        if !ordered {
            // Programs on several CPUs stamp first and reserve then, so a lane can be out of order by a little.
            self.batch.sort_by_key(|event| event.boot_ns);
        }
    }

    /// Puts further events into the batch of the latest [`Self::collect`].
    pub(super) fn add(&mut self, events: &[Event]) {
        if !events.is_empty() {
            self.batch.extend_from_slice(events);
            self.batch.sort_by_key(|event| event.boot_ns);
        }
    }

    /// What the latest [`Self::collect`] took and [`Self::add`] brought, in order.
    pub(super) fn batch(&self) -> &[Event] {
        &self.batch
    }

    /// Whether the latest [`Self::collect`] stopped at the limit.
    pub(super) fn is_full(&self) -> bool {
        self.batch.len() >= self.limit || self.rejected.total() >= MAX_REJECTED
    }

    /// Whether nothing waits for its time in here.
    pub(super) fn is_empty(&self) -> bool {
        self.heads.iter().all(Option::is_none)
    }

    /// Bad samples of the latest [`Self::collect`].
    pub(super) fn rejected(&self) -> Rejected {
        self.rejected
    }

    /// Samples taken out of each lane since the beginning.
    pub(super) fn consumed(&self) -> [u64; lane::COUNT] {
        self.consumed
    }

    /// Fills the look-ahead. A lane found empty is not asked again in this round.
    fn refill(&mut self, dry: &mut [bool; lane::COUNT]) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            while self.heads[index].is_none() && !dry[index] && self.rejected.total() < MAX_REJECTED {
                match lane.pop() {
                    Some(sample) => {
                        self.consumed[index] += 1;
                        match sample {
                            Ok(event) => self.heads[index] = Some(event),
                            Err(bad) => self.rejected.count(bad),
                        }
                    }
                    None => dry[index] = true,
                }
            }
        }
    }

    fn take_earliest(&mut self, cut: u64) -> Option<Event> {
        let earliest =
            self.heads.iter_mut().filter(|head| head.is_some_and(|event| is_due(event.boot_ns, cut)));
        earliest.min_by_key(|head| head.map_or(u64::MAX, |event| event.boot_ns))?.take()
    }
}

/// Whether an event need not wait for the next round. A stamp far in the future is no reason to block its lane.
fn is_due(stamp: u64, cut: u64) -> bool {
    stamp <= cut || stamp - cut > MAX_AHEAD_NS
}

/// Bad samples taken in one round at most.
const MAX_REJECTED: u64 = 65536;
const MAX_AHEAD_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests;
