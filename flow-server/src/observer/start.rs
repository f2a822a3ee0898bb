//! Where in the ring an answer begins.

use specola_flow::{Flow, FlowView, NodeInfo};
use specola_ring::{Read, Reader};

use super::request::FlowsQuery;
use crate::shared::Shared;

/// Records looked at before other tasks get a turn.
const TURN: u64 = 2048;

/// Sequence number of the first record to look at. `head` is the ring's head when the request came.
pub(super) async fn start(shared: &Shared, query: &FlowsQuery, node: &NodeInfo, head: u64) -> u64 {
    let ring = &shared.ring;
    match (query.since_ns, query.number) {
        (Some(since_ns), _) => ring.seek_since(since_ns),
        (None, _) if query.is_first => ring.oldest(),
        (None, None) if query.follow => head,
        (None, None) => ring.oldest(),
        (None, Some(number)) => walk_back(shared, query, node, head, number).await,
    }
}

/// Goes back from `head` until `number` flows pass, or the ring ends.
async fn walk_back(shared: &Shared, query: &FlowsQuery, node: &NodeInfo, head: u64, number: u64) -> u64 {
    let ring: &Reader<Flow> = &shared.ring;
    if query.filters.is_empty() && query.until_ns.is_none() {
        return head.saturating_sub(number).max(ring.oldest());
    }
    let (mut seq, mut missing) = (head, number);
    while missing > 0 && seq > 0 {
        let Read::Item(flow) = ring.read(seq - 1) else {
            break;
        };
        seq -= 1;
        let is_early_enough = query.until_ns.is_none_or(|until_ns| flow.time_ns <= until_ns);
        let view = FlowView::new(&flow, seq, shared.config.instance, shared.directory.metas(), node);
        if is_early_enough && query.filters.passes(&view) {
            missing -= 1;
        }
        if seq.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
    seq
}
