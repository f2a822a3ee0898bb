//! TLS on the TCP listener: who is let in, which versions, new certificates without a restart. And clients that are
//! slow or talk garbage.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use specola_directory::directory;
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{Config, ListenConfig, ListenError, Listeners, TlsFiles, flow_server};
use specola_lifecycle::{DrainTrigger, Readiness, drain};
use specola_proto::observer::{ServerStatusRequest, observer_client::ObserverClient};
use specola_serve::{HttpListener, HttpServer, Scrapes};
use specola_telemetry::Metrics;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

const NAME: &str = "n1.default.hubble-grpc.cilium.io";
/// Far beyond anything that a passing test needs; only a broken one waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// An authority and the certificates that it made.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key for a name.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

struct Bed {
    dir: tempfile::TempDir,
    address: SocketAddr,
    _drain: DrainTrigger,
}

impl Bed {
    /// A server with a certificate of `authority`; clients need one of `clients` when it is given.
    async fn new(authority: &Authority, clients: Option<&Authority>, allow_tls12: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_pair(dir.path(), &authority.issue(NAME));
        let files = TlsFiles {
            certificate: dir.path().join("tls.crt"),
            key: dir.path().join("tls.key"),
            client_authorities: clients
                .map(|ca| write(dir.path(), "clients.crt", &ca.pem))
                .into_iter()
                .collect(),
            allow_tls12,
        };
        let listen = ListenConfig {
            tcp: Some("127.0.0.1:0".parse().unwrap()),
            tls: Some(files),
            ..ListenConfig::default()
        };
        let listeners = Listeners::bind(&listen).await.unwrap();
        let address = listeners.tcp_address().unwrap();
        let (trigger, watcher) = drain();
        tokio::spawn(async move {
            let config = Config::new(InstanceId::new(1), "1.2.3");
            let (_pipeline, server) = flow_server(config, directory(NodeInfo::default()).1).unwrap();
            server.serve(listeners, watcher).await.unwrap();
        });
        Self { dir, address, _drain: trigger }
    }

    /// Connects and asks for the status; the leaf certificate that the server showed.
    async fn ask(&self, config: &ClientConfig, name: &str) -> Result<CertificateDer<'static>, String> {
        let connector = TlsConnector::from(Arc::new(config.clone()));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        let mut stream = Some(stream);
        let connect = tower::service_fn(move |_| {
            let stream = stream.take().map(hyper_util::rt::TokioIo::new);
            async move { stream.ok_or_else(|| std::io::Error::other("one connection only")) }
        });
        let channel = Endpoint::from_static("http://observer.local").connect_with_connector(connect).await;
        let channel: Channel = channel.map_err(|error| format!("{error:?}"))?;
        let status = ObserverClient::new(channel).server_status(ServerStatusRequest::default()).await;
        status.map(|_| shown).map_err(|status| format!("{status:?}"))
    }
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    // As certificate managers do: a new file takes the place of the old one.
    let (path, new) = (dir.join(name), dir.join("new"));
    fs::write(&new, text).unwrap();
    fs::rename(&new, &path).unwrap();
    path
}

fn write_pair(dir: &Path, (certificate, key): &(String, String)) {
    write(dir, "tls.key", key);
    write(dir, "tls.crt", certificate);
}

fn client(
    trusted: &Authority,
    own: Option<&(String, String)>,
    version: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

#[tokio::test]
async fn servers_are_known_by_name_and_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let bed = Bed::new(&authority, None, false).await;
    bed.ask(&client(&authority, None, &TLS13), NAME).await.unwrap();
    for (trusted, version, name) in
        [(&other, &TLS13, NAME), (&authority, &TLS13, "elsewhere"), (&authority, &TLS12, NAME)]
    {
        assert!(bed.ask(&client(trusted, None, version), name).await.is_err(), "{name} {version:?}");
    }
    let older = Bed::new(&authority, None, true).await;
    older.ask(&client(&authority, None, &TLS12), NAME).await.unwrap();
}

#[tokio::test]
async fn clients_need_a_certificate_of_the_right_authority() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let bed = Bed::new(&authority, Some(&clients), false).await;
    let (good, bad) = (clients.issue("relay"), authority.issue("relay"));
    bed.ask(&client(&authority, Some(&good), &TLS13), NAME).await.unwrap();
    assert!(bed.ask(&client(&authority, Some(&bad), &TLS13), NAME).await.is_err());
    assert!(bed.ask(&client(&authority, None, &TLS13), NAME).await.is_err());
}

