//! Prints flows the way Hubble's client does, and what Specola adds.

use std::io::{self, Write};

use specola_proto::flow::{Flow, LostEvent};
use specola_proto::observer::GetFlowsResponse;
use specola_proto::observer::get_flows_response::ResponseTypes;
use specola_proto::relay::{NodeState, NodeStatusEvent};

use crate::color::Paint;
use crate::columns::Columns;
use crate::observe::Layout;

mod endpoint;
mod kind;
mod summary;
mod verdict;

pub(crate) use self::endpoint::{flow_ends, identity_text};
pub(crate) use self::kind::TRACE_POINTS;
pub(crate) use self::summary::binary_size;

/// Form of the output.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// One line per flow.
    Compact,
    /// One field per line.
    Dict,
    /// One JSON object per line.
    Json,
    /// Aligned columns, printed by [`Printer::finish`].
    Table,
}

/// How flows are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Form of the output.
    pub(crate) form: Form,
    /// Print the node that saw the flow.
    pub(crate) node_name: bool,
    /// Print the policies that decided.
    pub(crate) policy_names: bool,
    /// Print names instead of addresses where they are known.
    pub(crate) names: bool,
    /// Layout of times.
    pub(crate) time: Layout,
    /// Colour the output (compact and dict).
    pub(crate) color: bool,
    /// Print nothing on the error output.
    pub(crate) silent: bool,
    /// Print what Hubble's client does not know: totals of connections, default deny.
    pub(crate) extras: bool,
    /// Print every state of nodes.
    pub(crate) debug: bool,
    /// Print flows as JSON without what is around them, as old clients did.
    pub(crate) legacy_json: bool,
}

/// Writes flows to one output and states of nodes to another.
pub(crate) struct Printer<O, E> {
    out: O,
    err: E,
    style: Style,
    paint: Paint,
    table: Option<Columns>,
    records: u64,
}

impl<O: Write, E: Write> Printer<O, E> {
    /// Makes a printer.
    pub(crate) fn new(style: Style, out: O, err: E) -> Self {
        let paint = Paint::new(style.color && style.form != Form::Table && style.form != Form::Json);
        let table = (style.form == Form::Table).then(|| {
            let node = style.node_name.then_some("NODE");
            Columns::new(["TIMESTAMP"].into_iter().chain(node).chain([
                "SOURCE",
                "DESTINATION",
                "TYPE",
                "VERDICT",
                "SUMMARY",
            ]))
        });
        Self { out, err, style, paint, table, records: 0 }
    }

