//! Followers who ask for the same share one stream of each node, and the bytes that come out of the merge.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prost::Message as _;
use prost::bytes::Bytes;
use specola_proto::observer::GetFlowsRequest;
use specola_proto::relay::NodeState;
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::http;

use crate::envelope::push_frame;
use crate::flows::{Context, FlowStream};
use crate::marks;

/// The request as it was encoded, and who asks.
type Key = (Vec<u8>, Option<http::HeaderValue>);

/// All shared streams.
#[derive(Debug, Default)]
pub(crate) struct Hubs(Mutex<HashMap<Key, Weak<Hub>>>);

/// One shared stream.
#[derive(Debug)]
struct Hub {
    state: Mutex<State>,
    /// Counts changes; who follows holds a receiver.
    changes: watch::Sender<u64>,
    /// Bytes that are kept for followers that are behind.
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    /// What not all followers have yet.
    pieces: VecDeque<Piece>,
    /// Number of the first of them.
    first: u64,
    bytes: usize,
    /// Flows in all pieces so far.
    flows: u64,
    /// The next piece of each follower, by number of the follower.
    next: BTreeMap<u64, u64>,
    followers: u64,
    end: Option<End>,
}

#[derive(Clone, Debug)]
struct Piece {
    bytes: Bytes,
    /// Flows in all pieces up to this one.
    flows: u64,
}

#[derive(Clone, Debug)]
struct End {
    status: Option<Status>,
    coverage: Vec<(&'static str, String)>,
}

/// One of those who follow a shared stream.
pub(crate) struct Follower {
    context: Context,
    hub: Arc<Hub>,
    changes: watch::Receiver<u64>,
    number: u64,
    /// Messages about nodes, for one who comes later.
    greeting: Option<Bytes>,
    /// Flows up to the piece that it had last.
    seen: u64,
    /// Flows handed on since they were asked for.
    flows: u64,
    coverage: Vec<(&'static str, String)>,
}

/// Whether followers with this request see the same.
pub(crate) const fn can_share(request: &GetFlowsRequest) -> bool {
    request.follow && request.number == 0 && request.since.is_none() && request.until.is_none()
}

impl Hubs {
    /// Follows the stream of this request; the first one opens it.
    pub(crate) fn follow(
        self: &Arc<Self>,
        context: &Context,
        request: GetFlowsRequest,
        authorization: Option<http::HeaderValue>,
    ) -> Follower {
        let key = (request.encode_to_vec(), authorization.clone());
        let mut hubs = self.0.lock();
        if let Some(follower) = hubs.get(&key).and_then(Weak::upgrade).and_then(|hub| hub.join(context, true))
        {
            return follower;
        }
        let hub = Arc::new(Hub {
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            limit: context.limits.bytes,
        });
        let follower = hub.join(context, false).expect("a new stream has not ended");
        hubs.insert(key.clone(), Arc::downgrade(&hub));
        drop(hubs);
        let (all, stream) = (Arc::clone(self), FlowStream::open(context.clone(), request, authorization));
        tokio::spawn(async move {
            hub.run(stream).await;
            // Another one may have its place already.
            let mut hubs = all.0.lock();
            if hubs.get(&key).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(&hub))) {
                hubs.remove(&key);
            }
        });
        follower
    }
}

impl Hub {
    /// Another follower; `None` when the stream has ended.
    fn join(self: &Arc<Self>, context: &Context, is_later: bool) -> Option<Follower> {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return None;
        }
        state.followers += 1;
        let (number, next) = (state.followers, state.first + state.pieces.len() as u64);
        state.next.insert(number, next);
        let follower = Follower {
            hub: Arc::clone(self),
            changes: self.changes.subscribe(),
            number,
            greeting: is_later.then(|| greeting(context)),
            seen: state.flows,
            flows: 0,
            coverage: Vec::new(),
            context: context.clone(),
        };
        Some(follower)
    }

    /// Reads the stream as long as somebody follows.
    async fn run(&self, mut stream: FlowStream) {
        loop {
            let piece = tokio::select! {
                biased;
                () = self.changes.closed() => {
                    let mut state = self.state.lock();
                    if self.changes.receiver_count() > 0 {
                        continue;
                    }
                    state.end = Some(End { status: None, coverage: Vec::new() });
                    return;
                }
                piece = stream.next() => piece,
            };
            let mut state = self.state.lock();
            match piece {
                Some(Ok(bytes)) => state.push(bytes, stream.take_flows(), self.limit),
                Some(Err(status)) => {
                    state.end = Some(End { status: Some(status), coverage: stream.coverage() })
                }
                None => state.end = Some(End { status: None, coverage: stream.coverage() }),
            }
            let has_ended = state.end.is_some();
            drop(state);
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
            if has_ended {
                return;
            }
        }
    }
}

