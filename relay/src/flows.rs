//! One answer to GetFlows: the streams of all peers as one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use prost::bytes::Bytes;
use specola_lifecycle::Drain;
use specola_proto::google::Timestamp;
use specola_proto::observer::GetFlowsRequest;
use specola_proto::relay::NodeState;
use tokio::sync::watch;
use tonic::codegen::http;
use tonic::{Code, Status};

use crate::envelope::{Answer, Kind, push_frame};
use crate::marks;
use crate::merge::{Limits, Merge};
use crate::metrics::Counters;
use crate::names;
use crate::newest::Newest;
use crate::now_ns;
use crate::pool::{Peer, PeerState, Pool};
use crate::tail::{self, Tail};
use crate::upstream::Upstream;

mod told;

/// What all answers of a relay share.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) pool: Pool,
    pub(crate) limits: Limits,
    /// Name of the relay, in messages of its own.
    pub(crate) name: String,
    pub(crate) counters: Arc<Counters>,
    pub(crate) drain: Drain,
}

/// State of an answer.
pub(crate) struct FlowStream {
    context: Context,
    changes: watch::Receiver<u64>,
    request: GetFlowsRequest,
    authorization: Option<http::HeaderValue>,
    merge: Merge,
    nodes: Vec<Node>,
    ids: HashMap<String, u32>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// Flows still to be sent; `None` = any number.
    remaining: Option<u64>,
    /// The newest flows so far, of a request for the last ones.
    newest: Option<Newest>,
    /// Names by what is wrong with them, not yet told.
    errors: BTreeMap<String, Vec<String>>,
    states: BTreeMap<i32, Vec<String>>,
    /// Flows handed on since they were asked for.
    flows: u64,
    opened_ns: u64,
    /// A follower that has just got something gets nothing until then, ns: what comes meanwhile goes out at once.
    rest_ns: u64,
    /// Streams that are not read for now.
    parked: usize,
    is_done: bool,
}

/// One peer in this answer.
struct Node {
    name: String,
    peer: Arc<Peer>,
    state: NodeStream,
    is_whole: bool,
    /// Kept for followers: others ask once.
    tail: Tail,
    /// Not to be asked again: it understood and said no.
    refusal: Option<Status>,
    retry_ns: u64,
    /// The client knows that it is not there.
    is_told_away: bool,
}

enum NodeStream {
    Busy,
    Parked(Box<Upstream>),
    Ended,
    Failed,
}

enum Event {
    Opened(u32, Result<Box<Upstream>, Status>),
    Read(Box<Upstream>, Result<Option<Vec<Answer>>, Status>),
}

/// How often peers are looked at anew.
const RECHECK: Duration = Duration::from_secs(2);
/// Time before a stream that broke is opened again, ns.
const RETRY_NS: u64 = 1_000_000_000;
/// A buffer is handed on when it has this many bytes.
const FULL: usize = 32 << 10;

impl FlowStream {
    /// Asks all peers.
    pub(crate) fn open(
        context: Context,
        mut request: GetFlowsRequest,
        authorization: Option<http::HeaderValue>,
    ) -> Self {
        let changes = context.pool.changes();
        let is_limited = !request.follow && (1..=EVERYTHING).contains(&request.number);
        let is_last = is_limited && !request.first && request.since.is_none();
        let newest = is_last.then(|| Newest::new(request.number, context.limits.bytes));
        let remaining = (is_limited && !is_last).then_some(request.number);
        if request.number > EVERYTHING && !request.follow {
            request.number = 0;
        }
        let mut stream = Self {
            merge: Merge::new(context.limits, request.follow),
            changes,
            request,
            authorization,
            nodes: Vec::new(),
            ids: HashMap::new(),
            events: FuturesUnordered::new(),
            remaining,
            newest,
            errors: BTreeMap::new(),
            states: BTreeMap::new(),
            flows: 0,
            opened_ns: now_ns(),
            rest_ns: 0,
            parked: 0,
            is_done: false,
            context,
        };
        stream.attach(true);
        stream
    }

