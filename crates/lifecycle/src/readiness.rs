//! Readiness: true once every named gate is open and the program is not draining.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Shared view of what is still awaited.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// Blocks readiness until [`ReadinessGate::open`]; dropping it without opening keeps it closed.
#[derive(Debug)]
#[must_use = "readiness stays false until the gate is opened"]
pub struct ReadinessGate {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// A readiness without gates: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds something to wait for.
    pub fn gate(&self, name: &'static str) -> ReadinessGate {
        self.close(name);
        ReadinessGate { name, readiness: self.clone() }
    }

    /// Names of what is awaited, sorted; empty = ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.lock().iter().copied().collect()
    }

    /// Whether nothing is awaited.
    pub fn is_ready(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) fn close(&self, name: &'static str) {
        self.lock().insert(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<&'static str>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadinessGate {
    /// Says that this part is ready.
    pub fn open(self) {
        self.readiness.lock().remove(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_gates_are_open() {
        let readiness = Readiness::new();
        let (a, b) = (readiness.gate("a"), readiness.gate("b"));
        a.open();
        assert_eq!(readiness.pending(), ["b"]);
        b.open();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_dropped_gate_stays_closed() {
        let readiness = Readiness::new();
        drop(readiness.gate("lost"));
        assert!(!readiness.is_ready());
    }
}
