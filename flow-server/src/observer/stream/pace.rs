//! Followers of a busy node are woken a few hundred times a second, not for every flow.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::pressure::Pressure;

/// A follower that has just sent something rests for so long. The first flow after a quiet time goes out at once.
const REST: Duration = Duration::from_millis(5);

/// When a follower looks at the ring again. All of them rest up to the same moments, so that they find the same flows.
#[derive(Debug)]
pub(super) struct Pace {
    pressure: Pressure,
    /// When the rest ends; `None` = nothing was sent since the last one.
    until: Option<Instant>,
}

impl Pace {
    pub(super) const fn new(pressure: Pressure) -> Self {
        Self { pressure, until: None }
    }

    /// Something was sent.
    pub(super) fn sent(&mut self) {
        self.until = Some(self.pressure.next_moment(REST));
    }

    /// Rests, if something was sent lately. Ends early when the writer is far ahead of record `position`, or gone.
    pub(super) async fn rest(&mut self, position: u64) {
        let Some(until) = self.until else {
            return;
        };
        tokio::select! {
            () = sleep_until(until) => {}
            () = self.pressure.beyond(position) => {}
        }
        self.until = None;
    }
}
