//! Packets of a capture through the rules of the kernel programs, and on through the flow pipeline: what an agent would
//! have said of them. Needs no rights, no kernel, no clock: equal input gives equal flows, byte for byte.

mod endpoints;
mod world;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::Context;
use sha2::{Digest, Sha256};
use specola_capture::{Capture, CaptureError, Record};
use specola_datapath::abi::event::Event;
use specola_directory::{DirectoryReader, directory};
use specola_flow::{
    FilterSet, Flow, FlowView, InstanceId, MessageContext, NodeInfo, flow_message, timestamp,
};
use specola_flow_server::{Clock, Config as FlowConfig, Pipeline, flow_server};
use specola_lifecycle::build_info;
use specola_policy::ParseOptions;
use specola_proto::flow::FlowFilter;
use specola_proto::observer::{GetFlowsResponse, get_flows_response::ResponseTypes};
use specola_replay::{Action, ConnectionCounts, Datapath, ETHERNET_LEN, Frame, Packet};
use specola_ring::{Cursor, Next};

use self::endpoints::EndpointsFile;
use crate::desired::{Desired, DesiredDirectory};
use crate::node::feed::DirectoryFeed;

/// What captures are read with.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// Directory of Kubernetes YAML: policies, and what they refer to.
    pub policy: Option<PathBuf>,
    /// File of pods and nodes with their addresses.
    pub endpoints: Option<PathBuf>,
    /// Only pods of this node are judged, as its agent would; none = all pods.
    pub node: Option<String>,
    /// What policies deny passes, and is reported as audited.
    pub audit_mode: bool,
    /// Least time between two traces of one direction of a connection, ms.
    pub trace_interval_ms: u32,
    /// Connections in each of the four tables (IPv4 and IPv6, TCP and the rest).
    pub connections: usize,
    /// Only flows that match one of these; empty = all.
    pub whitelist: Vec<FlowFilter>,
    /// No flows that match one of these.
    pub blacklist: Vec<FlowFilter>,
}

/// What comes out.
#[derive(Debug)]
pub enum Ingested {
    /// A flow.
    Flow(Box<GetFlowsResponse>),
    /// Nothing more comes until the source has more: show what there is.
    Pause,
}

/// What became of a capture.
#[derive(Debug, Default)]
pub struct IngestReport {
    /// Packets that were read.
    pub packets: u64,
    /// Flows that passed the filters.
    pub flows: u64,
    /// Packets of which nothing could be said, by cause.
    pub damaged: BTreeMap<String, u64>,
    /// The first of them: cause, packet number, byte offset.
    pub first_damaged: Option<(String, u64, u64)>,
    /// Connections.
    pub connections: ConnectionCounts,
    /// Documents that are not used, and other things to know.
    pub warnings: Vec<String>,
    /// Why the capture was not read to its end.
    pub ended_by: Option<CaptureError>,
}

/// Everything but the capture.
#[derive(Debug)]
pub struct Ingest {
    datapath: Datapath,
    feed: DirectoryFeed,
    reader: DirectoryReader,
    filters: FilterSet,
    /// Of all documents: goes into the flows' ids.
    digest: Sha256,
    report: IngestReport,
}

impl Ingest {
    /// Reads policies and endpoints.
    ///
    /// # Errors
    /// A file cannot be read or says something wrong; all of what is wrong with the policies is in the message.
    pub fn prepare(options: &IngestOptions) -> anyhow::Result<Self> {
        let filters = FilterSet::compile(&options.whitelist, &options.blacklist)?;
        let desired = read_policies(options)?;
        let mut digest = Sha256::new();
        let file = match &options.endpoints {
            Some(path) => {
                let (file, text) = EndpointsFile::read(path)?;
                digest.update(text);
                file
            }
            None => EndpointsFile::default(),
        };
        if let Some(node) = &options.node {
            let is_known = file.nodes.contains_key(node) || file.pods.values().any(|pod| pod.node == *node);
            anyhow::ensure!(is_known, "--node {node}: no node or pod of the endpoints file names it");
        }
        for policy in desired.policies.values() {
            digest.update(format!("{:?}", **policy));
        }
        digest.update(format!("{:?} {} {}", options.node, options.audit_mode, options.trace_interval_ms));
        let info = NodeInfo {
            name: options.node.clone().unwrap_or_else(|| "capture".to_owned()),
            cluster_name: file.cluster_name.clone(),
            labels: Vec::new(),
        };
        let (writer, reader) = directory(info);
        let (datapath, feed) = world::build(options, &file, &desired, writer)?;
        let report = IngestReport { warnings: desired.warnings, ..IngestReport::default() };
        Ok(Self { datapath, feed, reader, filters, digest, report })
    }

    /// Reads a capture to its end. `live` = its source may pause, and flows shall not wait for it.
    ///
    /// # Errors
    /// The source is no capture, or `sink` fails. A capture that breaks off is no error here: the report says it.
    pub fn run(
        mut self,
        source: impl Read + Send + 'static,
        live: bool,
        mut sink: impl FnMut(Ingested) -> io::Result<()>,
    ) -> anyhow::Result<IngestReport> {
        let mut capture = Capture::open(source)?;
        let mut names = 0_u32;
        let mut output: Option<Output> = None;
        let mut events = Vec::new();
        loop {
            if live
                && capture.would_wait()
                && let Some(output) = &mut output
            {
                self.report.flows += output.take(&mut events, &self.filters, &mut sink)?;
                sink(Ingested::Pause)?;
            }
            let record = match capture.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => {
                    self.report.ended_by = Some(error);
                    break;
                }
            };
            self.report.packets += 1;
            let out = match &mut output {
                Some(output) => output,
                None => output.insert(Output::new(instance(self.digest.clone(), &record), &self.reader)?),
            };
            let (interface, is_described) = (record.interface, record.packet.is_ok());
            judge(&mut self.datapath, &record, &mut events, &mut self.report);
            if is_described && interface >= names {
                for interface in names..=interface {
                    let name = capture.interface_name(interface).to_owned();
                    self.feed.interface(interface.saturating_add(1), &name)?;
                }
                names = interface.saturating_add(1);
            }
            if events.len() >= BATCH {
                self.report.flows += out.take(&mut events, &self.filters, &mut sink)?;
            }
        }
        self.datapath.finish(&mut events);
        if let Some(output) = &mut output {
            self.report.flows += output.take(&mut events, &self.filters, &mut sink)?;
        }
        self.report.connections = self.datapath.connections();
        Ok(self.report)
    }
}

