//! Puts the kernel programs to work: loads and pins them with their maps, attaches them to interfaces, keeps the maps,
//! and reads the events.
//!
//! The agent owns one [`Datapath`] per node. Its methods make system calls and, for policy, wait for a kernel grace
//! period, so they belong on a blocking thread. [`EventReader::run`] wants a thread of its own. Programs, maps and
//! links are pinned: they outlive the process, and [`Datapath::load`] takes them over.
#![deny(unsafe_op_in_unsafe_fn)]

mod attach;
mod book;
mod config;
mod datapath;
mod events;
mod load;
mod maps;
mod pinned;
pub mod probe;
mod sys;
#[cfg(feature = "test-run")]
mod test_run;
#[cfg(feature = "test-util")]
mod test_util;

pub use attach::{AttachError, Attachment, FILTER_PLACE, Hook};
pub use book::Book;
pub use config::{AttachMode, Config, ConfigError, HostMode};
pub use datapath::Datapath;
pub use events::{EventReader, ReaderCounts, ReaderWaker, Rejected, Tick};
pub use load::migrate::MigratedMap;
#[cfg(feature = "test-util")]
pub use load::migrate::{Build, CtFormat, Step, V1};
pub use load::{LoadError, RecreatedMap};
pub use maps::MapsError;
pub use maps::changes::ConnectionCounts;
pub use maps::conntrack::{Connection, ConnectionKey, Conntrack, Sweep};
pub use maps::counters::{Counters, FoldBook, LaneBook, PacketCounts};
pub use maps::endpoints::EndpointError;
pub use maps::policy::{ApplyError, PolicyUpdate};
pub use pinned::{Leftovers, LoadedProgram, PinnedError, PinnedLink, PinnedMaps, Removal};
pub use specola_datapath_common as abi;
#[cfg(feature = "test-util")]
pub use sys::EmptyProgram;
#[cfg(feature = "test-run")]
pub use test_run::{TestRun, TestRunError};

/// The kernel programs as compiled, an ELF object.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/specola.o"));
