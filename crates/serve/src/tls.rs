//! TLS of the TCP listener. Certificates are read again when their files change.

use std::{
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What the TCP listener needs for TLS. All files are PEM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TlsFiles {
    /// Certificate, with the intermediate ones behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities of client certificates. With any, clients must have one (mTLS).
    pub client_authorities: Vec<PathBuf>,
    /// Whether TLS 1.2 is accepted besides 1.3.
    pub allow_tls12: bool,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error("TLS: {what} {}: {cause}; give a PEM file that this program may read", .path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The files do not go together.
    #[error("TLS: {0}; check that key and certificate belong together")]
    Config(String),
}

/// How often the files are looked at, at most.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time for a handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The configuration in force.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    /// Protocols that clients may choose.
    protocols: Vec<Vec<u8>>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    stamps: Vec<Stamp>,
    checked: Instant,
}

/// Tells whether a file is another than before; `None` = it is not there.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(crate) fn open(files: TlsFiles, protocols: &[&[u8]]) -> Result<Self, TlsError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.to_vec()).collect();
        // Before reading: a change in between is seen at the next look.
        let stamps = stamps(&files);
        let config = Arc::new(server_config(&files, &protocols)?);
        let current = Mutex::new(Current { config, stamps, checked: Instant::now() });
        Ok(Self { current, files, protocols })
    }

    /// Makes a TLS connection of a TCP one.
    ///
    /// # Errors
    /// The client does not speak TLS, is not trusted, or takes too long.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let accepting = TlsAcceptor::from(self.config()).accept(stream);
        let slow =
            |_elapsed| io::Error::new(io::ErrorKind::TimedOut, "the client does not end the handshake");
        tokio::time::timeout(HANDSHAKE_TIME, accepting).await.map_err(slow)?
    }

    /// The configuration, read again when a file changed. Files that cannot be used leave the old one in force.
    fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock();
        if current.checked.elapsed() < CHECK_INTERVAL {
            return Arc::clone(&current.config);
        }
        current.checked = Instant::now();
        let stamps = stamps(&self.files);
        if stamps != current.stamps {
            current.stamps = stamps;
            match server_config(&self.files, &self.protocols) {
                Ok(config) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "TLS files read again");
                    current.config = Arc::new(config);
                }
                Err(error) => tracing::warn!(%error, "TLS files changed, the old ones stay in force"),
            }
        }
        Arc::clone(&current.config)
    }
}

fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    let all = [&files.certificate, &files.key].into_iter().chain(&files.client_authorities);
    let stamp = |meta: Metadata| (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size());
    all.map(|path| std::fs::metadata(path).ok().map(stamp)).collect()
}

fn server_config(files: &TlsFiles, protocols: &[Vec<u8>]) -> Result<ServerConfig, TlsError> {
    let config = |error: rustls::Error| TlsError::Config(error.to_string());
    let certificates = certificates("certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::File {
        what: "key",
        path: files.key.clone(),
        cause: error.to_string(),
    })?;
    let provider = Arc::new(ring::default_provider());
    let versions: &[&SupportedProtocolVersion] =
        if files.allow_tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(versions).map_err(config)?;
    let builder = if files.client_authorities.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for path in &files.client_authorities {
            for authority in self::certificates("client CA", path)? {
                roots.add(authority).map_err(|error| TlsError::File {
                    what: "client CA",
                    path: path.clone(),
                    cause: error.to_string(),
                })?;
            }
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Config(error.to_string()))?)
    };
    let mut made = builder.with_single_cert(certificates, key).map_err(config)?;
    made.alpn_protocols = protocols.to_vec();
    Ok(made)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |cause: String| TlsError::File { what, path: path.to_owned(), cause };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| failed(error.to_string()))?;
    if found.is_empty() { Err(failed("no certificate in it".to_owned())) } else { Ok(found) }
}
