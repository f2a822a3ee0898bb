//! Connections to peers.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};

/// Where a peer listens, and how it is called in its certificate.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Target {
    /// `unix:///path`, `host:port`, or an address without a port.
    pub address: String,
    /// Name in the peer's certificate; `None` = plaintext.
    pub server_name: Option<String>,
    /// Called otherwise here than it calls itself: answers get the name that it has here.
    pub renamed: bool,
}

/// Files for TLS towards peers. They are read for each connection, so new ones count from the next one on.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientTls {
    /// Authorities of the peers' certificates (PEM).
    pub(crate) authorities: Vec<PathBuf>,
    /// Own certificate (PEM) and its key.
    pub(crate) own: Option<(PathBuf, PathBuf)>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The address is none.
    #[error("{0:?} is no address of a peer; use host:port or unix:///path")]
    Address(String),
    /// The peer wants TLS.
    #[error(
        "the peer wants TLS (server name {0:?}), and no authority is set; give --tls-hubble-server-ca-files"
    )]
    NeedsTls(String),
    /// The peer has no TLS.
    #[error(
        "the peer is plaintext, and TLS is asked for; leave out --tls-hubble-server-ca-files or set it up there"
    )]
    NeedsPlaintext,
    /// A file cannot be used.
    #[error("{}: {cause}; give a PEM file that this program may read", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Certificate, key or name do not fit.
    #[error("TLS: {0}")]
    Tls(String),
    /// Nobody answers.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no HTTP/2.
    #[error("no HTTP/2 there: {0}")]
    Http(#[from] hyper::Error),
    /// It takes too long.
    #[error("no answer within {0:?}")]
    Slow(Duration),
}

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    pub(crate) tls: Option<ClientTls>,
    pub(crate) timeout: Duration,
    /// Bytes of a stream that a peer may send ahead.
    pub(crate) window: u32,
}

/// Port of the flow API of nodes.
const DEFAULT_PORT: u16 = 4244;
/// How often a silent peer is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of all streams of a connection that a peer may send ahead.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// A connection; requests go over it as long as it lives.
#[derive(Clone)]
pub(crate) struct Link {
    requests: SendRequest<Body>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// Whose requests they are; peers look at the path only.
    pub(crate) fn origin() -> http::Uri {
        http::Uri::from_static("http://peer")
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

impl Service<http::Request<Body>> for Link {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.requests.send_request(request).boxed()
    }
}

impl Dialer {
    /// Connects. The second part drives the connection and resolves when it ends.
    ///
    /// # Errors
    /// Nobody answers there in time, or one side does not trust the other.
    pub(crate) async fn dial(
        &self,
        target: &Target,
    ) -> Result<(Link, impl Future<Output = Result<(), hyper::Error>> + Send + use<>), DialError> {
        let dialed = timeout(self.timeout, self.connect(target)).await;
        dialed.map_err(|_elapsed| DialError::Slow(self.timeout))?
    }

    async fn connect(
        &self,
        target: &Target,
    ) -> Result<(Link, impl Future<Output = Result<(), hyper::Error>> + Send + use<>), DialError> {
        let stream: Box<dyn Stream> = match unix_path(&target.address) {
            Some(path) => Box::new(UnixStream::connect(path).await?),
            None => {
                let stream = TcpStream::connect(with_port(&target.address)?).await?;
                stream.set_nodelay(true)?;
                match (&target.server_name, &self.tls) {
                    (Some(name), Some(tls)) => {
                        let name = ServerName::try_from(name.clone())
                            .map_err(|error| DialError::Tls(format!("{name:?}: {error}")))?;
                        Box::new(TlsConnector::from(Arc::new(tls.config()?)).connect(name, stream).await?)
                    }
                    (Some(name), None) => return Err(DialError::NeedsTls(name.clone())),
                    (None, Some(_)) => return Err(DialError::NeedsPlaintext),
                    (None, None) => Box::new(stream),
                }
            }
        };
        let (requests, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.window)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .max_send_buf_size(16 << 10)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok((Link { requests }, connection))
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The path of a unix socket's address.
fn unix_path(address: &str) -> Option<&str> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Some(path.strip_prefix("//").unwrap_or(path));
    }
    (address.starts_with('/') && address.ends_with(".sock")).then_some(address)
}

/// `host:port`, with the port of the flow API when an address has none.
fn with_port(address: &str) -> Result<String, DialError> {
    if let Ok(ip) = address.parse::<std::net::IpAddr>() {
        return Ok(std::net::SocketAddr::new(ip, DEFAULT_PORT).to_string());
    }
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.map(str::parse::<std::num::NonZeroU16>) {
        Some(Ok(_)) => Ok(address.to_owned()),
        _ => Err(DialError::Address(address.to_owned())),
    }
}

impl ClientTls {
    fn config(&self) -> Result<ClientConfig, DialError> {
        let wrong = |error: rustls::Error| DialError::Tls(error.to_string());
        let mut roots = RootCertStore::empty();
        for path in &self.authorities {
            for authority in certificates(path)? {
                roots.add(authority).map_err(wrong)?;
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(roots);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let own = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| DialError::File { path: key.clone(), cause: error.to_string() })?;
                builder.with_client_auth_cert(certificates(certificate)?, own).map_err(wrong)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, DialError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| DialError::File { path: path.clone(), cause: error.to_string() })?;
    if found.is_empty() {
        return Err(DialError::File { path: path.clone(), cause: "no certificate in it".to_owned() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1:4244")),
            ("10.0.0.1:1", Some("10.0.0.1:1")),
            ("fd00::1", Some("[fd00::1]:4244")),
            ("[fd00::1]:7", Some("[fd00::1]:7")),
            ("node:7", Some("node:7")),
            ("node", None),
            (":7", None),
            ("node:0", None),
            ("", None),
        ] {
            assert_eq!(with_port(text).ok().as_deref(), expected, "{text}");
        }
        assert_eq!(unix_path("unix:///a.sock"), Some("/a.sock"));
        assert_eq!(unix_path("/a.sock"), Some("/a.sock"));
        assert_eq!(unix_path("a:1"), None);
    }
}
