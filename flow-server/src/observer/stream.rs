//! One answer to GetFlows: a cursor, what to let through, and what was lost.

use std::{sync::Arc, time::Duration};

use specola_flow::{Flow, FlowView, MessageContext, NodeInfo, flow_message, timestamp};
use specola_lifecycle::Drain;
use specola_proto::{
    flow::{LostEvent, LostEventSource},
    observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
};
use specola_ring::{Cursor, Lost, Next};
use tokio::sync::watch;
use tonic::Status;

use super::{request::FlowsQuery, start::start};
use crate::{shared::Shared, streams::StreamMeter};

/// A follower that asked for an end gets flows that arrive out of order for this long after it.
const UNTIL_SLACK_NS: u64 = 2 * SECOND_NS;
/// Losses are told at most this often.
const LOST_INTERVAL_NS: u64 = SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;
/// Records looked at before other tasks get a turn.
const TURN: u32 = 1024;

/// State of an answer. It holds no flows: what a slow client does not take stays in the ring, or is lost and told.
#[derive(Debug)]
pub(super) struct FlowStream {
    shared: Arc<Shared>,
    query: FlowsQuery,
    drain: Drain,
    head: watch::Receiver<u64>,
    cursor: Cursor<Flow>,
    /// Where the ring ended when the request came; `None` = go on with new flows.
    end: Option<u64>,
    /// Flows still to be sent; `None` = any number.
    remaining: Option<u64>,
    losses: Losses,
    meter: StreamMeter,
    node: Arc<NodeInfo>,
    node_name: String,
    is_done: bool,
}

/// What the cursor came across.
enum Step {
    Answer(Box<GetFlowsResponse>),
    Skipped,
    Lost,
    Wait,
    End,
}

impl FlowStream {
    /// Finds the start; everything else happens as the client reads.
    pub(super) async fn open(shared: Arc<Shared>, query: FlowsQuery, drain: Drain) -> Self {
        let node = Arc::clone(shared.directory.load().node());
        let head = shared.ring.head();
        // Made before the start is looked for: what is overwritten from now on is a loss.
        let mut cursor = shared.ring.cursor(head);
        let ids = query.filters.sequence_range(shared.config.instance);
        cursor.seek(match &ids {
            Some(ids) => ids.start,
            None => start(&shared, &query, &node, head).await,
        });
        let head = ids.as_ref().map_or(head, |ids| ids.end.min(head));
        Self {
            drain,
            head: shared.head.clone(),
            cursor,
            // Ids are those of flows that were seen: there is nothing to wait for.
            end: (!query.follow || ids.is_some()).then_some(head),
            remaining: query.number.filter(|_| !query.follow),
            losses: Losses::default(),
            meter: StreamMeter::open(Arc::clone(&shared)),
            node_name: node.absolute_name(),
            node,
            is_done: false,
            query,
            shared,
        }
    }

    /// The next message and the state after it; `None` at the end. A step of `futures::stream::unfold`.
    pub(super) async fn step(mut self) -> Option<(Result<GetFlowsResponse, Status>, Self)> {
        let answer = self.next().await?;
        self.is_done |= answer.is_err();
        Some((answer, self))
    }

