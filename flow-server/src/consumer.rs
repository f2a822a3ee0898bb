//! Readers of the ring inside the agent: metrics and exporters. Each has a cursor of its own and its own accounts:
//! seen = delivered + filtered + failed + lost + waiting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use specola_flow::Flow;
use specola_lifecycle::Drain;
use specola_ring::{Cursor, Next, Reader};
use tokio::sync::watch;

use crate::{pressure::Pressure, shared::Shared};

/// How long a reader rests after it has caught up and something new is there: it then finds more than one flow.
const REST: Duration = Duration::from_millis(50);

/// Accounts of all such readers, also of those that have ended.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    list: Mutex<Vec<Arc<Accounts>>>,
}

/// Accounts of one reader.
#[derive(Debug)]
pub(crate) struct Accounts {
    name: String,
    delivered: AtomicU64,
    filtered: AtomicU64,
    failed: AtomicU64,
    lost: AtomicU64,
    waiting: AtomicU64,
}

/// A reading of one reader's accounts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConsumerCounts {
    /// `metrics`, or `export:` and the name of the exporter.
    pub name: String,
    /// Records that it made something of.
    pub delivered: u64,
    /// Records that it was not asked for.
    pub filtered: u64,
    /// Records that it could not pass on.
    pub failed: u64,
    /// Records that were overwritten before it came to them.
    pub lost: u64,
    /// Records that wait in its buffer.
    pub waiting: u64,
}

impl ConsumerCounts {
    /// Records that it came across, or missed.
    pub const fn seen(&self) -> u64 {
        self.delivered + self.filtered + self.failed + self.lost + self.waiting
    }
}

impl Consumers {
    /// The accounts with this name: those of a reader with the same name before it go on.
    fn open(&self, name: &str) -> Arc<Accounts> {
        let mut list = self.list.lock();
        if let Some(known) = list.iter().find(|accounts| accounts.name == name) {
            return Arc::clone(known);
        }
        let new = Arc::new(Accounts {
            name: name.to_owned(),
            delivered: AtomicU64::new(0),
            filtered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        });
        list.push(Arc::clone(&new));
        new
    }

    pub(crate) fn counts(&self) -> Vec<ConsumerCounts> {
        let read = |accounts: &Arc<Accounts>| ConsumerCounts {
            name: accounts.name.clone(),
            delivered: accounts.delivered.load(Relaxed),
            filtered: accounts.filtered.load(Relaxed),
            failed: accounts.failed.load(Relaxed),
            lost: accounts.lost.load(Relaxed),
            waiting: accounts.waiting.load(Relaxed),
        };
        self.list.lock().iter().map(read).collect()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.list.lock().iter().map(|accounts| accounts.lost.load(Relaxed)).sum()
    }
}

/// A reader: cursor and accounts.
#[derive(Debug)]
pub(crate) struct Consumer {
    accounts: Arc<Accounts>,
    reader: Reader<Flow>,
    cursor: Cursor<Flow>,
    head: watch::Receiver<u64>,
    pressure: Pressure,
}

/// What is next in the ring.
#[derive(Debug)]
pub(crate) enum Found {
    /// A record; say what became of it ([`Consumer::done`], [`Consumer::fail`]).
    Flow { seq: u64, flow: Flow },
    /// So many records were lost; they are counted.
    Lost(u64),
    /// Nothing new.
    Nothing,
}

impl Consumer {
    /// A reader of what comes from now on.
    pub(crate) fn open(shared: &Shared, name: &str) -> Self {
        Self {
            accounts: shared.consumers.open(name),
            cursor: shared.ring.cursor(shared.ring.head()),
            reader: shared.ring.clone(),
            head: shared.head.clone(),
            pressure: shared.pressure.clone(),
        }
    }

    pub(crate) fn next(&mut self) -> Found {
        match self.cursor.next() {
            Next::Item { seq, value } => Found::Flow { seq, flow: value },
            Next::Lost(lost) => {
                self.accounts.lost.fetch_add(lost.count(), Relaxed);
                Found::Lost(lost.count())
            }
            Next::Pending => Found::Nothing,
        }
    }

    /// Accounts for a record that was dealt with, or was not asked for.
    pub(crate) fn done(&self, delivered: bool) {
        let account = if delivered { &self.accounts.delivered } else { &self.accounts.filtered };
        account.fetch_add(1, Relaxed);
    }

    /// Accounts for records that were passed on, and says how many wait.
    pub(crate) fn passed_on(&self, count: u64, waiting: u64) {
        self.accounts.delivered.fetch_add(count, Relaxed);
        self.accounts.waiting.store(waiting, Relaxed);
    }

    /// Accounts for records that were lost on their way out.
    pub(crate) fn fail(&self, count: u64) {
        self.accounts.failed.fetch_add(count, Relaxed);
    }

    /// Begins with this record instead.
    pub(crate) fn begin_at(&mut self, position: u64) {
        self.cursor.seek(position);
    }

    /// The first record that it did not look at.
    pub(crate) const fn position(&self) -> u64 {
        self.cursor.position()
    }

    /// Accounts for all records up to now that it will not look at any more.
    pub(crate) fn abandon(&mut self) {
        let rest = self.reader.head().saturating_sub(self.position());
        self.fail(rest);
        self.cursor.seek(self.position() + rest);
    }

    /// Waits for something new, then a moment for more; returns `false` when nothing more comes.
    pub(crate) async fn wait(&mut self, drain: &Drain) -> bool {
        let head = *self.head.borrow_and_update();
        if head <= self.cursor.position() {
            tokio::select! {
                biased;
                () = drain.signalled() => return true,
                changed = self.head.changed() => if changed.is_err() {
                    return false;
                },
            }
        }
        tokio::select! {
            biased;
            () = drain.signalled() => {}
            () = self.pressure.beyond(self.cursor.position()) => {}
            () = tokio::time::sleep(REST) => {}
        }
        true
    }
}
