//! Sockets: a unix socket and a TCP port with the same services.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{Stream, TryStreamExt};
use specola_lifecycle::Drain;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Server, server::Connected};

use crate::{observer::ObserverService, shared::FlowServer, wire::GetFlowsService};

/// Where to listen.
#[derive(Clone, Debug, Default)]
pub struct ListenConfig {
    /// Path of the unix socket. A socket that nobody answers is replaced.
    pub unix: Option<PathBuf>,
    /// TCP address.
    pub tcp: Option<SocketAddr>,
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
    /// The gRPC server failed.
    #[error("serve gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Open sockets. The unix socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Listeners {
    unix: Option<(UnixListener, SocketFile)>,
    tcp: Option<TcpListener>,
}

impl Listeners {
    /// Opens the sockets. Connections wait until [`FlowServer::serve`] takes them.
    ///
    /// # Errors
    /// A socket cannot be made, or another process serves it.
    pub async fn bind(config: &ListenConfig) -> Result<Self, ServeError> {
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
        Ok(Self { unix, tcp })
    }

    /// The TCP address that is listened on.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

impl FlowServer {
    /// Serves Observer and health on the sockets until `drain` is signalled and the open streams have ended.
    ///
    /// # Errors
    /// The gRPC server failed.
    pub async fn serve(&self, listeners: Listeners, drain: Drain) -> Result<(), ServeError> {
        let Listeners { unix, tcp } = listeners;
        let over_unix = async {
            match unix {
                Some((listener, _file)) => {
                    self.serve_on(UnixListenerStream::new(listener), drain.clone()).await
                }
                None => Ok(()),
            }
        };
        let over_tcp = async {
            match tcp {
                Some(listener) => {
                    let incoming = TcpListenerStream::new(listener)
                        .and_then(async |stream| stream.set_nodelay(true).map(|()| stream));
                    self.serve_on(incoming, drain.clone()).await
                }
                None => Ok(()),
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
        Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .max_concurrent_streams(Some(MAX_STREAMS))
            .add_service(health_service)
            .add_service(observer)
            .serve_with_incoming_shutdown(incoming, async move { drain.signalled().await })
            .await
            .map_err(ServeError::from)
    }
}

/// The name that Hubble's command line asks the health service for; the empty name is served too.
const HEALTH_SERVICE: &str = "hubble.server.Observer";
/// How often a silent client is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
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