impl State {
    fn push(&mut self, bytes: Bytes, flows: u64, limit: usize) {
        self.flows += flows;
        self.bytes += bytes.len();
        self.pieces.push_back(Piece { bytes, flows: self.flows });
        while self.bytes > limit && self.pieces.len() > 1 {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(piece) = self.pieces.pop_front() {
            self.bytes -= piece.bytes.len();
            self.first += 1;
        }
    }

    /// Forgets what everybody has.
    fn trim(&mut self) {
        let needed = self.next.values().min().copied().unwrap_or(u64::MAX);
        while self.first < needed && !self.pieces.is_empty() {
            self.forget_first();
        }
    }

    /// What a follower gets next: flows that it missed, or a piece.
    fn take(&mut self, follower: u64, seen: u64) -> Option<Result<Piece, u64>> {
        let next = self.next.get_mut(&follower)?;
        let at = self.first;
        if *next < at {
            // The slowest one goes on where the stream is: behind it everything would be lost again at once.
            *next = at + self.pieces.len() as u64;
            let lost = self.flows - seen;
            self.trim();
            return Some(Err(lost));
        }
        let piece = self.pieces.get(usize::try_from(*next - at).ok()?)?.clone();
        *next += 1;
        self.trim();
        Some(Ok(piece))
    }
}

impl Follower {
    /// Number of flows in the messages since the last call.
    pub(crate) const fn take_flows(&mut self) -> u64 {
        std::mem::replace(&mut self.flows, 0)
    }

    /// The next messages; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        if let Some(greeting) = self.greeting.take().filter(|greeting| !greeting.is_empty()) {
            return Some(Ok(greeting));
        }
        loop {
            // Seen before the look: a change after it wakes.
            self.changes.borrow_and_update();
            let (taken, end) = {
                let mut state = self.hub.state.lock();
                (state.take(self.number, self.seen), state.end.clone())
            };
            match (taken, end) {
                (Some(Ok(piece)), _) => {
                    self.flows += piece.flows - self.seen;
                    self.seen = piece.flows;
                    return Some(Ok(piece.bytes));
                }
                // Messages about nodes only.
                (Some(Err(0)), _) => {}
                (Some(Err(lost)), _) => {
                    self.seen += lost;
                    self.context.counters.lost.inc_by(lost);
                    let mut out = Vec::new();
                    push_frame(&marks::lost(&self.context.name, lost), &[], &mut out);
                    return Some(Ok(out.into()));
                }
                (None, Some(end)) => {
                    self.coverage = end.coverage;
                    return end.status.map(Err);
                }
                (None, None) => {
                    // The stream ends with its last message, not before.
                    if self.changes.changed().await.is_err() {
                        return None;
                    }
                }
            }
        }
    }

    /// What the answer covered, once it has ended.
    pub(crate) fn coverage(&self) -> Vec<(&'static str, String)> {
        self.coverage.clone()
    }

    /// How many peers can be asked, and how many not.
    pub(crate) fn asked(&self) -> (usize, usize) {
        let peers = self.context.pool.peers();
        let there = peers.values().filter(|peer| peer.link().is_some()).count();
        (there, peers.len() - there)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.hub.state.lock();
        state.next.remove(&self.number);
        state.trim();
    }
}

/// Who is there and who is not, now.
fn greeting(context: &Context) -> Bytes {
    let (mut there, mut away) = (Vec::new(), Vec::new());
    for (name, peer) in context.pool.peers().iter() {
        if peer.link().is_some() { &mut there } else { &mut away }.push(name.clone());
    }
    let mut out = Vec::new();
    for (state, names) in [(NodeState::NodeConnected, there), (NodeState::NodeUnavailable, away)] {
        if !names.is_empty() {
            push_frame(&marks::node_status(&context.name, state.into(), names, String::new()), &[], &mut out);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(followers: u64) -> State {
        State { next: (1..=followers).map(|number| (number, 0)).collect(), ..State::default() }
    }

    #[test]
    fn all_get_all_and_nothing_is_kept_longer() {
        let mut state = state(2);
        for number in 0..3_u8 {
            state.push(Bytes::from(vec![number]), 2, 100);
        }
        for follower in [1, 2] {
            for number in 0..3_u8 {
                let piece = state.take(follower, 0).unwrap().unwrap();
                assert_eq!((piece.bytes[0], piece.flows), (number, 2 * (u64::from(number) + 1)));
            }
            assert!(state.take(follower, 6).is_none());
            assert_eq!(state.pieces.len(), if follower == 1 { 3 } else { 0 });
        }
        assert_eq!(state.bytes, 0);
    }

    #[test]
    fn who_is_too_slow_is_told_how_much_it_missed() {
        let mut state = state(2);
        for number in 0..50_u8 {
            state.push(Bytes::from(vec![number; 10]), 3, 100);
            assert_eq!(state.take(1, 0).unwrap().unwrap().bytes[0], number);
            assert!(state.bytes <= 100);
        }
        assert_eq!(state.take(2, 0).unwrap().unwrap_err(), 150);
        assert!(state.take(2, 150).is_none() && state.pieces.is_empty());
        state.push(Bytes::from(vec![77]), 1, 100);
        assert_eq!(state.take(2, 150).unwrap().unwrap().flows, 151);
    }
}
