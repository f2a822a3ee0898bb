//! What the writing side and the answering side share.

use std::{
    fmt,
    sync::{Arc, mpsc::sync_channel},
};

use specola_directory::{DirectoryReader, Held};
use specola_flow::{Flow, InstanceId};
use specola_ring::{
    DEFAULT_CAPACITY, DEFAULT_PROTECTED_PERCENT, InvalidCapacity, Next, Read, Reader, protected_places,
    ring_with,
};
use tokio::sync::watch;

use crate::{
    access::{ACCESS_QUEUE, AccessLog},
    agent_log::AgentLog,
    clock::Clock,
    consumer::{ConsumerCounts, Consumers},
    details::{DetailCounts, Details},
    ledger::{Book, Ledger, LedgerCounts, MemoryBook},
    namespaces::Namespaces,
    peers::Peers,
    pipeline::{AgentEvents, Pipeline},
    pressure::{Pressure, pressure},
    redact::Redaction,
    streams::{StreamCounts, Streams},
    wire::Feeds,
};

/// How the flow server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Flows that the ring holds: a power of two.
    pub capacity: usize,
    /// Room for drops, errors and audited flows, which other flows do not overwrite: % of the capacity, rounded up to a
    /// power of two.
    pub protected_percent: u8,
    /// Tells this run of the agent apart, in the ids of flows.
    pub instance: InstanceId,
    /// Version in `emitter.version` and in the `hubble-server-version` header, such as `0.1.0`.
    pub version: String,
    /// Version for people, such as `specola v0.1.0`.
    pub version_text: String,
    /// Wall clock.
    pub clock: Clock,
    /// Keeps the pipeline's counters.
    pub book: Arc<dyn Book>,
    /// Records that earlier processes took from the kernel's ring buffers, counted there.
    pub taken: u64,
    /// Bytes that requests, responses and names of flows may take in all; the oldest ones make room.
    pub detail_bytes: usize,
    /// What of requests and responses must not be seen by anyone; `None` = all may be.
    pub redaction: Option<Redaction>,
    /// How to make the pipeline's thread call [`Pipeline::ingest`] when something is queued for it.
    pub wake: Wake,
}

/// Wakes a thread that may sleep.
#[derive(Clone, Default)]
pub struct Wake(Option<Arc<dyn Fn() + Send + Sync>>);

impl Wake {
    /// Wakes by calling this.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(wake)))
    }

    pub(crate) fn call(&self) {
        if let Some(wake) = &self.0 {
            wake();
        }
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

impl Config {
    /// The default capacity, the system's clock, a book that ends with the process, and this version; `instance` should differ from run to run.
    pub fn new(instance: InstanceId, version: &str) -> Self {
        Self {
            capacity: DEFAULT_CAPACITY,
            protected_percent: DEFAULT_PROTECTED_PERCENT,
            instance,
            version: version.to_owned(),
            version_text: format!("specola v{version}"),
            clock: Clock::system(),
            book: Arc::new(MemoryBook::default()),
            taken: 0,
            detail_bytes: DEFAULT_DETAIL_BYTES,
            redaction: None,
            wake: Wake::default(),
        }
    }
}

/// Bytes that details of flows may take unless told otherwise.
const DEFAULT_DETAIL_BYTES: usize = 32 << 20;

/// Makes the two halves: the pipeline for the reader's thread, the server for everyone else.
///
/// # Errors
/// The capacity is not a power of two, or there is no memory for it.
pub fn flow_server(
    config: Config,
    directory: DirectoryReader,
) -> Result<(Pipeline, FlowServer), InvalidCapacity> {
    let (ring_writer, ring_reader) =
        ring_with(config.capacity, protected_places(config.capacity, config.protected_percent))?;
    let (head_sender, head) = watch::channel(0);
    let (pressure_sender, pressure) = pressure(ring_reader.capacity());
    let (agent_sender, agent_receiver) = sync_channel(AGENT_QUEUE);
    let (access_sender, access_receiver) = sync_channel(ACCESS_QUEUE);
    let (ledger, counts) = Ledger::open(Arc::clone(&config.book), config.taken);
    let shared = Arc::new(Shared {
        started_ns: config.clock.now_ns(),
        agent_log: AgentLog::new(config.clock.clone()),
        peers: watch::Sender::default(),
        details: Details::new(config.capacity, config.detail_bytes),
        config,
        directory,
        ring: ring_reader,
        head,
        pressure,
        feeds: Feeds::default(),
        ledger,
        namespaces: Namespaces::default(),
        streams: Streams::default(),
        consumers: Consumers::default(),
    });
    let agent_events = AgentEvents::new(agent_sender, Arc::clone(&shared));
    let pipeline = Pipeline::new(
        Arc::clone(&shared),
        counts,
        ring_writer,
        (head_sender, pressure_sender),
        (agent_receiver, access_receiver),
    );
    let access_log = AccessLog::new(access_sender, Arc::clone(&shared));
    Ok((pipeline, FlowServer { shared, agent_events, access_log }))
}

/// Events of other sources that may wait for the pipeline's next tick.
const AGENT_QUEUE: usize = 4096;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) started_ns: u64,
    pub(crate) agent_log: AgentLog,
    /// The cluster's nodes.
    pub(crate) peers: watch::Sender<Arc<Peers>>,
    pub(crate) directory: DirectoryReader,
    pub(crate) ring: Reader<Flow>,
    /// What flows in the ring carry beyond their records.
    pub(crate) details: Details,
    /// The ring's head after each batch; closed when the pipeline is gone.
    pub(crate) head: watch::Receiver<u64>,
    /// For readers that rest.
    pub(crate) pressure: Pressure,
    pub(crate) feeds: Feeds,
    pub(crate) ledger: Ledger,
    pub(crate) namespaces: Namespaces,
    pub(crate) streams: Streams,
    pub(crate) consumers: Consumers,
}

