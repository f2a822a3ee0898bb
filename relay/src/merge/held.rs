//! What waits for its turn, the oldest first. The heap has keys only: what they stand for need not move with them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::envelope::Answer;

/// An answer that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) time_ns: u64,
    pub(super) arrived_ns: u64,
    pub(super) source: u32,
    pub(super) answer: Answer,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Time, number of arrival, place.
    order: BinaryHeap<Reverse<(u64, u64, u32)>>,
    places: Vec<Option<Held>>,
    free: Vec<u32>,
    pushed: u64,
    bytes: usize,
}

impl Waiting {
    pub(super) fn push(&mut self, held: Held) {
        self.pushed += 1;
        self.bytes += held.answer.bytes.len();
        let time_ns = held.time_ns;
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.places.push(None);
                u32::try_from(self.places.len() - 1).expect("answers are limited to 32 bits")
            }
        };
        self.places[place as usize] = Some(held);
        self.order.push(Reverse((time_ns, self.pushed, place)));
    }

    /// The oldest; of the same time, the one that came first.
    pub(super) fn first(&self) -> Option<&Held> {
        let Reverse((_, _, place)) = self.order.peek()?;
        self.places.get(*place as usize)?.as_ref()
    }

    /// Time of the oldest, ns.
    pub(super) fn first_ns(&self) -> Option<u64> {
        self.order.peek().map(|Reverse((time_ns, ..))| *time_ns)
    }

    pub(super) fn pop(&mut self) -> Option<Held> {
        let Reverse((_, _, place)) = self.order.pop()?;
        let held = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        self.bytes -= held.answer.bytes.len();
        Some(held)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Bytes of all.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}
