//! `specola`: the one binary. Looks at flows and nodes, checks policies, and starts the daemons.
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

mod authorize;
mod bpf;
mod cleanup;
mod color;
mod columns;
mod config;
mod endpoint;
mod error;
mod examples;
mod forward;
mod fqdn;
mod host_policy;
mod hubble;
mod identity;
mod ingest;
mod list;
mod man;
mod map;
mod metrics;
mod node;
mod observe;
mod personality;
mod place;
mod policy;
mod preflight;
mod printer;
mod settings;
mod status;
mod target;
mod tls;
mod traffic;
mod version;
mod watch;

use crate::error::UsageError;
use crate::personality::Personality;
use crate::settings::Settings;

/// Network observability and policy on an eBPF datapath of its own.
#[derive(Parser)]
#[command(name = "specola", version = version::short(), propagate_version = false, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show flows.
    ///
    /// Without --last, --first, --since, --until, --all and --follow the newest 20 flows are shown. With --sandbox the
    /// flows of all nodes are merged by time.
    Observe(Box<observe::ObserveArgs>),
    /// Read a capture file: show the flows, and what policies would have done.
    ///
    /// Needs no rights and no agent. Equal input gives equal output, byte for byte.
    Ingest(Box<ingest::IngestArgs>),
    /// Draw who talks to whom, out of flows.
    Map(Box<map::MapArgs>),
    /// Say why flows passed or not, by their uuids: the same as `policy why`.
    #[command(
        after_help = "Examples:\n  specola why $(specola observe --verdict DROPPED --last 1 -o json | jq -r .flow.uuid)\n  specola why --from shop/web --to shop/db --port 5432/tcp"
    )]
    Why(Box<policy::WhyArgs>),
    /// Show the state of flow servers and agents.
    Status(status::StatusArgs),
    /// Show endpoints.
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Show security identities.
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Show, check and compare policies, and switch their audit mode.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Show and set which addresses policies take names of DNS for.
    #[command(subcommand)]
    Fqdn(fqdn::FqdnCommand),
    /// Show what is in the kernel: maps and programs, with and without an agent.
    #[command(subcommand)]
    Bpf(bpf::BpfCommand),
    /// Show metrics that are made of flows.
    #[command(subcommand)]
    Metrics(metrics::MetricsCommand),
    /// Whether policies govern this machine itself, and the switch that stops them.
    #[command(subcommand)]
    HostPolicy(host_policy::HostPolicyCommand),
    /// Check whether an agent can run on this machine, with a remedy for what is missing.
    Preflight(preflight::PreflightArgs),
    /// Remove what a stopped agent left on this host: programs, maps, devices, routes, links of pods.
    Cleanup(cleanup::CleanupArgs),
    /// Run clusters in network namespaces on this machine.
    #[command(subcommand)]
    Sandbox(specola_sandbox::cli::SandboxCommand),
    /// Run the agent of this node.
    Agent(Box<specola_agent::AgentConfig>),
    /// Run a relay: one flow API in front of all nodes.
    Relay(Box<specola_relay::RelayConfig>),
    /// List nodes or namespaces.
    #[command(subcommand)]
    List(list::ListCommand),
    /// Watch who the nodes of the cluster are.
    #[command(subcommand, visible_alias = "w")]
    Watch(watch::WatchCommand),
    /// Show and change what is set in the environment and in the configuration file.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Be Hubble's client: its commands, defaults, output and exit codes (so is a link to this program called hubble).
    #[command(
        disable_help_flag = true,
        after_help = "Examples:\n  specola hubble observe --server relay:4245 -f\n  ln -s specola /usr/local/bin/hubble"
    )]
    Hubble {
        /// Arguments of hubble.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<OsString>,
    },
    /// Print the version.
    Version(version::VersionArgs),
    /// Write the pages of the manual into a directory.
    Man(man::ManArgs),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Examples:\n  source <(specola completion bash)\n  specola completion zsh > ~/.zfunc/_specola"
    )]
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    if Personality::of_program(arguments.first().map(OsString::as_os_str)) == Personality::Hubble {
        return hubble::main(&arguments);
    }
    if arguments.get(1).is_some_and(|command| command == "hubble") {
        return hubble::main(&arguments[1..]);
    }
    specola(&arguments).unwrap_or_else(|error| report(&error))
}

/// The commands: parsing, help, completions and manual are made of this.
fn definition() -> clap::Command {
    examples::with_examples(Cli::command())
}

