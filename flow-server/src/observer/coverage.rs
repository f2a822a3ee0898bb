//! What an answer to GetFlows can cover, told in the headers of the response, and what it did cover, told in its trailers.

use specola_ring::Read;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use crate::{shared::Shared, wire::Scanned};

/// `whole` when every flow since the asked time (or since the agent's start) that reached the ring is still in it and the
/// kernel lost none, else `part`.
const COVERAGE: &str = "specola-coverage";
/// Time of the oldest flow in the ring, ns since 1970; absent when it is empty.
const OLDEST: &str = "specola-coverage-oldest-ns";
/// Flows that newer ones overwrote since the agent's start.
const OVERWRITTEN: &str = "specola-coverage-overwritten";
/// Events that the kernel could not hand over, since its maps were made.
const KERNEL_LOST: &str = "specola-coverage-kernel-lost";

/// Names and values of the headers.
pub(super) fn headers(shared: &Shared, since_ns: Option<u64>) -> Vec<(&'static str, Value)> {
    let overwritten = shared.ring.overwritten();
    let kernel_lost = shared.ledger.counts().kernel_lost;
    let oldest_ns = match shared.ring.read(shared.ring.oldest()) {
        Read::Item(flow) => Some(flow.time_ns),
        _ => None,
    };
    let reaches_back = match since_ns {
        _ if overwritten == 0 => true,
        Some(since_ns) => oldest_ns.is_some_and(|oldest_ns| oldest_ns <= since_ns),
        None => false,
    };
    let coverage = if reaches_back && kernel_lost == 0 { "whole" } else { "part" };
    let mut headers = vec![
        (COVERAGE, Value::Text(coverage)),
        (OVERWRITTEN, Value::Number(overwritten)),
        (KERNEL_LOST, Value::Number(kernel_lost)),
    ];
    headers.extend(oldest_ns.map(|oldest_ns| (OLDEST, Value::Number(oldest_ns))));
    headers
}

/// A header's value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Value {
    Text(&'static str),
    Number(u64),
}

impl From<Value> for AsciiMetadataValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => Self::from_static(text),
            Value::Number(number) => Self::from(number),
        }
    }
}

/// Flows that were sent.
const SERVED: &str = "specola-coverage-served";
/// Flows that were passed over: not asked for.
const FILTERED: &str = "specola-coverage-filtered";
/// Flows that were overwritten before the client took those before them.
const LOST_RING: &str = "specola-coverage-lost-ring";
/// Events that the kernel could not hand over, as far as the answer told of them.
const LOST_KERNEL: &str = "specola-coverage-lost-kernel";
/// Records that told of them.
const NOTICES: &str = "specola-coverage-notices";
/// Time of the earliest flow that was sent, ns since 1970; absent without one.
const FIRST: &str = "specola-coverage-first-ns";
/// Time of the latest flow that was sent.
const LAST: &str = "specola-coverage-last-ns";

/// What an answer held. The records that it went over are those served, filtered, lost in the ring, and notices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    served: u64,
    filtered: u64,
    missed: u64,
    kernel_lost: u64,
    notices: u64,
    min_ns: u64,
    max_ns: u64,
}

impl Default for Served {
    fn default() -> Self {
        Self { served: 0, filtered: 0, missed: 0, kernel_lost: 0, notices: 0, min_ns: u64::MAX, max_ns: 0 }
    }
}

impl Served {
    /// Takes a piece of the answer into account.
    pub(super) fn note(&mut self, scanned: &Scanned) {
        self.served += scanned.delivered;
        self.filtered += scanned.filtered;
        self.notices += scanned.notices;
        self.kernel_lost += scanned.kernel_lost;
        self.min_ns = self.min_ns.min(scanned.min_ns);
        self.max_ns = self.max_ns.max(scanned.max_ns);
    }

    /// Takes flows into account that the client was too slow for.
    pub(super) const fn miss(&mut self, count: u64) {
        self.missed += count;
    }

    /// Says it in trailers.
    pub(super) fn add_to(&self, trailers: &mut MetadataMap) {
        let counts = [
            (SERVED, self.served),
            (FILTERED, self.filtered),
            (LOST_RING, self.missed),
            (LOST_KERNEL, self.kernel_lost),
            (NOTICES, self.notices),
        ];
        let span = [(FIRST, self.min_ns), (LAST, self.max_ns)].into_iter().filter(|_| self.served > 0);
        for (name, number) in counts.into_iter().chain(span) {
            trailers.insert(name, number.into());
        }
    }
}
