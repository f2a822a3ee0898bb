//! A node with synthetic events.

use specola_datapath_common::event::{Event, kind};
use specola_directory::{DirectoryReader, DirectoryWriter, directory};
use specola_flow::{InstanceId, NodeInfo};
use specola_flow_server::{Config, FlowServer, Pipeline, Synthetic, flow_server};

/// Events that are made ahead and used in turn.
pub(crate) const EVENTS: usize = 1 << 15;

pub(crate) struct Bed {
    pub(crate) pipeline: Pipeline,
    pub(crate) server: FlowServer,
    pub(crate) directory: DirectoryReader,
    pub(crate) events: Vec<Event>,
    /// Keeps the directory's table.
    _writer: DirectoryWriter,
}

pub(crate) fn node() -> NodeInfo {
    let labels = ["kubernetes.io/arch=amd64", "kubernetes.io/os=linux", "topology.kubernetes.io/zone=a"];
    NodeInfo {
        name: "worker-7".into(),
        cluster_name: "default".into(),
        labels: labels.map(ToOwned::to_owned).into(),
    }
}

impl Bed {
    pub(crate) fn new(capacity: usize) -> anyhow::Result<Self> {
        let (mut writer, reader) = directory(node());
        writer.apply(Synthetic::changes())?;
        let config = Config { capacity, ..Config::new(InstanceId::new(0x5eed), "0.1.0") };
        let (pipeline, server) = flow_server(config, reader.clone())?;
        let mut source = Synthetic::new(42);
        let events =
            (0..EVENTS as u64).map(|n| source.event(1_790_000_000_000_000_000 + n * 100_000)).collect();
        Ok(Self { pipeline, server, directory: reader, events, _writer: writer })
    }

    /// As many events of one kind as there are events at all.
    pub(crate) fn only(&self, wanted: Kind) -> Vec<Event> {
        let is_wanted = |event: &&Event| match wanted {
            Kind::Trace => event.kind == kind::TRACE,
            Kind::Drop => event.kind == kind::DROP,
            Kind::Allowed => event.kind == kind::POLICY_VERDICT && event.verdict == 0,
            Kind::Denied => event.kind == kind::POLICY_VERDICT && event.verdict < 0,
        };
        self.events.iter().filter(is_wanted).cycle().take(EVENTS).copied().collect()
    }
}

/// Kinds of events.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Trace,
    Drop,
    Allowed,
    /// Gives two flows.
    Denied,
}
