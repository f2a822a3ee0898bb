//! `specola sandbox ...`

mod change;
mod exec;
mod logs;
mod ps;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::agent_flags::AgentFlags;
use crate::layout::Layout;
use crate::place::Place;
use crate::supervisor;
use crate::up::{Sandbox, UpOptions};
use crate::workload::run::Settings as WorkloadSettings;
use crate::{cleanup, client, demo};

/// What can be done with sandboxes.
#[derive(Clone, Debug, Subcommand)]
pub enum SandboxCommand {
    /// Start a cluster from a file of Kubernetes objects
    ///
    /// Returns when every pod is ready. The cluster runs until `down`.
    Up(UpArgs),
    /// Take a sandbox down; nothing of it is left
    Down(DownArgs),
    /// Show nodes and pods
    Ps(PsArgs),
    /// Run a command in a pod or on a node; its exit code is returned
    Exec(ExecArgs),
    /// Show what a pod's workload or a node's agent wrote
    Logs(LogsArgs),
    /// Add or replace objects of a running sandbox
    Apply(ApplyArgs),
    /// Remove objects of a running sandbox
    Delete(DeleteArgs),
    /// Kill agents with SIGKILL; pods keep their connections and their policy
    ///
    /// The agents stay away until `start`.
    Kill(AgentsArgs),
    /// Start agents that were killed, and wait until they serve
    Start(AgentsArgs),
    /// Start a cluster, show its flows, take it down at the end
    Demo(DemoArgs),
    /// Own a sandbox: what `up` starts
    #[command(hide = true)]
    Run(RunArgs),
    /// Start a process in its control group and namespaces
    #[command(hide = true)]
    Enter(EnterArgs),
    /// Run a pod's built-in workloads
    #[command(hide = true)]
    Workload(WorkloadArgs),
}

/// Which sandbox.
#[derive(Args, Clone, Debug)]
pub struct NameArg {
    /// Name of the sandbox; the only running one when left out
    #[arg(long, visible_alias = "sandbox", value_name = "NAME")]
    name: Option<String>,
}

/// Arguments of `up`.
#[derive(Args, Clone, Debug)]
pub struct UpArgs {
    /// Kubernetes YAML: Node, Namespace, Pod, policies
    file: PathBuf,
    /// Name of the sandbox; the file's name without its ending when left out
    #[arg(long, visible_alias = "sandbox", value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    agents: AgentArgs,
    /// Do not let the workloads' clients begin
    #[arg(long, hide = true)]
    hold: bool,
}

/// Passed on to the agents.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// How kernel programs are attached
    #[arg(long, value_enum, default_value_t = Attach::Auto)]
    attach: Attach,
    /// When policy is enforced: where a policy selects the pod, always, never
    #[arg(long, value_enum, default_value_t = PolicyMode::Default)]
    policy_mode: PolicyMode,
    /// What a pod enforces while its policies need more map entries than fit: the last that fitted, or nothing passes
    #[arg(long, value_enum, default_value_t = PolicyOverflow::Keep)]
    policy_overflow: PolicyOverflow,
    /// Run a relay in front of the nodes, too: one flow API for all of them
    #[arg(long)]
    relay: bool,
    #[command(flatten)]
    flags: AgentFlags,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Attach {
    Auto,
    Tcx,
    Clsact,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum PolicyMode {
    Default,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum PolicyOverflow {
    Keep,
    Deny,
}

/// Arguments of `down`.
#[derive(Args, Clone, Debug)]
pub struct DownArgs {
    #[command(flatten)]
    name: NameArg,
    /// Every sandbox of this machine
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

/// Arguments of `ps`.
#[derive(Args, Clone, Debug)]
pub struct PsArgs {
    #[command(flatten)]
    name: NameArg,
    #[arg(short, long, value_enum, default_value_t = ps::Output::Table)]
    output: ps::Output,
}

/// Arguments of `exec`.
#[derive(Args, Clone, Debug)]
pub struct ExecArgs {
    #[command(flatten)]
    name: NameArg,
    /// Run in a node's network namespace instead of a pod's
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// NAMESPACE/POD (without --node), then -- and the command
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "POD -- COMMAND"
    )]
    words: Vec<OsString>,
}

/// Arguments of `logs`.
#[derive(Args, Clone, Debug)]
pub struct LogsArgs {
    #[command(flatten)]
    name: NameArg,
    /// NAMESPACE/POD, node/NODE, or "supervisor"
    target: String,
    /// Keep showing what is added
    #[arg(short, long)]
    follow: bool,
    /// The pod's connections, one JSON object each, instead of its log
    #[arg(long)]
    connections: bool,
}

/// Arguments of `apply`.
#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    #[command(flatten)]
    name: NameArg,
    /// Kubernetes YAML
    file: PathBuf,
}

