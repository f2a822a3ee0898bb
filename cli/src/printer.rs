//! Prints flows the way Hubble's client does, and what Specola adds.

use std::io::{self, Write};

use serde::Serialize;
use specola_proto::flow::{Flow, LostEvent};
use specola_proto::observer::GetFlowsResponse;
use specola_proto::observer::get_flows_response::ResponseTypes;
use specola_proto::relay::{NodeState, NodeStatusEvent};

use crate::color::Paint;
use crate::columns::Columns;
use crate::observe::{Answer, Layout, Sink};

mod endpoint;
mod events;
mod kind;
mod record;
mod summary;
mod verdict;

pub(crate) use self::endpoint::{flow_ends, identity_text};
pub(crate) use self::kind::TRACE_POINTS;
pub(crate) use self::summary::{binary_size, extension};

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
    /// Comma-separated values, a line of names first.
    Csv,
    /// One flat JSON object per line.
    Ndjson,
}

impl Form {
    /// Whether it is read by programs, which find flows in it and nothing else.
    const fn is_flat(self) -> bool {
        matches!(self, Self::Csv | Self::Ndjson)
    }
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
        let paint = Paint::new(style.color && matches!(style.form, Form::Compact | Form::Dict));
        Self { out, err, style, paint, table: None, records: 0 }
    }

    /// Prints one answer of a server.
    ///
    /// # Errors
    /// The output cannot be written.
    pub(crate) fn print(&mut self, response: &GetFlowsResponse) -> io::Result<()> {
        match &response.response_types {
            Some(ResponseTypes::NodeStatus(status)) => self.print_status(response, status),
            Some(ResponseTypes::Flow(flow)) if self.style.form.is_flat() => self.print_record(flow),
            Some(ResponseTypes::Flow(flow)) if self.style.form == Form::Json && self.style.legacy_json => {
                self.print_json(flow)
            }
            _ if self.style.form == Form::Json => self.print_json(response),
            Some(ResponseTypes::Flow(flow)) => self.print_flow(flow),
            Some(ResponseTypes::LostEvents(lost)) if self.style.form.is_flat() => self.note_lost(lost),
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
        if self.style.form == Form::Csv && self.records == 0 {
            writeln!(self.out, "{}", record::csv_header())?;
        }
        if let Some(table) = self.table.take() {
            table.write(&mut self.out)?;
        }
        self.out.flush()
    }

    fn print_json(&mut self, message: &impl Serialize) -> io::Result<()> {
        match serde_json::to_string(message) {
            Ok(json) => writeln!(self.out, "{json}"),
            Err(error) => self.note(&format!("cannot print an answer as JSON: {error}")),
        }
    }

    fn print_record(&mut self, flow: &Flow) -> io::Result<()> {
        let extension = extension(flow);
        let values = record::values(flow, extension.as_ref());
        if self.style.form == Form::Ndjson {
            return writeln!(self.out, "{}", record::json(&values));
        }
        if self.records == 0 {
            writeln!(self.out, "{}", record::csv_header())?;
        }
        self.records += 1;
        writeln!(self.out, "{}", record::csv(&values))
    }

    /// Losses have no place among records.
    fn note_lost(&mut self, lost: &LostEvent) -> io::Result<()> {
        self.note(&format!("EVENTS LOST: {} {}", lost_source(lost), lost.num_events_lost))
    }

    fn print_flow(&mut self, flow: &Flow) -> io::Result<()> {
        let time = self.style.time.format(flow.time);
        let ends = endpoint::Ends::of(flow, self.style.names);
        let kind = escape(&kind::text(flow));
        let extension = self.style.extras.then(|| extension(flow)).flatten();
        let verdict = verdict::text(flow, extension.as_ref(), &self.style, self.paint);
        let summary = summary::text(flow, extension.as_ref(), self.paint);
        let node = escape(&flow.node_name);
        if self.style.form == Form::Compact {
            let (left, arrow, right) = ends.arrow(flow.is_reply);
            let node = if self.style.node_name { format!(" [{node}]") } else { String::new() };
            let (left, right) = (left.with_identity(self.paint), right.with_identity(self.paint));
            return writeln!(self.out, "{time}{node}: {left} {arrow} {right} {kind} {verdict} ({summary})");
        }
        self.print_fields(&[
            ("TIMESTAMP", time),
            ("NODE", node),
            ("SOURCE", ends.source.text(self.paint)),
            ("DESTINATION", ends.destination.text(self.paint)),
            ("TYPE", kind),
            ("VERDICT", verdict),
            ("SUMMARY", summary),
        ])
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
        let mut fields = vec![("TIMESTAMP", time), ("NODE", node), ("SOURCE", source)];
        if self.style.form == Form::Table {
            fields.push(("DESTINATION", none.clone()));
        }
        fields.extend([("TYPE", kind), ("VERDICT", none), ("SUMMARY", summary)]);
        self.print_fields(&fields)
    }

    /// One field per line, or a row; the first row makes the table's head.
    fn print_fields(&mut self, fields: &[(&'static str, String)]) -> io::Result<()> {
        if self.style.form != Form::Table {
            return self.print_dict(fields);
        }
        let node_name = self.style.node_name;
        let shown = || fields.iter().filter(|(name, _)| *name != "NODE" || node_name);
        let table = self.table.get_or_insert_with(|| Columns::new(shown().map(|(name, _)| *name)));
        table.row(shown().map(|(_, value)| value.clone()));
        Ok(())
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

/// The line of a flow without its end.
///
/// # Errors
/// It cannot be made.
pub(crate) fn line(flow: &Flow, style: Style) -> io::Result<String> {
    let mut text = Vec::new();
    Printer::new(Style { form: Form::Compact, color: false, ..style }, &mut text, io::sink())
        .print_flow(flow)?;
    let text = String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

impl<O: Write, E: Write> Sink for Printer<O, E> {
    fn take(&mut self, answer: &Answer) -> io::Result<()> {
        match answer {
            Answer::Flow(response) => self.print(response),
            Answer::Agent(response) => self.print_agent_event(response),
            Answer::Debug(response) => self.print_debug_event(response),
        }
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        Self::note(self, text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::flush(self)
    }

    fn finish(&mut self) -> io::Result<()> {
        Self::finish(self)
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
