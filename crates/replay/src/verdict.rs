//! How a packet's way ends.

/// Why a packet does not go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stop {
    /// It is dropped.
    Drop {
        /// See [`drop`](specola_datapath_common::metrics::drop).
        reason: u8,
        /// The record was written already (a policy verdict).
        reported: bool,
    },
    /// What the verdict hangs on was not captured.
    Cut,
}

impl Stop {
    /// A drop that still needs its record.
    pub(crate) const fn drop(reason: u8) -> Self {
        Self::Drop { reason, reported: false }
    }

    /// A drop whose policy verdict record is its record.
    pub(crate) const fn reported(reason: u8) -> Self {
        Self::Drop { reason, reported: true }
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// It goes on.
    Pass,
    /// It is dropped, for this reason (Hubble's number).
    Drop(u8),
    /// Nothing can be said: the capture lacks headers of it.
    Cut,
}
