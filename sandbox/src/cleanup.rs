//! Removes everything that a sandbox made, whoever ended it and however.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::cgroup;
use crate::layout::Layout;
use crate::lock::Ownership;
use crate::mounts::{Mounts, unmount_below};

/// Removes the sandbox's processes, pins, namespaces and files. Succeeds when there are none.
///
/// # Errors
/// When something cannot be removed; what comes before it is gone.
pub(crate) fn clean(_owned: &Ownership, layout: &Layout, mounts: &Mounts) -> anyhow::Result<()> {
    cgroup::destroy(&layout.below(&mounts.cgroup2), KILL_LIMIT)?;
    remove_if_empty(&mounts.cgroup2.join("specola"))?;
    remove_all(&layout.below(&mounts.bpffs))?;
    remove_if_empty(&mounts.bpffs.join("specola"))?;
    unmount_below(&layout.directory())?;
    remove_all(&layout.directory())
}

/// Cleans up after every sandbox whose supervisor is gone; returns their names.
///
/// # Errors
/// When one of them cannot be cleaned up.
pub fn clean_stale() -> anyhow::Result<Vec<String>> {
    let mut cleaned = Vec::new();
    for layout in Layout::all()? {
        let Some(owned) = Ownership::try_take(&layout)? else { continue };
        if layout.directory().try_exists()? {
            let context =
                || format!("cannot clean up after sandbox {}, whose supervisor is gone", layout.name());
            clean(&owned, &layout, &Mounts::find()?).with_context(context)?;
            cleaned.push(layout.name().to_owned());
        }
    }
    Ok(cleaned)
}

fn remove_all(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// The directory is shared by all sandboxes; the last one removes it.
fn remove_if_empty(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

const KILL_LIMIT: Duration = Duration::from_secs(10);
