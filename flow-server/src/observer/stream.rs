//! One answer to GetFlows: a cursor, what to let through, and what was lost.

mod pace;

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt, TryStreamExt};
use prost::bytes::Bytes;
use specola_flow::{Flow, NodeInfo};
use specola_lifecycle::Drain;
use specola_proto::observer::GetFlowsResponse;
use specola_ring::{Cursor, Lost, Next};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::{coverage::Served, request::FlowsQuery, start::start};
use crate::{
    losses::{Losses, PendingLoss},
    shared::Shared,
    streams::StreamMeter,
    wire::{
        Bounds, Chunk, Feed, FeedStep, Feeds, FlowChunks, Scanned, Scanner, Stop, UNTIL_SLACK_NS, buffer_for,
        push_frame, split_frames,
    },
};
use pace::Pace;

/// State of an answer. It holds no flows: what a slow client does not take stays in the ring, or is lost and told.
#[derive(Debug)]
pub(super) struct FlowStream {
    shared: Arc<Shared>,
    query: Arc<FlowsQuery>,
    drain: Drain,
    head: watch::Receiver<u64>,
    cursor: Cursor<Flow>,
    /// Where the ring ended when the request came; `None` = go on with new flows.
    end: Option<u64>,
    /// Flows still to be sent; `None` = any number.
    remaining: Option<u64>,
    losses: Losses,
    meter: StreamMeter,
    scanner: Scanner,
    /// What others who ask for the same have; `None` = this stream has an end of its own.
    feed: Option<Arc<Feed>>,
    pace: Pace,
    is_draining: bool,
    is_done: bool,
    /// What the answer held, for its trailers.
    served: Served,
    /// How the answer ends; `None` = that was said.
    outcome: Option<Status>,
}

/// What came of one look at the ring.
enum Step {
    /// Answers.
    Send(Bytes),
    /// Nothing, but there may be more.
    Yield,
    /// Nothing new.
    Wait,
    /// Nothing more.
    End,
}

impl FlowStream {
    /// Finds the start; everything else happens as the client reads.
    pub(super) async fn open(shared: Arc<Shared>, query: FlowsQuery, drain: Drain) -> Self {
        let node: Arc<NodeInfo> = Arc::clone(shared.directory.load().node());
        let head = shared.ring.head();
        // Made before the start is looked for: what is overwritten from now on is a loss.
        let mut cursor = shared.ring.cursor(head);
        let ids = query.filters.sequence_range(shared.config.instance);
        cursor.seek(match &ids {
            Some(ids) => ids.start,
            None => start(&shared, &query, &node, head).await,
        });
        let head = ids.as_ref().map_or(head, |ids| ids.end.min(head));
        // Ids are those of flows that were seen: there is nothing to wait for.
        let end = (!query.follow || ids.is_some()).then_some(head);
        let query = Arc::new(query);
        let is_endless = end.is_none() && query.until_ns.is_none();
        Self {
            drain,
            head: shared.head.clone(),
            cursor,
            end,
            remaining: query.number.filter(|_| !query.follow),
            losses: Losses::default(),
            meter: StreamMeter::open(Arc::clone(&shared)),
            feed: is_endless.then(|| Feeds::join(&shared, &query, &node)),
            scanner: Scanner::new(Arc::clone(&shared), Arc::clone(&query), node),
            pace: Pace::new(shared.pressure.clone()),
            is_draining: false,
            is_done: false,
            served: Served::default(),
            outcome: Some(Status::ok("")),
            query,
            shared,
        }
    }

    /// The answers as gRPC messages, many in a piece; then the status, also when all went well.
    pub(super) fn into_chunks(self) -> FlowChunks {
        Box::pin(futures::stream::unfold(self, Self::step))
    }

