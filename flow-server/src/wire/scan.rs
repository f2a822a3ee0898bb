//! Records of the ring, filtered and written.

use std::sync::Arc;

use specola_directory::Snapshot;
use specola_flow::{Flow, FlowUuid, FlowView, Metas, NodeInfo, timestamp};
use specola_proto::{
    flow::LostEvent,
    observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
};
use specola_ring::Read;
use tonic::Status;

use super::frames::{FrameWriter, push_frame};
use crate::{details::Kept, losses::kernel_loss, observer::FlowsQuery, shared::Shared};

/// A buffer is handed on when it has this many bytes: two DATA frames of the size that clients take by default.
const FULL: usize = 32 << 10;
/// Bytes of a flow, generously.
const FLOW: usize = 1536;
/// Records looked at before others get a turn.
const TURN: u64 = 1024;
/// A follower that asked for an end gets flows that arrive out of order for this long after it.
pub(crate) const UNTIL_SLACK_NS: u64 = 2_000_000_000;

/// An empty buffer for so many records.
pub(crate) fn buffer_for(records: u64) -> Vec<u8> {
    let wanted = usize::try_from(records).unwrap_or(usize::MAX).saturating_mul(FLOW);
    Vec::with_capacity(wanted.min(FULL + FLOW))
}

/// Reads, filters and writes what one kind of request asks for.
#[derive(Debug)]
pub(crate) struct Scanner {
    shared: Arc<Shared>,
    query: Arc<FlowsQuery>,
    node: Arc<NodeInfo>,
    node_name: String,
    writer: FrameWriter,
}

/// Where a scan ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Sequence number after the last record.
    pub(crate) end: u64,
    /// Number of flows.
    pub(crate) flows: u64,
    /// Not before, ns.
    pub(crate) since_ns: u64,
    /// Not after, ns.
    pub(crate) until_ns: u64,
}

impl Bounds {
    /// No bounds.
    pub(crate) const NONE: Self = Self { end: u64::MAX, flows: u64::MAX, since_ns: 0, until_ns: u64::MAX };
}

/// What a scan did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scanned {
    /// The first record that it did not look at.
    pub(crate) next: u64,
    /// Flows written.
    pub(crate) delivered: u64,
    /// Flows passed over.
    pub(crate) filtered: u64,
    /// Records that told of losses in the kernel.
    pub(crate) notices: u64,
    /// Events that were lost there.
    pub(crate) kernel_lost: u64,
    /// Smallest time of a flow written, ns.
    pub(crate) min_ns: u64,
    /// Largest time of a flow written, ns.
    pub(crate) max_ns: u64,
    /// Why it ended.
    pub(crate) stop: Stop,
}

/// Why a scan ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stop {
    /// The buffer is full, or others should get a turn.
    Turn,
    /// A bound was reached.
    Bound,
    /// No flow up to the end of the wanted time is to be expected.
    Past,
    /// The next record is not written yet.
    Pending,
    /// The next record was overwritten.
    Overwritten,
}

/// What the records before `head` refer to.
struct Names {
    head: u64,
    directory: Snapshot,
    metas: Metas,
}

impl Names {
    /// Loads them after the head, so that they have all that the records name.
    fn at(shared: &Shared) -> Self {
        let head = shared.ring.head();
        Self { head, directory: shared.directory.load(), metas: shared.directory.metas() }
    }
}

impl Scanned {
    /// Nothing yet, from this record on.
    const fn from(next: u64) -> Self {
        Self {
            next,
            delivered: 0,
            filtered: 0,
            notices: 0,
            kernel_lost: 0,
            min_ns: u64::MAX,
            max_ns: 0,
            stop: Stop::Turn,
        }
    }
}

impl Scanner {
    pub(crate) fn new(shared: Arc<Shared>, query: Arc<FlowsQuery>, node: Arc<NodeInfo>) -> Self {
        let version = &shared.config.version;
        let writer = FrameWriter::new(version, &node, query.mask.clone(), query.extension);
        Self { node_name: node.absolute_name(), shared, query, node, writer }
    }

