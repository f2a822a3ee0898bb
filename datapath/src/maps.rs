//! The maps that kernel and user space share, each under a type that keeps its rules.

use std::path::PathBuf;

use aya::maps::{Map, MapError};

pub(crate) mod changes;
pub(crate) mod conntrack;
pub(crate) mod counters;
pub(crate) mod endpoints;
pub(crate) mod ipcache;
pub(crate) mod plain;
pub(crate) mod policy;
pub(crate) mod words;

/// A map cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The object has no such map.
    #[error("the programs have no map {name}: build program and loader from one source")]
    Missing {
        /// Name in the object.
        name: &'static str,
    },
    /// No thread could be started.
    #[error("cannot start the thread that waits for grace periods: {source}; raise the limit of threads")]
    Thread {
        /// The cause.
        source: std::io::Error,
    },
    /// The kernel refused an operation.
    #[error("map {name}: {what}: {}", chain(source))]
    Kernel {
        /// Name in the object.
        name: &'static str,
        /// What was being done.
        what: &'static str,
        /// The cause.
        source: MapError,
    },
    /// A pinned map cannot be opened.
    #[error("map {name}: cannot open its pin {}: {cause}", path.display())]
    Pin {
        /// Name in the object.
        name: &'static str,
        /// The pin.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The system has no descriptor for an eventfd.
    #[error("eventfd for the event reader: {0}; raise the limit of open files if it is used up")]
    EventFd(#[source] std::io::Error),
    /// The map's memory cannot be mapped.
    #[error("map {name}: cannot map its memory: {source}")]
    Mmap {
        /// Name in the object.
        name: &'static str,
        /// The cause.
        source: std::io::Error,
    },
}

impl MapsError {
    /// Names the operation that failed.
    pub(crate) fn kernel(name: &'static str, what: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Kernel { name, what, source }
    }
}

/// Where maps come from: a loaded object, or pins.
pub(crate) trait MapSource {
    /// Gives a map by its name.
    fn take(&mut self, name: &'static str) -> Result<Map, MapsError>;
}

impl MapSource for aya::Ebpf {
    fn take(&mut self, name: &'static str) -> Result<Map, MapsError> {
        self.take_map(name).ok_or(MapsError::Missing { name })
    }
}

/// Takes a map.
pub(crate) fn take(maps: &mut impl MapSource, name: &'static str) -> Result<Map, MapsError> {
    maps.take(name)
}

/// Takes a map as one of aya's types, which checks the sizes of keys and values.
pub(crate) fn take_as<M>(maps: &mut impl MapSource, name: &'static str) -> Result<M, MapsError>
where
    M: TryFrom<Map, Error = MapError>,
{
    M::try_from(take(maps, name)?).map_err(MapsError::kernel(name, "open"))
}

/// An error and its causes on one line. Some of aya's errors say only "failed" without their cause.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