    async fn step(mut self) -> Option<(Result<Bytes, Status>, Self)> {
        if let Some(frames) = self.next().await {
            return Some((Ok(frames), self));
        }
        let mut status = self.outcome.take()?;
        self.served.add_to(status.metadata_mut());
        Some((Err(status), self))
    }

    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_done {
            self.heed_drain();
            match self.advance() {
                Ok(Step::Send(frames)) => {
                    self.pace.sent();
                    return Some(frames);
                }
                Ok(Step::Yield) => tokio::task::yield_now().await,
                Ok(Step::Wait) => self.wait().await,
                Ok(Step::End) => self.is_done = true,
                Err(status) => {
                    self.is_done = true;
                    self.outcome = Some(status);
                }
            }
        }
        // Also after a failure: what was lost before it is still true.
        let lost = self.losses.take()?;
        let mut out = Vec::new();
        self.push_missed(lost, &mut out);
        Some(out.into())
    }

    /// Looks at the next records.
    fn advance(&mut self) -> Result<Step, Status> {
        if self.is_over() {
            return Ok(Step::End);
        }
        let mut out = Vec::new();
        self.tell_losses(&mut out);
        if out.is_empty()
            && let Some(feed) = self.feed.clone()
        {
            return self.advance_with(&feed);
        }
        self.advance_alone(self.end.unwrap_or(u64::MAX), out)
    }

    /// With the drain nothing is waited for any more: what the ring has is the rest.
    fn heed_drain(&mut self) {
        if !self.is_draining && self.drain.is_signalled() {
            self.is_draining = true;
            self.feed = None;
            let head = self.shared.ring.head();
            self.end = Some(self.end.map_or(head, |end| end.min(head)));
        }
    }

    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| self.cursor.position() >= end) || self.remaining == Some(0)
    }

    /// Takes what others wrote, or writes for all.
    fn advance_with(&mut self, feed: &Arc<Feed>) -> Result<Step, Status> {
        match feed.next(self.cursor.position())? {
            FeedStep::Chunk(Chunk { scanned, frames, .. }) => {
                if self.query.since_ns.is_some_and(|since_ns| scanned.min_ns < since_ns) {
                    return self.advance_alone(scanned.next, Vec::new());
                }
                self.note(&scanned);
                Ok(if frames.is_empty() { Step::Yield } else { Step::Send(frames) })
            }
            FeedStep::Behind { until } => self.advance_alone(until, Vec::new()),
            FeedStep::Nothing(Stop::Pending) => Ok(self.catch_up()),
            FeedStep::Nothing(_) => self.advance_alone(u64::MAX, Vec::new()),
        }
    }

    /// Writes what is asked for of the records before `end` behind what is in the buffer.
    fn advance_alone(&mut self, end: u64, mut out: Vec<u8>) -> Result<Step, Status> {
        if out.is_empty() {
            out = buffer_for(self.scanner.behind(self.cursor.position()).min(end));
        }
        loop {
            let bounds = Bounds {
                end,
                flows: self.remaining.unwrap_or(u64::MAX),
                since_ns: self.query.since_ns.unwrap_or(0),
                until_ns: self.query.until_ns.unwrap_or(u64::MAX),
            };
            let scanned = self.scanner.scan(self.cursor.position(), &bounds, &mut out)?;
            self.note(&scanned);
            match scanned.stop {
                Stop::Overwritten if !self.skip() => self.tell_losses(&mut out),
                Stop::Past => self.end = Some(scanned.next),
                _ if !out.is_empty() => return Ok(Step::Send(out.into())),
                Stop::Pending if self.query.follow => return Ok(self.catch_up()),
                Stop::Pending => return Ok(Step::End),
                Stop::Turn | Stop::Bound | Stop::Overwritten => return Ok(Step::Yield),
            }
            if self.is_over() {
                return Ok(if out.is_empty() { Step::End } else { Step::Send(out.into()) });
            }
        }
    }

    /// Counts what a scan passed and goes on behind it.
    fn note(&mut self, scanned: &Scanned) {
        self.meter.pass_over(scanned.filtered);
        self.meter.deliver(scanned.delivered);
        self.served.note(scanned);
        if let Some(remaining) = &mut self.remaining {
            *remaining -= scanned.delivered;
        }
        self.cursor.seek(scanned.next);
    }

    /// At the end of the ring: lets the cursor notice that it was not lapped again.
    fn catch_up(&mut self) -> Step {
        let position = self.cursor.position();
        match self.cursor.next() {
            Next::Pending => Step::Wait,
            Next::Item { .. } | Next::Lost(_) => {
                self.cursor.seek(position);
                Step::Yield
            }
        }
    }

    /// Leaves an overwritten place; says whether the place can be read after all.
    fn skip(&mut self) -> bool {
        match self.cursor.next() {
            Next::Item { seq, .. } => self.cursor.seek(seq),
            Next::Lost(lost) => {
                // What came after the request was never asked for.
                let asked = Lost { from: lost.from, to: lost.to.min(self.end.unwrap_or(u64::MAX)) };
                self.losses.add(asked.count(), self.shared.config.clock.now_ns());
                self.meter.lose(asked.count());
                self.served.miss(asked.count());
                return false;
            }
            Next::Pending => {}
        }
        true
    }

    fn tell_losses(&mut self, out: &mut Vec<u8>) {
        if self.losses.is_pending()
            && let Some(lost) = self.losses.due(self.shared.config.clock.now_ns())
        {
            self.push_missed(lost, out);
        }
    }

    /// Tells of flows that this stream was too slow for.
    fn push_missed(&self, lost: PendingLoss, out: &mut Vec<u8>) {
        push_frame(&self.scanner.lost_message(lost.event(), self.shared.config.clock.now_ns()), out);
    }

    /// Sleeps until there may be something to do: a flow, a loss to tell, the end.
    async fn wait(&mut self) {
        let now_ns = self.shared.config.clock.now_ns();
        if self.query.until_ns.is_some_and(|until_ns| now_ns > until_ns.saturating_add(UNTIL_SLACK_NS)) {
            self.is_done = true;
            return;
        }
        let deadline_ns = [
            self.losses.due_ns(),
            // One more, because the end is reached after the slack, not at it.
            self.query.until_ns.map(|until_ns| until_ns.saturating_add(UNTIL_SLACK_NS + 1)),
        ];
        let pause =
            deadline_ns.into_iter().flatten().min().map(|at| Duration::from_nanos(at.saturating_sub(now_ns)));
        let new_flows = async {
            self.pace.rest(self.cursor.position()).await;
            let seen = *self.head.borrow_and_update();
            if seen > self.cursor.position() { Ok(()) } else { self.head.changed().await }
        };
        tokio::select! {
            biased;
            () = self.drain.signalled() => {}
            changed = new_flows => self.is_done |= changed.is_err(),
            () = sleep(pause) => {}
        }
    }
}

/// The messages in the pieces, for callers inside the process.
pub(super) fn messages(chunks: FlowChunks) -> impl Stream<Item = Result<GetFlowsResponse, Status>> {
    let is_no_end = |chunk: &Result<Bytes, Status>| {
        let goes_on = chunk.as_ref().err().is_none_or(|status| status.code() != Code::Ok);
        futures::future::ready(goes_on)
    };
    let split = |frames| {
        let answers =
            split_frames(frames).map_err(|error| Status::internal(format!("read an answer: {error}")));
        futures::future::ready(answers)
    };
    chunks
        .take_while(is_no_end)
        .and_then(split)
        .map_ok(|answers| futures::stream::iter(answers).map(Ok))
        .try_flatten()
}

/// Sleeps for the pause, or for ever.
async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