    /// How many peers were asked, and how many cannot be.
    pub(crate) fn asked(&self) -> (usize, usize) {
        let failed = self.nodes.iter().filter(|node| matches!(node.state, NodeStream::Failed)).count();
        (self.nodes.len() - failed, failed)
    }

    /// Number of flows in the messages since the last call.
    pub(crate) const fn take_flows(&mut self) -> u64 {
        std::mem::replace(&mut self.flows, 0)
    }

    /// The next messages; `None` at the end. Nothing is lost when this is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        self.rest().await;
        while !self.is_done {
            let mut out = Vec::new();
            self.tell(&mut out);
            self.release(&mut out);
            self.unpark();
            if !out.is_empty() {
                let is_rare = self.request.follow && out.len() < FULL;
                self.rest_ns = if is_rare { now_ns().saturating_add(REST_NS) } else { 0 };
                return Some(Ok(out.into()));
            }
            if self.is_over() {
                if let Some(piece) = self.newest.as_mut().and_then(Newest::take) {
                    return Some(piece);
                }
                self.is_done = true;
                return self.refusal().map(Err);
            }
            self.wait().await;
        }
        None
    }

    async fn rest(&mut self) {
        let rest = Duration::from_nanos(self.rest_ns.saturating_sub(now_ns())).min(LONGEST_REST);
        if !rest.is_zero() {
            tokio::select! {
                biased;
                () = self.context.drain.signalled() => self.is_done = true,
                () = tokio::time::sleep(rest) => self.take_ready(),
            }
        }
    }

    /// Everybody refused, for the reason of the first.
    fn refusal(&mut self) -> Option<Status> {
        let all_refused = !self.nodes.is_empty() && self.nodes.iter().all(|node| node.refusal.is_some());
        if all_refused { self.nodes.first_mut()?.refusal.take() } else { None }
    }

    fn is_over(&self) -> bool {
        let has_ended = |node: &Node| matches!(node.state, NodeStream::Ended | NodeStream::Failed);
        if self.request.follow {
            return !self.nodes.is_empty() && self.nodes.iter().all(|node| node.refusal.is_some());
        }
        self.remaining == Some(0) || (self.merge.held() == 0 && self.nodes.iter().all(has_ended))
    }

    /// Looks who is there: joins peers that came or came back, says who left.
    fn attach(&mut self, is_first: bool) {
        let (peers, now_ns) = (self.context.pool.peers(), now_ns());
        for (name, peer) in peers.iter() {
            let id = match self.ids.get(name) {
                Some(id) => *id,
                None => self.add_node(name, peer),
            };
            self.join(id, peer, now_ns, is_first);
        }
        for node in &mut self.nodes {
            if !peers.contains_key(&node.name) && self.ids.remove(&node.name).is_some() {
                self.states.entry(NodeState::NodeGone.into()).or_default().push(node.name.clone());
            }
        }
    }

    fn add_node(&mut self, name: &str, peer: &Arc<Peer>) -> u32 {
        let id = u32::try_from(self.nodes.len()).expect("a relay has some thousand peers");
        self.ids.insert(name.to_owned(), id);
        self.nodes.push(Node {
            name: name.to_owned(),
            peer: Arc::clone(peer),
            state: NodeStream::Failed,
            is_whole: false,
            tail: Tail::default(),
            refusal: None,
            retry_ns: 0,
            is_told_away: false,
        });
        id
    }

    fn join(&mut self, id: u32, peer: &Arc<Peer>, now_ns: u64, is_first: bool) {
        let Some(node) = self.nodes.get_mut(id as usize) else { return };
        let is_open = !matches!(node.state, NodeStream::Failed | NodeStream::Ended);
        if is_open || node.refusal.is_some() || now_ns < node.retry_ns {
            return;
        }
        node.peer = Arc::clone(peer);
        let Some(link) = peer.link() else {
            // One that has just come may be connected in a moment.
            let is_away = is_first || matches!(peer.state(), PeerState::Failed);
            if is_away && !node.is_told_away {
                node.is_told_away = true;
                self.states.entry(NodeState::NodeUnavailable.into()).or_default().push(node.name.clone());
            }
            return;
        };
        node.is_told_away = false;
        node.state = NodeStream::Busy;
        let mut request = self.request.clone();
        // Who comes later tells what was since the request, who comes back goes on where it was.
        if let Some(since_ns) = node.tail.resume().or((!is_first).then_some(self.opened_ns)) {
            let since = Timestamp::from_unix_nanos(i64::try_from(since_ns).unwrap_or(i64::MAX));
            request.since = Some(since).max(request.since);
            request.number = 0;
        }
        if peer.target.renamed {
            names::localize(&mut request, &node.name);
        }
        self.states.entry(NodeState::NodeConnected.into()).or_default().push(node.name.clone());
        self.merge.add(id, now_ns);
        let authorization = self.authorization.clone();
        self.events.push(
            Upstream::open(id, link, request, authorization)
                .map(move |opened| Event::Opened(id, opened.map(Box::new)))
                .boxed(),
        );
    }

    /// Writes what may leave.
    fn release(&mut self, out: &mut Vec<u8>) {
        let now_ns = now_ns();
        let counters = Arc::clone(&self.context.counters);
        while out.len() < FULL && self.remaining != Some(0) {
            let Some(released) = self.merge.pop(now_ns) else { break };
            if out.capacity() == 0 {
                out.reserve(self.merge.held_bytes().min(FULL) + SMALL);
            }
            let node = self.nodes.get(released.source as usize);
            let is_flow = released.answer.kind == Kind::Flow;
            let mut more = Vec::new();
            if let Some(node) = node {
                node.peer.counts.flows.fetch_add(u64::from(is_flow), Relaxed);
                node.peer.counts.late.fetch_add(u64::from(released.late_ns > 0), Relaxed);
            }
            if let Some(node) = node.filter(|node| node.peer.target.renamed) {
                marks::rename(&node.name, is_flow, &mut more);
            }
            if is_flow {
                if released.late_ns > 0 || released.skewed {
                    let skew_ns = if released.skewed { self.merge.skew_ns(released.source) } else { None };
                    marks::late(released.late_ns, skew_ns.unwrap_or(0), &mut more);
                    counters.late.inc_by(u64::from(released.late_ns > 0));
                }
                self.flows += 1;
                self.remaining = self.remaining.map(|remaining| remaining - 1);
            }
            match &mut self.newest {
                Some(newest) if is_flow => newest.push(&released.answer.bytes, &more),
                _ => push_frame(&released.answer.bytes, &more, out),
            }
        }
        counters.held.store(u64::try_from(self.merge.held()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Goes on reading where that helps.
    fn unpark(&mut self) {
        if self.parked == 0 {
            return;
        }
        let blockers: Vec<u32> = self.merge.blockers().collect();
        for id in blockers {
            let Some(node) = self.nodes.get_mut(id as usize) else { continue };
            if matches!(node.state, NodeStream::Parked(_))
                && self.merge.wants(id)
                && let NodeStream::Parked(upstream) = std::mem::replace(&mut node.state, NodeStream::Busy)
            {
                self.parked -= 1;
                self.events.push(read(upstream));
            }
        }
    }

    /// Sleeps until something happens.
    async fn wait(&mut self) {
        let due = self.merge.deadline_ns().map_or(RECHECK, |deadline_ns| {
            Duration::from_nanos(deadline_ns.saturating_sub(now_ns())).min(RECHECK)
        });
        tokio::select! {
            biased;
            () = self.context.drain.signalled() => self.is_done = true,
            Some(event) = self.events.next() => {
                self.take(event);
                self.take_ready();
            }
            changed = self.changes.changed(), if self.request.follow => {
                self.is_done |= changed.is_err();
                self.attach(false);
            }
            () = tokio::time::sleep(due) => {
                // What came in the meantime may be older than what is due.
                self.take_ready();
                if self.request.follow {
                    self.attach(false);
                } else {
                    self.stall();
                }
            }
        }
    }

    /// Takes what else is there, before the next look at the merge.
    fn take_ready(&mut self) {
        for _ in 0..BATCH {
            match self.events.next().now_or_never().flatten() {
                Some(event) => self.take(event),
                None => break,
            }
        }
    }

    /// Who keeps others waiting for too long is no longer waited for.
    fn stall(&mut self) {
        if self.merge.deadline_ns().is_none_or(|deadline_ns| deadline_ns > now_ns()) {
            return;
        }
        for id in 0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX) {
            if self.merge.waits_for(id) {
                self.merge.stall(id);
                self.context.counters.stalled.inc();
                if let Some(node) = self.nodes.get(id as usize) {
                    node.peer.counts.stalls.fetch_add(1, Relaxed);
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Opened(id, Ok(upstream)) => {
                if let Some(node) = self.nodes.get_mut(id as usize) {
                    node.is_whole = upstream.is_whole;
                    self.events.push(read(upstream));
                }
            }
            Event::Opened(id, Err(status)) => self.fail(id, status),
            Event::Read(upstream, Ok(Some(answers))) => {
                let (id, now_ns) = (upstream.id, now_ns());
                for answer in answers {
                    if self.request.follow && self.is_repeat(id, &answer) {
                        continue;
                    }
                    if let Kind::Lost(count) = answer.kind {
                        self.context.counters.lost.inc_by(count);
                        if let Some(node) = self.nodes.get(id as usize) {
                            node.peer.counts.lost.fetch_add(count, Relaxed);
                        }
                    }
                    self.merge.push(id, answer, now_ns);
                }
                if self.merge.wants(id) {
                    self.events.push(read(upstream));
                } else if let Some(node) = self.nodes.get_mut(id as usize) {
                    node.state = NodeStream::Parked(upstream);
                    self.parked += 1;
                }
            }
            Event::Read(upstream, Ok(None)) => {
                self.merge.end(upstream.id);
                if let Some(node) = self.nodes.get_mut(upstream.id as usize) {
                    node.state = NodeStream::Ended;
                    node.retry_ns = now_ns().saturating_add(RETRY_NS);
                }
            }
            Event::Read(upstream, Err(status)) => self.fail(upstream.id, status),
        }
    }

    fn is_repeat(&mut self, id: u32, answer: &Answer) -> bool {
        let limit = tail::limit(self.nodes.len());
        self.nodes.get_mut(id as usize).is_some_and(|node| node.tail.is_repeat(answer, limit))
    }

    fn fail(&mut self, id: u32, status: Status) {
        self.merge.end(id);
        let Some(node) = self.nodes.get_mut(id as usize) else { return };
        node.state = NodeStream::Failed;
        node.retry_ns = now_ns().saturating_add(RETRY_NS);
        self.errors.entry(status.message().to_owned()).or_default().push(node.name.clone());
        if matches!(status.code(), Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied) {
            node.refusal = Some(status);
        }
    }
}

fn read(mut upstream: Box<Upstream>) -> BoxFuture<'static, Event> {
    async move {
        let read = upstream.next().await;
        Event::Read(upstream, read)
    }
    .boxed()
}

/// Events that are taken in one go.
const BATCH: usize = 1024;
/// How long a follower rests after it got something, ns.
const REST_NS: u64 = 2_000_000;
/// The same, when the clock is set meanwhile.
const LONGEST_REST: Duration = Duration::from_millis(5);
/// Room for an answer that is larger than what else is held, bytes.
const SMALL: usize = 2 << 10;
/// A number from which on a client means all flows.
const EVERYTHING: u64 = 1 << 40;
