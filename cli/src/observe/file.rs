//! `specola observe --input-file`: flows that were written down, through every filter and output.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use specola_proto::flow::Flow;
use specola_proto::google::Timestamp;
use specola_proto::observer::get_flows_response::ResponseTypes;
use specola_proto::observer::{
    ExportEvent, GetAgentEventsResponse, GetDebugEventsResponse, GetFlowsResponse, export_event,
};

use super::answer::{Answer, Sink};
use super::args::{ObserveArgs, What};
use super::filter::Filters;
use super::history::Shown;
use super::plan::{Limit, Plan};
use super::recorded::LocalFilters;
use crate::error::UsageError;
use crate::personality::Personality;
use crate::printer::Printer;

/// A longer line is no flow.
const MAX_LINE: usize = 1 << 20;
/// The newest so many flows can be asked for: they are kept until the end.
const MAX_LAST: u64 = 1_000_000;
/// Lines that are complained of one by one.
const SAID_ERRORS: u64 = 10;

/// Reads the file and prints what passes.
///
/// # Errors
/// The arguments are wrong, the file cannot be read, or the output cannot be written.
pub(super) fn run(args: &ObserveArgs, path: &Path, personality: Personality) -> anyhow::Result<ExitCode> {
    if !args.format.field_mask.is_empty() {
        return Err(UsageError::text("--field-mask is for servers; a file gives whole flows").into());
    }
    let plan = Plan::new(args, jiff::Timestamp::now(), false, personality)?;
    let printer = Printer::new(plan.style, BufWriter::new(io::stdout()), io::stderr());
    replay(&plan, path, printer)
}

