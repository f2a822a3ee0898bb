//! The flows of one server, over as many connections as it takes.

use std::collections::{HashSet, VecDeque};
use std::error::Error as _;
use std::time::Duration;

use specola_proto::google::Timestamp;
use specola_proto::observer::get_flows_response::ResponseTypes;
use specola_proto::observer::observer_client::ObserverClient;
use specola_proto::observer::{GetFlowsRequest, GetFlowsResponse};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::answer::{Answer, Question};
use crate::error::status_text;
use crate::target::{Connection, Target, Timeout};

/// What comes from one server.
#[derive(Debug)]
pub(crate) enum Event {
    /// An answer.
    Answer(Box<Answer>),
    /// A line for the user about the connection.
    Note(String),
}

/// One server and what it is asked.
#[derive(Clone, Debug)]
pub(crate) struct NodeStream {
    target: Target,
    question: Question,
    timeout: Timeout,
    /// Whether a lost connection is made anew.
    reconnects: bool,
}

/// A server that is connected.
#[derive(Debug)]
pub(crate) struct Connected {
    stream: NodeStream,
    client: ObserverClient<Connection>,
}

impl NodeStream {
    /// Makes one; nothing is sent yet.
    pub(crate) const fn new(target: Target, question: Question, timeout: Timeout) -> Self {
        Self { target, question, timeout, reconnects: true }
    }

    /// The same with one connection only: when it is lost, that is an error.
    pub(crate) const fn once(mut self) -> Self {
        self.reconnects = false;
        self
    }

    /// Name of the server.
    pub(crate) fn name(&self) -> &str {
        &self.target.name
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(crate) async fn connect(self) -> Result<Connected, (Self, anyhow::Error)> {
        match self.target.connect(self.timeout).await {
            Ok(channel) => Ok(Connected { client: ObserverClient::new(channel), stream: self }),
            Err(error) => Err((self, error)),
        }
    }

    /// Connects, however long it takes, and follows.
    ///
    /// # Errors
    /// The server refuses the request.
    pub(crate) async fn connect_and_follow(mut self, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            tokio::time::sleep(backoff.next()).await;
            match self.connect().await {
                Ok(mut connected) => {
                    let note = format!("{}: connected", connected.stream.name());
                    if events.send(Event::Note(note)).await.is_err() {
                        return Ok(());
                    }
                    return connected.follow(&events).await;
                }
                Err((stream, _still_absent)) => self = stream,
            }
            if events.is_closed() {
                return Ok(());
            }
        }
    }
}

impl Connected {
    /// Sends all answers to one request. Ends early when the receiver is gone.
    ///
    /// # Errors
    /// The server refuses the request or the connection is lost.
    pub(crate) async fn read(&mut self, events: &mpsc::Sender<Event>) -> anyhow::Result<()> {
        let question = self.stream.question.clone();
        match self.pass_on(question, None, events).await {
            Ok(_end) => Ok(()),
            Err(status) => Err(anyhow::anyhow!("{}: {}", self.stream.name(), status_text(&status))),
        }
    }

    /// Sends answers until the receiver is gone; asks again when the connection is lost.
    ///
    /// # Errors
    /// The server refuses the request, or the only connection is lost.
    pub(crate) async fn follow(&mut self, events: &mpsc::Sender<Event>) -> anyhow::Result<()> {
        let mut progress = Progress::default();
        let mut backoff = Backoff::default();
        let mut lost = false;
        loop {
            let question = progress.resume(&self.stream.question);
            let reason = match self.pass_on(question, Some(&mut progress), events).await {
                Ok(End::Unwanted) => return Ok(()),
                Ok(End::Finished) if !self.stream.reconnects => return Ok(()),
                Ok(End::Finished) => "the server ended the stream".to_owned(),
                Err(status) if is_refusal(&status) || !self.stream.reconnects => {
                    anyhow::bail!("{}: {}", self.stream.name(), status_text(&status))
                }
                Err(status) => status_text(&status),
            };
            lost &= !std::mem::take(&mut progress.connected);
            if std::mem::take(&mut progress.fruitful) {
                backoff = Backoff::default();
            }
            let delay = backoff.next();
            if !lost {
                let name = self.stream.name();
                let note = format!("{name}: connection lost ({reason}); trying again");
                if events.send(Event::Note(note)).await.is_err() {
                    return Ok(());
                }
                lost = true;
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = events.closed() => return Ok(()),
            }
        }
    }

