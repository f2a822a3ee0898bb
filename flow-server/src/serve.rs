//! The services of the sockets.

use std::time::Duration;

use specola_lifecycle::Drain;
use specola_proto::{FILE_DESCRIPTOR_SET, peer::peer_server::PeerServer};
use specola_serve::Listeners;
use tonic::transport::Server;
use tonic_reflection::server::Builder as Reflection;

use crate::{observer::ObserverService, peers::PeerService, shared::FlowServer, wire::GetFlowsService};

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The reflection service cannot be made.
    #[error("serve gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The gRPC server failed.
    #[error("serve gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl FlowServer {
    /// Serves Observer, Peer, health and reflection on the sockets until `drain` is signalled and the open streams have
    /// ended, which they do when they have told all that the ring has. Who does not read is not waited for.
    ///
    /// # Errors
    /// The gRPC server failed.
    pub async fn serve(&self, listeners: Listeners, drain: Drain) -> Result<(), ServeError> {
        let serving = self.serve_all(listeners, drain.clone());
        let patience = async {
            drain.signalled().await;
            tokio::time::sleep(PATIENCE).await;
        };
        tokio::select! {
            ended = serving => ended,
            () = patience => {
                let open = self.shared.streams.counts().open;
                tracing::warn!(open, "streams of clients that do not read are cut");
                Ok(())
            }
        }
    }

    async fn serve_all(&self, listeners: Listeners, drain: Drain) -> Result<(), ServeError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status(HEALTH_SERVICE, tonic_health::ServingStatus::Serving).await;
        let observer = GetFlowsService::new(ObserverService::new(self.clone(), drain.clone()));
        let peers = PeerServer::new(PeerService::new(self.clone(), drain.clone()));
        Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_header_list_size(Some(MAX_HEADERS))
            .max_concurrent_streams(Some(MAX_STREAMS))
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(peers.max_decoding_message_size(MAX_REQUEST))
            .add_service(observer)
            .serve_with_incoming_shutdown(listeners.incoming(), async move { drain.signalled().await })
            .await
            .map_err(ServeError::from)
    }
}

/// The services of the sockets, told to clients that ask.
fn reflection<'a>() -> Reflection<'a> {
    Reflection::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("observer.Observer")
        .with_service_name("peer.Peer")
        .with_service_name("grpc.health.v1.Health")
}

/// The name that Hubble's command line asks the health service for; the empty name is served too.
const HEALTH_SERVICE: &str = "hubble.server.Observer";
/// How often a silent client is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the server waits for open streams when it is to end.
const PATIENCE: Duration = Duration::from_secs(2);
/// Headers of a request, bytes.
const MAX_HEADERS: u32 = 16 << 10;
/// Largest request, bytes.
pub(crate) const MAX_REQUEST: usize = 256 << 10;
/// Streams of one connection.
const MAX_STREAMS: u32 = 256;
