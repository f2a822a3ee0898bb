//! `hubble`: the same commands under the rules of Hubble's client.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::personality::Personality;
use crate::settings::Settings;
use crate::target::TargetArgs;
use crate::{completion, config, error, list, observe, status, version, watch};

/// Hubble is a utility to observe and inspect recent traffic of a cluster. This one is part of Specola.
#[derive(Parser)]
#[command(name = "hubble", max_term_width = 100, disable_version_flag = true)]
struct Hubble {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Modify or view the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// List nodes or namespaces.
    #[command(subcommand)]
    List(list::ListCommand),
    /// Observe flows and events.
    Observe(Box<observe::ObserveArgs>),
    /// Show the state of the server.
    Status(status::StatusArgs),
    /// Print the version.
    Version(version::VersionArgs),
    /// Watch who the nodes of the cluster are.
    #[command(subcommand, hide = true, alias = "w")]
    Watch(watch::WatchCommand),
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Runs `hubble` with these arguments, the first of which is its name.
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    run(arguments).unwrap_or_else(|error| {
        if error::is_broken_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        fail(&error::text(&error))
    })
}

fn run(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let settings = Settings::read(Personality::Hubble, arguments)?;
    let tree = with_bool_values(with_server_flags(Hubble::command()));
    let command = settings.apply(tree)?;
    let parsed = command
        .try_get_matches_from(arguments)
        .and_then(|mut matches| Hubble::from_arg_matches_mut(&mut matches));
    let hubble = match parsed {
        Ok(hubble) => hubble,
        Err(error) => return refuse(&error),
    };
    match hubble.command {
        Command::Config(command) => config::run(&command, &settings),
        Command::List(command) => list::run(&command),
        Command::Observe(args) => observe::run(&args, Personality::Hubble),
        Command::Status(args) => status::run(&args, Personality::Hubble),
        Command::Version(args) => version::run(&args, Personality::Hubble),
        Command::Watch(command) => watch::run(&command),
        Command::Completion { shell } => completion(shell, Hubble::command(), Personality::Hubble),
    }
}

/// Takes the server's flags before the command, too.
fn with_server_flags(command: clap::Command) -> clap::Command {
    let flags = TargetArgs::augment_args(clap::Command::new("flags"));
    let flags: Vec<Arg> = flags.get_arguments().map(|arg| arg.clone().global(true)).collect();
    command.args(flags)
}

/// Takes `--tls=false` beside `--tls`, as all of Hubble's switches do.
fn with_bool_values(command: clap::Command) -> clap::Command {
    command.mut_args(with_bool_value).mut_subcommands(with_bool_values)
}

fn with_bool_value(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .default_missing_value("true")
        .value_parser(clap::value_parser!(bool))
        .value_name("BOOL")
        .hide_default_value(true)
        .hide_possible_values(true)
}

/// Help is no error; anything else is one line and exit code 1.
fn refuse(error: &clap::Error) -> anyhow::Result<ExitCode> {
    if !error.use_stderr() {
        error.print()?;
        return Ok(ExitCode::SUCCESS);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Hubble explains itself when it is asked for nothing.
        write!(io::stdout(), "{}", error.render())?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(fail(&refusal(error)))
}

/// What is wrong, in Hubble's words where they are known.
fn refusal(error: &clap::Error) -> String {
    let said = |kind| error.get(kind).map(ToString::to_string);
    match error.kind() {
        ErrorKind::UnknownArgument => {
            if let Some(flag) = said(ContextKind::InvalidArg).filter(|flag| flag.starts_with('-')) {
                return format!("unknown flag: {flag}");
            }
        }
        ErrorKind::InvalidSubcommand => {
            if let Some(name) = said(ContextKind::InvalidSubcommand) {
                return format!("unknown command {name:?} for \"hubble\"");
            }
        }
        _ => {}
    }
    let text = error.to_string();
    let line = text.lines().find(|line| !line.is_empty()).unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn fail(text: &str) -> ExitCode {
    // Nobody is left to tell that nobody listens.
    let (Ok(()) | Err(_)) = writeln!(io::stderr(), "{text}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> clap::Command {
        with_bool_values(with_server_flags(Hubble::command()))
    }

    #[test]
    fn server_flags_stand_before_or_after_the_command() {
        for arguments in [
            &["hubble", "--server", "relay:80", "--tls", "list", "nodes"][..],
            &["hubble", "list", "--server", "relay:80", "--tls=true", "nodes"],
            &["hubble", "list", "nodes", "--server=relay:80", "--tls=1"],
        ] {
            let parsed = tree().try_get_matches_from(arguments);
            if arguments.last() == Some(&"--tls=1") {
                assert!(parsed.is_err());
                continue;
            }
            let matches = parsed.unwrap();
            let nodes = matches.subcommand().unwrap().1.subcommand().unwrap().1;
            let server = nodes.get_one::<String>("server").map(String::as_str);
            assert_eq!((server, nodes.get_flag("tls")), (Some("relay:80"), true), "{arguments:?}");
        }
        let off = tree().try_get_matches_from(["hubble", "status", "--tls=false"]).unwrap();
        assert!(!off.subcommand().unwrap().1.get_flag("tls"));
    }

    #[test]
    fn refusals_are_one_line() {
        for (arguments, text) in [
            (&["hubble", "record"][..], "unknown command \"record\" for \"hubble\""),
            (&["hubble", "observe", "--nope"], "unknown flag: --nope"),
            (&["hubble", "--nope"], "unknown flag: --nope"),
            (&["hubble", "observe", "--not"], "trailing --not found in the arguments"),
        ] {
            let error = tree()
                .try_get_matches_from(arguments)
                .and_then(|mut matches| Hubble::from_arg_matches_mut(&mut matches).map(drop))
                .unwrap_err();
            assert_eq!(refusal(&error), text);
        }
    }
}
