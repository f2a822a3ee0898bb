//! Synthetic nodes, in a process of their own: each has a unix socket and serves GetFlows with ready-made flows; one
//! more socket names them all.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use futures::Stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use prost::bytes::Bytes;
use specola_proto::observer::{GetFlowsRequest, ServerStatusResponse};
use specola_proto::peer::{ChangeNotification, ChangeNotificationType};
use tokio::net::UnixListener;

use crate::flows::{Template, Times, name};

/// What the nodes do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) times: Times,
    /// Flows of each node that are history.
    pub(crate) history: u64,
    /// Every so many nodes says nothing to followers; 0 = none.
    pub(crate) stalled: u64,
    /// Every so many nodes breaks its connections now and then; 0 = none.
    pub(crate) flapping: u64,
}

/// How long a flapping node is there, and gone.
const UP: Duration = Duration::from_millis(2_500);
const DOWN: Duration = Duration::from_millis(400);
/// Messages are sent in pieces of so many bytes.
const PIECE: usize = 32 << 10;

impl Plan {
    pub(crate) fn arguments(&self) -> [String; 6] {
        let Times { begin_ns, step_ns, nodes } = self.times;
        [begin_ns, step_ns, nodes, self.history, self.stalled, self.flapping].map(|number| number.to_string())
    }

    fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let numbers: Vec<u64> =
            arguments.iter().map(|text| text.parse()).collect::<Result<_, _>>().context("numbers")?;
        let [begin_ns, step_ns, nodes, history, stalled, flapping] = numbers[..] else {
            bail!("nodes DIRECTORY BEGIN STEP NODES HISTORY STALLED FLAPPING")
        };
        Ok(Self { times: Times { begin_ns, step_ns, nodes }, history, stalled, flapping })
    }

    pub(crate) const fn is_stalled(&self, node: u64) -> bool {
        self.stalled > 0 && node % self.stalled == 1
    }

    pub(crate) const fn is_flapping(&self, node: u64) -> bool {
        self.flapping > 0 && node % self.flapping == 2
    }
}

/// Socket of a node.
pub(crate) fn socket(directory: &Path, node: u64) -> PathBuf {
    directory.join(format!("{}.sock", name(node)))
}

/// Socket that names all nodes.
pub(crate) fn peer_socket(directory: &Path) -> PathBuf {
    directory.join("peers.sock")
}

/// The process of the nodes. It says `ready`, and ends when its input does.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [directory, plan @ ..] = arguments else { bail!("nodes DIRECTORY ..") };
    let (directory, plan) = (PathBuf::from(directory), Plan::parse(plan)?);
    crate::child::serve(async move {
        for index in 0..plan.times.nodes {
            let listener = UnixListener::bind(socket(&directory, index))?;
            let node =
                Arc::new(Node { plan, index, template: Template::new(index), directory: directory.clone() });
            tokio::spawn(node.listen(listener));
        }
        let listener = UnixListener::bind(peer_socket(&directory))?;
        let plan = Plan { flapping: 0, ..plan };
        let node = Arc::new(Node { plan, index: 0, template: Template::new(0), directory });
        tokio::spawn(node.listen(listener));
        Ok(())
    })
}

struct Node {
    plan: Plan,
    index: u64,
    template: Template,
    directory: PathBuf,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Pieces = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

impl Node {
    async fn listen(self: Arc<Self>, listener: UnixListener) {
        loop {
            // A flapping node breaks what is open and takes nothing for a while.
            let mut open = tokio::task::JoinSet::new();
            let up = async {
                while let Ok((stream, _)) = listener.accept().await {
                    open.spawn(Arc::clone(&self).connection(stream));
                }
            };
            if !self.plan.is_flapping(self.index) {
                return up.await;
            }
            // Not all at once.
            let uneven = Duration::from_millis(self.index * 37 % 1_000);
            let (Ok(()) | Err(_)) = tokio::time::timeout(UP + uneven, up).await;
            drop(open);
            tokio::time::sleep(DOWN).await;
        }
    }

