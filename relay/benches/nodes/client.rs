//! The client, in a process of its own: it reads flows and looks at nothing but their nodes and times.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use prost::Message as _;
use prost::bytes::Buf as _;
use serde::{Deserialize, Serialize};
use specola_proto::google::Timestamp;
use specola_proto::observer::GetFlowsRequest;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::transport::Endpoint;
use tonic::{Request, Status, client::Grpc};

use crate::flows::{Times, index};
use crate::synthetic::{now_ns, socket};

/// What a client asks for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Task {
    /// The relay's socket, or the directory of the nodes to ask them without a relay.
    pub(crate) from: PathBuf,
    pub(crate) times: Times,
    pub(crate) follow: bool,
    /// The last so many flows; 0 = all.
    pub(crate) number: u64,
    /// Streams at once, each over its own connection.
    pub(crate) streams: usize,
    /// Time before counting begins, and how long it goes on, ms.
    pub(crate) warm_ms: u64,
    pub(crate) for_ms: u64,
}

/// What it saw.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Seen {
    pub(crate) flows: u64,
    pub(crate) lost: u64,
    /// From the first answer to the last one, ns.
    pub(crate) elapsed_ns: u64,
    /// Flows that were older than one before, and by how much at most.
    pub(crate) inversions: u64,
    pub(crate) largest_ns: u64,
    /// Flows that were left out between two of one node, and those that came twice.
    pub(crate) missing: u64,
    pub(crate) twice: u64,
    /// Time from a flow to the client, ns: half and 99 % of the flows took no longer.
    pub(crate) median_ns: u64,
    pub(crate) p99_ns: u64,
    /// Nodes of which flows came.
    pub(crate) nodes: u64,
}

/// What is read of an answer.
#[derive(Clone, PartialEq, prost::Message)]
struct Head {
    /// Not decoded; there or not.
    #[prost(bytes = "vec", optional, tag = "3")]
    lost: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    status: Option<Vec<u8>>,
    #[prost(string, tag = "1000")]
    node: String,
    #[prost(message, optional, tag = "1001")]
    time: Option<Timestamp>,
}

/// The process of the client. It prints `warm` when counting begins, and what it saw.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [task] = arguments else { bail!("client TASK") };
    let task: Task = serde_json::from_str(task)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = runtime.block_on(read(&task))?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&seen)?)?;
    Ok(())
}

async fn read(task: &Task) -> anyhow::Result<Seen> {
    let mut sockets = vec![task.from.clone(); task.streams];
    if task.from.is_dir() {
        sockets = (0..task.times.nodes).map(|node| socket(&task.from, node)).collect();
    }
    let opened = futures::future::try_join_all(sockets.iter().map(|path| open(path, task))).await?;
    let mut answers = futures::stream::select_all(opened);
    let (begin, mut warm) = (Instant::now(), task.warm_ms == 0);
    let (warm_time, end_time) =
        (Duration::from_millis(task.warm_ms), Duration::from_millis(task.warm_ms + task.for_ms));
    let mut book = Book::new(task.times);
    if warm {
        say_warm()?;
    }
    loop {
        let until = if warm { end_time } else { warm_time };
        match tokio::time::timeout(until.saturating_sub(begin.elapsed()), answers.next()).await {
            Ok(Some(answer)) => book.take(answer?, warm),
            Ok(None) => break,
            Err(_over) if warm => break,
            Err(_over) => {
                warm = true;
                say_warm()?;
            }
        }
        if task.follow && warm && begin.elapsed() > end_time {
            break;
        }
    }
    Ok(book.close())
}

fn say_warm() -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "warm").context("nobody reads")
}

async fn open(path: &Path, task: &Task) -> anyhow::Result<Streaming<Head>> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))?
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 20);
    let mut grpc = Grpc::new(endpoint.connect().await.context("connect")?);
    grpc.ready().await?;
    let request = GetFlowsRequest { follow: task.follow, number: task.number, ..GetFlowsRequest::default() };
    let path = "/observer.Observer/GetFlows".parse()?;
    Ok(grpc.server_streaming(Request::new(request), path, Heads).await?.into_inner())
}

/// What is noted of the flows.
struct Book {
    times: Times,
    seen: Seen,
    /// The next flow of each node.
    next: Vec<Option<u64>>,
    newest_ns: u64,
    delays: Vec<u64>,
    first: Option<Instant>,
}

impl Book {
    fn new(times: Times) -> Self {
        let next = vec![None; usize::try_from(times.nodes).unwrap_or_default()];
        Self { times, seen: Seen::default(), next, newest_ns: 0, delays: Vec::new(), first: None }
    }

    fn take(&mut self, answer: Head, count: bool) {
        if answer.status.is_some() {
            return;
        }
        if answer.lost.is_some() {
            self.seen.lost += 1;
            return;
        }
        let time_ns = u64::try_from(answer.time.unwrap_or_default().unix_nanos()).unwrap_or_default();
        let late_ns = self.newest_ns.saturating_sub(time_ns);
        self.newest_ns = self.newest_ns.max(time_ns);
        if let Some(node) = index(&answer.node) {
            self.follow(node, time_ns);
        }
        if !count {
            return;
        }
        self.seen.flows += 1;
        self.seen.inversions += u64::from(late_ns > 0);
        self.seen.largest_ns = self.seen.largest_ns.max(late_ns);
        self.delays.push(now_ns().saturating_sub(time_ns));
        let first = *self.first.get_or_insert_with(Instant::now);
        self.seen.elapsed_ns = u64::try_from(first.elapsed().as_nanos()).unwrap_or(u64::MAX);
    }

    fn follow(&mut self, node: u64, time_ns: u64) {
        let Some(next) = self.next.get_mut(usize::try_from(node).unwrap_or(usize::MAX)) else { return };
        let number = self.times.number(node, time_ns);
        match *next {
            Some(expected) if number < expected => self.seen.twice += 1,
            Some(expected) => self.seen.missing += number - expected,
            None => self.seen.nodes += 1,
        }
        *next = Some(next.unwrap_or(0).max(number + 1));
    }

    fn close(mut self) -> Seen {
        self.delays.sort_unstable();
        let at = |share: usize| self.delays.get(self.delays.len() * share / 100).copied().unwrap_or(0);
        (self.seen.median_ns, self.seen.p99_ns) = (at(50), at(99));
        self.seen
    }
}

/// Sends requests, reads heads.
#[derive(Clone, Copy, Debug, Default)]
struct Heads;

impl Codec for Heads {
    type Encode = GetFlowsRequest;
    type Decode = Head;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Heads {
    type Item = GetFlowsRequest;
    type Error = Status;

    fn encode(&mut self, request: GetFlowsRequest, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Heads {
    type Item = Head;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Head>, Status> {
        let bytes = input.copy_to_bytes(input.remaining());
        Head::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
