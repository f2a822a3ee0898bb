//! Control groups: every process of a sandbox is in one, so that all of them can be ended for certain.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Makes the group and its parents.
///
/// # Errors
/// When the file system refuses, with the remedy.
pub(crate) fn create(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| {
        format!(
            "cannot make the control group {}; run as root, in a container with a writable cgroup2 \
             (docker: --privileged --cgroupns=private)",
            path.display()
        )
    })
}

/// Moves the calling process into the group.
///
/// # Errors
/// When the group is gone or the kernel refuses.
pub(crate) fn join(path: &Path) -> anyhow::Result<()> {
    // "0" means the writer itself.
    add(path, 0)
}

/// Moves a process into the group.
///
/// # Errors
/// When the group is gone, the process is gone, or the kernel refuses.
pub(crate) fn add(path: &Path, pid: u32) -> anyhow::Result<()> {
    // One write call, since the kernel reads each write as a whole.
    fs::OpenOptions::new()
        .write(true)
        .open(path.join("cgroup.procs"))
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .with_context(|| format!("cannot move a process into the control group {}", path.display()))
}

/// Kills every process in the group and below, waits until none is left and removes the groups.
/// Succeeds when the group does not exist.
///
/// # Errors
/// When the kernel has no `cgroup.kill` (before 5.14) or processes are left after `limit`.
pub(crate) fn destroy(path: &Path, limit: Duration) -> anyhow::Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound && !path.try_exists()? => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| {
                format!("cannot kill the control group {} (needs Linux 5.14)", path.display())
            });
        }
    }
    wait_until_empty(path, limit)?;
    remove_tree(path)
}

/// Process ids in the group and below.
///
/// # Errors
/// When a group cannot be read.
pub(crate) fn processes(path: &Path) -> anyhow::Result<Vec<u32>> {
    let text = fs::read_to_string(path.join("cgroup.procs"))
        .with_context(|| format!("cannot read the control group {}", path.display()))?;
    let mut pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for child in children(path)? {
        pids.extend(processes(&child)?);
    }
    Ok(pids)
}

fn wait_until_empty(path: &Path, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let events = fs::read_to_string(path.join("cgroup.events"))
            .with_context(|| format!("cannot read the control group {}", path.display()))?;
        if events.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        if Instant::now() > deadline {
            let left = processes(path)?;
            bail!("processes {left:?} in {} survive a kill; they hang in the kernel", path.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove_tree(path: &Path) -> anyhow::Result<()> {
    for child in children(path)? {
        remove_tree(&child)?;
    }
    fs::remove_dir(path).with_context(|| format!("cannot remove the control group {}", path.display()))
}

fn children(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(path).with_context(|| format!("cannot read the control group {}", path.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}
