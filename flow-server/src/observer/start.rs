//! Where in the ring an answer begins.

use specola_flow::{Flow, FlowView, NodeInfo};

use super::request::FlowsQuery;
use crate::shared::Shared;

/// Records looked at before other tasks get a turn.
const TURN: u32 = 2048;

/// Sequence number of the first record to look at. `head` is the ring's head when the request came.
pub(super) async fn start(shared: &Shared, query: &FlowsQuery, node: &NodeInfo, head: u64) -> u64 {
    let ring = &shared.ring;
    match (query.since_ns, query.number) {
        (Some(since_ns), _) => ring.seek_since(since_ns),
        (None, _) if query.is_first => ring.oldest_protected(),
        (None, None) if query.follow => head,
        (None, None) => ring.oldest_protected(),
        (None, Some(number)) => walk_back(shared, query, node, head, number).await,
    }
}

/// Goes back from `head` until `number` flows pass, or the ring ends.
async fn walk_back(shared: &Shared, query: &FlowsQuery, node: &NodeInfo, head: u64, number: u64) -> u64 {
    let ring = &shared.ring;
    let (mut start, mut missing, mut looked_at) = (head, number, 0);
    while missing > 0
        && let Some((seq, flow)) = ring.before(start)
    {
        start = seq;
        let is_early_enough = query.until_ns.is_none_or(|until_ns| flow.time_ns <= until_ns);
        if is_early_enough && flow.lost_count().is_none() && passes(shared, query, node, &flow, seq) {
            missing -= 1;
        }
        looked_at += 1;
        if looked_at % TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
    start
}

fn passes(shared: &Shared, query: &FlowsQuery, node: &NodeInfo, flow: &Flow, seq: u64) -> bool {
    let (directory, metas) = (shared.directory.load(), shared.directory.metas());
    let kept = shared.details.of(flow);
    let mut view = FlowView::new(flow, seq, shared.config.instance, &metas, node).with_names(&**directory);
    view.detail = kept.as_deref().map(|kept| &kept.detail);
    query.filters.passes(&view)
}