    /// Number of records from `position` to the ring's end.
    pub(crate) fn behind(&self, position: u64) -> u64 {
        self.shared.ring.head().saturating_sub(position)
    }

    /// Looks at the records from `from` on and appends what is asked for.
    pub(crate) fn scan(&mut self, from: u64, bounds: &Bounds, out: &mut Vec<u8>) -> Result<Scanned, Status> {
        let shared = Arc::clone(&self.shared);
        let mut done = Scanned::from(from);
        let mut names = Names::at(&shared);
        while out.len() < FULL && done.next - from < TURN {
            if done.next >= bounds.end || done.delivered >= bounds.flows {
                done.stop = Stop::Bound;
                break;
            }
            if done.next >= names.head {
                names = Names::at(&shared);
            }
            let flow = match shared.ring.read(done.next) {
                Read::Item(flow) if done.next < names.head => flow,
                // Written this moment: the next call knows what it refers to.
                Read::Item(_) => break,
                Read::Pending => {
                    done.stop = Stop::Pending;
                    break;
                }
                Read::Overwritten => {
                    done.stop = Stop::Overwritten;
                    break;
                }
            };
            if flow.time_ns > bounds.until_ns && self.is_past(bounds.until_ns, done.next, &flow) {
                done.stop = Stop::Past;
                break;
            }
            self.consider(&flow, bounds, &names, &mut done, out)?;
            done.next += 1;
        }
        Ok(done)
    }

    fn consider(
        &mut self,
        flow: &Flow,
        bounds: &Bounds,
        names: &Names,
        done: &mut Scanned,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        if let Some(count) = flow.lost_count() {
            // Told whatever was asked for: any flow may be among them.
            push_frame(&self.lost_message(kernel_loss(flow, count), flow.time_ns), out);
            done.notices += 1;
            done.kernel_lost += count;
            return Ok(());
        }
        if !(bounds.since_ns..=bounds.until_ns).contains(&flow.time_ns) {
            done.filtered += 1;
            return Ok(());
        }
        let Names { directory, metas, .. } = names;
        let uuid = FlowUuid { instance: self.shared.config.instance, seq: done.next };
        let kept = self.shared.details.of(flow);
        if !self.query.filters.is_empty() {
            let mut view =
                FlowView::new(flow, done.next, uuid.instance, metas, &self.node).with_names(&***directory);
            view.detail = kept.as_deref().map(|kept| &kept.detail);
            if !self.query.filters.passes(&view) {
                done.filtered += 1;
                return Ok(());
            }
        }
        let mut wire = directory.wire_flow(flow, uuid, metas);
        wire.detail = kept.as_deref().map(Kept::wire);
        self.writer.flow(&wire, out).map_err(|error| Status::internal(error.to_string()))?;
        done.delivered += 1;
        done.min_ns = done.min_ns.min(flow.time_ns);
        done.max_ns = done.max_ns.max(flow.time_ns);
        Ok(())
    }

    /// Whether no flow up to `until_ns` is to be expected after this one, which is later.
    fn is_past(&self, until_ns: u64, seq: u64, flow: &Flow) -> bool {
        if flow.lost_count().is_some() {
            return false;
        }
        if self.query.follow {
            return flow.time_ns > until_ns.saturating_add(UNTIL_SLACK_NS);
        }
        self.shared.ring.block(seq).is_some_and(|block| block.min_ns > until_ns)
    }

    /// The answer that tells of a loss.
    pub(crate) fn lost_message(&self, event: LostEvent, time_ns: u64) -> GetFlowsResponse {
        GetFlowsResponse {
            node_name: self.node_name.clone(),
            time: Some(timestamp(time_ns)),
            response_types: Some(ResponseTypes::LostEvents(event)),
        }
    }
}
