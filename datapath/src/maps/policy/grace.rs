//! Waiting until no running program can still hold what it looked up before.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Counts grace periods of the kernel, in a thread of its own: one takes many milliseconds, and most who need one can
/// go on meanwhile.
#[derive(Debug)]
pub(crate) struct Grace {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What is over once every program run that was under way when it was given has ended.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Ticket(u64);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The last ticket that was given.
    given: u64,
    /// Tickets up to this one are over.
    over: u64,
    ends: bool,
}

impl Grace {
    pub(crate) fn start() -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let counted = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("policy-grace".to_owned());
        let thread = thread.spawn(move || counted.run(wait_for_readers))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A ticket for the programs that run now.
    pub(crate) fn ticket(&self) -> Ticket {
        let mut state = self.shared.lock();
        state.given += 1;
        self.shared.changed.notify_all();
        Ticket(state.given)
    }

    /// Whether those programs have ended.
    pub(crate) fn is_over(&self, ticket: Ticket) -> bool {
        self.shared.lock().over >= ticket.0
    }

    /// Waits until they have.
    pub(crate) fn wait(&self, ticket: Ticket) {
        let mut state = self.shared.lock();
        while state.over < ticket.0 {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Grace {
    fn drop(&mut self) {
        self.shared.lock().ends = true;
        self.shared.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that counts grace periods panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, wait_for_readers: impl Fn()) {
        let mut state = self.lock();
        while !state.ends {
            if state.over == state.given {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // Tickets that are given from here on need another period.
            let given = state.given;
            drop(state);
            wait_for_readers();
            state = self.lock();
            state.over = given;
            self.changed.notify_all();
        }
    }
}

/// Returns after every program run that was under way at the call has ended.
///
/// `membarrier(GLOBAL)` waits for one kernel RCU grace period; programs on the traffic hooks run inside RCU read
/// sections. Where the kernel does not offer it (full dynticks), a wait of many scheduler ticks stands in: a program
/// run takes microseconds.
fn wait_for_readers() {
    // SAFETY: the call takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(STAND_IN);
    }
}

const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
const STAND_IN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_ticket_given_during_a_period_needs_the_next_one() {
        let (begun, has_begun) = mpsc::sync_channel(1);
        let (end, may_end) = mpsc::sync_channel::<()>(1);
        let shared = Arc::<Shared>::default();
        let counted = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            counted.run(|| {
                begun.send(()).expect("the test listens");
                may_end.recv().expect("the test lets it end");
            });
        });
        let grace = Grace { shared, thread: Some(thread) };
        let first = grace.ticket();
        has_begun.recv().expect("a period begins");
        let second = grace.ticket();
        end.send(()).expect("the period waits");
        grace.wait(first);
        has_begun.recv().expect("another period begins");
        assert!(grace.is_over(first) && !grace.is_over(second));
        end.send(()).expect("the period waits");
        grace.wait(second);
        assert!(grace.is_over(second));
    }

    #[test]
    fn the_kernels_periods_end() {
        let grace = Grace::start().expect("starts");
        assert!(grace.is_over(Ticket::default()));
        let ticket = grace.ticket();
        grace.wait(ticket);
        assert!(grace.is_over(ticket));
    }
}
