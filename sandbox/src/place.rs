//! Puts a process where it belongs: control group, network namespace, and for pods the name files.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::{cgroup, netns};

/// Where a process of a sandbox runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub cgroup: PathBuf,
    pub netns: PathBuf,
    /// Directory with `hosts` and `resolv.conf` that the process shall see; nodes have none.
    pub names: Option<PathBuf>,
}

/// Why a command could not be started in its place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("{0:#}")]
    Place(#[from] anyhow::Error),
    #[error("cannot run {program:?}: {source}")]
    Exec { program: OsString, source: std::io::Error },
}

impl StartError {
    /// The exit code that a shell would give.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Place(_) => 1,
            Self::Exec { source, .. } if source.kind() == ErrorKind::NotFound => 127,
            Self::Exec { .. } => 126,
        }
    }
}

impl Place {
    /// Turns the calling process into `command` in this place. Returns only on failure.
    pub(crate) fn exec(&self, program: &OsStr, arguments: &[OsString]) -> StartError {
        if let Err(error) = self.move_in() {
            return error.into();
        }
        let source = Command::new(program).args(arguments).exec();
        StartError::Exec { program: program.to_owned(), source }
    }

    /// A command that starts `program`'s hidden `sandbox enter`, which moves in and becomes what is added as arguments.
    pub(crate) fn command(&self, program: &Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        command.args(["sandbox", "enter", "--cgroup"]).arg(&self.cgroup).arg("--netns").arg(&self.netns);
        if let Some(names) = &self.names {
            command.arg("--names").arg(names);
        }
        command.arg("--");
        command
    }

    /// The group first: from then on `down` finds the process, whatever fails after.
    fn move_in(&self) -> anyhow::Result<()> {
        cgroup::join(&self.cgroup)?;
        netns::enter(&self.netns)?;
        match &self.names {
            Some(names) => show_names(names),
            None => Ok(()),
        }
    }
}

/// Gives the process its own view of the files that resolve names. /sys stays as it is, bpffs with it.
fn show_names(directory: &Path) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace; run as root")?;
    // Slave, not private: when the sandbox unmounts its namespaces, they go from here too.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
        .context("cannot detach the mount namespace")?;
    for name in ["hosts", "resolv.conf"] {
        let target = Path::new("/etc").join(name);
        // A machine without the file resolves nothing through it; there is no place to mount on either.
        if name == "resolv.conf" && !target.try_exists()? {
            continue;
        }
        let source = directory.join(name);
        mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot show {} as {}", source.display(), target.display()))?;
    }
    Ok(())
}
