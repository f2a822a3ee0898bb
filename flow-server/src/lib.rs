//! From kernel events to flows in the ring, and from the ring to Hubble's clients.
//!
//! [`flow_server`] gives two halves of one thing. The [`Pipeline`] belongs to the thread that reads the kernel's ring
//! buffers: it turns each event into one or two flows and never waits. The [`FlowServer`] is the side that answers:
//! gRPC ([`FlowServer::serve`]), counters, metrics; it is cheap to clone.
//!
//! ```text
//! event reader thread:  reader.run(|tick| pipeline.ingest(tick.events, tick.clock_offset_ns))
//! other event sources:  server.agent_events().send(event)      bounded, refuses when full
//! proxies:              server.access_log().send(record)       bounded, refuses when full
//! async runtime:        server.serve(Listeners::bind(&config).await?, drain)
//! ```
#![forbid(unsafe_code)]

mod access;
mod agent_log;
mod clock;
mod consumer;
mod convert;
mod details;
mod export;
mod file_watch;
mod kernel_loss;
mod ledger;
mod losses;
mod metrics;
mod namespaces;
mod observer;
mod peers;
mod pipeline;
mod pressure;
mod redact;
mod serve;
mod shared;
mod streams;
mod synthetic;
mod wire;

pub use access::{AccessLog, AccessQueueFull, AccessRecord, Transport};
pub use agent_log::AgentLog;
pub use clock::Clock;
pub use consumer::ConsumerCounts;
pub use convert::BadRecord;
pub use details::DetailCounts;
pub use export::{
    ExportConfigError, ExportItem, Exporter, ExporterCounts, ExporterSpec, Exporters, Output, parse_filters,
};
pub use file_watch::{FileError, FileWatch};
pub use ledger::{Book, LedgerCounts};
pub use metrics::{Cardinality, FlowMetrics, MetricName, MetricSpec, MetricsConfigError, MetricsSettings};
pub use observer::ObserverService;
pub use peers::{Peer, PeerService, Peers};
pub use pipeline::{AgentEvents, AgentQueueFull, Pipeline};
pub use redact::{Redaction, RedactionConflict};
pub use serve::ServeError;
pub use shared::{Config, FlowServer, FlowStatus, Wake, flow_server};
pub use specola_serve::{ListenConfig, ListenError, Listeners, TlsError, TlsFiles};
pub use streams::StreamCounts;
pub use synthetic::Synthetic;
