//! TLS towards flow servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::error::UsageError;
use crate::target::SERVER;

/// TLS of the connection to a flow server on a TCP address.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
#[command(next_help_heading = SERVER)]
pub(crate) struct TlsArgs {
    /// Use TLS; so does an address that begins with tls://.
    #[arg(long)]
    pub(crate) tls: bool,
    /// Do not check the server's certificate.
    #[arg(long)]
    pub(crate) tls_allow_insecure: bool,
    /// Authorities (PEM) of the server's certificate, with commas [default: those of the system].
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub(crate) tls_ca_cert_files: Vec<PathBuf>,
    /// Own certificate (PEM), for servers that ask for one.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_client_cert_file: Option<PathBuf>,
    /// Key (PEM) of the own certificate.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_client_key_file: Option<PathBuf>,
    /// Name in the server's certificate [default: the host of the address].
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_server_name: Option<String>,
}

impl TlsArgs {
    /// Refuses options that say half of what they should.
    ///
    /// # Errors
    /// There is a certificate without its key, or the other way round.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if self.tls_client_cert_file.is_some() == self.tls_client_key_file.is_some() {
            return Ok(());
        }
        Err(UsageError::text(
            "invalid flag(s): certificate and private key are both required, but only one was provided",
        ))
    }

    /// Connects to `host:port`.
    ///
    /// # Errors
    /// A file cannot be used, nobody listens there, or one side does not trust the other.
    pub(crate) async fn connect(&self, address: &str, endpoint: Endpoint) -> anyhow::Result<Channel> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let name = self.tls_server_name.as_deref().unwrap_or_else(|| host.trim_matches(['[', ']']));
        let server = ServerName::try_from(name.to_owned())
            .with_context(|| format!("{name:?} is no name of a server; set --tls-server-name"))?;
        let connector = TlsConnector::from(Arc::new(self.config()?));
        let address = address.to_owned();
        let connect = tower::service_fn(move |_| {
            let (connector, server, address) = (connector.clone(), server.clone(), address.clone());
            async move {
                let stream = TcpStream::connect(&address).await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(server, stream).await?))
            }
        });
        Ok(endpoint.connect_with_connector(connect).await?)
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = if self.tls_allow_insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
        } else {
            builder.with_root_certificates(self.authorities()?)
        };
        let mut config = match (&self.tls_client_cert_file, &self.tls_client_key_file) {
            (Some(certificate), Some(key)) => {
                let own =
                    PrivateKeyDer::from_pem_file(key).with_context(|| format!("read {}", key.display()))?;
                builder.with_client_auth_cert(certificates(certificate)?, own)?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn authorities(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for path in &self.tls_ca_cert_files {
            for authority in certificates(path)? {
                roots.add(authority).with_context(|| format!("{} is no authority", path.display()))?;
            }
        }
        if self.tls_ca_cert_files.is_empty() {
            // Certificates that cannot be read are left out, as everywhere else on the system.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            anyhow::ensure!(
                !roots.is_empty(),
                "the system has no authorities; name some with --tls-ca-cert-files"
            );
        }
        Ok(roots)
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.with_context(|| format!("read {}", path.display()))?;
    anyhow::ensure!(!found.is_empty(), "{} has no certificate; give a PEM file", path.display());
    Ok(found)
}

/// Takes any certificate: what --tls-allow-insecure asks for. Signatures are still checked.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use specola_directory::directory;
    use specola_flow::{InstanceId, NodeInfo};
    use specola_flow_server::{Config, ListenConfig, Listeners, TlsFiles, flow_server};
    use specola_proto::observer::{ServerStatusRequest, observer_client::ObserverClient};

    use super::*;
    use crate::authorize::Authorize;
    use crate::target::{Address, Target, Timeout};

    const NAME: &str = "n1.default.hubble-grpc.cilium.io";

    /// An authority, a certificate of it, and a server that shows it.
    async fn serve(dir: &Path) -> (specola_lifecycle::DrainTrigger, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(dir.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.join("tls.crt"), leaf.pem()).unwrap();
        std::fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
        let listen = ListenConfig {
            tcp: Some("127.0.0.1:0".parse().unwrap()),
            tls: Some(TlsFiles {
                certificate: dir.join("tls.crt"),
                key: dir.join("tls.key"),
                client_authorities: vec![dir.join("ca.crt")],
                allow_tls12: false,
            }),
            unix: None,
        };
        let listeners = Listeners::bind(&listen).await.unwrap();
        let address = listeners.tcp_address().unwrap().to_string();
        let (trigger, watcher) = specola_lifecycle::drain();
        tokio::spawn(async move {
            let config = Config::new(InstanceId::new(1), "1.2.3");
            let (_pipeline, server) = flow_server(config, directory(NodeInfo::default()).1).unwrap();
            server.serve(listeners, watcher).await.unwrap();
        });
        (trigger, address)
    }

    #[tokio::test]
    async fn options_decide_whom_to_trust() {
        let dir = tempfile::tempdir().unwrap();
        let (_trigger, address) = serve(dir.path()).await;
        let own = |args: TlsArgs| TlsArgs {
            tls_client_cert_file: Some(dir.path().join("tls.crt")),
            tls_client_key_file: Some(dir.path().join("tls.key")),
            ..args
        };
        let trusting = || TlsArgs {
            tls_ca_cert_files: vec![dir.path().join("ca.crt")],
            tls_server_name: Some(NAME.to_owned()),
            ..TlsArgs::default()
        };
        let insecure = TlsArgs { tls_allow_insecure: true, ..TlsArgs::default() };
        for (args, says) in [
            (own(trusting()), None),
            (own(insecure), None),
            (own(TlsArgs { tls_server_name: None, ..trusting() }), Some("certificate")),
            (own(TlsArgs { tls_server_name: Some(NAME.to_owned()), ..TlsArgs::default() }), Some("")),
            (trusting(), Some("")),
        ] {
            let address = Address::Tls(address.clone(), Box::new(args.clone()));
            let target =
                Target { name: "server".to_owned(), address, authorize: Authorize::default(), forward: None };
            let asked = async {
                let channel = target.connect(Timeout(Duration::from_secs(30))).await?;
                ObserverClient::new(channel).server_status(ServerStatusRequest::default()).await?;
                anyhow::Ok(())
            };
            match (asked.await, says) {
                (Ok(()), None) => {}
                (Err(error), Some(says)) => assert!(format!("{error:#}").contains(says), "{error:#}"),
                (result, _) => panic!("{args:?}: {result:?}"),
            }
        }
    }
}