/// The answering side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FlowServer {
    pub(crate) shared: Arc<Shared>,
    agent_events: AgentEvents,
    access_log: AccessLog,
}

/// State of ring and pipeline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowStatus {
    /// Flows since the start.
    pub seen: u64,
    /// Flows that can be read now.
    pub held: u64,
    /// Flows that can be held.
    pub capacity: u64,
    /// Flows that newer ones overwrote.
    pub overwritten: u64,
    /// Flows per second over the last minute; 0 in the first 5 seconds, which say nothing.
    pub rate: f64,
    /// Since the start, ns.
    pub uptime_ns: u64,
    /// The pipeline's counters.
    pub ledger: LedgerCounts,
    /// What happened to flows in observers' streams.
    pub streams: StreamCounts,
    /// Requests and responses.
    pub details: DetailCounts,
}

impl FlowServer {
    /// State of ring and pipeline.
    pub fn status(&self) -> FlowStatus {
        let shared = &self.shared;
        let now_ns = shared.config.clock.now_ns();
        let uptime_ns = now_ns.saturating_sub(shared.started_ns);
        let seen = shared.ring.head();
        let overwritten = seen.saturating_sub(shared.ring.capacity());
        FlowStatus {
            seen,
            held: seen - overwritten,
            capacity: shared.ring.capacity(),
            overwritten,
            rate: if uptime_ns < RATE_AFTER_NS { 0.0 } else { flows_rate(&shared.ring, now_ns) },
            uptime_ns,
            ledger: shared.ledger.counts(),
            streams: shared.streams.counts(),
            details: shared.details.counts(),
        }
    }

    /// What happened to flows in observers' streams.
    pub fn stream_counts(&self) -> StreamCounts {
        self.shared.streams.counts()
    }

    /// What became of flows in the readers inside the agent: metrics and exporters.
    pub fn consumers(&self) -> Vec<ConsumerCounts> {
        self.shared.consumers.counts()
    }

    /// A way in for events that do not come from the kernel's ring buffers.
    pub fn agent_events(&self) -> AgentEvents {
        self.agent_events.clone()
    }

    /// A way in for requests and responses.
    pub fn access_log(&self) -> AccessLog {
        self.access_log.clone()
    }

    /// Which flows can be read: what they refer to must stay in the directory.
    pub fn held(&self) -> Held {
        let ring = &self.shared.ring;
        Held { head: ring.head(), oldest: ring.oldest(), oldest_protected: ring.oldest_protected() }
    }

    /// Where the agent says what it does.
    pub fn agent_log(&self) -> AgentLog {
        self.shared.agent_log.clone()
    }

    /// Says who the cluster's nodes are now, this one included.
    pub fn set_peers(&self, peers: Peers) {
        self.shared.peers.send_if_modified(|known| {
            let is_new = **known != peers;
            *known = Arc::new(peers);
            is_new
        });
    }

    /// A reader of the flow ring.
    pub fn ring(&self) -> Reader<Flow> {
        self.shared.ring.clone()
    }
}

/// Uptime before which no rate is told, ns.
const RATE_AFTER_NS: u64 = 5 * 1_000_000_000;

/// Flows per second of the last minute; of the time that the ring reaches back when that is less.
fn flows_rate(ring: &Reader<Flow>, now_ns: u64) -> f64 {
    const WINDOW_NS: u64 = 60 * 1_000_000_000;
    let window_start = now_ns.saturating_sub(WINDOW_NS);
    let oldest = ring.oldest();
    // Older drops that are still held say nothing of the rate.
    let mut cursor = ring.cursor(ring.seek_since(window_start).max(oldest));
    let (first_seq, first_ns) = loop {
        match cursor.next() {
            Next::Item { seq, value } if value.time_ns >= window_start => break (seq, value.time_ns),
            Next::Item { .. } | Next::Lost(_) => {}
            Next::Pending => return 0.0,
        }
    };
    let count = ring.head().saturating_sub(first_seq);
    let is_whole_ring = first_seq <= oldest || matches!(ring.read(first_seq - 1), Read::Overwritten);
    let span_ns = if is_whole_ring { now_ns.saturating_sub(first_ns) } else { WINDOW_NS };
    count as f64 / (span_ns.max(1) as f64 / 1e9)
}
