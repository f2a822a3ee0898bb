//! Hubble's Observer service over all peers.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use prost::bytes::Bytes;
use specola_proto::observer::{
    self as pb,
    observer_client::ObserverClient,
    observer_server::{Observer, ObserverServer},
};
use specola_proto::relay::NodeState;
use specola_serve::{ConnectionInfo, Pieces, read_request, respond};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Context as TaskContext, Poll, Service, StdError, http};
use tonic::metadata::AsciiMetadataValue;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

use crate::dial::Link;
use crate::flows::{Context, FlowStream};
use crate::metrics::Counters;
use crate::now_ns;
use crate::pool::Peer;
use crate::shared::{self, Follower, Hubs};

/// Largest request, bytes.
pub(crate) const MAX_REQUEST: usize = 256 << 10;
/// Time in which a peer must answer a question about itself.
const ASK_TIME: Duration = Duration::from_secs(3);
/// Peers that are asked at once.
const ASKED_AT_ONCE: usize = 128;
/// Nodes that ServerStatus names.
const NAMED: usize = 10;
/// Header with the relay's version on every reply.
const VERSION_HEADER: &str = "hubble-relay-version";
const GET_FLOWS: &str = "/observer.Observer/GetFlows";

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct RelayObserver {
    pub(crate) context: Context,
    pub(crate) version: String,
    pub(crate) hubs: Arc<Hubs>,
}

/// Where the flows of an answer come from.
enum FlowSource {
    Own(Box<FlowStream>),
    Shared(Follower),
}

/// One answer to GetFlows.
struct Flows {
    source: FlowSource,
    counters: Arc<Counters>,
}

impl Flows {
    fn new(source: FlowSource, counters: &Arc<Counters>) -> Self {
        counters.open.inc();
        Self { source, counters: Arc::clone(counters) }
    }

    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        let (piece, flows) = match &mut self.source {
            FlowSource::Own(stream) => (stream.next().await, stream.take_flows()),
            FlowSource::Shared(follower) => (follower.next().await, follower.take_flows()),
        };
        self.counters.flows.inc_by(flows);
        piece
    }

    fn asked(&self) -> (usize, usize) {
        match &self.source {
            FlowSource::Own(stream) => stream.asked(),
            FlowSource::Shared(follower) => follower.asked(),
        }
    }

    fn coverage(&self) -> Vec<(&'static str, String)> {
        match &self.source {
            FlowSource::Own(stream) => stream.coverage(),
            FlowSource::Shared(follower) => follower.coverage(),
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.counters.open.dec();
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl RelayObserver {
    fn reply<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if let Ok(version) = self.version.parse::<AsciiMetadataValue>() {
            response.metadata_mut().insert(VERSION_HEADER, version);
        }
        response
    }

    /// Asks every peer; gives those that cannot be asked with `None`.
    async fn ask<T, F>(
        &self,
        question: impl Fn(ObserverClient<Link>) -> F + Copy,
    ) -> Vec<(Arc<Peer>, Option<Result<T, Status>>)>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let peers: Vec<_> = self.context.pool.peers().values().cloned().collect();
        let ask = |peer: Arc<Peer>| async move {
            let Some(link) = peer.link() else { return (peer, None) };
            let asked = timeout(ASK_TIME, question(ObserverClient::with_origin(link, Link::origin()))).await;
            let answer = match asked {
                Ok(answer) => answer.map(Response::into_inner),
                Err(_slow) => Err(Status::deadline_exceeded(format!("no answer within {ASK_TIME:?}"))),
            };
            (peer, Some(answer))
        };
        futures::stream::iter(peers).map(ask).buffered(ASKED_AT_ONCE).collect().await
    }

    fn open_flows(&self, request: Request<pb::GetFlowsRequest>) -> Result<Response<Flows>, Status> {
        admit(&request)?;
        let authorization = request.metadata().as_ref().get(http::header::AUTHORIZATION).cloned();
        let request = request.into_inner();
        if request.first && request.follow {
            return Err(Status::invalid_argument("first cannot be specified with follow"));
        }
        let stream = if shared::can_share(&request) {
            FlowSource::Shared(self.hubs.follow(&self.context, request, authorization))
        } else {
            FlowSource::Own(Box::new(FlowStream::open(self.context.clone(), request, authorization)))
        };
        let stream = Flows::new(stream, &self.context.counters);
        let (asked, missing) = stream.asked();
        let mut response = self.reply(stream);
        for (name, count) in [("specola-coverage-nodes", asked), ("specola-coverage-nodes-missing", missing)]
        {
            response.metadata_mut().insert(name, AsciiMetadataValue::from(count));
        }
        Ok(response)
    }
}

fn admit<T>(request: &Request<T>) -> Result<(), Status> {
    request.extensions().get::<ConnectionInfo>().map_or(Ok(()), |connection| connection.admit(now_ns()))
}

