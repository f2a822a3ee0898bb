//! `specola version`.

use std::env::consts::{ARCH, OS};
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Args;
use specola_lifecycle::build_info;

use crate::node::Output;

/// Print the version.
#[derive(Args)]
pub(crate) struct VersionArgs {
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn run(args: &VersionArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match args.output {
        Output::Compact => writeln!(out, "{} on {OS}/{ARCH}", build_info().display())?,
        Output::Json => {
            let json = serde_json::json!({
                "version": build_info().version,
                "revision": build_info().revision,
                "os": OS,
                "arch": ARCH,
            });
            writeln!(out, "{json}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What `--version` shows behind the program's name.
pub(crate) fn short() -> String {
    build_info().semver()
}
