//! What a packet costs in each kernel program, by `BPF_PROG_TEST_RUN`. Needs root; nothing is attached or pinned.
//!
//! ```text
//! cargo bench -p specola-datapath --bench packets -- [--rounds N] [--only TEXT] [--json FILE]
//! ```
//!
//! A driver program turns the repeated packet into one of another connection each time and calls the program under test.
//! Each round runs the driver with an empty program first; a row's figure is the difference, plus what the bare empty
//! program takes.

mod cases;
#[path = "../../build/nested.rs"]
mod nested;
#[path = "../../ebpf/src/bench/plan.rs"]
mod plan;
mod report;
mod world;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

use self::cases::Bench;
use self::report::Report;

/// What the command line says.
#[derive(Debug)]
pub(crate) struct Options {
    /// How often each case is measured.
    pub(crate) rounds: usize,
    /// Text that the names of wanted cases contain.
    pub(crate) only: Option<String>,
    /// Where the figures go as JSON.
    pub(crate) json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    specola_testkit::require_root();
    let object = build_object()?;
    let mut report = Report::new(&options);
    Bench::new(&object, &options)?.run(&mut report)?;
    std::io::stdout().write_all(report.markdown().as_bytes())?;
    if let Some(file) = &options.json {
        std::fs::write(file, report.json()).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { rounds: 15, only: None, json: None };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| anyhow!("{word} wants a value"));
            match word.as_str() {
                // Cargo adds it.
                "--bench" => {}
                "--rounds" => options.rounds = value()?.parse().context("--rounds wants a number")?,
                "--only" => options.only = Some(value()?),
                "--json" => options.json = Some(value()?.into()),
                other => bail!("unknown option {other}: use --rounds N, --only TEXT, --json FILE"),
            }
        }
        if options.rounds == 0 {
            bail!("--rounds 0 measures nothing: use 1 or more");
        }
        Ok(options)
    }
}

/// The product's kernel programs, with those that only the benchmark wants.
fn build_object() -> Result<Vec<u8>> {
    let ebpf = Path::new(env!("CARGO_MANIFEST_DIR")).join("ebpf");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-ebpf");
    let endian = if cfg!(target_endian = "big") { "big" } else { "little" };
    let object = nested::build_object(&ebpf, &["bench"], &target, (std::env::consts::ARCH, endian))
        .map_err(|error| anyhow!(error))?;
    std::fs::read(&object).with_context(|| object.display().to_string())
}
