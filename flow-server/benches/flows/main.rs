//! What a flow costs from the kernel's record to the client's socket: CPU time and allocations.
//!
//! `cargo bench -p specola-flow-server --bench flows [-- --json FILE] [-- --only NAME]` prints a Markdown table. Figures
//! are CPU time, the smallest and the median of several rounds. A client is another process, whose time does not count.

mod alloc;
mod bed;
mod client;
mod cpu;
mod report;
mod serving;
mod stages;

use anyhow::{Context, bail};

use report::Report;

/// Counts what the threads of this program allocate.
#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == client::ARGUMENT).is_some() {
        return client::run(args);
    }
    let (mut json, mut only) = (None, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // Cargo says this to every benchmark.
            "--bench" => {}
            "--json" => json = Some(args.next().context("--json needs a file")?),
            "--only" => only = Some(args.next().context("--only needs a part of a name")?),
            other => bail!("unknown argument {other}: --json FILE, --only NAME"),
        }
    }
    let mut report = Report::new(only);
    stages::run(&mut report)?;
    serving::run(&mut report)?;
    report.finish(json.as_deref())
}