fn specola(arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let settings = Settings::read(Personality::Specola, arguments)?;
    let command = settings.apply(definition())?;
    let mut matches = command.get_matches_from(arguments);
    let cli = Cli::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit());
    run(cli.command, &settings)
}

/// Runs the command; each makes its own runtime, as some must stay single-threaded.
fn run(command: Command, settings: &Settings) -> anyhow::Result<ExitCode> {
    match command {
        Command::Observe(args) => observe::run(&args, Personality::Specola),
        Command::Ingest(args) => ingest::run(&args),
        Command::Map(args) => map::run(*args),
        Command::Why(args) => policy::why(&args),
        Command::Status(args) => status::run(&args, Personality::Specola),
        Command::Endpoint(command) => endpoint::run(command),
        Command::Identity(command) => identity::run(command),
        Command::Policy(command) => policy::run(command),
        Command::Fqdn(command) => fqdn::run(command),
        Command::Bpf(command) => bpf::run(&command),
        Command::Metrics(command) => metrics::run(command),
        Command::HostPolicy(command) => host_policy::run(&command),
        Command::Preflight(args) => preflight::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Sandbox(command) => command.run(),
        Command::Agent(config) => run_agent(*config),
        Command::Relay(config) => run_relay(*config),
        Command::List(command) => list::run(&command),
        Command::Watch(command) => watch::run(&command),
        Command::Config(command) => config::run(&command, settings),
        // Reached only when something stands before the word.
        Command::Hubble { arguments } => {
            Ok(hubble::main(&[OsString::from("hubble")].into_iter().chain(arguments).collect::<Vec<_>>()))
        }
        Command::Version(args) => version::run(&args, Personality::Specola),
        Command::Man(args) => man::run(&args, definition()),
        Command::Completion { shell } => completion(shell, definition(), Personality::Specola),
    }
}

/// Prints the script that completes commands of the program.
fn completion(
    shell: clap_complete::Shell,
    mut command: clap::Command,
    personality: Personality,
) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, personality.name(), &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

fn run_agent(config: specola_agent::AgentConfig) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(specola_agent::run(config))?;
    Ok(ExitCode::SUCCESS)
}

fn run_relay(config: specola_relay::RelayConfig) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(specola_relay::run(config))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the error and chooses the exit code: 2 for wrong usage, 0 when a reader went away, else 1.
fn report(error: &anyhow::Error) -> ExitCode {
    if error::is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let text = error::text(error);
    // Nobody is left to tell that nobody listens.
    let (Ok(()) | Err(_)) = writeln!(io::stderr(), "error: {text}");
    if error.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command that has none below it, with its words.
    fn leaves(command: &clap::Command, path: &[String], found: &mut Vec<(String, clap::Command)>) {
        let below: Vec<_> = command.get_subcommands().filter(|one| !one.is_hide_set()).collect();
        if below.is_empty() {
            found.push((path.join(" "), command.clone()));
        }
        for one in below {
            leaves(one, &[path, &[one.get_name().to_owned()]].concat(), found);
        }
    }

    #[test]
    fn the_definitions_of_commands_fit_together() {
        definition().debug_assert();
    }

    #[test]
    fn every_command_has_examples_that_are_right() {
        let mut commands = Vec::new();
        leaves(&definition(), &[], &mut commands);
        assert!(commands.len() > 40, "{}", commands.len());
        for (name, command) in commands {
            let help = command.clone().render_long_help().to_string();
            let (_, examples) =
                help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name} has no examples"));
            let lines = examples.lines().take_while(|line| line.starts_with("  "));
            let own: Vec<_> = lines.filter(|line| line.contains(&format!("specola {name}"))).collect();
            assert!(!own.is_empty(), "{name} has no example of itself");
            for line in own {
                let (_, words) = line.split_once("specola").expect("it is in there");
                let words = words.trim_start();
                let end = words.find(['|', '$', ';', '&', '#', '>', ')']).unwrap_or(words.len());
                // What the shell puts in is as good as any word.
                let filler = if words[end..].starts_with('$') { "x" } else { "" };
                // Words behind a gap explain the example.
                let words = words[..end].trim().split("  ").next().unwrap_or_default();
                let words = format!("specola {words} {filler}");
                let parsed = definition().try_get_matches_from(words.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn the_manual_has_a_page_per_command() {
        let dir = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(definition(), dir.path()).unwrap();
        let page = std::fs::read_to_string(dir.path().join("specola-observe.1")).unwrap();
        assert!(page.contains("aggregate") && page.contains("Examples"), "{page}");
        assert!(dir.path().join("specola-policy-why.1").exists());
    }
}
