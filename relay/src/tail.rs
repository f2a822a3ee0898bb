//! The last flows of a node, so that a follower's stream that broke can go on without a gap and without a repeat.
//!
//! A node gives flows in the order in which it saw them, which is not quite that of their times. So a stream that goes on
//! begins a while before the newest flow, and what was there already is left out.

use std::collections::{HashSet, VecDeque};

use crate::envelope::{Answer, Kind};

/// How far before the newest flow a stream goes on, ns: the longest time that flows of one node are out of order.
const REACH_NS: u64 = 2_000_000_000;
/// Flows that are kept in mind, of one node and of all. Of a node with more in [`REACH_NS`] some come twice.
const LIMIT: usize = 65_536;
const LIMIT_OF_ALL: usize = 1 << 20;

/// Flows that are kept in mind of each of so many nodes.
pub(crate) const fn limit(nodes: usize) -> usize {
    let share = LIMIT_OF_ALL.div_ceil(nodes + 1);
    if share < LIMIT { share } else { LIMIT }
}

/// What tells one flow of a node from another: its time, and length and checksum of its bytes.
type Key = (u64, u32, u32);

/// The last flows of one node.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    newest_ns: u64,
    recent: VecDeque<Key>,
    /// Flows that the node may send again, and the newest time of them.
    seen: HashSet<Key>,
    seen_ns: u64,
}

impl Tail {
    /// From when on the node shall be asked, ns since 1970; `None` before its first flow. What it sends again after this
    /// call is recognized.
    pub(crate) fn resume(&mut self) -> Option<u64> {
        let since_ns = self.newest_ns.checked_sub(REACH_NS)?;
        self.seen = self.recent.iter().copied().collect();
        self.seen_ns = self.newest_ns;
        Some(since_ns)
    }

    /// Takes note of an answer; so many are kept in mind. Gives whether it is a flow that came before the stream broke.
    pub(crate) fn is_repeat(&mut self, answer: &Answer, limit: usize) -> bool {
        let (Kind::Flow, Some(time_ns)) = (answer.kind, answer.time_ns) else {
            return false;
        };
        let length = u32::try_from(answer.bytes.len()).unwrap_or(u32::MAX);
        let key = (time_ns, length, crc32fast::hash(&answer.bytes));
        if !self.seen.is_empty() {
            if self.seen.remove(&key) {
                return true;
            }
            if time_ns > self.seen_ns.saturating_add(REACH_NS) {
                // What comes now was not there before; the node has forgotten the rest.
                self.seen = HashSet::new();
            }
        }
        self.newest_ns = self.newest_ns.max(time_ns);
        let oldest_ns = self.newest_ns.saturating_sub(REACH_NS);
        while self.recent.len() >= limit || self.recent.front().is_some_and(|key| key.0 < oldest_ns) {
            self.recent.pop_front();
        }
        self.recent.push_back(key);
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::bytes::Bytes;

    use super::*;

    fn flow(time_ns: u64, name: u64) -> Answer {
        let bytes = Bytes::copy_from_slice(&name.to_be_bytes());
        Answer { kind: Kind::Flow, time_ns: Some(time_ns), bytes }
    }

    #[test]
    fn nothing_is_known_of_a_node_that_sent_nothing() {
        let mut tail = Tail::default();
        assert_eq!(tail.resume(), None);
        let lost = Answer { kind: Kind::Lost(3), ..flow(9 * REACH_NS, 1) };
        assert!(!tail.is_repeat(&lost, LIMIT) && !tail.is_repeat(&lost, LIMIT));
        assert_eq!(tail.resume(), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut tail = Tail::default();
        for name in 0..2 * LIMIT as u64 {
            assert!(!tail.is_repeat(&flow(9 * REACH_NS, name), LIMIT));
        }
        assert_eq!(tail.recent.len(), LIMIT);
        tail.is_repeat(&flow(12 * REACH_NS, 1), LIMIT);
        assert_eq!(tail.recent.len(), 1);
    }

    proptest! {
        /// The node's flows are up to [`REACH_NS`] out of order; the stream breaks anywhere, more than once, and the node
        /// sends again what is not older than it is asked for.
        #[test]
        fn each_flow_comes_once(
            steps in proptest::collection::vec((0..REACH_NS / 4, 0..REACH_NS), 1..200),
            breaks in proptest::collection::vec(0_usize..200, 0..4),
        ) {
            let mut now_ns = 10 * REACH_NS;
            let flows: Vec<Answer> = (0..).zip(&steps).map(|(name, (step, back))| {
                now_ns += step;
                flow(now_ns - back, name)
            }).collect();
            let mut tail = Tail::default();
            let mut got: Vec<Answer> = Vec::new();
            let mut breaks: Vec<usize> = breaks.into_iter().map(|at| at % flows.len()).collect();
            breaks.sort_unstable();
            breaks.push(flows.len());
            for end in breaks {
                let since_ns = tail.resume().unwrap_or(0);
                // The node's ring is read from the first flow that is not too old.
                let asked = flows[..end].iter().filter(|flow| flow.time_ns.unwrap_or(0) >= since_ns);
                got.extend(asked.filter(|flow| !tail.is_repeat(flow, LIMIT)).cloned());
            }
            got.sort_by(|a, b| a.bytes.cmp(&b.bytes));
            prop_assert_eq!(got, flows);
        }
    }
}
