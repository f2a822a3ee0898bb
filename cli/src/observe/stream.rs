//! The flows of one server, over as many connections as it takes.

use std::collections::HashSet;
use std::error::Error as _;
use std::time::Duration;

use specola_proto::google::Timestamp;
use specola_proto::observer::get_flows_response::ResponseTypes;
use specola_proto::observer::observer_client::ObserverClient;
use specola_proto::observer::{GetFlowsRequest, GetFlowsResponse};
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::error::status_text;
use crate::target::{Target, Timeout};

/// What comes from one server.
#[derive(Debug)]
pub(crate) enum Event {
    /// An answer.
    Response(Box<GetFlowsResponse>),
    /// A line for the user about the connection.
    Note(String),
}

/// One server and what it is asked.
#[derive(Clone, Debug)]
pub(crate) struct NodeStream {
    target: Target,
    request: GetFlowsRequest,
    timeout: Timeout,
}

/// A server that is connected.
#[derive(Debug)]
pub(crate) struct Connected {
    stream: NodeStream,
    client: ObserverClient<Channel>,
}

impl NodeStream {
    /// Makes one; nothing is sent yet.
    pub(crate) const fn new(target: Target, request: GetFlowsRequest, timeout: Timeout) -> Self {
        Self { target, request, timeout }
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
        let request = self.stream.request.clone();
        match self.pass_on(request, &mut Progress::default(), events).await {
            Ok(_end) => Ok(()),
            Err(status) => Err(anyhow::anyhow!("{}: {}", self.stream.name(), status_text(&status))),
        }
    }

    /// Sends answers until the receiver is gone; asks again when the connection is lost.
    ///
    /// # Errors
    /// The server refuses the request.
    pub(crate) async fn follow(&mut self, events: &mpsc::Sender<Event>) -> anyhow::Result<()> {
        let mut progress = Progress::default();
        let mut backoff = Backoff::default();
        let mut lost = false;
        loop {
            let request = progress.resume(&self.stream.request);
            progress.fresh = true;
            let reason = match self.pass_on(request, &mut progress, events).await {
                Ok(End::Unwanted) => return Ok(()),
                Ok(End::Finished) => "the server ended the stream".to_owned(),
                Err(status) if is_refusal(&status) => {
                    anyhow::bail!("{}: {}", self.stream.name(), status_text(&status))
                }
                Err(status) => status_text(&status),
            };
            if !progress.fresh {
                backoff = Backoff::default();
                lost = false;
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
        request: GetFlowsRequest,
        progress: &mut Progress,
        events: &mpsc::Sender<Event>,
    ) -> Result<End, Status> {
        let resumed = progress.started;
        let mut answers = self.client.get_flows(request).await?.into_inner();
        if resumed {
            let note = format!("{}: connected again", self.stream.name());
            if events.send(Event::Note(note)).await.is_err() {
                return Ok(End::Unwanted);
            }
        }
        progress.started = true;
        progress.fresh = false;
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer?,
                () = events.closed() => return Ok(End::Unwanted),
            };
            let Some(response) = answer else { return Ok(End::Finished) };
            if progress.is_repeated(&response) {
                continue;
            }
            if events.send(Event::Response(Box::new(response))).await.is_err() {
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
    /// Whether a request was answered before.
    started: bool,
    /// Whether the current request was not answered yet.
    fresh: bool,
    /// Time of the newest flow.
    newest: Option<Timestamp>,
    /// Flows of that very time; a resumed stream sends them again.
    at_newest: HashSet<String>,
}

impl Progress {
    /// The request that goes on where the last answer ended.
    fn resume(&self, request: &GetFlowsRequest) -> GetFlowsRequest {
        let mut request = request.clone();
        if self.newest.is_some() {
            request.since = self.newest;
            request.number = 0;
        }
        request
    }

    /// Remembers the answer; true when it came before.
    fn is_repeated(&mut self, response: &GetFlowsResponse) -> bool {
        let Some(ResponseTypes::Flow(flow)) = &response.response_types else { return false };
        let Some(time) = flow.time.filter(|_| !flow.uuid.is_empty()) else { return false };
        match self.newest {
            Some(newest) if time < newest => false,
            Some(newest) if time == newest => !self.at_newest.insert(flow.uuid.clone()),
            _ => {
                self.newest = Some(time);
                self.at_newest.clear();
                self.at_newest.insert(flow.uuid.clone());
                false
            }
        }
    }
}

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
