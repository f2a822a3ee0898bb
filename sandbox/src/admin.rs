//! Calls to a node's agent over its admin socket.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use specola_proto::specola::v1 as api;
use specola_proto::specola::v1::agent_client::AgentClient;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// A connection to one agent.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    client: AgentClient<Channel>,
}

impl Admin {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) async fn connect(path: &Path) -> anyhow::Result<Self> {
        let socket = path.to_owned();
        // The URI is not used; the connector decides where the bytes go.
        let endpoint = Endpoint::from_static("http://agent").timeout(CALL_LIMIT).connect_timeout(CALL_LIMIT);
        let channel = endpoint
            .connect_with_connector(tower::service_fn(move |_uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .with_context(|| format!("no agent answers on {}", path.display()))?;
        Ok(Self { client: AgentClient::new(channel) })
    }

    /// True once the agent serves its node.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub(crate) async fn is_ready(&mut self) -> anyhow::Result<bool> {
        let status = self.client.get_status(api::GetStatusRequest {}).await.map_err(describe)?;
        Ok(status.into_inner().ready)
    }

    /// Has the agent wire a pod, and waits until the kernel enforces its policy.
    ///
    /// # Errors
    /// When the agent refuses, or the endpoint is not ready after `limit`.
    pub(crate) async fn add_pod(
        &mut self,
        request: api::AddEndpointRequest,
        limit: Duration,
    ) -> anyhow::Result<api::Endpoint> {
        let deadline = Instant::now() + limit;
        let wanted = request.pod.clone();
        loop {
            match self.client.add_endpoint(request.clone()).await {
                Ok(_wired) => break,
                // The agent may not have read the pod's object yet.
                Err(status) if is_early(&status) && Instant::now() < deadline => sleep(POLL).await,
                Err(status) => return Err(describe(status)),
            }
        }
        loop {
            let endpoint = self.endpoints().await?.into_iter().find(|endpoint| endpoint.pod == wanted);
            match endpoint {
                Some(endpoint) if endpoint.state() == api::EndpointState::Ready => return Ok(endpoint),
                found if Instant::now() >= deadline => {
                    let state = found
                        .as_ref()
                        .map_or("unknown to the agent", |endpoint| state_name(endpoint.state()));
                    let conditions = found.map(|endpoint| endpoint.conditions.join("; ")).unwrap_or_default();
                    bail!("the endpoint is {state} after {} s; {conditions}", limit.as_secs());
                }
                _not_yet => sleep(POLL).await,
            }
        }
    }

    /// Has the agent remove a pod's endpoint.
    ///
    /// # Errors
    /// When the agent refuses.
    pub(crate) async fn remove_pod(&mut self, container_id: String) -> anyhow::Result<()> {
        let request = api::DeleteEndpointRequest { container_id, ifname: crate::POD_DEVICE.to_owned() };
        self.client.delete_endpoint(request).await.map_err(describe)?;
        Ok(())
    }

    /// What the agent knows of the cluster now.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub(crate) async fn knowledge(&mut self) -> anyhow::Result<Knowledge> {
        let identities =
            self.client.list_identities(api::ListIdentitiesRequest {}).await.map_err(describe)?;
        let status = self.client.get_status(api::GetStatusRequest {}).await.map_err(describe)?.into_inner();
        Ok(Knowledge {
            identities: identities.into_inner().identities.iter().map(|identity| identity.id).collect(),
            addresses: status.ipcache_entries,
            all_ready: status.endpoints_ready == status.endpoints_total,
        })
    }

    /// The node's endpoints.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub(crate) async fn endpoints(&mut self) -> anyhow::Result<Vec<api::Endpoint>> {
        let answer = self.client.list_endpoints(api::ListEndpointsRequest {}).await.map_err(describe)?;
        Ok(answer.into_inner().endpoints)
    }
}

/// What an agent knows of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Knowledge {
    pub identities: BTreeSet<u32>,
    /// Size of its address table.
    pub addresses: u32,
    /// Its own endpoints enforce the policy that it has.
    pub all_ready: bool,
}

/// The state as users read it: "ready", "waiting-for-identity".
pub(crate) fn state_name(state: api::EndpointState) -> &'static str {
    use api::EndpointState as State;
    match state {
        State::Unspecified => "unknown",
        State::Creating => "creating",
        State::WaitingForIdentity => "waiting-for-identity",
        State::NotReady => "not-ready",
        State::WaitingToRegenerate => "waiting-to-regenerate",
        State::Regenerating => "regenerating",
        State::Ready => "ready",
        State::Disconnecting => "disconnecting",
        State::Disconnected => "disconnected",
        State::Restoring => "restoring",
        State::Invalid => "invalid",
    }
}

fn is_early(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::Unavailable | Code::FailedPrecondition)
}

fn describe(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the agent answers {}: {}", status.code(), status.message())
}

const CALL_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(25);
