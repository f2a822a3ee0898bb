//! `specola observe`: asks one or more servers for flows and prints them.

use std::io::{self, BufWriter};
use std::process::ExitCode;

use anyhow::Context as _;
use specola_proto::flow::FlowFilter;

mod aggregate;
mod answer;
mod args;
mod attach;
mod file;
mod filter;
mod flags;
mod follow;
mod history;
mod interrupt;
mod plan;
mod recorded;
mod stream;
mod time;

#[cfg(test)]
#[expect(dead_code, reason = "the tests of the whole program use the rest")]
#[path = "../tests/observe/fake.rs"]
mod fake;
#[cfg(test)]
mod tests;

pub(crate) use answer::{Answer, Sink};
pub(crate) use args::{ColorChoice, FormatArgs, ObserveArgs, RawFilterArgs, SelectionArgs};
pub(crate) use flags::FilterFlags;
pub(crate) use plan::{filters, style};
pub(crate) use time::{Layout, go_duration};

use self::plan::Plan;
use self::stream::NodeStream;
use crate::error::UsageError;
use crate::node::block_on;
use crate::personality::Personality;
use crate::printer::Printer;

/// Runs the command.
///
/// # Errors
/// The arguments are wrong, no server can be reached, or a server refuses the request.
pub(crate) fn run(args: &ObserveArgs, personality: Personality) -> anyhow::Result<ExitCode> {
    if args.raw_filters.print_raw_filters {
        print_raw_filters(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(devices) = &args.attach {
        return attach::run(args, devices);
    }
    if let Some(path) = &args.input_file {
        return file::run(args, path, personality);
    }
    let targets = args.target.resolve()?;
    let plan = Plan::new(args, jiff::Timestamp::now(), targets.len() > 1, personality)?;
    let streams: Vec<_> = targets
        .into_iter()
        .map(|target| NodeStream::new(target, plan.question(), args.target.timeout))
        .map(|stream| if personality == Personality::Hubble { stream.once() } else { stream })
        .collect();
    if args.live.aggregate {
        return aggregate::run(streams, &args.live, plan.style);
    }
    let printer = Printer::new(plan.style, BufWriter::new(io::stdout()), io::stderr());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let interrupt = interrupt::listen().context("cannot listen for signals")?;
        if plan.request.follow {
            return follow::run(streams, printer, interrupt).await;
        }
        let code = history::run(streams, plan.limit, printer, interrupt).await?;
        let is_quiet = personality == Personality::Hubble && code == ExitCode::from(interrupt::INTERRUPTED);
        Ok(if is_quiet { ExitCode::SUCCESS } else { code })
    })
}

/// Hands all flows of the past that the arguments ask for to the sink.
///
/// # Errors
/// The arguments are wrong, no server can be reached, or one refuses the request.
pub(crate) fn collect(args: &ObserveArgs, sink: impl Sink) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.input_file {
        return file::replay(
            &Plan::new(args, jiff::Timestamp::now(), false, Personality::Specola)?,
            path,
            sink,
        );
    }
    let targets = args.target.resolve()?;
    let plan = Plan::new(args, jiff::Timestamp::now(), targets.len() > 1, Personality::Specola)?;
    let stream = |target| NodeStream::new(target, plan.question(), args.target.timeout);
    let streams = targets.into_iter().map(stream).collect();
    block_on(async {
        let interrupt = interrupt::listen().context("cannot listen for signals")?;
        history::run(streams, plan.limit, sink, interrupt).await
    })
}

fn print_raw_filters(args: &ObserveArgs) -> Result<(), anyhow::Error> {
    use std::io::Write as _;
    let filters = filters(&args.filters, &args.raw_filters)?;
    let mut out = io::stdout().lock();
    for (name, list) in [("allowlist", &filters.allow), ("denylist", &filters.deny)] {
        if list.is_empty() {
            continue;
        }
        writeln!(out, "{name}:")?;
        for filter in list {
            writeln!(out, "    - '{}'", raw_filter(filter)?)?;
        }
    }
    Ok(())
}

fn raw_filter(filter: &FlowFilter) -> Result<String, UsageError> {
    let json = serde_json::to_string(filter).map_err(UsageError::from_error)?;
    Ok(json.replace('\'', "''"))
}
