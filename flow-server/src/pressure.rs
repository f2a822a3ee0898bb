//! Tells readers that rest when the writer gets far ahead of them.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// The part of the ring that a reader may lag before it is told.
const SHARE: u64 = 8;

/// The writer's side.
#[derive(Debug)]
pub(crate) struct PressureSender {
    signal: watch::Sender<u64>,
    limit: u64,
}

/// A reader's side.
#[derive(Clone, Debug)]
pub(crate) struct Pressure {
    signal: watch::Receiver<u64>,
    limit: u64,
    origin: Instant,
}

/// A connected pair for a ring of this capacity.
pub(crate) fn pressure(capacity: u64) -> (PressureSender, Pressure) {
    let (sender, receiver) = watch::channel(0);
    let limit = (capacity / SHARE).max(1);
    (PressureSender { signal: sender, limit }, Pressure { signal: receiver, limit, origin: Instant::now() })
}

impl PressureSender {
    /// Says how many records there are; returns whether readers were told.
    pub(crate) fn pushed(&self, head: u64) -> bool {
        let is_due = head.is_multiple_of(self.limit);
        if is_due {
            self.signal.send_replace(head);
        }
        is_due
    }
}

impl Pressure {
    /// Resolves when the writer is a good part of the ring beyond record `position`, or gone. Cancel safe.
    pub(crate) async fn beyond(&mut self, position: u64) {
        loop {
            let head = *self.signal.borrow_and_update();
            if head.saturating_sub(position) >= self.limit || self.signal.changed().await.is_err() {
                return;
            }
        }
    }

    /// The next of the moments that lie `step` apart and are the same for all readers.
    pub(crate) fn next_moment(&self, step: Duration) -> Instant {
        let elapsed = self.origin.elapsed();
        let rest = elapsed.as_nanos() % step.as_nanos();
        // Less than a step, so it fits.
        self.origin + elapsed + step - Duration::from_nanos(rest as u64)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn readers_are_told_when_they_lag_and_at_the_end() {
        let (sender, mut reader) = pressure(64);
        let told: Vec<u64> = (1..=40).filter(|head| sender.pushed(*head)).collect();
        assert_eq!(told, [8, 16, 24, 32, 40]);
        reader.beyond(32).await;
        let mut waiting = beyond(reader.clone(), 33);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(sender.pushed(48));
        waiting.await;
        let waiting = beyond(reader, 48);
        drop(sender);
        waiting.await;
    }

    fn beyond(mut reader: Pressure, position: u64) -> std::pin::Pin<Box<impl Future<Output = ()>>> {
        Box::pin(async move { reader.beyond(position).await })
    }

    #[test]
    fn moments_are_common_and_ahead() {
        let (_sender, reader) = pressure(64);
        let step = Duration::from_secs(3_600);
        let moment = reader.next_moment(step);
        assert_eq!(moment, reader.clone().next_moment(step));
        assert_eq!(moment, reader.origin + step);
    }
}
