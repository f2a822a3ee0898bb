//! How the reader sleeps, and who wakes it: the kernel programs, other threads.
//!
//! The programs' side, and why no wake-up is lost, is in `datapath/ebpf/src/wake.rs`. Threads of this process do the same
//! with an eventfd in place of the ring buffer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use specola_datapath_common::names;

use crate::maps::words::Words;
use crate::maps::{MapSource, MapsError, take, take_as};

/// The reader's end.
pub(crate) struct Bell {
    /// The programs' wake-ups. It never has a record.
    programs: RingBuf<MapData>,
    shared: Arc<Shared>,
    _map: Map,
}

/// Wakes the reader.
#[derive(Clone, Debug)]
pub struct ReaderWaker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// One word: whether the reader sleeps, or is about to.
    asleep: Words,
    threads: EventFd,
    stop: AtomicBool,
}

impl Bell {
    pub(crate) fn open(maps: &mut impl MapSource) -> Result<Self, MapsError> {
        let programs = take_as(maps, names::WAKE)?;
        let map = take(maps, names::ASLEEP)?;
        let Map::Array(data) = &map else { return Err(MapsError::Missing { name: names::ASLEEP }) };
        let mmap_failed = |source| MapsError::Mmap { name: names::ASLEEP, source };
        let asleep = Words::map(data.fd().as_fd(), size_of::<u64>()).map_err(mmap_failed)?;
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let threads = EventFd::from_flags(flags).map_err(|errno| MapsError::EventFd(errno.into()))?;
        // Whatever the process before left.
        asleep.word(0).store(0, Ordering::Relaxed);
        let shared = Arc::new(Shared { asleep, threads, stop: AtomicBool::new(false) });
        Ok(Self { programs, shared, _map: map })
    }

    pub(super) fn waker(&self) -> ReaderWaker {
        ReaderWaker { shared: Arc::clone(&self.shared) }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// From now on whoever has something for the reader wakes it. What was there before must be looked for after this.
    pub(super) fn arm(&self) {
        self.shared.asleep.word(0).store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The reader looks by itself again.
    pub(super) fn disarm(&self) {
        self.shared.asleep.word(0).store(0, Ordering::Relaxed);
    }

    /// Waits until someone wakes the reader, or for this long; `None` = for ever.
    pub(super) fn wait(&mut self, longest: Option<Duration>) -> io::Result<()> {
        let fds: [BorrowedFd<'_>; 2] = [self.programs.as_fd(), self.shared.threads.as_fd()];
        let mut waits = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match ppoll(&mut waits, longest.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Skips what the programs discarded.
        while self.programs.next().is_some() {}
        match self.shared.threads.read() {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl ReaderWaker {
    /// Makes a sleeping reader call its sink. To be called after something was queued for it; cheap when it is awake.
    pub fn wake(&self) {
        // The queue first: either this sees the reader asleep, or the reader sees the queue.
        fence(Ordering::SeqCst);
        let asleep = self.shared.asleep.word(0);
        if asleep.load(Ordering::Relaxed) != 0 {
            asleep.store(0, Ordering::Relaxed);
            self.ring();
        }
    }

    /// Tells the reader to drain what there is and to end.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.ring();
    }

    fn ring(&self) {
        // It fails only when its counter is full of wake-ups that the reader has not answered yet.
        if let Err(error) = self.shared.threads.write(1) {
            tracing::debug!(%error, "the reader was woken already");
        }
    }
}