/// Reads the file through the plan's filters into the sink.
///
/// # Errors
/// A filter is wrong, the file cannot be read, or the output cannot be written.
pub(super) fn replay(plan: &Plan, path: &Path, mut sink: impl Sink) -> anyhow::Result<ExitCode> {
    if matches!(plan.limit, Limit::Last(last) if last > MAX_LAST) {
        return Err(UsageError::text(format!("--last is at most {MAX_LAST} for a file")).into());
    }
    let filters = Filters { allow: plan.request.whitelist.clone(), deny: plan.request.blacklist.clone() };
    let select = Select {
        what: plan.what,
        filters: LocalFilters::compile(&filters).map_err(UsageError::from_error)?,
        since: plan.request.since,
        until: plan.request.until,
    };
    let name = path.display().to_string();
    let mut lines = Lines::new(open(path)?);
    let mut shown = Shown::new(plan.limit);
    let mut errors = 0_u64;
    while let Some(line) = lines.next().with_context(|| format!("cannot read {name}"))? {
        match line.and_then(|text| parse(&text)) {
            Ok(Some(answer)) if select.takes(&answer) => shown.take(answer, &mut sink)?,
            Ok(_) => {}
            Err(cause) => {
                errors += 1;
                if errors <= SAID_ERRORS {
                    sink.note(&format!("{name}: line {}: {cause}", lines.number))?;
                }
            }
        }
        if shown.is_complete() {
            break;
        }
        if lines.would_wait() {
            sink.flush()?;
        }
    }
    shown.print_rest(&mut sink)?;
    if errors > SAID_ERRORS {
        sink.note(&format!("{name}: {errors} lines were left out"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> anyhow::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Box::new(file))
}

/// What of the file is shown.
struct Select {
    what: What,
    filters: LocalFilters,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Select {
    fn takes(&self, answer: &Answer) -> bool {
        let is_asked = match answer {
            Answer::Flow(_) => self.what == What::Flows,
            Answer::Agent(_) => self.what == What::AgentEvents,
            Answer::Debug(_) => self.what == What::DebugEvents,
        };
        let time = answer.time();
        let is_late = self.since.is_some_and(|since| time.is_none_or(|time| time < since));
        let is_early = self.until.is_some_and(|until| time.is_none_or(|time| time > until));
        is_asked && !is_late && !is_early && self.passes(answer)
    }

    /// Filters are about flows: what is none passes only where there are none.
    fn passes(&self, answer: &Answer) -> bool {
        match answer {
            Answer::Flow(GetFlowsResponse { response_types: Some(ResponseTypes::Flow(flow)), .. }) => {
                self.filters.passes(flow)
            }
            _ => self.filters.is_empty(),
        }
    }
}

/// One line: an answer of a server, a record of an exporter, or a bare flow.
fn parse(text: &str) -> Result<Option<Answer>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let event: ExportEvent = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let (node_name, time) = (event.node_name, event.time);
    let flow = |response_types| {
        Answer::Flow(GetFlowsResponse { response_types, node_name: node_name.clone(), time })
    };
    use export_event::ResponseTypes as Exported;
    Ok(Some(match event.response_types {
        Some(Exported::Flow(one)) => flow(Some(ResponseTypes::Flow(one))),
        Some(Exported::NodeStatus(status)) => flow(Some(ResponseTypes::NodeStatus(status))),
        Some(Exported::LostEvents(lost)) => flow(Some(ResponseTypes::LostEvents(lost))),
        Some(Exported::AgentEvent(event)) => {
            Answer::Agent(GetAgentEventsResponse { agent_event: Some(event), node_name, time })
        }
        Some(Exported::DebugEvent(event)) => {
            Answer::Debug(GetDebugEventsResponse { debug_event: Some(event), node_name, time })
        }
        None => {
            let bare: Flow = serde_json::from_str(text).map_err(|error| error.to_string())?;
            if bare.event_type.is_none() && bare.verdict == 0 && bare.uuid.is_empty() {
                return Err(
                    "holds no flow; lines are those of `observe -o json` or of an exporter".to_owned()
                );
            }
            flow(Some(ResponseTypes::Flow(bare)))
        }
    }))
}

/// Lines of bounded length.
struct Lines {
    source: BufReader<Box<dyn Read>>,
    /// Number of the latest line, from 1.
    number: u64,
}

impl Lines {
    fn new(source: Box<dyn Read>) -> Self {
        Self { source: BufReader::with_capacity(1 << 16, source), number: 0 }
    }

    /// Whether the next line may take a while.
    fn would_wait(&self) -> bool {
        self.source.buffer().is_empty()
    }

    /// The next line without its end; one that is too long or no text is skipped, and why is said.
    fn next(&mut self) -> io::Result<Option<Result<String, String>>> {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        if self.source.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.len() >= MAX_LINE && line.last() != Some(&b'\n') {
            self.skip_rest()?;
            return Ok(Some(Err(format!("it has more than {MAX_LINE} bytes"))));
        }
        Ok(Some(String::from_utf8(line).map_err(|error| error.to_string())))
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.source.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(buffer.len(), |end| end + 1);
            self.source.consume(used);
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: Vec<u8>) -> Vec<Result<String, String>> {
        let mut lines = Lines::new(Box::new(io::Cursor::new(bytes)));
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn lines_have_a_longest_length() {
        let mut bytes = b"a\n".to_vec();
        bytes.extend(std::iter::repeat_n(b'x', 3 * MAX_LINE));
        bytes.extend(b"\nb\n\xff\nlast");
        let read = lines(bytes);
        let good: Vec<_> = read.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, true, false, true]);
        assert_eq!(read[4].as_deref(), Ok("last"));
    }

    #[test]
    fn lines_of_clients_and_exporters_are_read() {
        for (text, is) in [
            (r#"{"flow":{"uuid":"a"},"node_name":"n","time":"2026-01-02T03:00:00Z"}"#, "flow"),
            (r#"{"time":"2026-01-02T03:00:00Z","uuid":"a","verdict":"DROPPED"}"#, "flow"),
            (r#"{"lost_events":{"num_events_lost":"4"}}"#, "lost"),
            (r#"{"agent_event":{"type":"AGENT_STARTED"}}"#, "agent"),
            (r#"{"debug_event":{"type":"DBG_GENERIC"}}"#, "debug"),
            (r#"{"flow":{"uuid":"a"},"field_of_the_future":1}"#, "flow"),
            ("  ", "nothing"),
        ] {
            let found = match parse(text).unwrap_or_else(|error| panic!("{text}: {error}")) {
                None => "nothing",
                Some(Answer::Agent(_)) => "agent",
                Some(Answer::Debug(_)) => "debug",
                Some(answer @ Answer::Flow(_)) if answer.is_counted() => "flow",
                Some(Answer::Flow(_)) => "lost",
            };
            assert_eq!(found, is, "{text}");
        }
        for text in ["{", "[]", "{}", r#"{"flow":7}"#, "null"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
