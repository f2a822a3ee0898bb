//! The event reader: drains the lanes, merges them in time, and hands batches to a sink.

mod bell;
mod clock;
mod fold;
mod ledger;
mod merge;
mod reader;

pub use bell::ReaderWaker;
pub use merge::Rejected;
pub use reader::{EventReader, ReaderCounts, Tick};

pub(crate) use bell::Bell;
pub(crate) use fold::{Folds, SEEN as FOLDS_PIN};
pub(crate) use ledger::{Ledger, NAME as READER_PIN};
