//! `specola cleanup`: removes what an agent left in the kernel of this host.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use specola_agent::bpf::NodePlace;
use specola_agent::{Cleanup, CleanupPlan};

use crate::node::{Output, print_json, stdout};
use crate::printer::escape;

/// Arguments of `cleanup`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CleanupArgs {
    /// Directory of pinned maps and links.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/specola/default/local")]
    pin_dir: PathBuf,
    /// State directory of the agent, which names the links of its pods.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/specola/state")]
    state_dir: PathBuf,
    /// Leave the pods' links: the pods go on, with no policy enforced.
    #[arg(long)]
    keep_pod_links: bool,
    /// Do it; without this flag the command only says what it would remove.
    #[arg(long, short = 'y')]
    yes: bool,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// An agent runs, or something cannot be removed.
pub(crate) fn run(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let place = NodePlace {
        pin_dir: args.pin_dir.clone(),
        state_dir: args.state_dir.clone(),
        store_dir: PathBuf::new(),
        netns: None,
    };
    let cleanup = Cleanup::prepare(place, args.keep_pod_links)?;
    let plan = if args.yes { cleanup.run()? } else { cleanup.plan().clone() };
    let mut out = stdout();
    match args.output {
        Output::Json => print_json(&mut out, &json!({ "removed": args.yes, "plan": plan }))?,
        Output::Compact => print(&mut out, &plan, args.yes)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, plan: &CleanupPlan, removed: bool) -> io::Result<()> {
    if plan.is_empty() {
        writeln!(out, "nothing to remove")?;
    }
    let verb = if removed { "removed" } else { "would remove" };
    for program in &plan.programs {
        writeln!(out, "{verb} program {}", escape(program))?;
    }
    for device in &plan.devices {
        writeln!(out, "{verb} device {}", escape(device))?;
    }
    for map in &plan.maps {
        writeln!(out, "{verb} map {}", escape(map))?;
    }
    if plan.policy_tries > 0 {
        writeln!(out, "{verb} {} policy tries", plan.policy_tries)?;
    }
    for file in &plan.foreign {
        let path = plan.pin_dir.join(file);
        writeln!(out, "leaving {}, which is not Specola's", escape(&path.display().to_string()))?;
    }
    if !removed && !plan.is_empty() {
        writeln!(out, "nothing was removed; repeat it with --yes")?;
    }
    Ok(())
}

const EXAMPLES: &str = "\
Examples:
  specola cleanup                       what would be removed from this host
  specola cleanup --yes                 remove it: programs, maps, devices, routes, links of pods
  specola cleanup --yes --keep-pod-links

The agent must be stopped. Files in the state directory and the store stay. A sandbox is taken down by
`specola sandbox down`.";

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn plan() -> CleanupPlan {
        CleanupPlan {
            pin_dir: "/sys/fs/bpf/specola/default/local".into(),
            programs: vec!["to_host at specola_host (tcx)".to_owned()],
            maps: vec!["SP_NODE@1".to_owned()],
            policy_tries: 2,
            devices: vec!["specola_host".to_owned()],
            foreign: vec!["notes".to_owned()],
        }
    }

    fn shown(plan: &CleanupPlan, removed: bool) -> String {
        let mut out = Vec::new();
        print(&mut out, plan, removed).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plan_says_that_nothing_happened() {
        assert_snapshot!(shown(&plan(), false), @r"
        would remove program to_host at specola_host (tcx)
        would remove device specola_host
        would remove map SP_NODE@1
        would remove 2 policy tries
        leaving /sys/fs/bpf/specola/default/local/notes, which is not Specola's
        nothing was removed; repeat it with --yes
        ");
    }

    #[test]
    fn what_was_removed_is_listed() {
        assert_snapshot!(shown(&plan(), true), @r"
        removed program to_host at specola_host (tcx)
        removed device specola_host
        removed map SP_NODE@1
        removed 2 policy tries
        leaving /sys/fs/bpf/specola/default/local/notes, which is not Specola's
        ");
        assert_snapshot!(shown(&CleanupPlan::default(), true), @"nothing to remove");
    }
}
