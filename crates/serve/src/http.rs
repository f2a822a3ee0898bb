//! `/metrics`, `/healthz` and `/readyz`.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use specola_lifecycle::{Drain, Readiness};
use specola_telemetry::{CONTENT_TYPE as METRICS_TYPE, Metrics};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::io::Io;
use crate::scrapes::Scrapes;
use crate::tls::{Tls, TlsError, TlsFiles};

/// Brings scraped numbers up to date before they are encoded.
pub type Refresh = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Serves HTTP/1.1 on one listener.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "a closure has none")]
pub struct HttpServer {
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// What `/readyz` shows.
    pub readiness: Readiness,
    /// Called before metrics are encoded.
    pub refresh: Refresh,
    /// Counts requests for `/metrics`.
    pub scrapes: Option<Scrapes>,
}

/// Where an [`HttpServer`] listens.
#[derive(Debug)]
pub struct HttpListener {
    tcp: TcpListener,
    tls: Option<Arc<Tls>>,
}

impl HttpListener {
    /// Speaks TLS on this listener, with files that are read again when they change; plain HTTP without files.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn new(tcp: TcpListener, tls: Option<TlsFiles>) -> Result<Self, TlsError> {
        let tls = tls.map(|files| Tls::open(files, &[b"http/1.1"])).transpose()?.map(Arc::new);
        Ok(Self { tcp, tls })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl From<TcpListener> for HttpListener {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, tls: None }
    }
}

impl HttpServer {
    /// Accepts until the drain, then lets open requests end.
    ///
    /// # Errors
    /// Never: a connection that cannot be accepted is left out.
    pub async fn run(self, listener: impl Into<HttpListener>, drain: Drain) -> std::io::Result<()> {
        let HttpListener { tcp: listener, tls } = listener.into();
        let connections = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permit = tokio::select! {
                biased;
                () = drain.signalled() => break,
                Ok(permit) = Arc::clone(&permits).acquire_owned() => permit,
            };
            let stream = tokio::select! {
                biased;
                () = drain.signalled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // A connection that was gone before it was accepted, or no descriptor left.
                        tracing::debug!(%error, "metrics connection not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let server = self.clone();
            let (drain, tls) = (drain.clone(), tls.clone());
            connections.spawn(async move {
                match open(stream, tls.as_deref()).await {
                    Ok(stream) => server.connection(TokioIo::new(stream), drain).await,
                    Err(error) => tracing::debug!(%error, "TLS handshake of a metrics connection"),
                }
                drop(permit);
            });
        }
        connections.close();
        connections.wait().await;
        Ok(())
    }

    async fn connection(self, io: TokioIo<Io>, drain: Drain) {
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(&request).await) }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let result = tokio::select! {
            result = &mut connection => result,
            () = drain.signalled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "metrics connection");
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".to_owned());
        }
        match request.uri().path() {
            "/metrics" => {
                let started = Instant::now();
                (self.refresh)().await;
                let answer = match self.metrics.encode() {
                    Ok(body) => respond(StatusCode::OK, METRICS_TYPE, body),
                    Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {error}\n")),
                };
                if let Some(scrapes) = &self.scrapes {
                    scrapes.note(answer.status().as_u16(), started.elapsed());
                }
                answer
            }
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match self.readiness.pending() {
                pending if pending.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
                pending => {
                    text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", pending.join(", ")))
                }
            },
            path => {
                text(StatusCode::NOT_FOUND, format!("no {path}; there are /metrics, /healthz and /readyz\n"))
            }
        }
    }
}

async fn open(stream: TcpStream, tls: Option<&Tls>) -> std::io::Result<Io> {
    match tls {
        Some(tls) => Ok(Io::Tls(Box::new(tls.accept(stream).await?))),
        None => Ok(Io::Tcp(stream)),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    #[tokio::test]
    async fn health_readiness_and_metrics() {
        let (trigger, drain) = specola_lifecycle::drain();
        let readiness = Readiness::new();
        let gate = readiness.gate("policies");
        let server = HttpServer {
            metrics: Arc::new(Metrics::new()),
            readiness,
            refresh: Arc::new(|| Box::pin(async {})),
            scrapes: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        let running = tokio::spawn(server.run(listener, drain));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let unready = get(address, "/readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503") && unready.contains("policies"), "{unready}");
        gate.open();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("# EOF"));
        assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404"));
        trigger.drained().await;
        running.await.expect("no panic").expect("ends well");
    }
}