    async fn next(&mut self) -> Option<Result<GetFlowsResponse, Status>> {
        let mut looked_at = 0;
        while !self.is_done {
            if let Some(lost) = self.losses.due(self.shared.config.clock.now_ns()) {
                return Some(Ok(self.missed_message(lost)));
            }
            match self.advance() {
                Ok(Step::Answer(answer)) => return Some(Ok(*answer)),
                Ok(Step::Skipped) => {
                    self.meter.pass_over();
                    looked_at += 1;
                    if looked_at % TURN == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Ok(Step::Lost) => {}
                Ok(Step::Wait) => self.wait().await,
                Ok(Step::End) => self.is_done = true,
                Err(status) => return Some(Err(status)),
            }
        }
        // Also after a failure: what was lost before it is still true.
        self.losses.take().map(|lost| Ok(self.missed_message(lost)))
    }

    /// Looks at one record.
    fn advance(&mut self) -> Result<Step, Status> {
        let is_over = self.end.is_some_and(|end| self.cursor.position() >= end);
        if is_over || self.remaining == Some(0) || self.drain.is_signalled() {
            return Ok(Step::End);
        }
        match self.cursor.next() {
            Next::Item { seq, value } => self.consider(seq, &value),
            Next::Lost(lost) => {
                let end = self.end.unwrap_or(u64::MAX);
                // What came after the request was never asked for.
                let asked = Lost { from: lost.from, to: lost.to.min(end) };
                self.losses.add(asked.count(), self.shared.config.clock.now_ns());
                self.meter.lose(asked.count());
                Ok(Step::Lost)
            }
            Next::Pending if self.query.follow => Ok(Step::Wait),
            Next::Pending => Ok(Step::End),
        }
    }

    fn consider(&mut self, seq: u64, flow: &Flow) -> Result<Step, Status> {
        if let Some(count) = flow.lost_count() {
            // Told whatever was asked for: any flow may be among them.
            let first_ns = flow.time_ns.saturating_sub(flow.duration_ns);
            let event = LostEvent {
                source: LostEventSource::PerfEventRingBuffer.into(),
                num_events_lost: count,
                cpu: Some(flow.cpu.into()),
                first: Some(timestamp(first_ns)),
                last: Some(timestamp(flow.time_ns)),
            };
            return Ok(Step::Answer(Box::new(self.lost_message(event, flow.time_ns))));
        }
        if self.query.since_ns.is_some_and(|since_ns| flow.time_ns < since_ns) {
            return Ok(Step::Skipped);
        }
        if let Some(until_ns) = self.query.until_ns
            && flow.time_ns > until_ns
        {
            return Ok(if self.is_past(until_ns, seq, flow) { Step::End } else { Step::Skipped });
        }
        let directory = self.shared.directory.load();
        let view =
            FlowView::new(flow, seq, self.shared.config.instance, self.shared.directory.metas(), &self.node)
                .with_names(&**directory);
        if !self.query.filters.passes(&view) {
            return Ok(Step::Skipped);
        }
        let message = self.flow_message(&view)?;
        self.meter.deliver();
        if let Some(remaining) = &mut self.remaining {
            *remaining -= 1;
        }
        Ok(Step::Answer(Box::new(message)))
    }

    /// Whether no flow up to `until_ns` is to be expected after this one, which is later.
    fn is_past(&self, until_ns: u64, seq: u64, flow: &Flow) -> bool {
        if self.query.follow {
            return flow.time_ns > until_ns.saturating_add(UNTIL_SLACK_NS);
        }
        self.shared.ring.block(seq).is_some_and(|block| block.min_ns > until_ns)
    }

    fn flow_message(&self, view: &FlowView<'_>) -> Result<GetFlowsResponse, Status> {
        let directory = self.shared.directory.load();
        let origins = directory.origins(view.flow.cookie);
        let context = MessageContext {
            version: &self.shared.config.version,
            node_name: &self.node_name,
            origins: origins.map_or(&[], AsRef::as_ref),
            interface: directory.interface(view.flow.ifindex),
            extension: self.query.extension,
        };
        let mut flow = flow_message(view, &context);
        if let Some(mask) = &self.query.mask {
            flow = mask.apply(&flow).map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(GetFlowsResponse {
            node_name: flow.node_name.clone(),
            time: flow.time,
            response_types: Some(ResponseTypes::Flow(flow)),
        })
    }

    fn lost_message(&self, event: LostEvent, time_ns: u64) -> GetFlowsResponse {
        GetFlowsResponse {
            node_name: self.node_name.clone(),
            time: Some(timestamp(time_ns)),
            response_types: Some(ResponseTypes::LostEvents(event)),
        }
    }

    /// Tells of flows that this stream was too slow for.
    fn missed_message(&self, lost: PendingLoss) -> GetFlowsResponse {
        let event = LostEvent {
            source: LostEventSource::HubbleRingBuffer.into(),
            num_events_lost: lost.count,
            cpu: None,
            first: Some(timestamp(lost.first_ns)),
            last: Some(timestamp(lost.last_ns)),
        };
        self.lost_message(event, self.shared.config.clock.now_ns())
    }

    /// Sleeps until there may be something to do: a flow, a loss to tell, the end.
    async fn wait(&mut self) {
        self.meter.flush();
        let now_ns = self.shared.config.clock.now_ns();
        if self.query.until_ns.is_some_and(|until_ns| now_ns > until_ns.saturating_add(UNTIL_SLACK_NS)) {
            self.is_done = true;
            return;
        }
        let seen = *self.head.borrow_and_update();
        if seen > self.cursor.position() {
            return;
        }
        let deadline_ns = [
            self.losses.due_ns(),
            // One more, because the end is reached after the slack, not at it.
            self.query.until_ns.map(|until_ns| until_ns.saturating_add(UNTIL_SLACK_NS + 1)),
        ];
        let pause =
            deadline_ns.into_iter().flatten().min().map(|at| Duration::from_nanos(at.saturating_sub(now_ns)));
        tokio::select! {
            biased;
            () = self.drain.signalled() => self.is_done = true,
            changed = self.head.changed() => self.is_done |= changed.is_err(),
            () = sleep(pause) => {}
        }
    }
}

/// Sleeps for the pause, or for ever.
async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// Losses that the client was not told yet.
#[derive(Debug, Default)]
struct Losses {
    pending: Option<PendingLoss>,
    told_ns: Option<u64>,
}

/// A number of lost flows, and when the first and last of them were missed.
#[derive(Clone, Copy, Debug)]
struct PendingLoss {
    count: u64,
    first_ns: u64,
    last_ns: u64,
}

impl Losses {
    fn add(&mut self, count: u64, now_ns: u64) {
        if count == 0 {
            return;
        }
        let pending = self.pending.get_or_insert(PendingLoss { count: 0, first_ns: now_ns, last_ns: now_ns });
        pending.count += count;
        pending.last_ns = now_ns;
    }

    /// When the pending losses may be told.
    fn due_ns(&self) -> Option<u64> {
        self.pending.map(|_| self.told_ns.map_or(0, |told_ns| told_ns.saturating_add(LOST_INTERVAL_NS)))
    }

    /// The pending losses, when the last telling is long enough ago.
    fn due(&mut self, now_ns: u64) -> Option<PendingLoss> {
        if self.due_ns()? > now_ns {
            return None;
        }
        self.told_ns = Some(now_ns);
        self.take()
    }

    fn take(&mut self) -> Option<PendingLoss> {
        self.pending.take()
    }
}
