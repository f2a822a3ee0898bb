//! One answer to GetAgentEvents.

use std::{sync::Arc, time::Duration};

use specola_flow::timestamp;
use specola_lifecycle::Drain;
use specola_proto::observer::{self as pb, GetAgentEventsResponse};
use tokio::sync::watch;
use tonic::Status;

use super::request::{Refused, time};
use crate::{
    agent_log::{AgentLog, Entry, Found},
    shared::Shared,
};

/// State of an answer. It holds no events: a client that is too slow for the history is told how many gave way, and the
/// answer ends, as its messages have no place for that.
#[derive(Debug)]
pub(super) struct AgentStream {
    shared: Arc<Shared>,
    drain: Drain,
    head: watch::Receiver<u64>,
    position: u64,
    /// Where the history ended when the request came; `None` = go on with new events.
    end: Option<u64>,
    remaining: Option<u64>,
    since_ns: Option<u64>,
    until_ns: Option<u64>,
    node_name: String,
}

impl AgentStream {
    pub(super) fn open(
        shared: Arc<Shared>,
        request: &pb::GetAgentEventsRequest,
        drain: Drain,
    ) -> Result<Self, Refused> {
        if request.first && request.follow {
            return Err(Refused::FirstWithFollow);
        }
        let (since_ns, until_ns) = (time("since", request.since)?, time("until", request.until)?);
        let number = (request.number > 0).then_some(request.number);
        let head = shared.agent_log.head();
        let held = shared.agent_log.held();
        let position = match number {
            _ if since_ns.is_some() || request.first => held.start,
            None if request.follow => held.end,
            None => held.start,
            Some(number) => rewind(&shared.agent_log, &held, number, until_ns),
        };
        Ok(Self {
            drain,
            head,
            position,
            end: (!request.follow).then_some(held.end),
            remaining: number.filter(|_| !request.follow),
            since_ns,
            until_ns,
            node_name: shared.directory.load().node().absolute_name(),
            shared,
        })
    }

    /// The next message and the state after it; `None` at the end. A step of `futures::stream::unfold`.
    pub(super) async fn step(mut self) -> Option<(Result<GetAgentEventsResponse, Status>, Self)> {
        loop {
            let is_over = self.end.is_some_and(|end| self.position >= end);
            if is_over || self.remaining == Some(0) || self.drain.is_signalled() {
                return None;
            }
            match self.shared.agent_log.get(self.position) {
                Found::Event(entry) => {
                    self.position += 1;
                    if self.until_ns.is_some_and(|until_ns| entry.time_ns > until_ns) {
                        return None;
                    }
                    if self.since_ns.is_none_or(|since_ns| entry.time_ns >= since_ns) {
                        self.remaining = self.remaining.map(|remaining| remaining - 1);
                        let answer = self.answer(*entry);
                        return Some((Ok(answer), self));
                    }
                }
                Found::Gone(oldest) => {
                    let status = overtaken(oldest - self.position);
                    self.end = Some(self.position);
                    return Some((Err(status), self));
                }
                Found::Pending => self.wait().await?,
            }
        }
    }

    fn answer(&self, entry: Entry) -> GetAgentEventsResponse {
        GetAgentEventsResponse {
            agent_event: Some(entry.event),
            node_name: self.node_name.clone(),
            time: Some(timestamp(entry.time_ns)),
        }
    }

    /// Sleeps until there may be an event; `None` when there cannot be one any more.
    async fn wait(&mut self) -> Option<()> {
        let now_ns = self.shared.config.clock.now_ns();
        let pause = match self.until_ns {
            Some(until_ns) if now_ns > until_ns => return None,
            Some(until_ns) => Some(Duration::from_nanos(until_ns - now_ns + 1)),
            None => None,
        };
        let timer = async move {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.drain.signalled() => None,
            changed = self.head.changed() => changed.ok(),
            () = timer => Some(()),
        }
    }
}

/// Goes back over `number` events that are not too late.
fn rewind(log: &AgentLog, held: &std::ops::Range<u64>, number: u64, until_ns: Option<u64>) -> u64 {
    let is_early_enough = |position: u64| match log.get(position) {
        Found::Event(entry) => until_ns.is_none_or(|until_ns| entry.time_ns <= until_ns),
        Found::Gone(_) | Found::Pending => false,
    };
    let (mut position, mut missing) = (held.end, number);
    while position > held.start && missing > 0 {
        position -= 1;
        missing -= u64::from(is_early_enough(position));
    }
    position
}

fn overtaken(lost: u64) -> Status {
    Status::data_loss(format!(
        "{lost} agent events were overwritten before the client read them; call again with `since`"
    ))
}