    async fn connection(self: Arc<Self>, stream: tokio::net::UnixStream) {
        let service = hyper::service::service_fn(move |request| {
            let node = Arc::clone(&self);
            async move { Ok::<_, Infallible>(node.answer(request).await) }
        });
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
        // The other side went away.
        let (Ok(()) | Err(_)) = served;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (path, body) = (request.uri().path().to_owned(), request.into_body());
        let message = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let pieces: Pieces = match path.as_str() {
            "/observer.Observer/GetFlows" => {
                let request =
                    GetFlowsRequest::decode(message.get(5..).unwrap_or_default()).unwrap_or_default();
                if request.follow { self.follow(&request) } else { self.history(&request) }
            }
            "/observer.Observer/ServerStatus" => once(&ServerStatusResponse::default()),
            "/peer.Peer/Notify" => self.peers(),
            other => return refusal(other),
        };
        use futures::StreamExt as _;
        let frames = pieces.map(Frame::data).chain(futures::stream::once(async {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
            Frame::trailers(trailers)
        }));
        let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames.map(Ok))));
        let grpc = hyper::header::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, grpc);
        response.headers_mut().insert("specola-coverage", hyper::header::HeaderValue::from_static("whole"));
        response
    }

    /// What there was, or the last flows of it.
    fn history(self: Arc<Self>, request: &GetFlowsRequest) -> Pieces {
        let all = self.plan.history;
        let first = if request.number > 0 && !request.first { all.saturating_sub(request.number) } else { 0 };
        let end = if request.number > 0 && request.first { request.number.min(all) } else { all };
        Box::pin(futures::stream::unfold(first, move |flow| {
            let piece = (flow < end).then(|| self.piece(flow, end, u64::MAX));
            async move { piece }
        }))
    }

    /// What comes, as it comes; from a time on that may be past.
    fn follow(self: Arc<Self>, request: &GetFlowsRequest) -> Pieces {
        if self.plan.is_stalled(self.index) {
            return Box::pin(futures::stream::pending());
        }
        let since =
            request.since.map_or_else(now_ns, |since| u64::try_from(since.unix_nanos()).unwrap_or_default());
        let first = self.plan.times.first_since(self.index, since);
        Box::pin(futures::stream::unfold(first, move |flow| {
            let node = Arc::clone(&self);
            async move {
                let due_ns = node.plan.times.at(node.index, flow);
                tokio::time::sleep(Duration::from_nanos(due_ns.saturating_sub(now_ns()))).await;
                Some(node.piece(flow, u64::MAX, now_ns().max(due_ns)))
            }
        }))
    }

    /// Flows from this one on, up to the end or a time; gives the next one, too.
    fn piece(&self, mut flow: u64, end: u64, until_ns: u64) -> (Bytes, u64) {
        let mut out = Vec::with_capacity(PIECE + 2048);
        while flow < end && out.len() < PIECE {
            let time_ns = self.plan.times.at(self.index, flow);
            if time_ns > until_ns {
                break;
            }
            self.template.push(flow, time_ns, &mut out);
            flow += 1;
        }
        (out.into(), flow)
    }

    fn peers(&self) -> Pieces {
        let mut out = Vec::new();
        for node in 0..self.plan.times.nodes {
            let change = ChangeNotification {
                name: name(node),
                address: format!("unix://{}", socket(&self.directory, node).display()),
                r#type: ChangeNotificationType::PeerAdded.into(),
                tls: None,
            };
            frame(&change.encode_to_vec(), &mut out);
        }
        use futures::StreamExt as _;
        Box::pin(futures::stream::once(async { Bytes::from(out) }).chain(futures::stream::pending()))
    }
}

fn once(message: &impl prost::Message) -> Pieces {
    let mut out = Vec::new();
    frame(&message.encode_to_vec(), &mut out);
    Box::pin(futures::stream::once(async { Bytes::from(out) }))
}

fn frame(message: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
    out.extend_from_slice(message);
}

fn refusal(path: &str) -> Response<Body> {
    let mut response = Response::new(BodyExt::boxed_unsync(Full::new(Bytes::new())));
    let headers = response.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", hyper::header::HeaderValue::from_static("12"));
    eprintln!("a synthetic node was asked for {path}");
    response
}

/// Wall clock, ns since 1970.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