    /// Prints one answer of a server.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn print(&mut self, response: &GetFlowsResponse) -> io::Result<()> {
        match &response.response_types {
            Some(ResponseTypes::NodeStatus(status)) => self.print_status(response, status),
            _ if self.style.form == Form::Json => self.print_json(response),
            Some(ResponseTypes::Flow(flow)) => self.print_flow(flow),
            Some(ResponseTypes::LostEvents(lost)) => self.print_lost(response, lost),
            None => Ok(()),
        }
    }

    /// Prints a line about the connection on the error output.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        if self.style.silent { Ok(()) } else { writeln!(self.err, "{}", escape(text)) }
    }

    /// Hands everything printed so far to the reader.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Prints what was held back, and flushes.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if let Some(table) = self.table.take() {
            table.write(&mut self.out)?;
        }
        self.out.flush()
    }

    fn print_json(&mut self, response: &GetFlowsResponse) -> io::Result<()> {
        let json = match &response.response_types {
            Some(ResponseTypes::Flow(flow)) if self.style.legacy_json => serde_json::to_string(flow),
            _ => serde_json::to_string(response),
        };
        match json {
            Ok(json) => writeln!(self.out, "{json}"),
            Err(error) => self.note(&format!("cannot print a flow as JSON: {error}")),
        }
    }

    fn print_flow(&mut self, flow: &Flow) -> io::Result<()> {
        let time = self.style.time.format(flow.time);
        let ends = endpoint::Ends::of(flow, self.style.names);
        let kind = escape(&kind::text(flow));
        let extension = self.style.extras.then(|| summary::extension(flow)).flatten();
        let verdict = verdict::text(flow, extension.as_ref(), &self.style, self.paint);
        let summary = summary::text(flow, extension.as_ref(), self.paint);
        let node = escape(&flow.node_name);
        match self.style.form {
            Form::Compact => {
                let (left, arrow, right) = ends.arrow(flow.is_reply);
                let node = if self.style.node_name { format!(" [{node}]") } else { String::new() };
                let (left, right) = (left.with_identity(self.paint), right.with_identity(self.paint));
                writeln!(self.out, "{time}{node}: {left} {arrow} {right} {kind} {verdict} ({summary})")
            }
            Form::Table => {
                let node = self.style.node_name.then_some(node);
                let row = [time].into_iter().chain(node);
                let rest =
                    [ends.source.text(self.paint), ends.destination.text(self.paint), kind, verdict, summary];
                self.table_row(row.chain(rest));
                Ok(())
            }
            Form::Dict | Form::Json => {
                let fields = [
                    ("TIMESTAMP", time),
                    ("NODE", node),
                    ("SOURCE", ends.source.text(self.paint)),
                    ("DESTINATION", ends.destination.text(self.paint)),
                    ("TYPE", kind),
                    ("VERDICT", verdict),
                    ("SUMMARY", summary),
                ];
                self.print_dict(&fields)
            }
        }
    }

    fn print_lost(&mut self, response: &GetFlowsResponse, lost: &LostEvent) -> io::Result<()> {
        let time = self.style.time.format(response.time);
        let source = lost_source(lost);
        let cpu = lost.cpu.map(|cpu| format!("CPU({cpu})"));
        let mut count = lost.num_events_lost.to_string();
        if lost.first.is_some() || lost.last.is_some() {
            let (first, last) = (self.style.time.format(lost.first), self.style.time.format(lost.last));
            count = format!("{count} (first: {first}, last: {last})");
        }
        if self.style.form == Form::Compact {
            let cpu = cpu.map(|cpu| format!(" {cpu}")).unwrap_or_default();
            return writeln!(self.out, "{time} EVENTS LOST: {source}{cpu} {count}");
        }
        let summary = cpu.map_or_else(|| count.clone(), |cpu| format!("{cpu} - {count}"));
        let node = escape(&response.node_name);
        let (kind, none) = ("EVENTS LOST".to_owned(), "-".to_owned());
        if self.style.form == Form::Table {
            let node = self.style.node_name.then_some(node);
            let row = [time].into_iter().chain(node);
            self.table_row(row.chain([source, none.clone(), kind, none, summary]));
            return Ok(());
        }
        let fields = [
            ("TIMESTAMP", time),
            ("NODE", node),
            ("SOURCE", source),
            ("TYPE", kind),
            ("VERDICT", none),
            ("SUMMARY", summary),
        ];
        self.print_dict(&fields)
    }

    fn print_dict(&mut self, fields: &[(&str, String)]) -> io::Result<()> {
        if self.records > 0 {
            writeln!(self.out, "------------")?;
        }
        self.records += 1;
        for (name, value) in fields {
            if *name != "NODE" || self.style.node_name {
                writeln!(self.out, "{name:>11}: {value}")?;
            }
        }
        Ok(())
    }

    fn table_row(&mut self, cells: impl Iterator<Item = String>) {
        if let Some(table) = &mut self.table {
            table.row(cells);
        }
    }

    /// States of nodes are no data: they go to the error output, and only those that matter.
    fn print_status(&mut self, response: &GetFlowsResponse, status: &NodeStatusEvent) -> io::Result<()> {
        if self.style.silent {
            return Ok(());
        }
        if self.style.form == Form::Json {
            return match serde_json::to_string(response) {
                Ok(json) => writeln!(self.err, "{json}"),
                Err(error) => writeln!(self.err, "cannot print a node's state as JSON: {error}"),
            };
        }
        let nodes = status.node_names.len();
        let text = match NodeState::try_from(status.state_change) {
            Ok(NodeState::NodeUnavailable) => {
                format!("{nodes} nodes are unavailable: {}", shortened(&status.node_names))
            }
            Ok(NodeState::NodeError) => {
                format!("Error {:?} on {nodes} nodes: {}", status.message, shortened(&status.node_names))
            }
            Ok(NodeState::NodeConnected) if self.style.debug => {
                format!("Receiving flows from {nodes} nodes: {}", shortened(&status.node_names))
            }
            Ok(NodeState::NodeGone) if self.style.debug => {
                format!("{nodes} nodes removed from cluster: {}", shortened(&status.node_names))
            }
            _ => return Ok(()),
        };
        let time = self.style.time.format(response.time);
        writeln!(self.err, "{time} [{}]: {}", escape(&response.node_name), escape(&text))
    }
}

fn lost_source(lost: &LostEvent) -> String {
    specola_proto::flow::LostEventSource::try_from(lost.source)
        .map_or_else(|unknown| unknown.0.to_string(), |source| source.as_str_name().to_owned())
}

/// Names joined by commas up to about 50 characters, at least one, and how many more there are.
fn shortened(names: &[String]) -> String {
    let mut text = String::new();
    for (at, name) in names.iter().enumerate() {
        if at > 0 && text.len() + name.len() + 2 > 50 {
            return format!("{text} (and {} more)", names.len() - at);
        }
        if at > 0 {
            text.push_str(", ");
        }
        text.push_str(name);
    }
    text
}

/// Makes text from the network harmless for a terminal: control characters are shown, not obeyed.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{1b}' => safe.push_str("^["),
            '\r' => safe.push_str("\\r"),
            '\n' => safe.push_str("\\n"),
            '\t' => safe.push_str("\\t"),
            c if c.is_control() => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests;
