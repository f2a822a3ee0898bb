//! Starts and ends sandboxes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent_flags::AgentFlags;
use crate::cleanup;
use crate::client;
use crate::layout::Layout;
use crate::lock::Ownership;
use crate::mounts::Mounts;
use crate::spec::Spec;
use crate::state::{Cluster, start_time};
use crate::supervisor::{Report, Request, call};

/// How to start a sandbox.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The cluster file.
    pub file: PathBuf,
    /// The file's stem when absent.
    pub name: Option<String>,
    /// How the agents attach their programs: "auto", "tcx" or "clsact".
    pub attach: String,
    /// "default", "always" or "never".
    pub policy_mode: String,
    /// "keep" or "deny".
    pub policy_overflow: String,
    /// A relay runs in front of the nodes.
    pub relay: bool,
    /// Further flags of the agents.
    pub agents: AgentFlags,
    /// Clients begin only after [`Sandbox::release`].
    pub hold: bool,
    /// The sandbox ends with this process, however that ends.
    pub bound: bool,
    /// The `specola` binary; the running program when absent.
    pub program: Option<PathBuf>,
}

/// A running sandbox.
#[derive(Debug)]
pub struct Sandbox {
    layout: Layout,
    /// The supervisor of a bound sandbox ends when this is closed.
    _lifeline: Option<ChildStdin>,
}

impl UpOptions {
    /// The usual options for a cluster file.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            name: None,
            attach: "auto".to_owned(),
            policy_mode: "default".to_owned(),
            policy_overflow: "keep".to_owned(),
            relay: false,
            agents: AgentFlags::default(),
            hold: false,
            bound: false,
            program: None,
        }
    }

    fn layout(&self) -> anyhow::Result<Layout> {
        match &self.name {
            Some(name) => Layout::new(name),
            None => {
                let stem = self.file.file_stem().map(|stem| stem.to_string_lossy().to_lowercase());
                let name = stem.unwrap_or_default().replace(['_', '.'], "-");
                Layout::new(&name).context("the file's name gives no name, use --name")
            }
        }
    }
}

impl Sandbox {
    /// Starts a sandbox and returns when every pod is ready. `progress` is told each step.
    ///
    /// # Errors
    /// When the file is wrong, the name is taken, or the cluster does not come up; then nothing of it is left.
    pub fn up(options: &UpOptions, mut progress: impl FnMut(&str)) -> anyhow::Result<Self> {
        let layout = options.layout()?;
        // Told here, with the path that the user wrote, and before anything is started.
        Spec::read(&options.file, options.agents.language())?;
        if !nix::unistd::geteuid().is_root() {
            bail!("a sandbox needs root: it makes network namespaces and loads kernel programs");
        }
        // Dropped on every way out: the end of its standard input ends a supervisor that is not ready.
        let mut child = start_supervisor(options, &layout)?;
        let reports = child.stdout.take().context("the supervisor has a pipe")?;
        for line in BufReader::new(reports).lines() {
            let line = line.context("cannot read from the supervisor")?;
            match serde_json::from_str(&line) {
                Ok(Report::Progress(text)) => progress(&text),
                Ok(Report::Ready) => {
                    let lifeline = child.stdin.take().filter(|_| options.bound);
                    return Ok(Self { layout, _lifeline: lifeline });
                }
                Ok(Report::Failed(cause)) => {
                    // It cleans up before it ends.
                    child.wait().context("cannot wait for the supervisor")?;
                    bail!("sandbox {} did not come up: {cause}", layout.name());
                }
                Err(error) => bail!("the supervisor says {line:?}: {error}"),
            }
        }
        let status = child.wait().context("cannot wait for the supervisor")?;
        cleanup::clean_stale()?;
        bail!("the supervisor of sandbox {} ended with {status}", layout.name());
    }