    async fn pass_on(
        &mut self,
        question: Question,
        mut progress: Option<&mut Progress>,
        events: &mpsc::Sender<Event>,
    ) -> Result<End, Status> {
        let mut answers = question.send(&mut self.client).await?;
        if progress.as_mut().is_some_and(|progress| progress.answered()) {
            let note = format!("{}: connected again", self.stream.name());
            if events.send(Event::Note(note)).await.is_err() {
                return Ok(End::Unwanted);
            }
        }
        loop {
            let answer = tokio::select! {
                answer = answers.next() => answer?,
                () = events.closed() => return Ok(End::Unwanted),
            };
            let Some(answer) = answer else { return Ok(End::Finished) };
            if progress.as_mut().is_some_and(|progress| progress.is_known(&answer)) {
                continue;
            }
            if events.send(Event::Answer(Box::new(answer))).await.is_err() {
                return Ok(End::Unwanted);
            }
        }
    }
}

/// Why a stream of answers ended without an error.
enum End {
    /// The server sent everything.
    Finished,
    /// Nobody reads any more.
    Unwanted,
}

/// How far a follower has come, to go on from there after a lost connection.
#[derive(Default)]
struct Progress {
    /// Whether the latest request was answered.
    connected: bool,
    /// Whether it brought anything.
    fruitful: bool,
    /// Whether an earlier one was answered.
    resumed: bool,
    /// Whether any was.
    started: bool,
    /// Times of the first and of the newest flow.
    seen: Option<(Timestamp, Timestamp)>,
    /// The latest flows, as they came: a resumed stream sends them again.
    recent: VecDeque<(Timestamp, String)>,
    /// Their ids.
    known: HashSet<String>,
    /// Time of the newest event; events have no ids.
    newest_event: Option<Timestamp>,
}

impl Progress {
    /// The question that goes on where the last answer ended.
    fn resume(&self, question: &Question) -> Question {
        let mut question = question.clone();
        let newest = self.newest_event.map(after);
        match &mut question {
            Question::Flows(request) => *request = self.resume_flows(request),
            Question::AgentEvents(request) if newest.is_some() => {
                (request.since, request.number) = (newest.max(request.since), 0);
            }
            Question::DebugEvents(request) if newest.is_some() => {
                (request.since, request.number) = (newest.max(request.since), 0);
            }
            Question::AgentEvents(_) | Question::DebugEvents(_) => {}
        }
        question
    }

    /// Flows are asked for from a little before: servers send in order of arrival, which is not quite that of time.
    fn resume_flows(&self, request: &GetFlowsRequest) -> GetFlowsRequest {
        let mut request = request.clone();
        if let Some((first, newest)) = self.seen {
            request.since = Some(first.max(before(newest))).max(request.since);
            request.number = 0;
        }
        request
    }

    /// Remembers that the request was answered; true when an earlier one was, too.
    const fn answered(&mut self) -> bool {
        self.connected = true;
        self.resumed = self.started;
        self.started = true;
        self.resumed
    }

    /// Remembers the answer; true when it came before, over another connection.
    fn is_known(&mut self, answer: &Answer) -> bool {
        if let Answer::Flow(response) = answer {
            return self.is_repeated(response);
        }
        self.fruitful = true;
        self.newest_event = self.newest_event.max(answer.time());
        false
    }

    /// The same for flows.
    fn is_repeated(&mut self, response: &GetFlowsResponse) -> bool {
        self.fruitful = true;
        let Some(ResponseTypes::Flow(flow)) = &response.response_types else { return false };
        let Some(time) = flow.time.filter(|_| !flow.uuid.is_empty()) else { return false };
        if !self.known.insert(flow.uuid.clone()) {
            return self.resumed;
        }
        self.recent.push_back((time, flow.uuid.clone()));
        let (first, newest) = self.seen.map_or((time, time), |(first, newest)| (first, newest.max(time)));
        self.seen = Some((first, newest));
        while self.recent.front().is_some_and(|(time, _)| *time < before(newest))
            || self.recent.len() > REMEMBERED
        {
            if let Some((_, uuid)) = self.recent.pop_front() {
                self.known.remove(&uuid);
            }
        }
        false
    }
}

/// The earliest time of flows that may still come after one of this time.
fn before(time: Timestamp) -> Timestamp {
    Timestamp { seconds: time.seconds.saturating_sub(SLACK_SECONDS), ..time }
}

