//! Exporters: flows out of the ring into files, and where else an [`Exporter`] brings them.
//!
//! Each exporter reads the ring with a cursor of its own, on a thread that may block. What it cannot pass on yet stays in
//! a buffer of bounded size; while that is full it reads no further, and what the ring overwrites meanwhile is counted
//! as lost.

mod aggregate;
mod config;
mod file;
mod json;
mod line;
mod manager;
mod metrics;
mod text;

pub use config::{ExportConfigError, ExporterSpec, Output, parse_filters};
pub use manager::{ExporterCounts, Exporters};

use std::io;

use specola_flow::{FlowView, MessageContext};
use specola_proto::flow::LostEvent;

/// What an exporter is given.
#[derive(Clone, Copy, Debug)]
pub enum ExportItem<'a> {
    /// A flow that passed the filters.
    Flow(&'a FlowView<'a>, &'a MessageContext<'a>),
    /// Events that the kernel had no room for; of which flows nobody knows.
    Lost(&'a LostEvent, &'a str),
    /// Flows that this exporter was too slow for. It stands for no record of the ring: it is neither counted as written
    /// nor as waiting.
    Missed(&'a LostEvent, &'a str),
}

/// Takes flows out of the agent. Called on one thread, which may block.
pub trait Exporter: Send + std::fmt::Debug {
    /// Takes a record into its buffer.
    ///
    /// # Errors
    /// The record cannot be written in this form; it is counted as failed.
    fn push(&mut self, item: ExportItem<'_>) -> io::Result<()>;

    /// Passes on what waits, and does what is due at this time, ns since 1970.
    ///
    /// # Errors
    /// Nothing is lost: what could not be passed on waits for the next call.
    fn flush(&mut self, now_ns: u64) -> io::Result<()>;

    /// Writes out what is held back for later; called before the last [`Exporter::flush`].
    fn finish(&mut self);

    /// Whether it takes no more records until a flush has made room.
    fn is_full(&self) -> bool;

    /// Records that were passed on since the last call.
    fn take_written(&mut self) -> u64;

    /// Records that wait.
    fn waiting(&self) -> u64;
}

#[cfg(test)]
mod tests;
