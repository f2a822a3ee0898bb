//! `specola version`.

use std::env::consts::{ARCH, OS};
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Args;
use specola_lifecycle::build_info;

use crate::node::Output;
use crate::personality::Personality;

/// Print the version.
#[derive(Args)]
#[command(after_help = "Examples:\n  specola version\n  specola version -o json")]
pub(crate) struct VersionArgs {
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn run(args: &VersionArgs, personality: Personality) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match args.output {
        Output::Compact if personality == Personality::Hubble => {
            // The words in between are Hubble's; scripts look for them.
            let compiler = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));
            writeln!(out, "hubble {} compiled with {compiler} on {OS}/{ARCH}", build_info().semver())?;
        }
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
