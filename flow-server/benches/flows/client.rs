//! The clients: another process, so that its time does not count. It takes messages off the stream and throws them away.

use std::{
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use prost::{Message as _, bytes::Buf as _};
use specola_proto::observer::GetFlowsRequest;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

/// First argument of a client.
pub(crate) const ARGUMENT: &str = "client";

/// How a client reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Streams, each over its own connection.
    pub(crate) streams: usize,
    /// Go on with new flows.
    pub(crate) follow: bool,
    /// Flow control window of a stream, bytes; 0 = the library's.
    pub(crate) window: u32,
}

/// Starts a client process.
pub(crate) fn spawn(socket: &Path, reading: Reading) -> anyhow::Result<Child> {
    let Reading { streams, follow, window } = reading;
    Command::new(std::env::current_exe()?)
        .arg(ARGUMENT)
        .arg(socket)
        .args([streams.to_string(), follow.to_string(), window.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("start the client process")
}

/// What a client process does. It prints the number of messages that it got.
pub(crate) fn run(args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let args: Vec<String> = args.collect();
    let [socket, streams, follow, window] = args.as_slice() else {
        bail!("client SOCKET STREAMS FOLLOW WINDOW")
    };
    let reading = Reading { streams: streams.parse()?, follow: follow.parse()?, window: window.parse()? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let total = runtime.block_on(async {
        let reads = (0..reading.streams).map(|_| read(socket, reading));
        let counts = futures::future::try_join_all(reads).await?;
        anyhow::Ok(counts.into_iter().sum::<u64>())
    })?;
    writeln!(std::io::stdout(), "{total}")?;
    Ok(())
}

async fn read(socket: &str, reading: Reading) -> anyhow::Result<u64> {
    let mut endpoint =
        Endpoint::from_shared(format!("unix://{socket}"))?.connect_timeout(Duration::from_secs(10));
    if reading.window > 0 {
        endpoint = endpoint
            .initial_stream_window_size(reading.window)
            .initial_connection_window_size(reading.window);
    }
    let channel: Channel = endpoint.connect().await.context("connect to the server")?;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let request = GetFlowsRequest { follow: reading.follow, ..GetFlowsRequest::default() };
    let path = "/observer.Observer/GetFlows".parse()?;
    let mut answers = grpc.server_streaming(Request::new(request), path, Discard).await?.into_inner();
    let mut count = 0;
    while let Some(()) = answers.message().await? {
        count += 1;
    }
    Ok(count)
}

/// Sends requests, throws answers away.
#[derive(Clone, Copy, Debug, Default)]
struct Discard;

impl Codec for Discard {
    type Encode = GetFlowsRequest;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Discard {
    type Item = GetFlowsRequest;
    type Error = Status;

    fn encode(&mut self, request: GetFlowsRequest, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Discard {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        input.advance(input.remaining());
        Ok(Some(()))
    }
}
