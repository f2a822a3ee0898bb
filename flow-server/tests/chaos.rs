//! Clients that misbehave, some thousands of them one after the other and many at a time: silence, garbage, requests byte by
//! byte, streams that are cut, streams that nobody reads. A client that behaves gets its flows meanwhile, all of them or
//! with a count; memory stays bounded, and nothing of the others is left.

use std::{
    fs,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use specola_directory::directory;
use specola_flow::{FlowUuid, InstanceId, NodeInfo};
use specola_flow_server::{Config, FlowServer, ListenConfig, Listeners, Pipeline, Synthetic, flow_server};
use specola_lifecycle::{DrainTrigger, drain};
use specola_proto::{
    google::FieldMask,
    observer::{
        GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes, observer_client::ObserverClient,
    },
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};
use tonic::{Streaming, transport::Endpoint};

/// Far beyond anything that a passing test needs; only a broken one waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events of a batch, and time between two: some thousands a second.
const BATCH: usize = 64;
const TICK: Duration = Duration::from_millis(10);
/// What all the clients of a wave may leave in memory, bytes; both ends of their connections are in this process.
const GROWTH: u64 = 96 << 20;
/// What a client takes before it reads, bytes.
const WINDOW: u32 = 65_535;
/// The beginning of HTTP/2: preface and an empty SETTINGS frame.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

struct Bed {
    address: SocketAddr,
    server: FlowServer,
    is_over: Arc<AtomicBool>,
    feed: Option<std::thread::JoinHandle<Pipeline>>,
    _drain: DrainTrigger,
}

impl Bed {
    async fn new() -> Self {
        let (mut writer, reader) = directory(NodeInfo { name: "n1".into(), ..NodeInfo::default() });
        writer.apply(Synthetic::changes()).unwrap();
        let (mut pipeline, server) = flow_server(Config::new(InstanceId::new(1), "1"), reader).unwrap();
        let listen = ListenConfig { tcp: Some("0.0.0.0:0".parse().unwrap()), ..ListenConfig::default() };
        let listeners = Listeners::bind(&listen).await.unwrap();
        let port = listeners.tcp_address().unwrap().port();
        let (trigger, watcher) = drain();
        let served = server.clone();
        tokio::spawn(async move { served.serve(listeners, watcher).await.unwrap() });
        let is_over = Arc::new(AtomicBool::new(false));
        let (stop, log) = (Arc::clone(&is_over), server.access_log());
        let feed = std::thread::spawn(move || {
            // The directory lives as long as flows are made.
            let _writer = writer;
            let (mut source, mut now_ns) = (Synthetic::new(1), 1);
            while !stop.load(Relaxed) {
                now_ns += 1_000_000;
                let events: Vec<_> = (0..BATCH).map(|_| source.event(now_ns)).collect();
                log.send(source.access(now_ns)).unwrap();
                pipeline.ingest(&events, 0);
                std::thread::sleep(TICK);
            }
            pipeline
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { address, server, is_over, feed: Some(feed), _drain: trigger }
    }

    /// A connection from an address of its own kind: the server gives each address so many only.
    async fn connect(&self, from: u8) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 1, from], 0)))?;
        socket.connect(self.address).await
    }

    /// Flows from now on, with nothing but ids in them.
    async fn follow(&self) -> Streaming<GetFlowsResponse> {
        // A client of this library would take megabytes that nobody reads, into this process.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        let endpoint = endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let mut client = ObserverClient::new(endpoint.connect().await.unwrap());
        let field_mask = Some(FieldMask { paths: vec!["uuid".into()] });
        let request = GetFlowsRequest { follow: true, field_mask, ..GetFlowsRequest::default() };
        client.get_flows(request).await.unwrap().into_inner()
    }

    /// Ends the source of flows.
    fn end(&mut self) -> Pipeline {
        self.is_over.store(true, Relaxed);
        self.feed.take().expect("ended once").join().unwrap()
    }
}

/// Accounts of a stream. A loss is told up to a second after the flows around it, so they are closed at the end.
#[derive(Debug, Default)]
struct Accounts {
    first: Option<u64>,
    last: u64,
    flows: u64,
    lost: u64,
}

impl Accounts {
    fn take(&mut self, answer: GetFlowsResponse) {
        match answer.response_types.unwrap() {
            ResponseTypes::Flow(flow) => {
                let seq = flow.uuid.parse::<FlowUuid>().unwrap().seq;
                assert!(self.first.is_none() || seq > self.last, "flow {seq} after {}", self.last);
                self.first.get_or_insert(seq);
                self.last = seq;
                self.flows += 1;
            }
            ResponseTypes::LostEvents(lost) => self.lost += lost.num_events_lost,
            ResponseTypes::NodeStatus(status) => panic!("{status:?}"),
        }
    }

    /// Every record from the first one to the ring's end came, or was lost with a count.
    #[track_caller]
    fn check(&self, head: u64) {
        let first = self.first.expect("a flow");
        assert_eq!(self.flows + self.lost, head - first, "a flow is missing without a count: {self:?}");
    }
}

/// A client that behaves.
struct Witness {
    flows: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Accounts>,
}

