//! What make needs beyond one-liners: `cargo xtask layers`, `cargo xtask mutants`, `cargo xtask bench`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command line tool")]

mod bench;
mod layers;
mod mutants;
#[path = "../../datapath/build/nested.rs"]
mod nested;

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask layers | mutants [NAME]... | bench [NAME]...
  layers    check that the crates depend on each other only in the allowed directions
  mutants   build kernel programs with seeded mistakes, all or those whose names contain a NAME, and check that
            the tests notice each (root)
  bench     run the benchmarks, all or the named ones, and write their tables into docs/benchmarks (root)";

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("layers") => layers::check(),
        Some("mutants") => mutants::run(&std::env::args().skip(2).collect::<Vec<_>>()),
        Some("bench") => bench::run(&std::env::args().skip(2).collect::<Vec<_>>()),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => bail!("unknown task {other:?}\n{USAGE}"),
        None => bail!("no task given\n{USAGE}"),
    }
}
