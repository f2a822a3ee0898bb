//! Waits for changes in directories.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    REISERFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Says what in the watched directories may have changed.
///
/// inotify makes it quick; a poll makes it certain where inotify does not work: network file systems, symbolic links,
/// directories that are not there.
#[derive(Debug)]
pub(crate) struct DirWatch {
    inotify: AsyncFd<Events>,
    state: Mutex<State>,
}

/// What may have changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Changed {
    /// These paths: files that came, went, or were written, and directories that came.
    Paths(BTreeSet<PathBuf>),
    /// Anything.
    Anything,
}

#[derive(Debug, Default)]
struct State {
    directories: HashMap<WatchDescriptor, PathBuf>,
    /// Whether inotify may miss changes in a directory.
    misses: HashMap<PathBuf, bool>,
    /// Files that were written whole.
    whole: BTreeSet<PathBuf>,
    /// What may be half of a change, and when it was seen last: a file that was removed, or begun.
    unsettled: BTreeMap<PathBuf, Instant>,
    /// Something changed that has no name here.
    unnamed: Option<Instant>,
}

/// Time after which half of a change counts as all of it.
const DEBOUNCE: Duration = Duration::from_millis(30);
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
        Ok(Self { inotify: AsyncFd::new(Events(inotify))?, state: Mutex::default() })
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
        let mut state = self.state();
        state.misses.insert(dir.to_owned(), !is_local || added.is_err());
        state.directories.insert(added?, dir.to_owned());
        Ok(())
    }

    /// Resolves after a change, with files that are whole at once, with others when the change has settled; or after
    /// the poll interval. Cancel safe.
    pub(crate) async fn changed(&self) -> io::Result<Changed> {
        let poll = Instant::now() + self.state().poll();
        loop {
            let due = {
                let mut state = self.state();
                if let Some(changed) = state.take(Instant::now()) {
                    return Ok(changed);
                }
                state.due().map_or(poll, |due| due.min(poll))
            };
            match tokio::time::timeout_at(due, self.read()).await {
                Ok(read) => read?,
                Err(_elapsed) if Instant::now() >= poll => return Ok(Changed::Anything),
                Err(_elapsed) => {}
            }
        }
    }

    /// Waits for events and notes all that there are.
    async fn read(&self) -> io::Result<()> {
        let mut guard = self.inotify.readable().await?;
        loop {
            match guard.try_io(|events| Ok(events.get_ref().0.read_events()?)) {
                Ok(Ok(events)) => {
                    let (mut state, now) = (self.state(), Instant::now());
                    events.iter().for_each(|event| state.note(event, now));
                }
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => return Ok(()),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn poll(&self) -> Duration {
        if self.misses.values().any(|misses| *misses) { POLL } else { SLOW_POLL }
    }

    fn note(&mut self, event: &InotifyEvent, now: Instant) {
        let directory = self.directories.get(&event.wd).cloned();
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.directories.remove(&event.wd);
        }
        let (Some(directory), Some(name)) = (directory, &event.name) else {
            // The queue overflowed, or a directory is gone.
            self.unnamed = Some(now);
            return;
        };
        if is_hidden(name) {
            // Files that are being written have such names. A link that replaces another one may mean anything.
            if event.mask.contains(AddWatchFlags::IN_MOVED_TO) {
                self.unnamed = Some(now);
            }
            return;
        }
        let path = directory.join(name);
        if event.mask.intersects(AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO) {
            self.unsettled.remove(&path);
            self.whole.insert(path);
        } else {
            self.whole.remove(&path);
            self.unsettled.insert(path, now);
        }
    }

    /// What is to be looked at now.
    fn take(&mut self, now: Instant) -> Option<Changed> {
        let is_over = |since: &Instant| now.saturating_duration_since(*since) >= DEBOUNCE;
        if self.unnamed.as_ref().is_some_and(is_over) {
            self.unnamed = None;
            self.whole.clear();
            self.unsettled.retain(|_, since| !is_over(since));
            return Some(Changed::Anything);
        }
        let mut paths = std::mem::take(&mut self.whole);
        paths.extend(self.unsettled.extract_if(.., |_, since| is_over(since)).map(|(path, _)| path));
        (!paths.is_empty()).then_some(Changed::Paths(paths))
    }

    /// When something will have settled.
    fn due(&self) -> Option<Instant> {
        self.unsettled.values().chain(&self.unnamed).min().map(|since| *since + DEBOUNCE)
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
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

    fn watched() -> (tempfile::TempDir, DirWatch) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let watch = DirWatch::new().expect("inotify works");
        watch.add(dir.path()).expect("directory can be watched");
        (dir, watch)
    }

    async fn changed(watch: &DirWatch) -> Changed {
        let changed = tokio::time::timeout(Duration::from_secs(10), watch.changed()).await;
        changed.expect("woken").expect("no error")
    }

    fn paths(dir: &tempfile::TempDir, names: &[&str]) -> Changed {
        Changed::Paths(names.iter().map(|name| dir.path().join(name)).collect())
    }

    #[tokio::test]
    async fn a_whole_file_is_told_by_name_and_not_the_hidden_one_that_it_was() {
        let (dir, watch) = watched();
        std::fs::write(dir.path().join("a"), "1").expect("writes");
        assert_eq!(changed(&watch).await, paths(&dir, &["a"]));
        std::fs::write(dir.path().join(".b.new"), "1").expect("writes");
        std::fs::rename(dir.path().join(".b.new"), dir.path().join("b")).expect("renames");
        assert_eq!(changed(&watch).await, paths(&dir, &["b"]));
    }

    #[tokio::test]
    async fn what_may_be_half_of_a_change_is_told_when_it_settled() {
        let (dir, watch) = watched();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "1").expect("writes");
        assert_eq!(changed(&watch).await, paths(&dir, &["a"]));
        let started = std::time::Instant::now();
        std::fs::remove_file(&a).expect("removes");
        let begun = std::fs::File::create(&b).expect("begins");
        assert_eq!(changed(&watch).await, paths(&dir, &["a", "b"]));
        assert!(started.elapsed() >= DEBOUNCE);
        drop(begun);
        assert_eq!(changed(&watch).await, paths(&dir, &["b"]), "it is whole now");
    }

    #[tokio::test]
    async fn a_hidden_link_that_is_replaced_may_mean_anything() {
        let (dir, watch) = watched();
        let link = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("somewhere", link("..new")).expect("links");
        std::fs::rename(link("..new"), link("..data")).expect("renames");
        assert_eq!(changed(&watch).await, Changed::Anything);
    }

    #[tokio::test(start_paused = true)]
    async fn without_events_the_poll_interval_ends_the_wait() {
        let watch = DirWatch::new().expect("inotify works");
        assert_eq!(watch.changed().await.expect("no error"), Changed::Anything);
    }
}
