//! What is pinned for a node, looked at from outside: by commands, while an agent runs or while none does.
//!
//! Maps are opened for reading only (but for the lanes: the kernel shows their fill to handles that may write), and the
//! agent's lock is not taken: looking never disturbs.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapError};
use ipnet::IpNet;
use specola_datapath_common::endpoint::{EndpointRecord, MAX_SLOTS, host_word};
use specola_datapath_common::event::lane;
use specola_datapath_common::ipcache::IpInfo;
use specola_datapath_common::metrics::LaneCount;
use specola_datapath_common::policy::{PolicyKey, PolicyValue};
use specola_datapath_common::{LAYOUT_VERSION, names};

use crate::load::LANES;
use crate::maps::changes::{self, ConnectionCounts};
use crate::maps::conntrack::{Connection, Conntrack};
use crate::maps::counters::{Counters, PacketCounts};
use crate::maps::ipcache::Ipcache;
use crate::maps::plain::Plain;
use crate::maps::policy::trie::Trie;
use crate::maps::policy::trie_pin;
use crate::maps::words::Words;
use crate::maps::{MapSource, MapsError, chain, take_as};
use crate::sys;

mod programs;
mod removal;

pub use programs::{LoadedProgram, PinnedLink};
pub use removal::{Leftovers, Removal};

/// Why pinned maps or programs cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum PinnedError {
    /// Nothing of ours is pinned there.
    #[error(
        "nothing is pinned in {}: no agent has run with this directory since the machine started; name another one \
         with --pin-dir or --sandbox",
        path.display()
    )]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
    /// Maps of another layout are pinned there.
    #[error(
        "{} holds maps of layout {found}, this program reads layout {LAYOUT_VERSION}: use the program that belongs to \
         the agent",
        path.display()
    )]
    OtherVersion {
        /// The directory.
        path: PathBuf,
        /// Their version.
        found: String,
    },
    /// The directory cannot be read or changed.
    #[error("pin directory {}: {what}: {cause}{}", path.display(), remedy(cause))]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The cause.
        cause: io::Error,
    },
    /// An agent uses the directory.
    #[error("pin directory {} is in use by a running agent: stop it first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A program or link cannot be looked at.
    #[error("cannot {what}: {}", chain(cause.as_ref()))]
    Kernel {
        /// What was being done.
        what: &'static str,
        /// The cause.
        cause: Box<dyn std::error::Error + Send + Sync + 'static>,
    },
    /// A map cannot be read.
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// The pinned maps of one node.
#[derive(Clone, Debug)]
pub struct PinnedMaps {
    dir: PathBuf,
}

impl PinnedMaps {
    /// Looks whether maps of this program's layout are pinned in a directory.
    ///
    /// # Errors
    /// There are none, or the directory cannot be read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, PinnedError> {
        let dir = dir.into();
        let mut other = None;
        for name in file_names(&dir)? {
            match version_of(&name) {
                Some((names::ENDPOINTS, version)) if version == LAYOUT_VERSION.to_string() => {
                    return Ok(Self { dir });
                }
                Some((names::ENDPOINTS, version)) => other = Some(version.to_owned()),
                _ => {}
            }
        }
        Err(match other {
            Some(found) => PinnedError::OtherVersion { path: dir, found },
            None => PinnedError::Nothing { path: dir },
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The endpoints with their slots.
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn endpoints(&self) -> Result<Vec<(u16, EndpointRecord)>, MapsError> {
        let table: Array<MapData, Plain<EndpointRecord>> = take_as(&mut self.source(), names::ENDPOINTS)?;
        let mut endpoints = Vec::new();
        for slot in 1..MAX_SLOTS.min(table.len()) {
            let Plain(record) =
                table.get(&slot, 0).map_err(MapsError::kernel(names::ENDPOINTS, "read a slot"))?;
            if let Some(slot) = u16::try_from(slot).ok().filter(|_| record.identity != 0) {
                endpoints.push((slot, record));
            }
        }
        Ok(endpoints)
    }

    /// One of the two policy tries (0 or 1) of a slot; empty when the slot has none.
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn policy(&self, slot: u16, side: u32) -> Result<HashMap<PolicyKey, PolicyValue>, MapsError> {
        match open_map(names::POLICY, trie_pin(&self.dir.join("policy"), slot, side)) {
            Ok(Map::LpmTrie(data)) => Trie::new(data)?.entries(),
            Ok(_) => Err(MapsError::Missing { name: names::POLICY }),
            Err(MapsError::Pin { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Ok(HashMap::new())
            }
            Err(error) => Err(error),
        }
    }

    /// What is known of addresses and prefixes.
    ///
    /// # Errors
    /// The kernel refused to read a map.
    pub fn ips(&self) -> Result<HashMap<IpNet, IpInfo>, MapsError> {
        Ipcache::open(&mut self.source())?.entries()
    }

    /// Shows every connection to `visit`, in no order. One that comes or goes meanwhile may be missed.
    ///
    /// # Errors
    /// The kernel refused to read a map.
    pub fn for_each_connection(&self, visit: impl FnMut(Connection)) -> Result<(), MapsError> {
        Conntrack::open(&mut self.source())?.for_each(visit)
    }

    /// Whether the host endpoint's policy is not asked, whatever its record says.
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn is_host_suspended(&self) -> Result<bool, MapsError> {
        let host: Array<MapData, u64> = take_as(&mut self.source(), names::HOST)?;
        let word = host.get(&0, 0).map_err(MapsError::kernel(names::HOST, "read"))?;
        Ok(word & host_word::SUSPENDED != 0)
    }

    /// Stops the programs from asking the host endpoint's policy, or lets them again. Works while an agent runs and
    /// while none does.
    ///
    /// # Errors
    /// The map is not pinned, or the kernel refused to write it.
    pub fn suspend_host(&self, suspended: bool) -> Result<(), MapsError> {
        let name = names::HOST;
        let data = MapData::from_pin(self.pin(name)).map_err(MapsError::kernel(name, "open its pin"))?;
        let map = Map::from_map_data(data).map_err(MapsError::kernel(name, "open"))?;
        let mut host: Array<MapData, u64> = Array::try_from(map).map_err(MapsError::kernel(name, "open"))?;
        let word = if suspended { host_word::SUSPENDED } else { 0 };
        host.set(0, word, 0).map_err(MapsError::kernel(name, "write"))
    }

    /// The connection tables, to enter connections.
    ///
    /// # Errors
    /// A table is not pinned.
    pub fn conntrack(&self) -> Result<Conntrack, MapsError> {
        Conntrack::open(&mut Writable(self))
    }

    /// Packets and bytes by direction and fate.
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn packet_counts(&self) -> Result<Vec<PacketCounts>, MapsError> {
        Counters::open(&mut self.source())?.packets()
    }

    /// What happened to the records of each lane; indexed by [`lane`].
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn lane_counts(&self) -> Result<[LaneCount; lane::COUNT], MapsError> {
        Counters::open(&mut self.source())?.lanes()
    }

    /// Connections that came and went.
    ///
    /// # Errors
    /// A map cannot be opened or read.
    pub fn connection_counts(&self) -> Result<ConnectionCounts, MapsError> {
        changes::read_pinned(&mut self.source())
    }

    /// Bytes that wait in each lane, with the header of 8 bytes that each record has, and the lane's size in bytes;
    /// indexed by [`lane`].
    ///
    /// # Errors
    /// A map cannot be opened, or its positions cannot be mapped.
    pub fn lane_fill(&self) -> Result<[(u64, u64); lane::COUNT], MapsError> {
        let mut fill = [(0, 0); lane::COUNT];
        for (name, fill) in LANES.into_iter().zip(&mut fill) {
            // The kernel shows positions only to handles that may write; the mapping itself may not.
            let data = MapData::from_pin(self.pin(name)).map_err(MapsError::kernel(name, "open its pin"))?;
            let positions =
                Words::map_positions(data.fd().as_fd()).map_err(|source| MapsError::Mmap { name, source })?;
            *fill = (positions.backlog(), u64::from(max_entries_of(name, &data)?));
        }
        Ok(fill)
    }

    /// How many entries a map can hold.
    ///
    /// # Errors
    /// The map is not pinned or cannot be looked at.
    pub fn max_entries(&self, name: &'static str) -> Result<u32, MapsError> {
        max_entries_of(name, &open_data(name, &self.pin(name))?)
    }

    fn pin(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}@{LAYOUT_VERSION}"))
    }

    fn source(&self) -> Source<'_> {
        Source(self)
    }
}

/// Opens maps by their pins.
struct Source<'a>(&'a PinnedMaps);

