//! A flow with everything that its handles lead to.

use std::fmt::Debug;

#[cfg(feature = "proto")]
use crate::FlowDetail;
use crate::{EndpointMeta, Flow, FlowUuid, InstanceId, Metas, NodeInfo, PolicyOrigin};

/// Finds the names behind numbers of a flow that no handle leads to.
pub trait FlowNames: Debug {
    /// Name of an interface of the node.
    fn interface_name(&self, ifindex: u32) -> Option<&str>;
    /// Rules behind a cookie.
    fn policy_origins(&self, cookie: u32) -> &[PolicyOrigin];
}

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
    /// Names of interfaces and policies; without them such conditions of filters do not match.
    pub names: Option<&'a dyn FlowNames>,
    /// What the record has no place for.
    #[cfg(feature = "proto")]
    pub detail: Option<&'a FlowDetail>,
}

impl<'a> FlowView<'a> {
    /// Follows the handles of record `seq` of the agent run `instance`.
    pub fn new(flow: &'a Flow, seq: u64, instance: InstanceId, metas: &'a Metas, node: &'a NodeInfo) -> Self {
        let (source, source_labels) = metas.known(flow.source_meta);
        let (destination, destination_labels) = metas.known(flow.destination_meta);
        Self {
            flow,
            uuid: FlowUuid { instance, seq },
            source,
            destination,
            source_labels,
            destination_labels,
            node,
            names: None,
            #[cfg(feature = "proto")]
            detail: None,
        }
    }

    /// The same with names.
    #[must_use]
    pub const fn with_names(mut self, names: &'a dyn FlowNames) -> Self {
        self.names = Some(names);
        self
    }

    /// The same with details.
    #[cfg(feature = "proto")]
    #[must_use]
    pub const fn with_detail(mut self, detail: &'a FlowDetail) -> Self {
        self.detail = Some(detail);
        self
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
