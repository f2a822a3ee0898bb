//! `specola man`: pages of the manual, made of the definitions of the commands.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command};

/// Write the pages of the manual into a directory.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  specola man /usr/local/share/man/man1\n  specola man man && man -l man/specola-observe.1"
)]
pub(crate) struct ManArgs {
    /// Directory; it is made.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Writes one page per command.
///
/// # Errors
/// The directory cannot be made, or a page cannot be written.
pub(crate) fn run(args: &ManArgs, command: Command) -> anyhow::Result<ExitCode> {
    let directory = &args.directory;
    let cannot = || format!("cannot write the manual into {}", directory.display());
    fs::create_dir_all(directory).with_context(cannot)?;
    clap_mangen::generate_to(command, directory).with_context(cannot)?;
    Ok(ExitCode::SUCCESS)
}
