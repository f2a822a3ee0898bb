//! The admin API: `specola.v1.Agent` on a unix socket, for root only.

mod ledger;
mod metrics;
mod policy;
mod requests;
mod socket;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use specola_flow_server::{FlowMetrics, FlowServer};
use specola_lifecycle::{Drain, Readiness, build_info};
use specola_proto::specola::v1 as pb;
use specola_proto::specola::v1::agent_server::{Agent, AgentServer};
use specola_proto::specola::v1::policy_admin_server::PolicyAdminServer;
use tonic::{Request, Response, Status};

pub(crate) use self::socket::AdminSocket;

use crate::endpoint::EndpointKey;
use crate::net::Net;
use crate::node::{NodeError, NodeGone, NodeHandle};
use crate::overrides::OverrideError;

/// Answers requests of the admin API.
#[derive(Clone, Debug)]
pub(crate) struct AdminService {
    node: NodeHandle,
    net: Net,
    flows: FlowServer,
    metrics: Option<FlowMetrics>,
    readiness: Readiness,
    mtu: u32,
    started: Instant,
    /// Endpoints whose link is being made or removed: one request at a time for each.
    busy: Arc<Mutex<HashSet<EndpointKey>>>,
}

impl AdminService {
    pub(crate) fn new(node: NodeHandle, net: Net, flows: FlowServer, readiness: Readiness, mtu: u32) -> Self {
        Self {
            node,
            net,
            flows,
            metrics: None,
            readiness,
            mtu,
            started: Instant::now(),
            busy: Arc::default(),
        }
    }

    /// The same with metrics made of flows.
    pub(crate) fn with_metrics(mut self, metrics: Option<FlowMetrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Serves the socket until the drain; open requests end first.
    pub(crate) async fn serve(
        self,
        socket: AdminSocket,
        drain: Drain,
    ) -> Result<(), tonic::transport::Error> {
        let (incoming, _file) = socket.into_incoming();
        tonic::transport::Server::builder()
            .add_service(PolicyAdminServer::new(self.clone()))
            .add_service(AgentServer::new(self))
            .serve_with_incoming_shutdown(incoming, async move { drain.signalled().await })
            .await
    }

    fn lock(&self, key: &EndpointKey) -> Result<Busy, Status> {
        if !self.busy.lock().insert(key.clone()) {
            return Err(Status::aborted(format!("another request for endpoint {key} is running; try again")));
        }
        Ok(Busy { key: key.clone(), all: Arc::clone(&self.busy) })
    }

    async fn add(&self, request: pb::AddEndpointRequest) -> Result<pb::AddEndpointResponse, Status> {
        let request = requests::add(request)?;
        let _busy = self.lock(&request.key)?;
        let plan = self.node.call(move |node| node.plan(request)).await?.map_err(status)?;
        let id = plan.id;
        let link = match self.net.ensure_pod_link(&plan.request).await {
            Ok(link) => link,
            Err(error) => {
                self.node.call(move |node| node.abandon(id)).await?.map_err(status)?;
                return Err(Status::failed_precondition(error.to_string()));
            }
        };
        let shown = self.node.call(move |node| node.attach(id, &link).map(|()| node.show_id(id))).await?;
        let endpoint = shown.map_err(status)?.ok_or_else(|| status(NodeError::Gone(id)))?;
        let gateways: Vec<_> = plan.request.gateways.iter().collect();
        let assigned = plan.request.addresses.iter().map(|address| pb::AssignedIp {
            address: ipnet::IpNet::from(address).to_string(),
            gateway: gateways
                .iter()
                .find(|gateway| gateway.is_ipv4() == address.is_ipv4())
                .map(ToString::to_string)
                .unwrap_or_default(),
        });
        Ok(pb::AddEndpointResponse {
            ips: assigned.collect(),
            mac: endpoint.mac.clone(),
            host_ifname: endpoint.host_ifname.clone(),
            mtu: self.mtu,
            endpoint: Some(endpoint),
        })
    }

    async fn delete(&self, request: pb::DeleteEndpointRequest) -> Result<(), Status> {
        let key = requests::key(request.container_id, request.ifname)?;
        let _busy = self.lock(&key)?;
        let disconnected = self.node.call(move |node| node.disconnect(&key)).await?.map_err(status)?;
        let Some((id, device)) = disconnected else { return Ok(()) };
        self.net.remove_pod_link(&device).await.map_err(|error| Status::internal(error.to_string()))?;
        self.node.call(move |node| node.forget(id)).await?.map_err(status)
    }

    async fn status(&self) -> Result<pb::GetStatusResponse, Status> {
        // Before the lanes are read, so that nothing is consumed that was not taken.
        let consumed = self.flows.status().ledger.consumed;
        let (mut response, folds) = self.node.call(|node| node.show_status()).await?;
        let flows = self.flows.status();
        response.version = build_info().semver();
        response.uptime_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        response.ready = self.readiness.is_ready();
        let waiting = self.readiness.pending();
        response.warnings.extend(waiting.iter().map(|gate| format!("not ready: waiting for {gate}")));
        response.flows = Some(pb::FlowStatus {
            seen: flows.seen,
            held: flows.held,
            capacity: flows.capacity,
            rejected: flows.ledger.rejected.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect(),
            overwritten: flows.overwritten,
            consumed: flows.ledger.consumed,
            expanded: flows.ledger.expanded,
        });
        let taken: u64 = response.lanes.iter().map(|lane| lane.taken).sum();
        let in_hand = taken.saturating_sub(consumed);
        response.ledger = Some(ledger::show(&flows.ledger, in_hand, &response.lanes, &folds));
        Ok(response)
    }
}

#[tonic::async_trait]
impl Agent for AdminService {
    async fn add_endpoint(
        &self,
        request: Request<pb::AddEndpointRequest>,
    ) -> Result<Response<pb::AddEndpointResponse>, Status> {
        // A client that goes away must not leave a link half made.
        let service = self.clone();
        let work = tokio::spawn(async move { service.add(request.into_inner()).await });
        work.await.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }

