//! What a node has in the kernel, read from its pins: for commands, while its agent runs or while none does.
//!
//! Numbers are given names from the node's state directory and the store, where these are readable.

use std::path::PathBuf;

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use specola_datapath::PinnedMaps;
use specola_proto::specola::v1 as pb;

use self::names::Names;

mod addresses;
mod connections;
mod counters;
mod endpoints;
mod names;
mod policy;
mod programs;

pub use addresses::AddressRow;
pub use connections::{ConnectionEnd, ConnectionRow};
pub use counters::{ConnectionTotals, LaneRow, PacketRow};
pub use endpoints::EndpointRow;
pub use policy::PolicyRow;
pub use programs::{Hooked, ProgramRow};

/// Where a node keeps its things.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodePlace {
    /// Directory of pinned maps and links.
    pub pin_dir: PathBuf,
    /// The agent's state directory.
    pub state_dir: PathBuf,
    /// Directory that the agents of the cluster share.
    pub store_dir: PathBuf,
    /// The node's network namespace; `None` = that of this process.
    pub netns: Option<PathBuf>,
}

/// One node's maps and programs.
#[derive(Debug)]
pub struct NodeView {
    place: NodePlace,
    pinned: PinnedMaps,
    names: Names,
}

/// Rows of one table, and how full the maps behind it are.
#[derive(Clone, Debug, Serialize)]
pub struct Dump<R> {
    /// The rows.
    pub entries: Vec<R>,
    /// The maps.
    pub maps: Vec<Fill>,
}

/// How full a map is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Fill {
    /// Name of the map; of a policy trie also its endpoint.
    pub map: String,
    /// Entries in use.
    pub used: u64,
    /// Entries that fit.
    pub max: u64,
}

/// An identity with its labels, if they are known.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct NamedIdentity {
    /// The number; 0 = any or unknown.
    pub id: u32,
    /// Its labels.
    pub labels: Vec<String>,
}

/// A cookie with the rules that it stands for, if they are known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NamedCookie {
    /// The number; 0 = no rule.
    pub id: u32,
    /// The rules.
    pub origins: Vec<pb::PolicyOrigin>,
}

impl NodeView {
    /// Looks at a node.
    ///
    /// # Errors
    /// Nothing is pinned there, or this process may not look.
    pub fn open(place: NodePlace) -> anyhow::Result<Self> {
        let pinned = PinnedMaps::open(&place.pin_dir)?;
        let names = Names::read(&place.state_dir, &place.store_dir);
        Ok(Self { place, pinned, names })
    }

    /// Why some names are missing.
    pub fn notes(&self) -> &[String] {
        &self.names.notes
    }

    fn max(&self, name: &'static str) -> anyhow::Result<u64> {
        Ok(self.pinned.max_entries(name)?.into())
    }

    fn fill(&self, name: &'static str, used: usize) -> anyhow::Result<Fill> {
        Ok(Fill { map: name.to_owned(), used: count(used), max: self.max(name)? })
    }
}

/// Time of a clock, ns.
fn clock_ns(clock: ClockId) -> anyhow::Result<u64> {
    let now = clock_gettime(clock).context("reading the clock")?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn direction(egress: bool) -> &'static str {
    if egress { "egress" } else { "ingress" }
}
