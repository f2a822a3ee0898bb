//! Hubble's Observer service over one node's ring.

mod agent_stream;
mod coverage;
mod request;
mod start;
mod stream;

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use specola_lifecycle::Drain;
use specola_proto::{
    observer::{self as pb, observer_server::Observer},
    relay::NodeState,
};
use specola_serve::ConnectionInfo;
use tonic::{Request, Response, Status, metadata::AsciiMetadataValue};

use crate::{
    shared::{FlowServer, Shared},
    wire::FlowChunks,
};
use agent_stream::AgentStream;
pub(crate) use request::FlowsQuery;
use stream::{FlowStream, messages};

/// Answers Hubble's clients. One per server; it ends its streams when `drain` is signalled.
#[derive(Clone, Debug)]
pub struct ObserverService {
    server: FlowServer,
    drain: Drain,
}

/// Header with the server's version on every reply.
const VERSION_HEADER: &str = "hubble-server-version";

/// What streams of answers look like.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ObserverService {
    /// A service over `server` whose streams end when `drain` is signalled.
    pub const fn new(server: FlowServer, drain: Drain) -> Self {
        Self { server, drain }
    }

    /// Answers to GetFlows in the form in which they go out.
    pub(crate) async fn open_flows(
        &self,
        request: Request<pb::GetFlowsRequest>,
    ) -> Result<Response<FlowChunks>, Status> {
        self.server.admit(&request)?;
        let query = FlowsQuery::parse(request.get_ref()).map_err(refuse)?;
        let coverage = coverage::headers(self.shared(), query.since_ns);
        let stream = FlowStream::open(Arc::clone(self.shared()), query, self.drain.clone()).await;
        let mut response = self.server.reply(stream.into_chunks());
        coverage.into_iter().for_each(|(name, value)| {
            response.metadata_mut().insert(name, value.into());
        });
        Ok(response)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.server.shared
    }
}

impl FlowServer {
    /// A reply with the headers that every one has.
    pub(crate) fn reply<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        // A version that is no header text is left out rather than refused: the header is informative.
        if let Ok(version) = self.shared.config.version.parse::<AsciiMetadataValue>() {
            response.metadata_mut().insert(VERSION_HEADER, version);
        }
        response
    }

    /// Refuses a request of a connection that asks too often.
    pub(crate) fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        match request.extensions().get::<ConnectionInfo>() {
            Some(connection) => connection.admit(self.shared.config.clock.now_ns()),
            // Not over a socket of ours: a service that a program calls itself.
            None => Ok(()),
        }
    }
}

fn refuse(refused: request::Refused) -> Status {
    Status::invalid_argument(refused.to_string())
}

#[tonic::async_trait]
impl Observer for ObserverService {
    type GetFlowsStream = Answers<pb::GetFlowsResponse>;
    type GetAgentEventsStream = Answers<pb::GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<pb::GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<pb::GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        Ok(self
            .open_flows(request)
            .await?
            .map(|chunks| -> Self::GetFlowsStream { Box::pin(messages(chunks)) }))
    }

    async fn get_agent_events(
        &self,
        request: Request<pb::GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        self.server.admit(&request)?;
        let shared = Arc::clone(self.shared());
        let stream = AgentStream::open(shared, request.get_ref(), self.drain.clone()).map_err(refuse)?;
        Ok(self.server.reply(Box::pin(futures::stream::unfold(stream, AgentStream::step))))
    }

    async fn get_debug_events(
        &self,
        _request: Request<pb::GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented(
            "the kernel programs make no debug events: ask for flows, every verdict and drop is one",
        ))
    }

    async fn get_nodes(
        &self,
        request: Request<pb::GetNodesRequest>,
    ) -> Result<Response<pb::GetNodesResponse>, Status> {
        self.server.admit(&request)?;
        let status = self.server.status();
        let name = self.shared().directory.load().node().absolute_name();
        let peer = self.shared().peers.borrow().get(&name).cloned().unwrap_or_default();
        let node = pb::Node {
            name,
            address: peer.address,
            tls: Some(pb::Tls {
                enabled: peer.server_name.is_some(),
                server_name: peer.server_name.unwrap_or_default(),
            }),
            version: self.shared().config.version_text.clone(),
            state: NodeState::NodeConnected.into(),
            uptime_ns: status.uptime_ns,
            num_flows: status.held,
            max_flows: status.capacity,
            seen_flows: status.seen,
        };
        Ok(self.server.reply(pb::GetNodesResponse { nodes: vec![node] }))
    }

    async fn get_namespaces(
        &self,
        request: Request<pb::GetNamespacesRequest>,
    ) -> Result<Response<pb::GetNamespacesResponse>, Status> {
        self.server.admit(&request)?;
        let now_ns = self.shared().config.clock.now_ns();
        let list = self.shared().namespaces.list(now_ns);
        let namespaces =
            list.into_iter().map(|(cluster, namespace)| pb::Namespace { cluster, namespace }).collect();
        Ok(self.server.reply(pb::GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        request: Request<pb::ServerStatusRequest>,
    ) -> Result<Response<pb::ServerStatusResponse>, Status> {
        self.server.admit(&request)?;
        let status = self.server.status();
        Ok(self.server.reply(pb::ServerStatusResponse {
            num_flows: status.held,
            max_flows: status.capacity,
            seen_flows: status.seen,
            uptime_ns: status.uptime_ns,
            version: self.shared().config.version_text.clone(),
            flows_rate: status.rate,
            ..pb::ServerStatusResponse::default()
        }))
    }
}
