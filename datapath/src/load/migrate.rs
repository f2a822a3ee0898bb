//! Brings connections from the tables of another layout into those of this one.
//!
//! The kernel programs of the earlier process run on, over their own tables, until their links get the new programs.
//! So connections are copied before that, and once more after it, for those that began in between.

#![cfg_attr(
    not(feature = "test-util"),
    expect(unreachable_pub, reason = "tests describe other builds with these types")
)]

use std::mem::offset_of;
use std::path::PathBuf;

use aya::maps::{MapData, MapError};
use specola_datapath_common::conntrack::{CtSide, CtValue};
use specola_datapath_common::{LAYOUT_VERSION, names};

use super::Pins;
use crate::maps::MapsError;
use crate::sys::raw::RawMap;

/// The value of a connection table under one layout version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CtFormat {
    /// The layout version.
    pub version: u32,
    /// Bytes of a value.
    pub value_size: usize,
    /// Where the two sides' stamps are.
    pub stamps: [usize; 2],
}

/// How a connection goes from one format to another.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What is read.
    pub from: CtFormat,
    /// What is written.
    pub to: CtFormat,
    /// Makes the new value, of the new format's size, from the old one, of the old format's size.
    pub convert: fn(&[u8]) -> Vec<u8>,
}

/// What one build of the programs pins, and what it can take over.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Its layout version.
    pub version: u32,
    /// Formats that it knows how to read.
    pub steps: &'static [Step],
}

/// This build. A layout version that raises the size of `CtValue`, or changes its meaning, adds a step from each
/// version before it.
pub(crate) const THIS: Build =
    Build { version: LAYOUT_VERSION, steps: &[Step { from: V1, to: V1, convert: <[u8]>::to_vec }] };

/// The first format.
pub const V1: CtFormat = {
    let sides = offset_of!(CtValue, sides);
    let stamp = offset_of!(CtSide, stamp);
    CtFormat {
        version: 1,
        value_size: size_of::<CtValue>(),
        stamps: [sides + stamp, sides + size_of::<CtSide>() + stamp],
    }
};
const _: () = assert!(LAYOUT_VERSION == 1, "another layout: give its format here, and a step from V1 to it");

/// What became of a connection table of another layout.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MigratedMap {
    /// File name of the old pin.
    pub pin: String,
    /// Connections that were taken over in this pass.
    pub copied: u64,
    /// Connections that cannot be taken over, because the layout is not known.
    pub lost: u64,
}

/// Copies what earlier layouts have of connections. One entry per old table.
pub(crate) fn connections(build: &Build, pins: &Pins) -> Result<Vec<MigratedMap>, MapsError> {
    let mut migrated = Vec::new();
    for name in TABLES {
        for (pin, version) in
            pins.old(name).map_err(|cause| MapsError::Pin { name, path: pins.dir.clone(), cause })?
        {
            migrated.push(copy(build, pins, name, (pin, version))?);
        }
    }
    Ok(migrated)
}

fn copy(
    build: &Build,
    pins: &Pins,
    name: &'static str,
    (pin, version): (String, Option<u32>),
) -> Result<MigratedMap, MapsError> {
    let (old, new) = (open(name, pins.dir.join(&pin))?, open(name, pins.map(name))?);
    let known = build.steps.iter().find(|step| {
        Some(step.from.version) == version
            && step.from.value_size == old.value_size()
            && step.to.version == build.version
            && step.to.value_size == new.value_size()
            && old.key_size() == new.key_size()
    });
    let (mut copied, mut lost) = (0, 0);
    let pass = old.for_each(|key, value| {
        let Some(step) = known else {
            lost += 1;
            return Ok(());
        };
        let mut value = (step.convert)(value);
        // Epochs of the old maps mean nothing in the new ones: what was decided is decided anew.
        for at in step.to.stamps {
            expire(&mut value, at);
        }
        copied += u64::from(new.insert_new(key, &value)?);
        Ok(())
    });
    pass.map_err(MapsError::kernel(name, "copy connections of another layout"))?;
    Ok(MigratedMap { pin, copied, lost })
}

fn expire(value: &mut [u8], at: usize) {
    let Some(bytes) = value.get_mut(at..at + size_of::<u64>()) else { return };
    let mut stamp = [0; size_of::<u64>()];
    stamp.copy_from_slice(bytes);
    bytes.copy_from_slice(&CtSide::expired(u64::from_ne_bytes(stamp)).to_ne_bytes());
}

fn open(name: &'static str, path: PathBuf) -> Result<RawMap, MapsError> {
    let failed = |error: MapError| MapsError::kernel(name, "open a connection table")(error);
    MapData::from_pin(path).and_then(RawMap::new).map_err(failed)
}

pub(crate) const TABLES: [&str; 4] = [names::CT4_TCP, names::CT4_ANY, names::CT6_TCP, names::CT6_ANY];
