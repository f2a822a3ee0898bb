//! Whole sandboxes with a stand-in for the agent: what the sandbox itself does, without kernel programs. Needs root.
#![forbid(unsafe_code)]

mod agent;
mod cases;
mod observe;

use std::process::ExitCode;

use clap::Parser;
use specola_sandbox::cli::SandboxCommand;

#[derive(Parser)]
enum Program {
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    Agent(Box<agent::Flags>),
    Observe(observe::Flags),
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        // As `specola` prints errors: without a backtrace, even where RUST_BACKTRACE asks for one, so that the end of
        // an agent's log names the cause.
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    let first = std::env::args().nth(1).unwrap_or_default();
    if matches!(first.as_str(), "sandbox" | "agent" | "observe") {
        return match Program::parse() {
            Program::Sandbox(command) => command.run(),
            Program::Agent(flags) => agent::run(*flags).map(|()| ExitCode::SUCCESS),
            Program::Observe(flags) => observe::run(&flags).map(|()| ExitCode::SUCCESS),
        };
    }
    cases::run_all(std::env::args().skip(1))
}
