//! One-way signal "finish what you have and stop".

use tokio::sync::{mpsc, watch};

/// Signals a drain and waits until every [`Drain`] is gone.
#[derive(Debug)]
pub struct DrainTrigger {
    signal: watch::Sender<bool>,
    alive: mpsc::Receiver<std::convert::Infallible>,
}

/// Held by whatever takes part in a drain; dropping it says "done".
#[derive(Clone, Debug)]
pub struct Drain {
    signal: watch::Receiver<bool>,
    _alive: mpsc::Sender<std::convert::Infallible>,
}

/// Makes a connected pair.
pub fn drain() -> (DrainTrigger, Drain) {
    let (signal, signalled) = watch::channel(false);
    let (alive_tx, alive) = mpsc::channel(1);
    (DrainTrigger { signal, alive }, Drain { signal: signalled, _alive: alive_tx })
}

impl DrainTrigger {
    /// Asks every holder of a [`Drain`] to finish. Does not wait.
    pub fn signal(&self) {
        self.signal.send_replace(true);
    }

    /// Signals and waits until the last [`Drain`] was dropped.
    pub async fn drained(mut self) {
        self.signal();
        while self.alive.recv().await.is_some() {}
    }
}

impl Drain {
    /// Resolves once the drain was signalled, at once if it already was. Cancel safe.
    pub async fn signalled(&self) {
        let mut signal = self.signal.clone();
        // An error means that the trigger is gone, which is a drain as well.
        if signal.wait_for(|on| *on).await.is_err() {
            tracing::debug!("drain trigger dropped");
        }
    }

    /// Whether the drain was signalled.
    pub fn is_signalled(&self) -> bool {
        *self.signal.borrow() || self.signal.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drained_waits_for_the_last_holder() {
        let (trigger, watcher) = drain();
        let second = watcher.clone();
        let holder = tokio::spawn(async move {
            second.signalled().await;
            second.is_signalled()
        });
        assert!(!watcher.is_signalled());
        drop(watcher);
        trigger.drained().await;
        assert!(holder.await.expect("the holder ends"));
    }

    #[tokio::test]
    async fn a_dropped_trigger_counts_as_a_signal() {
        let (trigger, watcher) = drain();
        drop(trigger);
        watcher.signalled().await;
        assert!(watcher.is_signalled());
    }
}
