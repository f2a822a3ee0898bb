//! Network namespaces, kept alive by bind mounts.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Makes a network namespace and keeps it at `path`.
///
/// # Errors
/// When the process may not make namespaces, or `path` cannot be made or mounted on.
pub(crate) fn create(path: &Path) -> anyhow::Result<()> {
    File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace; run as root")?;
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot keep the network namespace at {}", path.display()))
    })
}

/// Moves the calling thread into the namespace at `path`. What it spawns afterwards is in it too.
///
/// # Errors
/// When `path` is no network namespace or the process may not enter it.
pub(crate) fn enter(path: &Path) -> anyhow::Result<()> {
    let file =
        File::open(path).with_context(|| format!("cannot open the network namespace {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the network namespace {}; run as root", path.display()))
}

/// Runs `work` on a thread of its own inside the namespace at `path`.
///
/// # Errors
/// When the namespace cannot be entered, or what `work` returns.
pub(crate) fn run_in<T: Send>(
    path: &Path,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    on_own_thread(|| {
        enter(path)?;
        work()
    })
}

/// A thread of a runtime's pool would carry the namespace into the next task, hence always a new one.
fn on_own_thread<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_panic| Err(anyhow!("the namespace thread panicked, see the log")))
}