    async fn delete_endpoint(
        &self,
        request: Request<pb::DeleteEndpointRequest>,
    ) -> Result<Response<pb::DeleteEndpointResponse>, Status> {
        let service = self.clone();
        let work = tokio::spawn(async move { service.delete(request.into_inner()).await });
        work.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(pb::DeleteEndpointResponse {}))
    }

    async fn list_endpoints(
        &self,
        _request: Request<pb::ListEndpointsRequest>,
    ) -> Result<Response<pb::ListEndpointsResponse>, Status> {
        let endpoints = self.node.call(|node| node.show_endpoints()).await?;
        Ok(Response::new(pb::ListEndpointsResponse { endpoints }))
    }

    async fn get_endpoint(
        &self,
        request: Request<pb::GetEndpointRequest>,
    ) -> Result<Response<pb::GetEndpointResponse>, Status> {
        let (wanted, name) = requests::wanted(request.into_inner())?;
        let found = self.node.call(move |node| node.show_endpoint(&wanted)).await?;
        let missing = || Status::not_found(format!("no endpoint {name} on this node; see ListEndpoints"));
        found.map(Response::new).ok_or_else(missing)
    }

    async fn list_identities(
        &self,
        _request: Request<pb::ListIdentitiesRequest>,
    ) -> Result<Response<pb::ListIdentitiesResponse>, Status> {
        let identities = self.node.call(|node| node.show_identities()).await?;
        Ok(Response::new(pb::ListIdentitiesResponse { identities }))
    }

    async fn list_addresses(
        &self,
        _request: Request<pb::ListAddressesRequest>,
    ) -> Result<Response<pb::ListAddressesResponse>, Status> {
        let addresses = self.node.call(|node| node.show_addresses()).await?;
        Ok(Response::new(pb::ListAddressesResponse { addresses }))
    }

    async fn get_policy(
        &self,
        request: Request<pb::GetPolicyRequest>,
    ) -> Result<Response<pb::GetPolicyResponse>, Status> {
        let pb::GetPolicyRequest { namespace, name } = request.into_inner();
        let response = self.node.call(move |node| node.show_policies(&namespace, &name)).await?;
        Ok(Response::new(response))
    }

    async fn get_status(
        &self,
        _request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        self.status().await.map(Response::new)
    }

    async fn list_metrics(
        &self,
        _request: Request<pb::ListMetricsRequest>,
    ) -> Result<Response<pb::ListMetricsResponse>, Status> {
        let families = self.metrics.as_ref().map(FlowMetrics::cardinality).unwrap_or_default();
        Ok(Response::new(metrics::show(families, self.flows.consumers())))
    }
}

/// Marks an endpoint as busy while it lives.
#[derive(Debug)]
struct Busy {
    key: EndpointKey,
    all: Arc<Mutex<HashSet<EndpointKey>>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.all.lock().remove(&self.key);
    }
}

impl From<NodeGone> for Status {
    fn from(gone: NodeGone) -> Self {
        Self::unavailable(gone.to_string())
    }
}

fn status(error: NodeError) -> Status {
    let text = error.to_string();
    match error {
        NodeError::Invalid { .. } => Status::invalid_argument(text),
        NodeError::Disconnecting(_) => Status::aborted(text),
        NodeError::Gone(_) | NodeError::Unknown(_) => Status::not_found(text),
        NodeError::Override(OverrideError::Invalid { .. }) => Status::invalid_argument(text),
        NodeError::Override(OverrideError::TooManyNames) => Status::resource_exhausted(text),
        NodeError::Override(OverrideError::File(_)) => Status::internal(text),
        NodeError::Full(_) | NodeError::Ipam(_) => Status::resource_exhausted(text),
        NodeError::State(_) | NodeError::Kernel(_) => Status::internal(text),
    }
}
