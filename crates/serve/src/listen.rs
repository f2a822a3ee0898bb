//! Listeners: a unix socket and a TCP port.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::{
    connection::{Gate, Guarded, MAX_CONNECTIONS, Place},
    io::Io,
    tls::{Tls, TlsError, TlsFiles},
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

/// Why a program cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
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
}

/// Open sockets. The unix socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Listeners {
    unix: Option<(UnixListener, SocketFile)>,
    tcp: Option<TcpListener>,
    tls: Option<Tls>,
}

impl Listeners {
    /// Opens the sockets. Connections wait until [`Listeners::incoming`] takes them.
    ///
    /// # Errors
    /// A socket cannot be made, or another process serves it.
    pub async fn bind(config: &ListenConfig) -> Result<Self, ListenError> {
        let tls = config.tls.clone().map(|files| Tls::open(files, &[b"h2"])).transpose()?;
        let unix = match &config.unix {
            Some(path) => Some(bind_unix(path).await?),
            None => None,
        };
        let tcp = match config.tcp {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|cause| ListenError::Tcp { address, cause })?)
            }
            None => None,
        };
        Ok(Self { unix, tcp, tls })
    }

    /// The TCP address that is listened on.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The connections of all sockets, as they come. Each listener has a limit of its own.
    pub fn incoming(self) -> impl Stream<Item = io::Result<Guarded>> + Send {
        let Self { unix, tcp, tls } = self;
        let mut all: Vec<Pin<Box<dyn Stream<Item = io::Result<Guarded>> + Send>>> = Vec::new();
        if let Some((listener, file)) = unix {
            all.push(Box::pin(unix_connections(listener, file)));
        }
        match (tcp, tls) {
            (Some(listener), Some(tls)) => all.push(Box::pin(tls_connections(listener, tls))),
            (Some(listener), None) => all.push(Box::pin(plain_connections(listener))),
            (None, _) => {}
        }
        futures::stream::select_all(all)
    }
}

fn unix_connections(listener: UnixListener, file: SocketFile) -> impl Stream<Item = io::Result<Guarded>> {
    let listener = Arc::new(listener);
    let accept = move || {
        let listener = Arc::clone(&listener);
        async move { listener.accept().await.map(|(stream, _)| (stream, None)) }
    };
    connections(accept).map(move |(stream, place)| {
        let _kept_while_listening = &file;
        Ok(Guarded::new(Io::Unix(stream), place))
    })
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

fn plain_connections(listener: TcpListener) -> impl Stream<Item = io::Result<Guarded>> {
    tcp_connections(listener).map(|(stream, place)| Ok(Guarded::new(Io::Tcp(stream), place)))
}

fn tls_connections(listener: TcpListener, tls: Tls) -> impl Stream<Item = io::Result<Guarded>> {
    let tls = Arc::new(tls);
    let handshakes = tcp_connections(listener).map(move |(stream, place)| {
        let tls = Arc::clone(&tls);
        async move {
            match tls.accept(stream).await {
                Ok(stream) => Some(Ok(Guarded::new(Io::Tls(Box::new(stream)), place))),
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

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Owner and group may talk to the unix socket.
const SOCKET_MODE: u32 = 0o660;

/// Removes the socket's file when the server ends.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "remove the socket");
        }
    }
}

async fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |cause| ListenError::Unix { path: path.to_owned(), cause };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(ListenError::InUse(path.to_owned()));
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
