//! `specola ingest`: flows of a capture file, and what policies would have done.

mod summary;

use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use specola_agent::{Ingest, IngestOptions, IngestReport, Ingested};

use self::summary::Summary;
use crate::error::UsageError;
use crate::observe::{FilterFlags, FormatArgs, RawFilterArgs, filters, style};
use crate::printer::Printer;

/// Arguments of `ingest`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct IngestArgs {
    /// Capture to read: pcap or pcapng, plain or gzip; - for standard input.
    #[arg(value_name = "FILE")]
    capture: PathBuf,
    /// Directory of policies and what they refer to: Kubernetes YAML as agents read it.
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,
    /// Pods and nodes with their addresses: YAML (docs/ingest.md).
    #[arg(long, value_name = "FILE")]
    endpoints: Option<PathBuf>,
    /// Judge as the agent of this node: only its pods' policies. Without it every pod's policy is asked.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Let pass what policies deny, and report it as audited.
    #[arg(long)]
    policy_audit_mode: bool,
    /// Least time between two traces of one direction of a connection, milliseconds; 0 = every packet.
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    trace_interval: u32,
    /// Connections that are remembered: so many of each address family, TCP apart from the rest.
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    max_connections: u32,
    /// Print what the flows come to instead of the flows.
    #[arg(long)]
    summary: bool,
    #[command(flatten)]
    filters: FilterFlags,
    #[command(flatten)]
    raw_filters: RawFilterArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// Runs the command. Exit code 1 when the capture breaks off.
///
/// # Errors
/// The arguments are wrong, a file cannot be read, or the output cannot be written.
pub(crate) fn run(args: &IngestArgs) -> anyhow::Result<ExitCode> {
    if !args.format.field_mask.is_empty() {
        return Err(UsageError::text("--field-mask is for servers; ingest gives whole flows").into());
    }
    let filters = filters(&args.filters, &args.raw_filters)?;
    let ingest = Ingest::prepare(&IngestOptions {
        policy: args.policy.clone(),
        endpoints: args.endpoints.clone(),
        node: args.node.clone(),
        audit_mode: args.policy_audit_mode,
        trace_interval_ms: args.trace_interval,
        connections: usize::try_from(args.max_connections)?,
        whitelist: filters.allow,
        blacklist: filters.deny,
    })?;
    let shown = args.capture.display();
    let (source, live) = open(&args.capture)?;
    let mut printer = Printer::new(style(&args.format, false), BufWriter::new(io::stdout()), io::stderr());
    let mut summary = args.summary.then(Summary::default);
    let report = ingest.run(source, live, |ingested| match (ingested, &mut summary) {
        (Ingested::Flow(flow), Some(summary)) => {
            summary.add(&flow);
            Ok(())
        }
        (Ingested::Flow(flow), None) => printer.print(&flow),
        (Ingested::Pause, _) => printer.flush(),
    });
    let report = report.with_context(|| shown.to_string())?;
    printer.finish()?;
    if let Some(summary) = &summary {
        summary.write(&report, &mut io::stdout().lock())?;
    }
    for note in notes(&report) {
        printer.note(&format!("{shown}: {note}"))?;
    }
    match report.ended_by {
        Some(error) => Err(anyhow::Error::new(error).context(shown.to_string())),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The source, and whether it may pause.
fn open(path: &Path) -> anyhow::Result<(Box<dyn Read + Send>, bool)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), true));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let live = !file.metadata()?.is_file();
    Ok((Box::new(file), live))
}

/// What should be known besides the flows.
fn notes(report: &IngestReport) -> Vec<String> {
    let mut notes = report.warnings.clone();
    for (cause, count) in &report.damaged {
        notes.push(format!("{count} packets were left out: {cause}"));
    }
    if let Some((cause, number, offset)) = &report.first_damaged {
        notes.push(format!("the first of them is packet {number}, at byte {offset}: {cause}"));
    }
    if report.connections.evicted > 0 {
        let evicted = report.connections.evicted;
        notes.push(format!(
            "{evicted} connections were displaced by newer ones; give more room with --max-connections"
        ));
    }
    notes
}

const AFTER_HELP: &str = "\
Examples:
  specola ingest capture.pcap
  specola ingest capture.pcapng.gz --policy policies/ --endpoints pods.yaml --verdict DROPPED --print-policy-names
  specola ingest capture.pcap --policy policies/ --endpoints pods.yaml --summary
  tcpdump -U -w - | specola ingest - -o json

Exit codes: 0 done; 1 error, also when the capture breaks off; 2 wrong usage.";