    /// The running sandbox of that name, or the only one.
    ///
    /// # Errors
    /// When there is none, or several and no name is given.
    pub fn find(name: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self::of(Layout::new(&client::load(name)?.name)?))
    }

    pub(crate) fn of(layout: Layout) -> Self {
        Self { layout, _lifeline: None }
    }

    /// Name of the sandbox.
    pub fn name(&self) -> &str {
        self.layout.name()
    }

    /// What its supervisor knows now.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cluster(&self) -> anyhow::Result<Cluster> {
        Cluster::read(&self.layout)?.with_context(|| format!("sandbox {} is gone", self.name()))
    }

    /// Lets the clients begin.
    ///
    /// # Errors
    /// When the supervisor does not answer or a workload has ended.
    pub fn release(&self) -> anyhow::Result<()> {
        self.ask(&Request::Release)
    }

    /// Ends the clients after their current connection and waits for that.
    ///
    /// # Errors
    /// When the supervisor does not answer or a workload has ended.
    pub fn quiesce(&self) -> anyhow::Result<()> {
        self.ask(&Request::Quiesce)
    }

    /// Takes the sandbox down. Nothing of it is left afterwards.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn down(&self) -> anyhow::Result<()> {
        let owned = match self.end_supervisor(Signal::SIGTERM)? {
            Some(owned) => owned,
            None => self
                .end_supervisor(Signal::SIGKILL)?
                .with_context(|| format!("the supervisor of sandbox {} does not end", self.name()))?,
        };
        // Usually nothing is left; after a kill everything is.
        cleanup::clean(&owned, &self.layout, &Mounts::find()?)
    }

    /// On a thread of its own, since the caller's may be in a runtime.
    pub(crate) fn ask(&self, request: &Request) -> anyhow::Result<()> {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("cannot start a runtime")?.block_on(call(&self.layout.control(), request))
        };
        std::thread::scope(|scope| scope.spawn(work).join())
            .unwrap_or_else(|_panic| bail!("the call panicked"))
    }

    /// Signals the supervisor until it lets go of the sandbox; `None` when it does not in time.
    ///
    /// Only it is signalled: the start time tells it from a later process of the same id.
    fn end_supervisor(&self, with: Signal) -> anyhow::Result<Option<Ownership>> {
        let deadline = Instant::now() + DOWN_LIMIT;
        let mut signalled = None;
        loop {
            // It lets go a moment before its process ends.
            let has_ended = signalled.is_none_or(|(pid, start)| start_time(pid) != Some(start));
            if has_ended && let Some(owned) = Ownership::try_take(&self.layout)? {
                return Ok(Some(owned));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            // One that has just begun has no state yet, and is signalled as soon as it has.
            if let Some(cluster) = Cluster::read(&self.layout)?
                && signalled != Some((cluster.pid, cluster.start_time))
                && start_time(cluster.pid) == Some(cluster.start_time)
            {
                let pid = i32::try_from(cluster.pid).context("no process id")?;
                // It may end between the look and the signal.
                _ = kill(Pid::from_raw(pid), with);
                signalled = Some((cluster.pid, cluster.start_time));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn start_supervisor(options: &UpOptions, layout: &Layout) -> anyhow::Result<Child> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("cannot find the running program")?,
    };
    let file =
        options.file.canonicalize().with_context(|| format!("cannot find {}", options.file.display()))?;
    let mut command = Command::new(&program);
    command.args(["sandbox", "run", "--name", layout.name(), "--attach", &options.attach]);
    command
        .args(["--policy-mode", &options.policy_mode])
        .args(["--policy-overflow", &options.policy_overflow])
        .arg("--file")
        .arg(file)
        .arg("--program")
        .arg(&program)
        .args(options.agents.args());
    if options.relay {
        command.arg("--relay");
    }
    if options.hold {
        command.arg("--hold");
    }
    if options.bound {
        command.arg("--bound");
    }
    // Its standard input stays open as long as this process lives: that is how it notices when `up` is killed.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

const DOWN_LIMIT: Duration = Duration::from_secs(30);
