//! The lock that a supervisor holds while it lives: the kernel drops it with the process, however that ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::layout::{Layout, ROOT};

/// Proof that no other process owns the sandbox.
#[derive(Debug)]
pub(crate) struct Ownership {
    layout: Layout,
    _file: File,
}

impl Ownership {
    /// Takes the lock if nobody has it; `None` when a supervisor lives or another command cleans up.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub(crate) fn try_take(layout: &Layout) -> anyhow::Result<Option<Self>> {
        let path = layout.lock();
        loop {
            fs::create_dir_all(ROOT).with_context(|| format!("cannot make {ROOT}; run as root"))?;
            let file = match OpenOptions::new().create(true).truncate(false).write(true).open(&path) {
                Ok(file) => file,
                // The last sandbox has just removed the directory.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot open {}; run as root", path.display()));
                }
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            // The holder before removed the file when it let go; only the file that has the name counts.
            let is_current = fs::metadata(&path).is_ok_and(|named| {
                file.metadata().is_ok_and(|held| (named.dev(), named.ino()) == (held.dev(), held.ino()))
            });
            if is_current {
                return Ok(Some(Self { layout: layout.clone(), _file: file }));
            }
        }
    }

    /// Takes the lock, waiting while another command cleans up.
    ///
    /// # Errors
    /// When it is still held after `limit`: a sandbox of that name runs.
    pub(crate) fn take(layout: &Layout, limit: Duration) -> anyhow::Result<Self> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(ownership) = Self::try_take(layout)? {
                return Ok(ownership);
            }
            if Instant::now() > deadline {
                let name = layout.name();
                bail!("sandbox {name} is running; end it with `specola sandbox down --name {name}`");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Ownership {
    /// Removes the lock file before the lock goes, then the root directory if this was the last sandbox.
    fn drop(&mut self) {
        // Nothing to tell: a file that is left is taken over by the next command.
        _ = fs::remove_file(self.layout.lock());
        _ = fs::remove_dir(ROOT);
        _ = fs::remove_dir("/run/specola");
    }
}
