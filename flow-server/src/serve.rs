//! Sockets: a unix socket and a TCP port with the same services.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt};
use specola_lifecycle::Drain;
use specola_proto::{FILE_DESCRIPTOR_SET, peer::peer_server::PeerServer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use tonic::transport::{Server, server::Connected};
use tonic_reflection::server::Builder as Reflection;

use crate::{
    connection::{Gate, Guarded, MAX_CONNECTIONS, Place},
    observer::ObserverService,
    peers::PeerService,
    shared::FlowServer,
    tls::{Tls, TlsError, TlsFiles},
    wire::GetFlowsService,
};

/// Where to listen.
#[derive(Clone, Debug, Default)]
pub struct ListenConfig {
    /// Path of the unix socket. A socket that nobody answers is replaced.
    pub unix: Option<PathBuf>,
    /// TCP address.
    pub tcp: Option<SocketAddr>,
    /// TLS on the TCP address; plaintext without it.
    pub tls: Option<TlsFiles>,
}

/// Why the server cannot listen or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The unix socket is in use.
    #[error("{} is served by another process: stop it, or choose another socket", .0.display())]
    InUse(PathBuf),
    /// The unix socket cannot be made.
    #[error("listen on {}: {cause}", .path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The TCP port cannot be opened.
    #[error("listen on {address}: {cause}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Files for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The reflection service cannot be made.
    #[error("serve gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The gRPC server failed.
    #[error("serve gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Open sockets. The unix socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Listeners {
    unix: Option<(UnixListener, SocketFile)>,
    tcp: Option<TcpListener>,
    tls: Option<Tls>,
}

impl Listeners {
    /// Opens the sockets. Connections wait until [`FlowServer::serve`] takes them.
    ///
    /// # Errors
    /// A socket cannot be made, or another process serves it.
    pub async fn bind(config: &ListenConfig) -> Result<Self, ServeError> {
        let tls = config.tls.clone().map(Tls::open).transpose()?;
        let unix = match &config.unix {
            Some(path) => Some(bind_unix(path).await?),
            None => None,
        };
        let tcp = match config.tcp {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|cause| ServeError::Tcp { address, cause })?)
            }
            None => None,
        };
        Ok(Self { unix, tcp, tls })
    }

    /// The TCP address that is listened on.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

impl FlowServer {
    /// Serves Observer, Peer, health and reflection on the sockets until `drain` is signalled and the open streams have
    /// ended.
    ///
    /// # Errors
    /// The gRPC server failed.
    pub async fn serve(&self, listeners: Listeners, drain: Drain) -> Result<(), ServeError> {
        let Listeners { unix, tcp, tls } = listeners;
        let over_unix = async {
            match unix {
                Some((listener, _file)) => self.serve_on(unix_connections(listener), drain.clone()).await,
                None => Ok(()),
            }
        };
        let over_tcp = async {
            match (tcp, tls) {
                (Some(listener), Some(tls)) => {
                    self.serve_on(tls_connections(listener, tls), drain.clone()).await
                }
                (Some(listener), None) => self.serve_on(plain_connections(listener), drain.clone()).await,
                (None, _) => Ok(()),
            }
        };
        tokio::try_join!(over_unix, over_tcp).map(|((), ())| ())
    }

    async fn serve_on<S, C>(&self, incoming: S, drain: Drain) -> Result<(), ServeError>
    where
        S: Stream<Item = io::Result<C>>,
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
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
            .serve_with_incoming_shutdown(incoming, async move { drain.signalled().await })
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

fn unix_connections(listener: UnixListener) -> impl Stream<Item = io::Result<Guarded<UnixStream>>> {
    let listener = Arc::new(listener);
    let accept = move || {
        let listener = Arc::clone(&listener);
        async move { listener.accept().await.map(|(stream, _)| (stream, None)) }
    };
    connections(accept).map(|(stream, place)| Ok(Guarded::new(stream, place)))
}

fn tcp_connections(listener: TcpListener) -> impl Stream<Item = (TcpStream, Place)> {
    let listener = Arc::new(listener);
    connections(move || {
        let listener = Arc::clone(&listener);
        async move {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((stream, Some(address.ip())))
        }
    })
}

fn plain_connections(listener: TcpListener) -> impl Stream<Item = io::Result<Guarded<TcpStream>>> {
    tcp_connections(listener).map(|(stream, place)| Ok(Guarded::new(stream, place)))
}

fn tls_connections(
    listener: TcpListener,
    tls: Tls,
) -> impl Stream<Item = io::Result<Guarded<tokio_rustls::server::TlsStream<TcpStream>>>> {
    let tls = Arc::new(tls);
    let handshakes = tcp_connections(listener).map(move |(stream, place)| {
        let tls = Arc::clone(&tls);
        async move {
            match tls.accept(stream).await {
                Ok(stream) => Some(Ok(Guarded::new(stream, place))),
                Err(error) => {
                    tracing::debug!(%error, "TLS handshake");
                    None
                }
            }
        }
    });
    // As many as there are connections: slow ones do not keep others waiting.
    handshakes.buffer_unordered(MAX_CONNECTIONS).filter_map(std::future::ready)
}

/// Connections for which there is a place; the others are closed. A failure to accept one is no end.
fn connections<S, F, A>(mut accept: A) -> impl Stream<Item = (S, Place)>
where
    A: FnMut() -> F,
    F: Future<Output = io::Result<(S, Option<std::net::IpAddr>)>>,
{
    let gate = Gate::default();
    futures::stream::repeat(())
        .then(move |()| {
            let (accepting, gate) = (accept(), gate.clone());
            async move {
                match accepting.await {
                    Ok((stream, peer)) => match gate.enter(peer) {
                        Some(place) => Some((stream, place)),
                        None => {
                            tracing::debug!(?peer, "too many connections, one more closed");
                            None
                        }
                    },
                    Err(error) => {
                        tracing::warn!(%error, "accept a connection");
                        // Out of descriptors most likely: others must end first.
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        None
                    }
                }
            }
        })
        .filter_map(std::future::ready)
}

/// The name that Hubble's command line asks the health service for; the empty name is served too.
const HEALTH_SERVICE: &str = "hubble.server.Observer";
/// How often a silent client is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Headers of a request, bytes.
const MAX_HEADERS: u32 = 16 << 10;
/// Largest request, bytes.
pub(crate) const MAX_REQUEST: usize = 256 << 10;
/// Streams of one connection.
const MAX_STREAMS: u32 = 256;
/// Owner and group may talk to the unix socket.
const SOCKET_MODE: u32 = 0o660;

/// Removes the socket's file when the server ends.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "remove the observer socket");
        }
    }
}

async fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), ServeError> {
    let failed = |cause| ServeError::Unix { path: path.to_owned(), cause };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(ServeError::InUse(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "the file is no socket"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok((listener, file))
}
