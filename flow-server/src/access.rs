//! What applications say to each other, as the proxy between them saw it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError},
    },
};

use specola_datapath_common::v4_mapped;
use specola_directory::Directory;
use specola_flow::{Direction, EventType, Flow, FlowDetail, Verdict, flags, protocol};
use specola_proto::flow::L7FlowType;

use crate::shared::Shared;

/// A request or a response.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessRecord {
    /// Wall clock, ns since 1970.
    pub time_ns: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// Direction of the request relative to the endpoint that the proxy works for.
    pub direction: Direction,
    /// What carries it.
    pub transport: Transport,
    /// Who sent it; the server of a response.
    pub source: SocketAddr,
    /// Who it is for; the client of a response.
    pub destination: SocketAddr,
    /// Security identity of the source; 0 = that of its address.
    pub source_identity: u32,
    /// Security identity of the destination; 0 = that of its address.
    pub destination_identity: u32,
    /// The rules that decided; 0 = not known.
    pub cookie: u32,
    /// What was said, and what is known of the two ends.
    pub detail: FlowDetail,
}

/// Protocol below the application's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The record of the ring.
pub(crate) fn convert(access: &AccessRecord, directory: &Directory) -> Flow {
    let (source_ip, destination_ip) =
        (access.source.ip().to_canonical(), access.destination.ip().to_canonical());
    let (source_addr, destination_addr) = (octets(source_ip), octets(destination_ip));
    let source = directory.find(source_addr, access.source_identity);
    let destination = directory.find(destination_addr, access.destination_identity);
    let mut flow = Flow {
        time_ns: access.time_ns,
        source_addr,
        destination_addr,
        source_meta: source.meta,
        destination_meta: destination.meta,
        source_identity: source.identity,
        destination_identity: destination.identity,
        source_endpoint: source.endpoint,
        destination_endpoint: destination.endpoint,
        source_port: access.source.port(),
        destination_port: access.destination.port(),
        cookie: access.cookie,
        flags: flags::BY_AGENT | if access.cookie == 0 { 0 } else { flags::ATTRIBUTED },
        ip_version: if source_ip.is_ipv4() && destination_ip.is_ipv4() { 4 } else { 6 },
        protocol: match access.transport {
            Transport::Tcp => protocol::TCP,
            Transport::Udp => protocol::UDP,
        },
        verdict: access.verdict.0,
        event_type: EventType::L7.0,
        direction: access.direction.0,
        ..Flow::default()
    };
    let kind = access.detail.l7.as_ref().map(|l7| l7.r#type());
    flow.set_reply(Some(kind == Some(L7FlowType::Response)));
    flow
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => v4_mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// A record in the queue, and what its details weigh.
pub(crate) type Queued = (AccessRecord, usize);

/// Bytes that the details of a record may have.
const MOST_BYTES: usize = 16 << 10;
/// Records that may wait for the pipeline's next tick.
pub(crate) const ACCESS_QUEUE: usize = 2048;

/// Hands requests and responses to the pipeline, from any thread, without waiting.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: SyncSender<Queued>,
    shared: Arc<Shared>,
}

/// The queue to the pipeline is full, or the pipeline ended. The record is lost and counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the flow pipeline's queue for access records is full or closed")]
pub struct AccessQueueFull;

impl AccessLog {
    pub(crate) const fn new(queue: SyncSender<Queued>, shared: Arc<Shared>) -> Self {
        Self { queue, shared }
    }

    /// Queues a record for the pipeline's next tick. What must not leave the node ([`crate::Redaction`]) is taken out
    /// here; of a record that is too large a part is cut off, and counted.
    ///
    /// # Errors
    /// The queue is full or the pipeline ended; the loss is counted.
    pub fn send(&self, mut record: AccessRecord) -> Result<(), AccessQueueFull> {
        let shared = &self.shared;
        if let (Some(redaction), Some(l7)) = (&shared.config.redaction, &mut record.detail.l7) {
            redaction.apply(l7);
        }
        let clipped = record.detail.clip(MOST_BYTES);
        if clipped.is_cut {
            shared.details.note_clipped();
        }
        self.queue.try_send((record, clipped.weight)).map_err(|full: TrySendError<Queued>| {
            let (TrySendError::Full(_) | TrySendError::Disconnected(_)) = full;
            shared.details.note_refused();
            AccessQueueFull
        })?;
        shared.config.wake.call();
        Ok(())
    }
}
