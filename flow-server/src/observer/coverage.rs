//! What an answer to GetFlows can cover, told in the headers of the response.

use specola_ring::Read;
use tonic::metadata::AsciiMetadataValue;

use crate::shared::Shared;

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