fn read_policies(options: &IngestOptions) -> anyhow::Result<Desired> {
    let Some(root) = &options.policy else { return Ok(Desired::default()) };
    let mut directory = DesiredDirectory::once(root.clone(), ParseOptions::default());
    std::fs::read_dir(root)
        .with_context(|| format!("cannot read {}; --policy takes a directory", root.display()))?;
    directory.scan();
    let desired = directory.merge();
    let refused = desired.refused.iter().flat_map(|refused| {
        refused.errors.iter().map(move |error| format!("{}:{}: {error}", refused.file, refused.line))
    });
    let refused: Vec<String> = refused.collect();
    anyhow::ensure!(
        refused.is_empty(),
        "{}: some documents are refused:\n{}",
        root.display(),
        refused.join("\n")
    );
    Ok(desired)
}

/// What tells the flows' ids from those of other captures: the documents and the first packet.
fn instance(mut digest: Sha256, record: &Record<'_>) -> InstanceId {
    digest.update(record.time_ns.to_be_bytes());
    if let Ok(packet) = &record.packet {
        digest.update(packet.length.to_be_bytes());
        digest.update(packet.data);
    }
    let digest = digest.finalize();
    InstanceId::new(digest.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
}

/// Lets a packet through the datapath.
fn judge(datapath: &mut Datapath, record: &Record<'_>, events: &mut Vec<Event>, report: &mut IngestReport) {
    let cause = match &record.packet {
        Err(damage) => damage.to_string(),
        Ok(packet) => {
            let frame = Frame {
                src_mac: packet.src_mac,
                dst_mac: packet.dst_mac,
                ethertype: packet.ethertype,
                data: packet.data,
                length: packet.length.saturating_add(ETHERNET_LEN),
            };
            let ifindex = record.interface.saturating_add(1);
            let packet = Packet { frame, time_ns: record.time_ns, ifindex };
            match datapath.observe(&packet, events) {
                Action::Pass | Action::Drop(_) => return,
                Action::Cut => "the capture's snap length cuts off headers".to_owned(),
            }
        }
    };
    if report.first_damaged.is_none() {
        report.first_damaged = Some((cause.clone(), record.number, record.offset));
    }
    *report.damaged.entry(cause).or_default() += 1;
}

/// The agent's pipeline with its ring, and a reader of it.
#[derive(Debug)]
struct Output {
    pipeline: Pipeline,
    cursor: Cursor<Flow>,
    directory: DirectoryReader,
    instance: InstanceId,
    version: String,
}

impl Output {
    fn new(instance: InstanceId, directory: &DirectoryReader) -> anyhow::Result<Self> {
        let version = build_info().semver();
        let config =
            FlowConfig { capacity: RING, clock: Clock::from_fn(|| 0), ..FlowConfig::new(instance, &version) };
        let (pipeline, flows) = flow_server(config, directory.clone()).context("making the flow ring")?;
        let cursor = flows.ring().cursor(0);
        Ok(Self { pipeline, cursor, directory: directory.clone(), instance, version })
    }

    /// Makes flows of the records, and hands on those that pass. Gives their number.
    fn take(
        &mut self,
        events: &mut Vec<Event>,
        filters: &FilterSet,
        sink: &mut impl FnMut(Ingested) -> io::Result<()>,
    ) -> anyhow::Result<u64> {
        let mut passed = 0;
        // A sweep gives many at once; the ring must not overwrite what was not read.
        for batch in events.chunks(BATCH) {
            self.pipeline.ingest(batch, 0);
            let directory = self.directory.load();
            let metas = self.directory.metas();
            let node = directory.node();
            let node_name = node.absolute_name();
            loop {
                let (seq, flow) = match self.cursor.next() {
                    Next::Item { seq, value } => (seq, value),
                    Next::Pending => break,
                    Next::Lost(lost) => {
                        anyhow::bail!("{} flows were overwritten before they were read", lost.count())
                    }
                };
                let view = FlowView::new(&flow, seq, self.instance, &metas, node).with_names(&**directory);
                if !filters.passes(&view) {
                    continue;
                }
                let context = MessageContext {
                    version: &self.version,
                    node_name: &node_name,
                    origins: directory.origins(flow.cookie).map_or(&[], AsRef::as_ref),
                    interface: directory.interface(flow.ifindex),
                    extension: true,
                };
                passed += 1;
                sink(Ingested::Flow(Box::new(GetFlowsResponse {
                    node_name: node_name.clone(),
                    time: Some(timestamp(flow.time_ns)),
                    response_types: Some(ResponseTypes::Flow(flow_message(&view, &context))),
                })))?;
            }
        }
        events.clear();
        Ok(passed)
    }
}

/// Records that go through the pipeline at a time.
const BATCH: usize = 1024;
/// Flows that the ring holds: every record of a batch gives two at most, whatever their class.
const RING: usize = 16_384;
