//! The maps that kernel and user space share, each under a type that keeps its rules.

use aya::maps::{Map, MapError};

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

/// Takes a map out of a loaded object.
pub(crate) fn take(ebpf: &mut aya::Ebpf, name: &'static str) -> Result<Map, MapsError> {
    ebpf.take_map(name).ok_or(MapsError::Missing { name })
}

/// Takes a map out of a loaded object, as one of aya's types.
pub(crate) fn take_as<M>(ebpf: &mut aya::Ebpf, name: &'static str) -> Result<M, MapsError>
where
    M: TryFrom<Map, Error = MapError>,
{
    M::try_from(take(ebpf, name)?).map_err(MapsError::kernel(name, "open"))
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
