//! A flow with everything that its handles lead to.

use crate::{EndpointMeta, Flow, FlowUuid, InstanceId, MetaTable, NodeInfo};

/// A flow as filters and conversions see it.
#[derive(Clone, Copy, Debug)]
pub struct FlowView<'a> {
    /// The record.
    pub flow: &'a Flow,
    /// Its id.
    pub uuid: FlowUuid,
    /// Who the source was.
    pub source: Option<&'a EndpointMeta>,
    /// Who the destination was.
    pub destination: Option<&'a EndpointMeta>,
    /// Text of the source's labels, as users see them.
    pub source_labels: &'a [String],
    /// Text of the destination's labels.
    pub destination_labels: &'a [String],
    /// Who observed it.
    pub node: &'a NodeInfo,
}

impl<'a> FlowView<'a> {
    /// Follows the handles of record `seq` of the agent run `instance`.
    pub fn new(
        flow: &'a Flow,
        seq: u64,
        instance: InstanceId,
        metas: &'a MetaTable,
        node: &'a NodeInfo,
    ) -> Self {
        let (source, source_labels) = metas.known(flow.source_meta);
        let (destination, destination_labels) = metas.known(flow.destination_meta);
        let uuid = FlowUuid { instance, seq };
        Self { flow, uuid, source, destination, source_labels, destination_labels, node }
    }

    /// Who was on this side.
    pub const fn meta(&self, side: Side) -> Option<&'a EndpointMeta> {
        match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        }
    }
}

/// Source or destination.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    /// Where the packet comes from.
    Source,
    /// Where it goes.
    Destination,
}
