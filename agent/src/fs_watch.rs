//! Waits for changes in directories.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    REISERFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};
use tokio::io::unix::AsyncFd;

/// Says when something in the watched directories may have changed.
///
/// It is level triggered: the caller looks at the directories after each [`DirWatch::changed`]. inotify makes it
/// quick; a poll makes it certain where inotify does not work: network file systems, directories that are not there.
#[derive(Debug)]
pub(crate) struct DirWatch {
    inotify: AsyncFd<Events>,
    /// The directories, and whether inotify may miss changes in them.
    misses: Mutex<HashMap<PathBuf, bool>>,
}

/// Time that a burst of changes may take to become one.
const DEBOUNCE: Duration = Duration::from_millis(30);
/// The same after files that were written whole. One that was removed, or begun, may be half of a change.
const SHORT_DEBOUNCE: Duration = Duration::from_millis(2);
/// Longest time without a look.
const POLL: Duration = Duration::from_secs(2);
/// The same where inotify tells of every change but those behind symbolic links.
const SLOW_POLL: Duration = Duration::from_secs(15);
/// File systems that are written through this kernel only.
const LOCAL: [FsType; 7] = [
    BTRFS_SUPER_MAGIC,
    EXT4_SUPER_MAGIC,
    F2FS_SUPER_MAGIC,
    OVERLAYFS_SUPER_MAGIC,
    REISERFS_SUPER_MAGIC,
    TMPFS_MAGIC,
    XFS_SUPER_MAGIC,
];

impl DirWatch {
    /// A watch without directories. Must be called in a tokio runtime.
    #[expect(
        deprecated,
        reason = "the replacement is unsafe; Events keeps one descriptor open for its whole life"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(|errno| {
            let text = format!("inotify: {errno}; raise fs.inotify.max_user_instances if it is used up");
            io::Error::new(io::Error::from(errno).kind(), text)
        })?;
        Ok(Self { inotify: AsyncFd::new(Events(inotify))?, misses: Mutex::default() })
    }

    /// Adds a directory; adding it again is cheap, and makes up for its removal in between.
    pub(crate) fn add(&self, dir: &Path) -> io::Result<()> {
        let mask = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let is_local = statfs(dir).is_ok_and(|found| LOCAL.contains(&found.filesystem_type()));
        let added = self.inotify.get_ref().0.add_watch(dir, mask);
        self.misses().insert(dir.to_owned(), !is_local || added.is_err());
        added.map(|_| ()).map_err(Into::into)
    }

    /// Resolves after a change, once the burst it belongs to has settled, or after the poll interval. Cancel safe.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        let needs_poll = self.misses().values().any(|misses| *misses);
        let poll = if needs_poll { POLL } else { SLOW_POLL };
        match tokio::time::timeout(poll, self.drain_one()).await {
            Err(_elapsed) => return Ok(()),
            Ok(are_whole) => {
                let debounce = if are_whole? { SHORT_DEBOUNCE } else { DEBOUNCE };
                tokio::time::sleep(debounce).await;
            }
        }
        self.discard_queued()
    }

    fn misses(&self) -> MutexGuard<'_, HashMap<PathBuf, bool>> {
        self.misses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discard_queued(&self) -> io::Result<()> {
        loop {
            match self.inotify.get_ref().0.read_events() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for events. Gives whether all tell of files that are whole.
    async fn drain_one(&self) -> io::Result<bool> {
        loop {
            let mut guard = self.inotify.readable().await?;
            match guard.try_io(|events| Ok(events.get_ref().0.read_events()?)) {
                Ok(Ok(events)) => {
                    let whole = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
                    return Ok(events.iter().all(|event| whole.contains(event.mask)));
                }
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

#[derive(Debug)]
struct Events(Inotify);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_file_wakes_the_watch() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let watch = DirWatch::new().expect("inotify works");
        watch.add(dir.path()).expect("directory can be watched");
        std::fs::write(dir.path().join("a"), "1").expect("writes");
        tokio::time::timeout(Duration::from_secs(10), watch.changed())
            .await
            .expect("woken")
            .expect("no error");
    }

    #[tokio::test(start_paused = true)]
    async fn without_events_the_poll_interval_ends_the_wait() {
        let watch = DirWatch::new().expect("inotify works");
        watch.changed().await.expect("no error");
    }
}
