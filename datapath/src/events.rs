//! The event reader: drains the lanes, merges them in time, and hands batches to a sink.

mod clock;
mod fold;
mod ledger;
mod merge;
mod reader;

pub use merge::Rejected;
pub use reader::{EventReader, ReaderCounts, Tick};

pub(crate) use fold::{Folds, SEEN as FOLDS_PIN};
pub(crate) use ledger::Ledger;
