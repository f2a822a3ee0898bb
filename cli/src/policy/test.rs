//! `specola policy test`: unit tests for policies.

mod kernel;
mod report;

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use specola_policy::cases::{CaseFile, Played};

use self::report::Report;
use crate::node::stdout;

/// Arguments of `policy test`.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Files of cases, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only cases whose id or feature contains this text.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Ask the kernel programs too (root): any disagreement with the rules is a failure.
    #[arg(long)]
    datapath: bool,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = TestOutput::Table)]
    output: TestOutput,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum TestOutput {
    /// For people.
    Table,
    /// JUnit XML, for continuous integration.
    Junit,
    /// One JSON document.
    Json,
}

/// Plays the cases. Exit code 1 when one fails.
///
/// # Errors
/// A file cannot be read or is no case file, or the kernel programs cannot be loaded.
pub(crate) fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let mut played = Vec::new();
    for path in &args.files {
        played.extend(play(path, args.filter.as_deref())?);
    }
    if let Some(filter) = args.filter.as_deref().filter(|_| played.is_empty()) {
        anyhow::bail!("no case has \"{filter}\" in its id or feature");
    }
    let mut report = Report::new(played);
    if args.datapath {
        kernel::check(&mut report)?;
    }
    let mut out = stdout();
    match args.output {
        TestOutput::Table => report.write_table(&mut out)?,
        TestOutput::Junit => report.write_junit(&mut out)?,
        TestOutput::Json => report.write_json(&mut out)?,
    }
    Ok(if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn play(path: &Path, filter: Option<&str>) -> anyhow::Result<Vec<Played>> {
    let shown = path.display();
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        text
    } else {
        fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?
    };
    let file = CaseFile::parse(&text).with_context(|| format!("{shown} is no case file"))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let wanted =
        |played: &Played| filter.is_none_or(|text| played.id.contains(text) || played.feature.contains(text));
    Ok(file.play(read).filter(wanted).collect())
}

#[cfg(test)]
mod tests;
