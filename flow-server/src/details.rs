//! What flows carry beyond their records: requests and responses, names, translations.
//!
//! The record in the ring has a number. The details with that number are in a ring of slots beside the flow ring; the
//! pipeline's thread alone writes it. There are as many slots as flows at most, and all details together take a bounded
//! number of bytes: the oldest ones make room. Those whose flow can still be read are counted as lost.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwapOption;
use specola_flow::{Flow, FlowDetail, WireDetail};

/// Slots at most: their room is taken at the start.
const MOST_SLOTS: usize = 1 << 16;
/// What one entry takes beyond its texts and lists, bytes: itself twice, as it is also kept in encoded form.
const ENTRY: usize = 1024;

/// Details of one flow.
#[derive(Debug)]
pub(crate) struct Kept {
    number: u64,
    pub(crate) detail: FlowDetail,
    wire: OnceLock<WireDetail>,
}

impl Kept {
    /// In encoded form; made by the first reader that wants it.
    pub(crate) fn wire(&self) -> &WireDetail {
        self.wire.get_or_init(|| WireDetail::new(&self.detail))
    }
}

/// What readers see.
pub(crate) struct Details {
    /// The details with number `n` are in slot `n` modulo their count.
    slots: Box<[ArcSwapOption<Kept>]>,
    /// Bytes of all details at most.
    budget: usize,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    kept: AtomicU64,
    lost: AtomicU64,
    bytes: AtomicU64,
    clipped: AtomicU64,
    refused: AtomicU64,
}

/// State of the details.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DetailCounts {
    /// Flows that came with details.
    pub kept: u64,
    /// Details that made room for newer ones while their flow could still be read.
    pub lost: u64,
    /// Bytes of the details that are held.
    pub bytes: u64,
    /// Records of which a part was cut off, as they were too large.
    pub clipped: u64,
    /// Records that were refused because the queue was full; they are in no other counter.
    pub refused: u64,
}

impl Details {
    /// Room for details of so many flows, and for so many bytes.
    pub(crate) fn new(flows: usize, budget: usize) -> Self {
        let slots = flows.clamp(1, MOST_SLOTS);
        Self {
            slots: (0..slots).map(|_| ArcSwapOption::empty()).collect(),
            budget,
            counts: Counts::default(),
        }
    }

    /// The details of a flow; `None` when it has none, or they have made room.
    pub(crate) fn of(&self, flow: &Flow) -> Option<Arc<Kept>> {
        if flow.detail == 0 {
            return None;
        }
        self.slot(flow.detail).load_full().filter(|kept| kept.number == flow.detail)
    }

    pub(crate) fn counts(&self) -> DetailCounts {
        let Counts { kept, lost, bytes, clipped, refused } = &self.counts;
        DetailCounts {
            kept: kept.load(Relaxed),
            lost: lost.load(Relaxed),
            bytes: bytes.load(Relaxed),
            clipped: clipped.load(Relaxed),
            refused: refused.load(Relaxed),
        }
    }

    pub(crate) fn note_clipped(&self) {
        self.counts.clipped.fetch_add(1, Relaxed);
    }

    pub(crate) fn note_refused(&self) {
        self.counts.refused.fetch_add(1, Relaxed);
    }

    fn slot(&self, number: u64) -> &ArcSwapOption<Kept> {
        // Less than the number of slots, which is a usize.
        &self.slots[(number % self.slots.len() as u64) as usize]
    }
}

impl fmt::Debug for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Details").field("slots", &self.slots.len()).field("counts", &self.counts).finish()
    }
}

/// The writing side, on the pipeline's thread.
#[derive(Debug, Default)]
pub(crate) struct DetailWriter {
    /// Number of the latest details.
    last: u64,
    /// What is held, oldest first.
    held: VecDeque<Held>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    /// Sequence number of the flow.
    seq: u64,
    bytes: usize,
}

impl DetailWriter {
    /// Keeps the details, which weigh so many bytes, for the flow that will be record `seq`. Gives their number.
    /// `is_read` says whether a record can still be read.
    pub(crate) fn keep(
        &mut self,
        details: &Details,
        (detail, weight): (FlowDetail, usize),
        seq: u64,
        is_read: impl Fn(u64) -> bool,
    ) -> u64 {
        // In the entry and in its encoded form.
        let bytes = ENTRY + 2 * weight;
        while self.held.len() >= details.slots.len() || self.bytes + bytes > details.budget {
            let Some(oldest) = self.held.pop_front() else { break };
            let number = self.last - self.held.len() as u64;
            details.slot(number).store(None);
            self.bytes -= oldest.bytes;
            if is_read(oldest.seq) {
                details.counts.lost.fetch_add(1, Relaxed);
            }
        }
        self.last += 1;
        self.bytes += bytes;
        self.held.push_back(Held { seq, bytes });
        let kept = Kept { number: self.last, detail, wire: OnceLock::new() };
        details.slot(self.last).store(Some(Arc::new(kept)));
        details.counts.kept.fetch_add(1, Relaxed);
        details.counts.bytes.store(self.bytes as u64, Relaxed);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> FlowDetail {
        FlowDetail { trace_id: name.into(), ..FlowDetail::default() }
    }

    fn flow(detail: u64) -> Flow {
        Flow { detail, ..Flow::default() }
    }

    #[test]
    fn the_oldest_make_room_and_are_lost_only_with_their_flow_held() {
        let (details, mut writer) = (Details::new(4, usize::MAX), DetailWriter::default());
        for seq in 0..10 {
            // Flows before 5 can no longer be read.
            let number = writer.keep(&details, (named(&seq.to_string()), 1), seq, |seq| seq >= 5);
            assert_eq!(number, seq + 1);
        }
        let found = |number| details.of(&flow(number)).map(|kept| kept.detail.trace_id.clone());
        assert_eq!((0..=6).map(found).collect::<Vec<_>>(), [const { None }; 7]);
        assert_eq!((7..=10).filter_map(found).collect::<Vec<_>>(), ["6", "7", "8", "9"]);
        assert_eq!(found(11), None);
        let counts = details.counts();
        assert_eq!((counts.kept, counts.lost), (10, 1));
        assert_eq!(counts.bytes, 4 * (ENTRY as u64 + 2));
    }

    #[test]
    fn bytes_are_bounded() {
        let (details, mut writer) = (Details::new(1000, 10 * (ENTRY + 200)), DetailWriter::default());
        for seq in 0..100 {
            writer.keep(&details, (named("x"), 100), seq, |_| true);
            assert!(details.counts().bytes <= 10 * (ENTRY as u64 + 200));
        }
        assert_eq!(details.counts().lost, 90);
        assert_eq!((0..=100).filter(|number| details.of(&flow(*number)).is_some()).count(), 10);
    }

    #[test]
    fn one_that_is_larger_than_the_budget_is_held_alone() {
        let (details, mut writer) = (Details::new(4, 1), DetailWriter::default());
        for seq in 0..3 {
            let number = writer.keep(&details, (named("x"), 100), seq, |_| true);
            assert!(details.of(&flow(number)).is_some());
        }
        assert_eq!(details.counts().lost, 2);
    }
}
