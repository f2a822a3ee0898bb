//! A flow as a flat record of named values, for tables of other programs.

use specola_proto::flow::{Flow, Policy, TrafficDirection, Verdict};
use specola_proto::specola::v1::FlowExtension;

use super::{escape, kind};
use crate::observe::Layout;
use crate::traffic::transport;

/// One value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Cell {
    /// Not known.
    Absent,
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// True or false.
    Bool(bool),
}

/// Names of the values, in their order. New ones are added at the end.
pub(super) const COLUMNS: [&str; 28] = [
    "time",
    "node",
    "uuid",
    "type",
    "verdict",
    "drop_reason",
    "direction",
    "reply",
    "protocol",
    "source_ip",
    "source_port",
    "source_namespace",
    "source_pod",
    "source_identity",
    "source_labels",
    "destination_ip",
    "destination_port",
    "destination_namespace",
    "destination_pod",
    "destination_identity",
    "destination_labels",
    "allowed_by",
    "denied_by",
    "summary",
    "packets_forward",
    "bytes_forward",
    "packets_reverse",
    "bytes_reverse",
];

/// The values of a flow.
pub(super) fn values(flow: &Flow, extension: Option<&FlowExtension>) -> [Cell; COLUMNS.len()] {
    let (protocol, source_port, destination_port) = transport(flow);
    let ip = flow.ip.as_ref();
    let source = flow.source.clone().unwrap_or_default();
    let destination = flow.destination.clone().unwrap_or_default();
    let counter = |read: fn(&FlowExtension) -> u64| {
        let counted = extension.filter(|extension| extension.has_counters);
        counted.map_or(Cell::Absent, |extension| Cell::Number(read(extension)))
    };
    let allowed = policies(flow.egress_allowed_by.iter().chain(&flow.ingress_allowed_by));
    let denied = policies(flow.egress_denied_by.iter().chain(&flow.ingress_denied_by));
    [
        flow.time.map_or(Cell::Absent, |time| Cell::Text(Layout::Rfc3339Nano.format(Some(time)))),
        text(&flow.node_name),
        text(&flow.uuid),
        text(&kind::text(flow)),
        text(Verdict::try_from(flow.verdict).map_or("", |verdict| verdict.as_str_name())),
        drop_reason(flow),
        direction(flow),
        flow.is_reply.map_or(Cell::Absent, Cell::Bool),
        text(protocol),
        text(ip.map_or("", |ip| &ip.source)),
        port(source_port),
        text(&source.namespace),
        text(&source.pod_name),
        Cell::Number(source.identity.into()),
        text(&source.labels.join(" ")),
        text(ip.map_or("", |ip| &ip.destination)),
        port(destination_port),
        text(&destination.namespace),
        text(&destination.pod_name),
        Cell::Number(destination.identity.into()),
        text(&destination.labels.join(" ")),
        text(&allowed),
        text(&denied),
        text(&flow.summary),
        counter(|extension| extension.packets_forward),
        counter(|extension| extension.bytes_forward),
        counter(|extension| extension.packets_reverse),
        counter(|extension| extension.bytes_reverse),
    ]
}

/// Names of the columns as a line of CSV.
pub(super) fn csv_header() -> String {
    COLUMNS.join(",")
}

/// The values as a line of CSV (RFC 4180).
pub(super) fn csv(cells: &[Cell]) -> String {
    cells.iter().map(csv_cell).collect::<Vec<_>>().join(",")
}

/// The values as a JSON object without those that are absent.
pub(super) fn json(cells: &[Cell]) -> String {
    let mut text = String::from("{");
    for (name, cell) in COLUMNS.iter().zip(cells) {
        let value = match cell {
            Cell::Absent => continue,
            Cell::Number(number) => serde_json::Value::from(*number),
            Cell::Bool(value) => serde_json::Value::from(*value),
            Cell::Text(text) => serde_json::Value::from(text.as_str()),
        };
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&format!("\"{name}\":{value}"));
    }
    text.push('}');
    text
}

fn csv_cell(cell: &Cell) -> String {
    match cell {
        Cell::Absent => String::new(),
        Cell::Number(number) => number.to_string(),
        Cell::Bool(value) => value.to_string(),
        // Control characters are shown as in the other text forms, so a text is one line.
        Cell::Text(text) if text.contains([',', '"']) => format!("\"{}\"", escape(text).replace('"', "\"\"")),
        Cell::Text(text) => escape(text),
    }
}

fn text(text: &str) -> Cell {
    if text.is_empty() { Cell::Absent } else { Cell::Text(text.to_owned()) }
}

fn port(port: Option<u32>) -> Cell {
    port.map_or(Cell::Absent, |port| Cell::Number(port.into()))
}

fn drop_reason(flow: &Flow) -> Cell {
    if flow.drop_reason_desc == 0 {
        return Cell::Absent;
    }
    let name = specola_proto::flow::DropReason::try_from(flow.drop_reason_desc);
    Cell::Text(name.map_or_else(|unknown| unknown.0.to_string(), |reason| reason.as_str_name().to_owned()))
}

fn direction(flow: &Flow) -> Cell {
    match TrafficDirection::try_from(flow.traffic_direction) {
        Ok(TrafficDirection::Ingress) => text("ingress"),
        Ok(TrafficDirection::Egress) => text("egress"),
        _ => Cell::Absent,
    }
}

fn policies<'a>(policies: impl Iterator<Item = &'a Policy>) -> String {
    let mut names: Vec<String> = Vec::new();
    for policy in policies {
        let parts = [&policy.kind, &policy.namespace, &policy.name];
        let name = parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>();
        let name = name.join("/");
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" ")
}