/// Arguments of `delete`.
#[derive(Args, Clone, Debug)]
pub struct DeleteArgs {
    #[command(flatten)]
    name: NameArg,
    /// KIND/NAMESPACE/NAME, or KIND/NAME for kinds without namespace
    #[arg(required = true)]
    objects: Vec<String>,
}

/// Arguments of `kill` and `start`.
#[derive(Args, Clone, Debug)]
pub struct AgentsArgs {
    #[command(flatten)]
    name: NameArg,
    /// The agents of all nodes
    #[arg(long, required_unless_present = "node", conflicts_with = "node")]
    agents: bool,
    /// The agent of one node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

/// Arguments of `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Kubernetes YAML of the cluster
    file: PathBuf,
    /// Name of the sandbox; the file's name without its ending when left out
    #[arg(long, visible_alias = "sandbox", value_name = "NAME")]
    name: Option<String>,
    /// End after so many seconds with a summary; without it, Ctrl-C ends
    #[arg(long)]
    seconds: Option<u64>,
    #[command(flatten)]
    agents: AgentArgs,
}

/// Arguments of the supervisor, which `up` starts.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    #[arg(long)]
    name: String,
    #[arg(long)]
    file: PathBuf,
    #[arg(long)]
    program: PathBuf,
    #[arg(long)]
    hold: bool,
    #[arg(long)]
    bound: bool,
    #[command(flatten)]
    agents: AgentArgs,
}

/// Arguments of the start of a process in its place.
#[derive(Args, Clone, Debug)]
pub struct EnterArgs {
    #[arg(long)]
    cgroup: PathBuf,
    #[arg(long)]
    netns: PathBuf,
    #[arg(long)]
    names: Option<PathBuf>,
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// Arguments of a pod's process.
#[derive(Args, Clone, Debug)]
pub struct WorkloadArgs {
    #[arg(long)]
    namespace: String,
    #[arg(long)]
    pod: String,
    #[arg(long)]
    journal: PathBuf,
    #[arg(last = true)]
    workloads: String,
}

impl SandboxCommand {
    /// Does it. Blocks; may be called from within a runtime, since the work runs on a thread of its own.
    ///
    /// # Errors
    /// When it fails, with cause and remedy.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let work = std::thread::spawn(move || self.dispatch());
        work.join().map_err(|_panic| anyhow!("the command panicked"))?
    }

    fn dispatch(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Up(args) => up(args),
            Self::Down(args) => down(&args),
            Self::Ps(args) => ps::run(args.name.name.as_deref(), args.output),
            Self::Exec(args) => exec::run(args.name.name.as_deref(), args.node.as_deref(), args.words),
            Self::Logs(args) => {
                logs::run(args.name.name.as_deref(), &args.target, args.follow, args.connections)
            }
            Self::Apply(args) => change::apply(args.name.name.as_deref(), &args.file),
            Self::Delete(args) => change::delete(args.name.name.as_deref(), &args.objects),
            Self::Kill(AgentsArgs { name, node, .. }) => change::kill(name.name.as_deref(), node),
            Self::Start(AgentsArgs { name, node, .. }) => change::start(name.name.as_deref(), node),
            Self::Demo(args) => {
                let options = args.agents.options(args.file, args.name, true);
                demo::run(&UpOptions { bound: true, ..options }, args.seconds)
            }
            Self::Run(args) => run_supervisor(args),
            Self::Enter(args) => enter(&args),
            Self::Workload(args) => run_workload(args),
        }
    }
}

