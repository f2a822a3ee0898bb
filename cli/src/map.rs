//! `specola map`: who talks to whom, out of flows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use specola_proto::observer::get_flows_response::ResponseTypes;

use crate::error::UsageError;
use crate::node::stdout;
use crate::observe::{self, Answer, FilterFlags, ObserveArgs, RawFilterArgs, SelectionArgs, Sink};
use crate::printer::{escape, extension};
use crate::target::TargetArgs;
use crate::traffic::{By, Meter, Pair, Totals};

mod draw;

/// Arguments of `map`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct MapArgs {
    /// Form of the map.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// What peers are told apart by.
    #[arg(long, value_enum, default_value_t = By::Workload)]
    by: By,
    /// Ask nobody: read flows as JSON lines; - for standard input.
    #[arg(long, visible_alias = "file", value_name = "FILE", conflicts_with_all = ["sandbox", "port_forward"])]
    input_file: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    filters: FilterFlags,
    #[command(flatten)]
    raw_filters: RawFilterArgs,
}

/// Form of the map.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    /// Aligned columns.
    Text,
    /// Graphviz: `specola map -o dot | dot -Tsvg > map.svg`.
    Dot,
    /// A Mermaid flow chart, for Markdown.
    Mermaid,
    /// One JSON document with nodes and edges.
    Json,
}

/// Runs the command.
///
/// # Errors
/// The arguments are wrong, no server answers, or the output cannot be written.
pub(crate) fn run(args: MapArgs) -> anyhow::Result<ExitCode> {
    let MapArgs { output, by, input_file, target, mut selection, filters, raw_filters } = args;
    if selection.follow {
        return Err(
            UsageError::text("a map is made of the past; `specola observe --aggregate` follows").into()
        );
    }
    selection.all |= !selection.is_given();
    let args = ObserveArgs::whole_flows(input_file, target, selection, filters, raw_filters);
    observe::collect(
        &args,
        Map { output, by, meter: Meter::default(), edges: BTreeMap::new(), other: Totals::default() },
    )
}

/// Collects pairs, and prints them at the end.
struct Map {
    output: Output,
    by: By,
    meter: Meter,
    edges: BTreeMap<Pair, Totals>,
    /// Of pairs beyond [`MAX_EDGES`].
    other: Totals,
}

/// Pairs that are told apart.
const MAX_EDGES: usize = 16_384;

impl Sink for Map {
    fn take(&mut self, answer: &Answer) -> io::Result<()> {
        let Answer::Flow(response) = answer else { return Ok(()) };
        match &response.response_types {
            Some(ResponseTypes::Flow(flow)) => {
                let totals = self.meter.measure(flow, extension(flow).as_ref());
                if totals == Totals::default() {
                    return Ok(());
                }
                let pair = Pair::of(flow, self.by);
                let has_room = self.edges.len() < MAX_EDGES;
                match self.edges.get_mut(&pair) {
                    Some(edge) => edge.add(&totals),
                    None if has_room => drop(self.edges.insert(pair, totals)),
                    None => self.other.add(&totals),
                }
                Ok(())
            }
            Some(ResponseTypes::LostEvents(lost)) => {
                self.note(&format!("the map lacks {} events that were lost", lost.num_events_lost))
            }
            _ => Ok(()),
        }
    }

    fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(io::stderr(), "{}", escape(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let mut out = stdout();
        match self.output {
            Output::Text => draw::text(&mut out, &self.edges, &self.other),
            Output::Dot => draw::dot(&mut out, &self.edges),
            Output::Mermaid => draw::mermaid(&mut out, &self.edges),
            Output::Json => draw::json(&mut out, &self.edges, &self.other),
        }?;
        if self.other.events() > 0 && matches!(self.output, Output::Dot | Output::Mermaid) {
            self.note(&format!("flows of pairs beyond the first {MAX_EDGES}: {}", self.other.events()))?;
        }
        Ok(())
    }
}

/// Every peer, by name.
fn peers(edges: &BTreeMap<Pair, Totals>) -> BTreeSet<&str> {
    edges.keys().flat_map(|pair| [pair.from.as_str(), pair.to.as_str()]).collect()
}

const AFTER_HELP: &str = "\
Without --last, --since and the like it is a map of all flows that the servers hold.

Examples:
  specola map --sandbox shop
  specola map --since 5m --by namespace
  specola map -n shop -o dot | dot -Tsvg > shop.svg
  specola map --file flows.json -o mermaid";
