//! `specola host-policy`: whether policies govern this machine, and the switch that stops them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use specola_agent::{HostPolicy, HostPolicyState};

use crate::node::{Output, print_json, stdout};

/// Subcommands of `host-policy`.
#[derive(Subcommand)]
pub(crate) enum HostPolicyCommand {
    /// Stop enforcing host policies now, and keep them off across restarts. Needs no agent; flows are still reported.
    #[command(after_help = PANIC)]
    PanicOff(PlaceArgs),
    /// Enforce host policies again.
    PanicOn(PlaceArgs),
    /// Show whether host policies are in force.
    Status(PlaceArgs),
}

/// Which agent.
#[derive(Args)]
pub(crate) struct PlaceArgs {
    /// Directory of pinned maps and links.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/specola/default/local")]
    pin_dir: PathBuf,
    /// State directory of the agent.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/specola/state")]
    state_dir: PathBuf,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// Maps or the state directory cannot be read or written.
pub(crate) fn run(command: &HostPolicyCommand) -> anyhow::Result<ExitCode> {
    let (HostPolicyCommand::PanicOff(args)
    | HostPolicyCommand::PanicOn(args)
    | HostPolicyCommand::Status(args)) = command;
    let policy = HostPolicy::new(args.pin_dir.clone(), args.state_dir.clone());
    let state = match command {
        HostPolicyCommand::PanicOff(_) => policy.suspend()?,
        HostPolicyCommand::PanicOn(_) => policy.resume()?,
        HostPolicyCommand::Status(_) => policy.state()?,
    };
    let mut out = stdout();
    match args.output {
        Output::Json => print_json(&mut out, &state)?,
        Output::Compact => print(&mut out, state)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, state: HostPolicyState) -> io::Result<()> {
    let now = match state {
        HostPolicyState { present: false, .. } => "no programs are loaded for this machine",
        HostPolicyState { suspended: true, .. } => "off (panic-off): nothing is dropped",
        HostPolicyState { governed: false, .. } => "no policy governs this machine: nothing is dropped",
        HostPolicyState { audit: true, .. } => "audit: what policies deny passes and is marked",
        _ => "enforced",
    };
    writeln!(out, "host policy: {now}")?;
    if state.present && state.governed {
        writeln!(out, "revision: {}", state.revision)?;
    }
    if state.stays_suspended {
        writeln!(
            out,
            "the next agent starts with enforcement off; `specola host-policy panic-on` ends that"
        )?;
    }
    Ok(())
}

const PANIC: &str = "\
The kernel stops asking the policy at once, for every packet. If even that does not help, stop the agent and run
`specola cleanup --yes`, which removes the programs.";

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(state: HostPolicyState) -> String {
        let mut out = Vec::new();
        print(&mut out, state).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_state_has_its_words() {
        let none = HostPolicyState {
            present: false,
            governed: false,
            audit: false,
            suspended: false,
            stays_suspended: false,
            revision: 4,
        };
        let present = HostPolicyState { present: true, ..none };
        let governed = HostPolicyState { governed: true, ..present };
        for (state, words) in [
            (none, "no programs"),
            (present, "no policy governs"),
            (governed, "enforced\nrevision: 4\n"),
            (HostPolicyState { audit: true, ..governed }, "audit"),
            (HostPolicyState { suspended: true, ..governed }, "off (panic-off)"),
            (HostPolicyState { stays_suspended: true, ..none }, "starts with enforcement off"),
        ] {
            assert!(shown(state).contains(words), "{state:?}: {}", shown(state));
        }
    }
}
