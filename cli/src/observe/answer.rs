//! Flows, agent events and debug events: three calls that are asked and answered alike.

use std::io;

use specola_proto::google::Timestamp;
use specola_proto::observer::get_flows_response::ResponseTypes;
use specola_proto::observer::observer_client::ObserverClient;
use specola_proto::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse,
};
use tonic::{Status, Streaming};

use crate::target::Connection;

/// What a server is asked.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    /// Flows.
    Flows(GetFlowsRequest),
    /// What agents did.
    AgentEvents(GetAgentEventsRequest),
    /// What kernel programs say of themselves.
    DebugEvents(GetDebugEventsRequest),
}

/// One answer.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every answer is a flow")]
pub(crate) enum Answer {
    /// A flow, a loss or a node's state.
    Flow(GetFlowsResponse),
    /// An agent event.
    Agent(GetAgentEventsResponse),
    /// A debug event.
    Debug(GetDebugEventsResponse),
}

/// A stream of answers.
pub(crate) enum Answers {
    /// To a request for flows.
    Flows(Streaming<GetFlowsResponse>),
    /// To one for agent events.
    Agent(Streaming<GetAgentEventsResponse>),
    /// To one for debug events.
    Debug(Streaming<GetDebugEventsResponse>),
}

/// Where answers go.
pub(crate) trait Sink {
    /// Takes one answer.
    ///
    /// # Errors
    /// The output cannot be written.
    fn take(&mut self, answer: &Answer) -> io::Result<()>;

    /// Tells the user about a connection.
    ///
    /// # Errors
    /// The output cannot be written.
    fn note(&mut self, text: &str) -> io::Result<()>;

    /// Nothing waits just now.
    ///
    /// # Errors
    /// The output cannot be written.
    fn flush(&mut self) -> io::Result<()>;

    /// Nothing follows.
    ///
    /// # Errors
    /// The output cannot be written.
    fn finish(&mut self) -> io::Result<()>;
}

impl Question {
    /// Sends it.
    ///
    /// # Errors
    /// The server refuses it or is gone.
    pub(crate) async fn send(self, client: &mut ObserverClient<Connection>) -> Result<Answers, Status> {
        Ok(match self {
            Self::Flows(request) => Answers::Flows(client.get_flows(request).await?.into_inner()),
            Self::AgentEvents(request) => {
                Answers::Agent(client.get_agent_events(request).await?.into_inner())
            }
            Self::DebugEvents(request) => {
                Answers::Debug(client.get_debug_events(request).await?.into_inner())
            }
        })
    }
}

impl From<GetFlowsRequest> for Question {
    fn from(request: GetFlowsRequest) -> Self {
        Self::Flows(request)
    }
}

impl Answers {
    /// The next answer; none at the end. Cancel-safe.
    ///
    /// # Errors
    /// The server broke off.
    pub(crate) async fn next(&mut self) -> Result<Option<Answer>, Status> {
        Ok(match self {
            Self::Flows(answers) => answers.message().await?.map(Answer::Flow),
            Self::Agent(answers) => answers.message().await?.map(Answer::Agent),
            Self::Debug(answers) => answers.message().await?.map(Answer::Debug),
        })
    }
}

impl Answer {
    /// When it happened. A flow's own time counts when a field mask left the envelope's empty.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        match self {
            Self::Flow(response) => match &response.response_types {
                Some(ResponseTypes::Flow(flow)) => flow.time.or(response.time),
                _ => response.time,
            },
            Self::Agent(response) => response.time,
            Self::Debug(response) => response.time,
        }
    }

    /// Whether it is what was asked for, rather than a word about it.
    pub(crate) const fn is_counted(&self) -> bool {
        match self {
            Self::Flow(response) => matches!(response.response_types, Some(ResponseTypes::Flow(_))),
            Self::Agent(_) | Self::Debug(_) => true,
        }
    }
}
