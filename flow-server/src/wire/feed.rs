//! Followers that ask for the same thing share the bytes: whoever is first at the end of the ring writes them.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use prost::bytes::Bytes;
use specola_flow::NodeInfo;
use tonic::Status;

use super::scan::{Bounds, Scanned, Scanner, Stop, buffer_for};
use crate::{observer::FlowsQuery, shared::Shared};

/// Bytes that are kept for followers who come later; who is further behind writes for itself.
const KEPT_BYTES: usize = 256 << 10;
/// Chunks that are kept.
const KEPT_CHUNKS: usize = 64;

/// All feeds of a server, while somebody follows them.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    feeds: Mutex<Vec<Weak<Feed>>>,
}

impl Feeds {
    /// The feed of this query on this node; a new one when nobody else follows it.
    pub(crate) fn join(shared: &Arc<Shared>, query: &Arc<FlowsQuery>, node: &Arc<NodeInfo>) -> Arc<Feed> {
        let mut feeds = shared.feeds.feeds.lock();
        feeds.retain(|feed| feed.strong_count() > 0);
        let is_same = |feed: &Arc<Feed>| feed.query.content == query.content && feed.node == *node;
        if let Some(feed) = feeds.iter().filter_map(Weak::upgrade).find(is_same) {
            return feed;
        }
        let scanner = Scanner::new(Arc::clone(shared), Arc::clone(query), Arc::clone(node));
        let state = Mutex::new(State { scanner, end: 0, chunks: VecDeque::new(), bytes: 0 });
        let feed = Arc::new(Feed { query: Arc::clone(query), node: Arc::clone(node), state });
        feeds.push(Arc::downgrade(&feed));
        feed
    }
}

/// What the followers of one query read. The lock is between them; the ring's writer never meets it.
#[derive(Debug)]
pub(crate) struct Feed {
    query: Arc<FlowsQuery>,
    node: Arc<NodeInfo>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    scanner: Scanner,
    /// The first record that is in no chunk yet.
    end: u64,
    /// By sequence number, maybe with gaps.
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

/// A piece of the ring as bytes.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    from: u64,
    /// What the bytes hold.
    pub(crate) scanned: Scanned,
    /// Answers, maybe none.
    pub(crate) frames: Bytes,
    capacity: usize,
}

/// What a follower gets.
#[derive(Debug)]
pub(crate) enum FeedStep {
    /// The next piece.
    Chunk(Chunk),
    /// Nothing for this place: others are further. From the record `until` on there may be something.
    Behind {
        /// Where the others' pieces go on.
        until: u64,
    },
    /// The next record is not there.
    Nothing(Stop),
}

impl Feed {
    /// The piece that begins with record `position`. Others wait while it is written, some microseconds.
    pub(crate) fn next(self: &Arc<Self>, position: u64) -> Result<FeedStep, Status> {
        let is_alone = Arc::strong_count(self) == 1;
        let mut state = self.state.lock();
        if position >= state.end {
            return state.lead(position, is_alone);
        }
        Ok(match state.chunks.binary_search_by_key(&position, |chunk| chunk.from) {
            Ok(index) => FeedStep::Chunk(state.chunks[index].clone()),
            Err(index) => {
                FeedStep::Behind { until: state.chunks.get(index).map_or(state.end, |chunk| chunk.from) }
            }
        })
    }
}

impl State {
    /// Writes the piece that begins with `position`, and keeps it when there are others.
    fn lead(&mut self, position: u64, is_alone: bool) -> Result<FeedStep, Status> {
        let mut out = buffer_for(self.scanner.behind(position));
        let scanned = self.scanner.scan(position, &Bounds::NONE, &mut out)?;
        if scanned.next == position {
            return Ok(FeedStep::Nothing(scanned.stop));
        }
        let capacity = out.capacity();
        let chunk = Chunk { from: position, scanned, frames: out.into(), capacity };
        self.end = scanned.next;
        if is_alone {
            self.chunks.clear();
            self.bytes = 0;
        } else {
            self.keep(chunk.clone());
        }
        Ok(FeedStep::Chunk(chunk))
    }

    fn keep(&mut self, chunk: Chunk) {
        self.bytes += chunk.capacity;
        self.chunks.push_back(chunk);
        while (self.bytes > KEPT_BYTES || self.chunks.len() > KEPT_CHUNKS)
            && let Some(oldest) = self.chunks.pop_front()
        {
            self.bytes -= oldest.capacity;
        }
    }
}
