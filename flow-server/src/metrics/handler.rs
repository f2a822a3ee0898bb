//! A running metric: its families, and what to take of a flow.

use specola_flow::{EventType, FlowView, ObservationPoint, protocol};
use specola_proto::flow::{Layer7, layer7::Record};

use super::{
    config::{MetricName, MetricSpec},
    l4, l7,
    table::{Key, Label, Sample, Table},
};

/// One metric with its families.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) spec: MetricSpec,
    pub(super) tables: Vec<Table>,
    budget: usize,
    /// Context labels come last in each family.
    key: Key,
}

impl Handler {
    pub(super) fn new(spec: MetricSpec, budget: usize) -> Self {
        let mut tables = match spec.name {
            MetricName::Dns | MetricName::Http | MetricName::HttpV2 | MetricName::Kafka => l7::tables(&spec),
            _ => l4::tables(&spec),
        };
        for table in &mut tables {
            table.extend_labels(spec.contexts.labels());
        }
        Self { spec, tables, budget, key: Key::default() }
    }

    /// Takes a flow into account.
    pub(super) fn observe(&mut self, view: &FlowView<'_>) {
        if !self.spec.filters.is_empty() && !self.spec.filters.passes(view) {
            return;
        }
        match self.spec.name {
            MetricName::Drop => l4::drop(self, view),
            MetricName::Flow => l4::flow(self, view),
            MetricName::FlowsToWorld => l4::flows_to_world(self, view),
            MetricName::Icmp => l4::icmp(self, view),
            MetricName::Policy => l4::policy(self, view),
            MetricName::PortDistribution => l4::port_distribution(self, view),
            MetricName::Tcp => l4::tcp(self, view),
            MetricName::Dns => l7::dns(self, view),
            MetricName::Http => l7::http(self, view),
            MetricName::HttpV2 => l7::http_v2(self, view),
            MetricName::Kafka => l7::kafka(self, view),
        }
    }

    /// Counts an event in a family; `own` writes the values of the labels that are not contexts.
    pub(super) fn count(&mut self, table: usize, view: &FlowView<'_>, own: impl FnOnce(&mut Key)) {
        self.sample((table, false, Sample::ONE), view, own);
    }

    /// [`Handler::count`] with a value, and with source and destination swapped if so said.
    pub(super) fn sample(
        &mut self,
        (table, swapped, sample): (usize, bool, Sample<'_>),
        view: &FlowView<'_>,
        own: impl FnOnce(&mut Key),
    ) {
        let Self { spec, tables, budget, key } = self;
        key.clear();
        own(key);
        spec.contexts.write(view, swapped, key);
        if let Some(table) = tables.get_mut(table) {
            table.add(key, sample, *budget, || spec.contexts.pods(view, swapped));
        }
    }
}

/// Labels with few values each.
pub(super) fn few<const N: usize>(names: [&'static str; N]) -> Vec<Label> {
    names.into_iter().map(Label::few).collect()
}

/// The message of the application layer.
pub(super) fn layer7<'a>(view: &FlowView<'a>) -> Option<&'a Layer7> {
    view.detail?.l7.as_ref()
}

/// The label `protocol`.
pub(super) fn protocol_name(view: &FlowView<'_>) -> &'static str {
    match view.flow.event_type() {
        EventType::L7 => layer7_name(view).unwrap_or("Unknown L7"),
        EventType::DROP | EventType::TRACE | EventType::POLICY_VERDICT | EventType::CAPTURE => {
            match (view.flow.ip_version, view.flow.protocol) {
                (0, _) => "Unknown L4",
                (_, protocol::TCP) => "TCP",
                (_, protocol::UDP) => "UDP",
                (_, protocol::ICMP) => "ICMPv4",
                (_, protocol::ICMPV6) => "ICMPv6",
                (_, protocol::SCTP) => "SCTP",
                (_, protocol::VRRP) => "VRRP",
                (_, protocol::IGMP) => "IGMP",
                _ => "Unknown L4",
            }
        }
        _ => "Unknown flow",
    }
}

/// Name of the application's protocol.
pub(super) fn layer7_name(view: &FlowView<'_>) -> Option<&'static str> {
    Some(match layer7(view)?.record.as_ref()? {
        Record::Dns(_) => "DNS",
        Record::Http(_) => "HTTP",
        Record::Kafka(_) => "Kafka",
    })
}

/// Labels `type` and `subtype`.
pub(super) fn write_type(view: &FlowView<'_>, key: &mut Key) {
    let flow = view.flow;
    match flow.event_type() {
        EventType::L7 => {
            key.value("L7");
            key.value(layer7_name(view).unwrap_or_default());
        }
        EventType::DROP => {
            key.value("Drop");
            key.value("");
        }
        EventType::CAPTURE => {
            key.value("Capture");
            key.print(flow.sub_type);
        }
        EventType::TRACE => {
            key.value("Trace");
            key.print(ObservationPoint(flow.sub_type));
        }
        EventType::POLICY_VERDICT => {
            key.value("PolicyVerdict");
            key.value("");
        }
        other => {
            key.value("Unknown");
            key.print(other.0);
        }
    }
}
