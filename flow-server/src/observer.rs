//! Hubble's Observer service over one node's ring.

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
use tonic::{Request, Response, Status, metadata::AsciiMetadataValue};

use crate::{
    shared::{FlowServer, Shared},
    wire::FlowChunks,
};
pub(crate) use request::FlowsQuery;
use stream::{FlowStream, messages};

/// Answers Hubble's clients. One per server; it ends its streams when `drain` is signalled.
#[derive(Clone, Debug)]
pub struct ObserverService {
    server: FlowServer,
    drain: Drain,
    version_header: Option<AsciiMetadataValue>,
}

/// Header with the server's version on every reply.
const VERSION_HEADER: &str = "hubble-server-version";

/// What streams of answers look like.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ObserverService {
    /// A service over `server` whose streams end when `drain` is signalled.
    pub fn new(server: FlowServer, drain: Drain) -> Self {
        // A version that is no header text is left out rather than refused: the header is informative.
        let version_header = server.shared.config.version.parse().ok();
        Self { server, drain, version_header }
    }

    fn reply<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if let Some(version) = &self.version_header {
            response.metadata_mut().insert(VERSION_HEADER, version.clone());
        }
        response
    }

    /// Answers to GetFlows in the form in which they go out.
    pub(crate) async fn open_flows(
        &self,
        request: Request<pb::GetFlowsRequest>,
    ) -> Result<Response<FlowChunks>, Status> {
        let query = FlowsQuery::parse(request.get_ref())
            .map_err(|refused| Status::invalid_argument(refused.to_string()))?;
        let stream = FlowStream::open(Arc::clone(self.shared()), query, self.drain.clone()).await;
        Ok(self.reply(stream.into_chunks()))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.server.shared
    }
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
        _request: Request<pb::GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented("agent events are not recorded by this server yet"))
    }

    async fn get_debug_events(
        &self,
        _request: Request<pb::GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("debug events are not recorded by this server"))
    }

    async fn get_nodes(
        &self,
        _request: Request<pb::GetNodesRequest>,
    ) -> Result<Response<pb::GetNodesResponse>, Status> {
        let status = self.server.status();
        let node = pb::Node {
            name: self.shared().directory.load().node().absolute_name(),
            version: self.shared().config.version_text.clone(),
            state: NodeState::NodeConnected.into(),
            uptime_ns: status.uptime_ns,
            num_flows: status.held,
            max_flows: status.capacity,
            seen_flows: status.seen,
            ..pb::Node::default()
        };
        Ok(self.reply(pb::GetNodesResponse { nodes: vec![node] }))
    }

    async fn get_namespaces(
        &self,
        _request: Request<pb::GetNamespacesRequest>,
    ) -> Result<Response<pb::GetNamespacesResponse>, Status> {
        let now_ns = self.shared().config.clock.now_ns();
        let list = self.shared().namespaces.list(now_ns);
        let namespaces =
            list.into_iter().map(|(cluster, namespace)| pb::Namespace { cluster, namespace }).collect();
        Ok(self.reply(pb::GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        _request: Request<pb::ServerStatusRequest>,
    ) -> Result<Response<pb::ServerStatusResponse>, Status> {
        let status = self.server.status();
        Ok(self.reply(pb::ServerStatusResponse {
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
