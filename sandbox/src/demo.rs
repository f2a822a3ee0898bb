//! `specola sandbox demo`: a cluster with traffic, its flows on the screen, and a check of what was seen.

use std::process::ExitCode;

use crate::up::UpOptions;

pub(crate) fn run(options: &UpOptions, seconds: Option<u64>) -> anyhow::Result<ExitCode> {
    let _ = (options, seconds);
    anyhow::bail!("not yet")
}
