//! What the agent did: policies, endpoints, addresses. A bounded history with numbered entries.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use specola_proto::flow::AgentEvent;
use tokio::sync::watch;

use crate::clock::Clock;

/// Takes the agent's events, from any thread. It never waits for readers: the oldest events give way. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AgentLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    history: Mutex<History>,
    head: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct History {
    events: VecDeque<Entry>,
    /// Number of the event that comes next.
    next: u64,
}

/// An event with its time, ns since 1970.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) time_ns: u64,
    pub(crate) event: AgentEvent,
}

/// What a reader finds at a number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    Event(Box<Entry>),
    /// Gone; the oldest that is there has this number.
    Gone(u64),
    /// Not written yet.
    Pending,
}

/// Events kept: a restart of a full node gives about this many.
const CAPACITY: usize = 4096;

impl AgentLog {
    /// An empty history that stamps events with this clock.
    pub fn new(clock: Clock) -> Self {
        let (head, _) = watch::channel(0);
        Self(Arc::new(Inner { clock, history: Mutex::default(), head }))
    }

    /// Puts an event on record.
    pub fn push(&self, event: AgentEvent) {
        let entry = Entry { time_ns: self.0.clock.now_ns(), event };
        let mut history = self.0.history.lock();
        if history.events.len() == CAPACITY {
            history.events.pop_front();
        }
        history.events.push_back(entry);
        history.next += 1;
        let next = history.next;
        drop(history);
        self.0.head.send_replace(next);
    }

    /// The events that are there, oldest first.
    pub fn events(&self) -> Vec<AgentEvent> {
        self.0.history.lock().events.iter().map(|entry| entry.event.clone()).collect()
    }

    /// Number of the next event; changes wake.
    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        self.0.head.subscribe()
    }

    /// Numbers of the events that are there.
    pub(crate) fn held(&self) -> std::ops::Range<u64> {
        let history = self.0.history.lock();
        history.oldest()..history.next
    }

    pub(crate) fn get(&self, number: u64) -> Found {
        let history = self.0.history.lock();
        if number >= history.next {
            return Found::Pending;
        }
        let index = number.checked_sub(history.oldest()).and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| history.events.get(index)) {
            Some(entry) => Found::Event(Box::new(entry.clone())),
            None => Found::Gone(history.oldest()),
        }
    }
}

impl History {
    fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_give_way() {
        let log = AgentLog::new(Clock::from_fn(|| 7));
        let event = |kind| AgentEvent { r#type: kind, ..AgentEvent::default() };
        assert_eq!((log.held(), log.get(0)), (0..0, Found::Pending));
        let count = i32::try_from(CAPACITY).unwrap() + 3;
        (0..count).for_each(|kind| log.push(event(kind)));
        assert_eq!(log.held(), 3..CAPACITY as u64 + 3);
        assert_eq!(log.get(2), Found::Gone(3));
        assert_eq!(log.get(3), Found::Event(Box::new(Entry { time_ns: 7, event: event(3) })));
        assert_eq!(log.get(CAPACITY as u64 + 3), Found::Pending);
        assert_eq!(*log.head().borrow(), CAPACITY as u64 + 3);
    }
}