impl Witness {
    async fn new(bed: &Bed) -> Self {
        let mut stream = bed.follow().await;
        let flows = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&flows);
        let task = tokio::spawn(async move {
            let mut accounts = Accounts::default();
            while let Some(answer) = stream.message().await.unwrap() {
                accounts.take(answer);
                count.store(accounts.flows, Relaxed);
            }
            accounts
        });
        Self { flows, task }
    }

    /// Its stream has ended: all is accounted for.
    async fn end(self, bed: &Bed) {
        let accounts = tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
        accounts.check(bed.server.ring().head());
        assert!(bed.server.status().ledger.is_balanced());
    }

    /// Waits for so many more flows.
    async fn more(&self, count: u64, what: &str) {
        let wanted = self.flows.load(Relaxed) + count;
        eventually(what, || self.flows.load(Relaxed) >= wanted).await;
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not come about"));
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Some hundred clients at a time, wave after wave, while the witness goes on. Gives how many there were.
async fn waves<F: Future<Output = ()>>(
    bed: &Bed,
    witness: &Witness,
    what: &str,
    misbehave: impl Fn(TcpStream, usize) -> F,
) -> usize {
    const AT_ONCE: usize = 150;
    const WAVES: usize = 4;
    let before = resident();
    let mut connected = 0;
    for wave in 0..WAVES {
        let clients = (0..AT_ONCE).map(|number| {
            let misbehave = &misbehave;
            async move {
                let from = u8::try_from(number % 100).unwrap();
                match bed.connect(from).await {
                    Ok(stream) => {
                        misbehave(stream, wave * AT_ONCE + number).await;
                        1
                    }
                    Err(_refused) => 0,
                }
            }
        });
        connected += futures::future::join_all(clients).await.into_iter().sum::<usize>();
        witness.more(200, what).await;
    }
    let grown = resident().saturating_sub(before);
    eprintln!("{what}: {connected} connections, memory grew by {} KiB", grown >> 10);
    assert!(grown < GROWTH, "{what}: memory grew by {} KiB", grown >> 10);
    connected
}

/// Some bytes that look random, the same in each run.
fn noise(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..64 + number % 900).map(|_| byte()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_misbehave_harm_nobody() {
    let mut bed = Bed::new().await;
    let witness = Witness::new(&bed).await;
    witness.more(1, "the first flow").await;
    let mut connected = 0;
    let send = async |mut stream: TcpStream, bytes: Vec<u8>| {
        // The server may have closed it already, which is as good.
        drop(stream.write_all(&bytes).await);
        stream
    };

    // Kept open until the end of all waves: they say nothing.
    let mut silent = Vec::new();
    for number in 0..300_u32 {
        silent.extend(bed.connect((number % 100) as u8).await);
    }
    connected += silent.len();
    connected +=
        waves(&bed, &witness, "garbage", async |stream, number| drop(send(stream, noise(number)).await))
            .await;
    connected += waves(&bed, &witness, "garbage behind a greeting", async |stream, number| {
        drop(send(stream, [GREETING, &noise(number)].concat()).await);
    })
    .await;
    connected += waves(&bed, &witness, "requests byte by byte", async |mut stream, _| {
        for byte in &GREETING[..20] {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    connected += waves(&bed, &witness, "frames that are announced and never come", async |stream, number| {
        // A HEADERS frame of 16 MB, and one of a stream that clients may not open.
        let frame: &[u8] = if number % 2 == 0 {
            b"\xff\xff\xff\x01\x04\0\0\0\x01"
        } else {
            b"\0\0\x01\x01\x04\0\0\0\x02\x82"
        };
        drop(send(stream, [GREETING, frame].concat()).await);
    })
    .await;
    assert!(connected > 2_000, "{connected} connections");

    drop(silent);
    eventually("only the witness is left", || bed.server.stream_counts().open == 1).await;
    witness.more(200, "flows after all of it").await;
    drop(bed.end());
    witness.end(&bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_that_are_cut_or_not_read_harm_nobody() {
    const STALLED: usize = 60;
    const CUT: usize = 600;
    let mut bed = Bed::new().await;
    let witness = Witness::new(&bed).await;
    witness.more(1, "the first flow").await;

    let before = resident();
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(bed.follow().await);
    }
    assert_eq!(bed.server.stream_counts().open, 1 + STALLED as u64);
    // More than once around the ring: what they do not read is overwritten.
    let head = bed.server.ring().head();
    eventually("two rings of flows", || bed.server.ring().head() > head + 2 * 4096).await;
    for wave in 0..CUT / 60 {
        let cuts = (0..60).map(|_| async {
            let mut stream = bed.follow().await;
            // In the middle of an answer, and of a connection.
            tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        });
        futures::future::join_all(cuts).await;
        witness.more(50, &format!("flows after wave {wave} of cut streams")).await;
    }
    eventually("cut streams are gone", || bed.server.stream_counts().open == 1 + STALLED as u64).await;
    let grown = resident().saturating_sub(before);
    eprintln!("{STALLED} stalled and {CUT} cut streams: memory grew by {} KiB", grown >> 10);
    assert!(grown < GROWTH, "memory grew by {} KiB", grown >> 10);

    // Who reads again gets what is still held, and the number of what is not.
    drop(bed.end());
    for mut stream in stalled {
        let mut accounts = Accounts::default();
        while let Some(answer) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
            accounts.take(answer);
        }
        accounts.check(bed.server.ring().head());
        assert!(accounts.lost > 0, "it was stalled");
    }
    witness.end(&bed).await;
    eventually("all streams are gone", || bed.server.stream_counts().open == 0).await;
}
