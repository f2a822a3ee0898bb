//! Single stages, on one thread.

use std::hint::black_box;

use prost::Message as _;
use specola_flow::{
    FilterSet, Flow, FlowEncoder, FlowMask, FlowUuid, FlowView, InstanceId, MessageContext, Metas, NodeInfo,
    WireDetail, flow_message,
};
use specola_flow_server::Synthetic;
use specola_proto::flow::{self as pb, FlowFilter};
use specola_ring::{Class, Next, Read, ring};

use crate::{
    bed::{Bed, EVENTS, Kind, node},
    report::{Beside, Report},
};

pub(crate) fn run(report: &mut Report) -> anyhow::Result<()> {
    decode(report)?;
    requests(report)?;
    rings(report)?;
    let flows = Flows::new()?;
    marshal(report, &flows)?;
    filters(report, &flows)
}

/// Events to flows in the ring, in batches as the reader makes them.
fn decode(report: &mut Report) -> anyhow::Result<()> {
    let all = Bed::new(4096)?.events;
    for (name, kind, original, flows) in [
        ("decode + enrich + push: the mix, per event", None, "", 1),
        ("decode + enrich + push: trace", Some(Kind::Trace), "7,800", 1),
        ("decode + enrich + push: drop", Some(Kind::Drop), "8,000", 1),
        ("decode + enrich + push: allowed verdict", Some(Kind::Allowed), "8,900", 1),
        ("decode + enrich + push: denied verdict, per flow (two of each)", Some(Kind::Denied), "8,900", 2),
    ] {
        let mut bed = Bed::new(4096)?;
        let events = kind.map_or_else(|| all.clone(), |kind| bed.only(kind));
        let beside = Beside { goal: "<= 500, 0 allocations", original };
        report.per_call(name, beside, (EVENTS * flows) as u64, || {
            for batch in events.chunks(64) {
                bed.pipeline.ingest(batch, 0);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Requests and responses of applications, as a proxy hands them in.
fn requests(report: &mut Report) -> anyhow::Result<()> {
    const RECORDS: u64 = 1024;
    let mut bed = Bed::new(4096)?;
    let mut source = Synthetic::new(42);
    let records: Vec<_> = (1..=RECORDS).map(|now_ns| source.access(now_ns)).collect();
    let log = bed.server.access_log();
    let none = || Beside { goal: "", original: "" };
    report.per_call("request or response: copy + queue + enrich + keep + push", none(), RECORDS, || {
        for record in &records {
            log.send(record.clone())?;
        }
        bed.pipeline.ingest(&[], 0);
        Ok(())
    })?;
    report.per_call("request or response: encode its details, once for all clients", none(), RECORDS, || {
        for record in &records {
            black_box(WireDetail::new(&record.detail));
        }
        Ok(())
    })
}

fn rings(report: &mut Report) -> anyhow::Result<()> {
    const TIMES: u64 = 1 << 18;
    let (mut writer, reader) = ring::<Flow>(1 << 12)?;
    let flow = Flow { time_ns: 7, ..Flow::default() };
    let beside = Beside { goal: "<= 30", original: "10.5" };
    report.per_call("ring: write", beside, TIMES, || {
        for _ in 0..TIMES {
            writer.push(black_box(&flow), 7, Class::Common);
        }
        Ok(())
    })?;
    let beside = Beside { goal: "<= 15", original: "6.1" };
    report.per_call("ring: read", beside, TIMES, || {
        for _ in 0..TIMES / reader.capacity() {
            let mut cursor = reader.cursor(reader.oldest());
            while let Next::Item { value, .. } = cursor.next() {
                black_box(&value);
            }
        }
        Ok(())
    })
}

/// All flows of the synthetic events, with what they lead to.
struct Flows {
    bed: Bed,
    flows: Vec<Flow>,
    node: NodeInfo,
    metas: Metas,
}

const INSTANCE: InstanceId = InstanceId::new(0x5eed);

impl Flows {
    fn new() -> anyhow::Result<Self> {
        let mut bed = Bed::new(1 << 16)?;
        bed.pipeline.ingest(&bed.events, 0);
        let ring = bed.server.ring();
        let read = |seq| match ring.read(seq) {
            Read::Item(flow) => Some(flow),
            Read::Overwritten | Read::Pending => None,
        };
        let flows = (0..ring.head()).filter_map(read).collect();
        let metas = bed.directory.metas();
        Ok(Self { bed, flows, node: node(), metas })
    }

    fn view<'a>(&'a self, seq: usize, flow: &'a Flow) -> FlowView<'a> {
        FlowView::new(flow, seq as u64, INSTANCE, &self.metas, &self.node)
    }

    fn message(&self, seq: usize, flow: &Flow) -> pb::Flow {
        let directory = self.bed.directory.load();
        let context = MessageContext {
            version: "0.1.0",
            node_name: "worker-7",
            origins: directory.origins(flow.cookie).map_or(&[], AsRef::as_ref),
            interface: directory.interface(flow.ifindex),
            extension: false,
        };
        flow_message(&self.view(seq, flow), &context)
    }

    /// Encodes every flow; returns the bytes of all.
    fn encode(&self, encoder: &mut FlowEncoder, out: &mut Vec<u8>) -> anyhow::Result<usize> {
        let directory = self.bed.directory.load();
        let metas = &self.metas;
        let mut total = 0;
        for (seq, flow) in self.flows.iter().enumerate() {
            let uuid = FlowUuid { instance: INSTANCE, seq: seq as u64 };
            let wire = directory.wire_flow(flow, uuid, metas);
            out.clear();
            encoder.encode(&wire, out)?;
            total += black_box(&out).len();
        }
        Ok(total)
    }
}

/// Fields that a client with a mask typically asks for.
const MASK: [&str; 11] = [
    "time",
    "verdict",
    "IP",
    "l4",
    "source.namespace",
    "source.pod_name",
    "destination.namespace",
    "destination.pod_name",
    "Type",
    "is_reply",
    "event_type",
];

fn marshal(report: &mut Report, flows: &Flows) -> anyhow::Result<()> {
    let count = flows.flows.len() as u64;
    let mut out = Vec::with_capacity(4096);
    let mask = FlowMask::compile(&MASK.map(ToOwned::to_owned))?;
    for (name, mask, extension, goal, original) in [
        ("marshal a flow", None, false, "<= 150", "3,300"),
        ("marshal a flow with Specola's extension", None, true, "", ""),
        ("marshal a flow, mask of 11 paths", mask, false, "", ""),
    ] {
        let mut encoder = FlowEncoder::new("0.1.0", &flows.node, mask, extension);
        let bytes = flows.encode(&mut encoder, &mut out)? as u64 / count;
        let name = format!("{name}, {bytes} bytes");
        report.per_call(&name, Beside { goal, original }, count, || {
            flows.encode(&mut encoder, &mut out)?;
            Ok(())
        })?;
    }
    let beside = Beside { goal: "", original: "3,300" };
    report.per_call("for comparison: convert to a message and marshal by prost", beside, count, || {
        for (seq, flow) in flows.flows.iter().enumerate() {
            out.clear();
            flows.message(seq, flow).encode(&mut out)?;
            black_box(&out);
        }
        Ok(())
    })
}

fn filters(report: &mut Report, flows: &Flows) -> anyhow::Result<()> {
    let text = |value: &str| vec![value.to_owned()];
    let none = FlowFilter::default;
    for (name, filter, goal, original) in [
        ("pod prefix", FlowFilter { source_pod: text("shop/frontend"), ..none() }, "<= 60", "23"),
        ("verdict", FlowFilter { verdict: vec![2], ..none() }, "<= 60", "14"),
        ("address", FlowFilter { source_ip: text("10.42.0.17"), ..none() }, "<= 60", "14"),
        ("prefix of addresses", FlowFilter { source_ip: text("10.42.1.0/24"), ..none() }, "<= 60", "40"),
        ("port", FlowFilter { destination_port: text("5432"), ..none() }, "<= 60", ""),
        ("name pattern", FlowFilter { source_fqdn: text("*.example.com"), ..none() }, "<= 60", "116"),
        (
            "label",
            FlowFilter { source_label: text("app.kubernetes.io/name=cart"), ..none() },
            "<= 30",
            "1,188",
        ),
        (
            "label, set",
            FlowFilter { source_label: text("app.kubernetes.io/name in (cart, ledger)"), ..none() },
            "<= 30",
            "1,188",
        ),
        (
            "CEL",
            FlowFilter {
                experimental: Some(pb::flow_filter::Experimental {
                    cel_expression: text("_flow.verdict == Verdict.DROPPED && _flow.IP.source != ''"),
                }),
                ..none()
            },
            "<= 300",
            "1,713",
        ),
    ] {
        let set = match FilterSet::compile(&[filter], &[]) {
            Ok(set) => set,
            Err(refused) => {
                eprintln!("filter {name}: {refused}");
                continue;
            }
        };
        let directory = flows.bed.directory.load();
        let hits = flows
            .flows
            .iter()
            .enumerate()
            .filter(|(seq, flow)| set.passes(&flows.view(*seq, flow).with_names(&**directory)))
            .count();
        let name = format!("filter: {name} ({:.0} % hits)", hits as f64 * 100.0 / flows.flows.len() as f64);
        report.per_call(&name, Beside { goal, original }, flows.flows.len() as u64, || {
            for (seq, flow) in flows.flows.iter().enumerate() {
                black_box(set.passes(&flows.view(seq, flow).with_names(&**directory)));
            }
            Ok(())
        })?;
    }
    Ok(())
}
