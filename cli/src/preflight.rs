//! `specola preflight`: whether an agent can run on this machine.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use specola_agent::{Check, Devices, Outcome, PreflightOptions, preflight};

use crate::color::{Color, Paint};
use crate::node::{Output, print_json, stdout};
use crate::observe::ColorChoice;
use crate::printer::escape;

/// Arguments of `preflight`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PreflightArgs {
    /// Device that the agent will get; may be given several times [default: those of the default routes].
    #[arg(long = "device", value_name = "NAME")]
    devices: Vec<String>,
    /// Devices that an agent without pods will get: a list, or auto. What only pods need is not looked at.
    #[arg(long = "devices", value_name = "LIST", conflicts_with = "devices")]
    host_devices: Option<Devices>,
    /// Directory for pinned maps that the agent will get.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/specola/default/local")]
    pin_dir: PathBuf,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value_t = Output::Compact)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// The output cannot be written. Exit code 1 when a check fails.
pub(crate) fn run(args: &PreflightArgs) -> anyhow::Result<ExitCode> {
    let options = PreflightOptions {
        pin_dir: args.pin_dir.clone(),
        devices: args.devices.clone(),
        host_devices: args.host_devices.clone(),
    };
    let checks = preflight(&options);
    let worst = checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Ok);
    let mut out = stdout();
    match args.output {
        Output::Json => print_json(&mut out, &json!({ "outcome": worst, "checks": checks }))?,
        Output::Compact => print(&mut out, &checks, Paint::new(ColorChoice::Auto.resolve()))?,
    }
    Ok(if worst == Outcome::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(out: &mut impl Write, checks: &[Check], paint: Paint) -> io::Result<()> {
    let width = checks.iter().map(|check| escape(&check.name).chars().count()).max().unwrap_or(0);
    for check in checks {
        let color = match check.outcome {
            Outcome::Ok => Color::Good,
            Outcome::Warn => Color::Notable,
            Outcome::Fail => Color::Bad,
        };
        let outcome = paint.color(color, &format!("{:<4}", check.outcome.as_str()));
        // The verifier's words have many lines.
        let found: Vec<_> = check.found.lines().map(escape).collect();
        writeln!(out, "{outcome}   {:<width$}   {}", escape(&check.name), found.join("\n"))?;
        if let Some(remedy) = &check.remedy {
            writeln!(out, "{:width$}          remedy: {}", "", escape(remedy))?;
        }
    }
    Ok(())
}

const EXAMPLES: &str = "\
Examples:
  specola preflight                      the devices of the default routes
  specola preflight --device eth1 -o json
  specola preflight --devices auto       for an agent without pods

Exit code 1 when a check fails; warnings do not count. Nothing is changed.";

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn each_check_is_a_line_and_what_is_wrong_has_a_remedy() {
        let check = |name: &str, outcome, found: &str, remedy: Option<&str>| Check {
            name: name.to_owned(),
            outcome,
            found: found.to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let checks = [
            check("kernel", Outcome::Ok, "6.1.0", None),
            check("rp_filter eth0", Outcome::Warn, "strict", Some("switch it off")),
            check("bpffs", Outcome::Fail, "none\u{1b}[31m", Some("mount one")),
        ];
        let mut out = Vec::new();
        print(&mut out, &checks, Paint::new(false)).unwrap();
        assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        ok     kernel           6.1.0
        warn   rp_filter eth0   strict
                                remedy: switch it off
        fail   bpffs            none^[[31m
                                remedy: mount one
        ");
    }
}