impl AgentArgs {
    fn options(&self, file: PathBuf, name: Option<String>, hold: bool) -> UpOptions {
        UpOptions {
            name,
            hold,
            attach: text_of(self.attach),
            policy_mode: text_of(self.policy_mode),
            policy_overflow: text_of(self.policy_overflow),
            relay: self.relay,
            agents: self.flags.clone(),
            ..UpOptions::new(file)
        }
    }
}

fn up(args: UpArgs) -> anyhow::Result<ExitCode> {
    let options = args.agents.options(args.file, args.name, args.hold);
    let sandbox = Sandbox::up(&options, |step| eprintln!("{step}"))?;
    let cluster = sandbox.cluster()?;
    let name = sandbox.name();
    let relay = cluster.relay.as_ref().map_or_else(String::new, |relay| {
        format!("  all of it, by time: specola observe --server unix://{} -f\n", relay.socket.display())
    });
    print(&format!(
        "sandbox {name} is ready: {} nodes, {} pods\n{relay}  \
         watch its flows:  specola observe --sandbox {name} -f\n  \
         change policies:  edit {}\n  \
         take it down:     specola sandbox down --name {name}\n",
        cluster.nodes.len(),
        cluster.pods.len(),
        cluster.desired_dir.display(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn down(args: &DownArgs) -> anyhow::Result<ExitCode> {
    let stale = cleanup::clean_stale()?;
    let mut names: Vec<String> = match (&args.name.name, args.all) {
        (Some(name), _) if stale.contains(name) => Vec::new(),
        (Some(name), _) => vec![name.clone()],
        (None, true) => client::list()?.into_iter().map(|cluster| cluster.name).collect(),
        (None, false) if !stale.is_empty() => Vec::new(),
        (None, false) => vec![client::load(None)?.name],
    };
    for name in &names {
        // One that is only starting has a lock and no state yet: it is asked like any other.
        let layout = Layout::new(name)?;
        if !layout.directory().try_exists().context("cannot look for the sandbox")? {
            client::load(Some(name))?;
        }
        Sandbox::of(layout).down()?;
    }
    names.extend(stale);
    let text = if names.is_empty() {
        "no sandbox is running".to_owned()
    } else {
        format!("taken down: {}", names.join(", "))
    };
    print(&format!("{text}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn run_supervisor(args: RunArgs) -> anyhow::Result<ExitCode> {
    let result = supervisor::run(supervisor::Settings {
        layout: Layout::new(&args.name)?,
        file: args.file,
        attach: text_of(args.agents.attach),
        policy_mode: text_of(args.agents.policy_mode),
        policy_overflow: text_of(args.agents.policy_overflow),
        relay: args.agents.relay,
        agents: args.agents.flags,
        hold: args.hold,
        bound: args.bound,
        program: args.program,
    });
    // It has told the cause to whoever started it.
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn enter(args: &EnterArgs) -> anyhow::Result<ExitCode> {
    let place = Place { cgroup: args.cgroup.clone(), netns: args.netns.clone(), names: args.names.clone() };
    let Some((program, arguments)) = args.command.split_first() else { bail!("no command to run") };
    let error = place.exec(program, arguments);
    eprintln!("{error}");
    Ok(ExitCode::from(error.exit_code()))
}

fn run_workload(args: WorkloadArgs) -> anyhow::Result<ExitCode> {
    crate::workload::run::run(WorkloadSettings {
        workloads: args.workloads.parse()?,
        namespace: args.namespace,
        pod: args.pod,
        journal: args.journal,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Rows as left-aligned columns.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            // Writing to a string cannot fail.
            _ = write!(line, "{cell:<width$}  ", width = width(column));
        }
        text.push_str("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Writes to standard output. A reader that has gone is no failure of the command.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["A".to_owned(), "LONG".to_owned()], vec!["wide".to_owned(), "x".to_owned()]];
        assert_eq!(columns(&rows), "  A     LONG\n  wide  x\n");
    }
}