impl MapSource for Source<'_> {
    fn take(&mut self, name: &'static str) -> Result<Map, MapsError> {
        open_map(name, self.0.pin(name))
    }
}

/// Opens maps by their pins for writing.
struct Writable<'a>(&'a PinnedMaps);

impl MapSource for Writable<'_> {
    fn take(&mut self, name: &'static str) -> Result<Map, MapsError> {
        let data = MapData::from_pin(self.0.pin(name)).map_err(MapsError::kernel(name, "open its pin"))?;
        Map::from_map_data(data).map_err(MapsError::kernel(name, "open"))
    }
}

fn open_map(name: &'static str, pin: PathBuf) -> Result<Map, MapsError> {
    let data = open_data(name, &pin)?;
    Map::from_map_data(data).map_err(MapsError::kernel(name, "open"))
}

fn open_data(name: &'static str, pin: &Path) -> Result<MapData, MapsError> {
    let opened = sys::open_map_read_only(pin);
    let fd = opened.map_err(|cause| MapsError::Pin { name, path: pin.to_owned(), cause })?;
    MapData::from_fd(fd).map_err(MapsError::kernel(name, "look at its pin"))
}

fn max_entries_of(name: &'static str, data: &MapData) -> Result<u32, MapsError> {
    let info = data.info().map_err(|error: MapError| MapsError::kernel(name, "look at its size")(error));
    Ok(info?.max_entries())
}

/// Names of the files in a pin directory; none when it does not exist.
fn file_names(dir: &Path) -> Result<Vec<String>, PinnedError> {
    let failed = |cause| PinnedError::Directory { path: dir.to_owned(), what: "list", cause };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Name and layout version of a map's pin.
fn version_of(file: &str) -> Option<(&str, &str)> {
    file.split_once('@').filter(|(name, _)| name.starts_with("SP_"))
}

fn remedy(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { "; run as root" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_maps_are_told_from_the_rest() {
        assert_eq!(version_of("SP_ENDPOINTS@1"), Some(("SP_ENDPOINTS", "1")));
        for other in ["links", "policy", "SP_ENDPOINTS", "cilium_ct4@1"] {
            assert_eq!(version_of(other), None, "{other}");
        }
    }

    #[test]
    fn an_absent_or_foreign_directory_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let error = PinnedMaps::open(dir.path().join("absent")).unwrap_err();
        assert!(matches!(error, PinnedError::Nothing { .. }), "{error}");
        std::fs::write(dir.path().join("SP_ENDPOINTS@0"), "").unwrap();
        let error = PinnedMaps::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("holds maps of layout 0, this program reads layout"), "{error}");
    }
}