/// The next moment.
fn after(time: Timestamp) -> Timestamp {
    if time.nanos < 999_999_999 {
        Timestamp { nanos: time.nanos + 1, ..time }
    } else {
        Timestamp { seconds: time.seconds.saturating_add(1), nanos: 0 }
    }
}

/// How much older than its predecessors a flow may be.
const SLACK_SECONDS: i64 = 2;
/// Flows that are remembered at most.
const REMEMBERED: usize = 65_536;

/// Whether asking again is of no use: the server understood and said no.
fn is_refusal(status: &Status) -> bool {
    let by_server = status.source().is_none();
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated => true,
        Code::NotFound | Code::FailedPrecondition | Code::OutOfRange => true,
        // Hubble's servers answer a wrong filter with this code.
        Code::Unknown => by_server,
        _ => false,
    }
}

/// Time between attempts: from 0.25 s doubling to 5 s.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(250))
    }
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (delay * 2).min(Duration::from_secs(5));
        delay
    }
}

#[cfg(test)]
mod tests {
    use specola_proto::observer::{GetAgentEventsRequest, GetAgentEventsResponse};

    use super::super::fake::flow;
    use super::*;

    fn since(progress: &Progress, asked: Option<i64>) -> Option<i64> {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        let request = GetFlowsRequest { since: asked.map(at), number: 7, ..GetFlowsRequest::default() };
        progress.resume_flows(&request).since.map(|time| time.seconds)
    }

    #[test]
    fn a_resumed_request_reaches_back_a_little_but_not_before_the_first_flow() {
        let mut progress = Progress::default();
        assert_eq!(since(&progress, Some(3)), Some(3));
        assert_eq!(
            progress.resume_flows(&GetFlowsRequest { number: 7, ..GetFlowsRequest::default() }).number,
            7
        );
        for (second, expected) in [(10, 10), (11, 10), (13, 11), (12, 11), (20, 18)] {
            assert!(!progress.is_repeated(&flow(second, &second.to_string())));
            assert_eq!(since(&progress, None), Some(expected), "after {second}");
        }
        assert_eq!(since(&progress, Some(19)), Some(19));
        assert_eq!(since(&progress, Some(3)), Some(18));
    }

    #[test]
    fn flows_are_known_for_as_long_as_they_may_be_repeated() {
        let mut progress = Progress::default();
        assert!(!progress.answered());
        let flows = [(10, "a"), (12, "b"), (11, "late")];
        for (second, name) in flows.iter().chain(&flows) {
            assert!(!progress.is_repeated(&flow(*second, name)), "{name}");
        }
        assert!(progress.answered());
        for (second, name) in flows {
            assert!(progress.is_repeated(&flow(second, name)), "{name}");
        }
        assert!(!progress.is_repeated(&flow(100, "new")));
        assert_eq!(progress.known.len(), 1, "only the newest is needed");
        for number in 0..REMEMBERED * 2 {
            assert!(!progress.is_repeated(&flow(100, &number.to_string())));
        }
        assert_eq!((progress.known.len(), progress.recent.len()), (REMEMBERED, REMEMBERED));
    }

    #[test]
    fn events_go_on_after_the_newest() {
        let mut progress = Progress::default();
        let asked = Question::AgentEvents(GetAgentEventsRequest { number: 5, ..Default::default() });
        let of = |progress: &Progress| match progress.resume(&asked) {
            Question::AgentEvents(request) => (request.since, request.number),
            other => panic!("{other:?}"),
        };
        assert_eq!(of(&progress), (None, 5));
        for (nanos, next) in [(7, (3, 8)), (999_999_999, (4, 0)), (5, (4, 0))] {
            let time = Some(Timestamp { seconds: 3, nanos });
            assert!(
                !progress.is_known(&Answer::Agent(GetAgentEventsResponse { time, ..Default::default() }))
            );
            let (seconds, nanos) = next;
            assert_eq!(of(&progress), (Some(Timestamp { seconds, nanos }), 0));
        }
    }

    #[test]
    fn only_the_server_can_refuse() {
        for (status, refusal) in [
            (Status::invalid_argument("x"), true),
            (Status::unknown("invalid fieldmask"), true),
            (Status::unavailable("x"), false),
            (Status::from_error(Box::new(std::io::Error::other("reset"))), false),
        ] {
            assert_eq!(is_refusal(&status), refusal, "{status:?}");
        }
    }

    #[test]
    fn attempts_become_rarer_up_to_a_limit() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..7).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 5000, 5000]);
    }
}
