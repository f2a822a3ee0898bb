//! What make needs beyond one-liners: `cargo xtask layers`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command line tool")]

mod layers;

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask layers
  layers   check that the crates depend on each other only in the allowed directions";

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("layers") => layers::check(),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => bail!("unknown task {other:?}\n{USAGE}"),
        None => bail!("no task given\n{USAGE}"),
    }
}