#[tokio::test]
async fn new_certificates_are_taken_up_and_bad_ones_are_not() {
    let authority = Authority::new();
    let bed = Bed::new(&authority, None, false).await;
    let config = client(&authority, None, &TLS13);
    let first = bed.ask(&config, NAME).await.unwrap();
    fs::write(bed.dir.path().join("tls.crt"), "no certificate").unwrap();
    assert_eq!(bed.ask(&config, NAME).await.unwrap(), first);
    write_pair(bed.dir.path(), &authority.issue(NAME));
    let changed = async {
        while bed.ask(&config, NAME).await.unwrap() == first {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.expect("the new certificate is shown");
}

/// Asks for a page over TLS.
async fn get(address: SocketAddr, mut config: ClientConfig, path: &str) -> std::io::Result<String> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(NAME).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn metrics_are_served_over_tls_and_scrapes_are_counted() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), &authority.issue(NAME));
    let files = TlsFiles {
        certificate: dir.path().join("tls.crt"),
        key: dir.path().join("tls.key"),
        client_authorities: vec![write(dir.path(), "clients.crt", &clients.pem)],
        allow_tls12: false,
    };
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = HttpListener::new(tcp, Some(files)).unwrap();
    let address = listener.local_address().unwrap();
    let (metrics, scrapes) = (Arc::new(Metrics::new()), Scrapes::default());
    metrics.register_as("hubble", |registry| scrapes.register(registry));
    let server = HttpServer {
        metrics,
        readiness: Readiness::new(),
        refresh: Arc::new(|| Box::pin(std::future::ready(()))),
        scrapes: Some(scrapes),
    };
    let (trigger, watcher) = drain();
    let serving = tokio::spawn(server.run(listener, watcher));

    let good = client(&authority, Some(&clients.issue("prometheus")), &TLS13);
    for path in ["/metrics", "/metrics", "/healthz"] {
        assert!(get(address, good.clone(), path).await.unwrap().starts_with("HTTP/1.1 200"), "{path}");
    }
    let said = get(address, good.clone(), "/metrics").await.unwrap();
    for line in [
        "hubble_metrics_http_handler_requests_total{code=\"200\"} 2",
        "hubble_metrics_http_handler_request_duration_seconds_count{code=\"200\"} 2",
    ] {
        assert!(said.lines().any(|found| found == line), "{line} in {said}");
    }
    let stranger = client(&authority, Some(&authority.issue("prometheus")), &TLS13);
    assert!(get(address, stranger, "/metrics").await.is_err());
    assert!(get(address, client(&authority, None, &TLS13), "/metrics").await.is_err());
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert of TLS, or the end.
    drop(plain.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    trigger.signal();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn unusable_files_are_named() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.issue(NAME);
    let (_, other_key) = authority.issue(NAME);
    let good = write(dir.path(), "good.crt", &certificate);
    let key = write(dir.path(), "good.key", &key);
    let other_key = write(dir.path(), "other.key", &other_key);
    let empty = write(dir.path(), "empty", "");
    for (certificate, key, clients, says) in [
        (&dir.path().join("missing"), &key, None, "certificate"),
        (&empty, &key, None, "no certificate in it"),
        (&good, &empty, None, "key"),
        (&good, &other_key, None, "belong together"),
        (&good, &key, Some(&empty), "client CA"),
    ] {
        let files = TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_authorities: clients.cloned().into_iter().collect(),
            allow_tls12: false,
        };
        let listen = ListenConfig {
            tcp: Some("127.0.0.1:0".parse().unwrap()),
            tls: Some(files),
            ..ListenConfig::default()
        };
        let error = Listeners::bind(&listen).await.unwrap_err();
        assert!(matches!(error, ListenError::Tls(_)));
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn slow_and_senseless_clients_harm_nobody() {
    let authority = Authority::new();
    let bed = Bed::new(&authority, None, false).await;
    let config = client(&authority, None, &TLS13);
    let mut others = Vec::new();
    for number in 0..200_usize {
        let mut stream = TcpStream::connect(bed.address).await.unwrap();
        match number % 4 {
            // Says nothing, begins a handshake, talks another protocol, sends noise.
            0 => {}
            1 => stream.write_all(&[22, 3, 1]).await.unwrap(),
            2 => stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
            _ => stream.write_all(&[number as u8; 64]).await.unwrap(),
        }
        others.push(stream);
    }
    let asking = bed.ask(&config, NAME);
    tokio::time::timeout(PATIENCE, asking).await.expect("an answer in spite of the others").unwrap();
    // Those that say nothing are closed by the server.
    let mut byte = [0];
    let closed = tokio::time::timeout(PATIENCE, others[0].read(&mut byte)).await.expect("closed");
    assert!(matches!(closed, Ok(0) | Err(_)));
}