#[tonic::async_trait]
impl Observer for RelayObserver {
    type GetFlowsStream = Answers<pb::GetFlowsResponse>;
    type GetAgentEventsStream = Answers<pb::GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<pb::GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        _request: Request<pb::GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        // `RelayService` answers before.
        Err(Status::internal("GetFlows is answered with encoded flows"))
    }

    async fn get_agent_events(
        &self,
        _request: Request<pb::GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented("GetAgentEvents not yet implemented: ask the node's own server"))
    }

    async fn get_debug_events(
        &self,
        _request: Request<pb::GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("GetDebugEvents not yet implemented: ask the node's own server"))
    }

    async fn get_nodes(
        &self,
        request: Request<pb::GetNodesRequest>,
    ) -> Result<Response<pb::GetNodesResponse>, Status> {
        admit(&request)?;
        let asked = self
            .ask(|mut client| async move { client.server_status(pb::ServerStatusRequest {}).await })
            .await;
        let nodes = asked.into_iter().map(|(peer, answer)| node(&peer, answer)).collect();
        Ok(self.reply(pb::GetNodesResponse { nodes }))
    }

    async fn get_namespaces(
        &self,
        request: Request<pb::GetNamespacesRequest>,
    ) -> Result<Response<pb::GetNamespacesResponse>, Status> {
        admit(&request)?;
        let asked = self
            .ask(|mut client| async move { client.get_namespaces(pb::GetNamespacesRequest {}).await })
            .await;
        let mut all = BTreeSet::new();
        for answer in asked.into_iter().filter_map(|(_, answer)| answer?.ok()) {
            all.extend(answer.namespaces.into_iter().map(|one| (one.cluster, one.namespace)));
        }
        let namespaces =
            all.into_iter().map(|(cluster, namespace)| pb::Namespace { cluster, namespace }).collect();
        Ok(self.reply(pb::GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        request: Request<pb::ServerStatusRequest>,
    ) -> Result<Response<pb::ServerStatusResponse>, Status> {
        admit(&request)?;
        let asked = self
            .ask(|mut client| async move { client.server_status(pb::ServerStatusRequest {}).await })
            .await;
        let mut sum = pb::ServerStatusResponse {
            version: format!("specola-relay v{}", self.version),
            ..pb::ServerStatusResponse::default()
        };
        let (mut connected, mut unavailable) = (0, 0);
        for (peer, answer) in asked {
            if let Some(Ok(status)) = answer {
                connected += 1;
                sum.num_flows = sum.num_flows.saturating_add(status.num_flows);
                sum.max_flows = sum.max_flows.saturating_add(status.max_flows);
                sum.seen_flows = sum.seen_flows.saturating_add(status.seen_flows);
                sum.flows_rate += status.flows_rate;
                sum.uptime_ns = sum.uptime_ns.max(status.uptime_ns);
            } else {
                unavailable += 1;
                if sum.unavailable_nodes.len() < NAMED {
                    sum.unavailable_nodes.push(peer.name.clone());
                }
            }
        }
        (sum.num_connected_nodes, sum.num_unavailable_nodes) = (Some(connected), Some(unavailable));
        Ok(self.reply(sum))
    }
}

fn node(peer: &Peer, answer: Option<Result<pb::ServerStatusResponse, Status>>) -> pb::Node {
    let (state, status) = match answer {
        None => (NodeState::NodeUnavailable, None),
        Some(Err(_)) => (NodeState::NodeError, None),
        Some(Ok(status)) => (NodeState::NodeConnected, Some(status)),
    };
    let status = status.unwrap_or_default();
    pb::Node {
        name: peer.name.clone(),
        address: peer.target.address.clone(),
        state: state.into(),
        tls: Some(pb::Tls {
            enabled: peer.target.server_name.is_some(),
            server_name: peer.target.server_name.clone().unwrap_or_default(),
        }),
        version: status.version,
        uptime_ns: status.uptime_ns,
        num_flows: status.num_flows,
        max_flows: status.max_flows,
        seen_flows: status.seen_flows,
    }
}

/// The Observer service as it is served: the answer to GetFlows is made of the peers' bytes.
#[derive(Clone)]
pub(crate) struct RelayService {
    observer: RelayObserver,
    /// All other methods.
    rest: ObserverServer<RelayObserver>,
}

impl RelayService {
    pub(crate) fn new(observer: RelayObserver) -> Self {
        let rest = ObserverServer::new(observer.clone()).max_decoding_message_size(MAX_REQUEST);
        Self { observer, rest }
    }
}

impl NamedService for RelayService {
    const NAME: &'static str = <ObserverServer<RelayObserver> as NamedService>::NAME;
}

impl<B> Service<http::Request<B>> for RelayService
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != GET_FLOWS {
            return Box::pin(self.rest.call(request));
        }
        let observer = self.observer.clone();
        Box::pin(async move {
            let answered = match read_request::<pb::GetFlowsRequest, _>(request, MAX_REQUEST).await {
                Ok(request) => observer.open_flows(request),
                Err(status) => Err(status),
            };
            Ok(answered.map_or_else(Status::into_http, respond))
        })
    }
}

impl Pieces for Flows {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        Self::next(self).await
    }

    fn trailers(&self) -> http::HeaderMap {
        let header = |(name, value)| {
            Some((http::HeaderName::from_static(name), http::HeaderValue::try_from(value).ok()?))
        };
        self.coverage().into_iter().filter_map(header).collect()
    }
}
