//! Flows that are equal in some fields, written as one.

use std::collections::HashMap;

use prost::Message as _;
use specola_flow::{FlowMask, MaskError};
use specola_proto::flow::{Aggregate, Flow, TrafficDirection};

/// With so many groups all are written at once, before their time.
const MAX_GROUPS: usize = 16_384;

/// Groups of flows since the last writing.
#[derive(Debug)]
pub(super) struct Aggregation {
    fields: FlowMask,
    interval_ns: u64,
    written_ns: Option<u64>,
    groups: HashMap<Vec<u8>, Flow>,
}

impl Aggregation {
    pub(super) fn new(fields: FlowMask, interval_ns: u64) -> Self {
        Self { fields, interval_ns, written_ns: None, groups: HashMap::new() }
    }

    /// Adds a flow to its group; the first one stands for it.
    pub(super) fn add(&mut self, flow: Flow) -> Result<(), MaskError> {
        let key = self.fields.apply(&flow)?.encode_to_vec();
        let direction = flow.traffic_direction();
        let first = self.groups.entry(key).or_insert(flow);
        let counts = first.aggregate.get_or_insert_with(Aggregate::default);
        let count = match direction {
            TrafficDirection::Ingress => &mut counts.ingress_flow_count,
            TrafficDirection::Egress => &mut counts.egress_flow_count,
            TrafficDirection::Unknown => &mut counts.unknown_direction_flow_count,
        };
        *count = count.saturating_add(1);
        Ok(())
    }

    /// The groups, when it is time to write them.
    pub(super) fn due(&mut self, now_ns: u64) -> Vec<Flow> {
        let since_ns = *self.written_ns.get_or_insert(now_ns);
        let is_due = now_ns.saturating_sub(since_ns) >= self.interval_ns;
        if !is_due && self.groups.len() < MAX_GROUPS {
            return Vec::new();
        }
        self.written_ns = Some(now_ns);
        self.take()
    }

    /// The groups, in the order of their first flows.
    pub(super) fn take(&mut self) -> Vec<Flow> {
        let mut flows: Vec<Flow> = self.groups.drain().map(|(_, flow)| flow).collect();
        flows.sort_by_key(|flow| flow.time.map(|time| (time.seconds, time.nanos)));
        flows
    }
}
