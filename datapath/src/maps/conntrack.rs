//! The connection tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use aya::maps::{HashMap, IterableMap, MapData, MapError};
use specola_datapath_common::conntrack::{
    CtKey4, CtKey6, CtValue, NO_SLOT, SIDE_INITIATOR, SIDE_RESPONDER, ZONE_HOST, flags, lifetime_of, state,
};
use specola_datapath_common::event::{self, Event, ct_state, kind, lane, point};
use specola_datapath_common::{IPV4, IPV6, LAYOUT_VERSION, direction, names, proto, v4_mapped};

use super::changes::Changes;
use super::endpoints::is_not_found;
use super::plain::{Abi, Plain};
use super::{MapSource, MapsError, take_as};
use crate::load::migrate::Build;
use crate::sys;

/// Which connection: the pair (address, port) that compares lower comes first.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ConnectionKey {
    /// IPv4.
    V4(CtKey4),
    /// IPv6.
    V6(CtKey6),
}

impl ConnectionKey {
    /// IANA protocol number.
    pub fn proto(&self) -> u8 {
        match self {
            Self::V4(key) => key.proto,
            Self::V6(key) => key.proto,
        }
    }

    /// Whether it is a connection of the node itself.
    pub fn is_of_host(&self) -> bool {
        let zone = match self {
            Self::V4(key) => key.zone,
            Self::V6(key) => key.zone,
        };
        zone == ZONE_HOST
    }

    /// Lower and higher end: address and port.
    pub fn ends(&self) -> [(IpAddr, u16); 2] {
        match self {
            Self::V4(key) => [
                (Ipv4Addr::from(key.lo_addr).into(), key.lo_port),
                (Ipv4Addr::from(key.hi_addr).into(), key.hi_port),
            ],
            Self::V6(key) => [
                (Ipv6Addr::from(key.lo_addr).into(), key.lo_port),
                (Ipv6Addr::from(key.hi_addr).into(), key.hi_port),
            ],
        }
    }
}

/// A connection as the kernel holds it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connection {
    /// Which one.
    pub key: ConnectionKey,
    /// What is known of it.
    pub value: CtValue,
}

impl Connection {
    /// The end that began the connection, then the other one: address and port.
    pub fn ends(&self) -> [(IpAddr, u16); 2] {
        let [low, high] = self.key.ends();
        if self.value.initiator == 0 { [low, high] } else { [high, low] }
    }

    /// Whether the connection is over at a moment (`CLOCK_MONOTONIC`, ns): nothing was seen of it for its lifetime.
    pub fn is_expired(&self, now_ns: u64) -> bool {
        let lifetime_ns = lifetime_of(self.key.proto(), self.value.state) * 1_000_000;
        now_ns.saturating_sub(self.value.last_seen_ns) > lifetime_ns
    }

    /// The record that closes a connection which nobody saw end, as the programs would have written it, with final
    /// counters. Identities are 0 and endpoint ids are 0: the caller knows them by address and slot. `boot_ns`: time since
    /// boot.
    pub fn close_event(&self, boot_ns: u64) -> Event {
        let [initiator, responder] = self.ends();
        let (is_local, value) = (|side: usize| self.slot(side) != NO_SLOT, &self.value);
        let at_responder = is_local(SIDE_RESPONDER) || !is_local(SIDE_INITIATOR);
        let (side, way, obs_point) = match (at_responder, self.key.is_of_host()) {
            (true, false) => (SIDE_RESPONDER, direction::INGRESS, point::TO_ENDPOINT),
            (true, true) => (SIDE_RESPONDER, direction::INGRESS, point::TO_HOST),
            (false, false) => (SIDE_INITIATOR, direction::EGRESS, point::TO_STACK),
            (false, true) => (SIDE_INITIATOR, direction::EGRESS, point::TO_NETWORK),
        };
        let has_ports = matches!(self.key.proto(), proto::TCP | proto::UDP | proto::SCTP);
        let port = |port| if has_ports { port } else { 0 };
        Event {
            kind: kind::TRACE,
            lane: lane::TRACE,
            obs_point,
            flags: event::flags::CLOSE | event::flags::COUNTERS | event::flags::BY_AGENT,
            boot_ns,
            endpoint_slot: if is_local(side) { self.slot(side) } else { 0 },
            ip_version: if initiator.0.is_ipv4() { IPV4 } else { IPV6 },
            proto: self.key.proto(),
            src_addr: wire(initiator.0),
            dst_addr: wire(responder.0),
            src_port: port(initiator.1),
            dst_port: port(responder.1),
            ct_state: ct_state::ESTABLISHED,
            direction: way,
            packets_fwd: value.packets[SIDE_INITIATOR],
            packets_rev: value.packets[SIDE_RESPONDER],
            bytes_fwd: value.bytes[SIDE_INITIATOR],
            bytes_rev: value.bytes[SIDE_RESPONDER],
            created_ns: value.created_ns,
            ..Event::zeroed()
        }
    }

    /// Whether nobody reported the end, and somebody should. Of a connection that the agent entered and nobody used,
    /// nothing was reported either; what the node has beside a pod's connection is reported as the pod's.
    fn wants_close(&self) -> bool {
        let value = &self.value;
        value.state != state::CLOSED && value.packets != [0, 0] && value.flags & flags::BESIDE == 0
    }

    /// Slot of the endpoint at a side, if its policy decided.
    fn slot(&self, side: usize) -> u16 {
        let side = &self.value.sides[side];
        // Connections of the node are its own before a policy looks at them.
        let is_decided = side.stamp != 0 || self.key.is_of_host();
        if is_decided && side.slot != 0 { side.slot } else { NO_SLOT }
    }
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sweep {
    /// Connections that stay.
    pub present: u64,
    /// Entries removed because they were over.
    pub removed: u64,
    /// Those among the removed whose end nobody had reported.
    pub closed: u64,
    /// Entries that newer ones displaced since the tables were made; see [`super::changes::ConnectionCounts`].
    pub evicted: u64,
}

/// The four connection tables: by address family, TCP apart from the rest.
#[derive(Debug)]
pub struct Conntrack {
    v4: [Table<CtKey4>; 2],
    v6: [Table<CtKey6>; 2],
    /// Of tables that are only looked at, nothing is counted.
    changes: Option<Changes>,
}

impl Conntrack {
    pub(crate) fn open(maps: &mut impl MapSource) -> Result<Self, MapsError> {
        Ok(Self {
            v4: [Table(take_as(maps, names::CT4_TCP)?), Table(take_as(maps, names::CT4_ANY)?)],
            v6: [Table(take_as(maps, names::CT6_TCP)?), Table(take_as(maps, names::CT6_ANY)?)],
            changes: None,
        })
    }

    /// [`Self::open`] for changes, which are counted, unless another build made the tables.
    pub(crate) fn open_if_known(
        maps: &mut impl MapSource,
        build: &Build,
        changes: &Changes,
    ) -> Result<Option<Self>, MapsError> {
        let tables = (build.version == LAYOUT_VERSION).then(|| Self::open(maps)).transpose()?;
        Ok(tables.map(|tables| Self { changes: Some(changes.clone()), ..tables }))
    }

    /// Shows every connection to `visit`, in no order. One that comes or goes meanwhile may be missed.
    ///
    /// # Errors
    /// The kernel refused to read a table.
    pub fn for_each(&self, mut visit: impl FnMut(Connection)) -> Result<(), MapsError> {
        for table in &self.v4 {
            table.for_each(|key, value| visit(Connection { key: ConnectionKey::V4(key), value }))?;
        }
        for table in &self.v6 {
            table.for_each(|key, value| visit(Connection { key: ConnectionKey::V6(key), value }))?;
        }
        Ok(())
    }

    /// Removes connections that are over at `now_ns` (`CLOCK_MONOTONIC`). `closed` gets those whose end nobody reported,
    /// with their final counters; see [`Connection::close_event`].
    ///
    /// # Errors
    /// The kernel refused to read or change a table; what was removed until then was shown.
    pub fn sweep(&mut self, now_ns: u64, mut closed: impl FnMut(Connection)) -> Result<Sweep, MapsError> {
        let mut sweep = Sweep::default();
        let mut expired = Vec::new();
        let before = self.changes.as_ref().map(Changes::read).transpose()?;
        self.for_each(|connection| {
            if connection.is_expired(now_ns) {
                expired.push(connection.key);
            } else {
                sweep.present += 1;
            }
        })?;
        let seen = sweep.present + expired.len() as u64;
        for key in expired {
            let Some(value) = self.take(&key)? else { continue };
            let connection = Connection { key, value };
            if !connection.is_expired(now_ns) && self.insert(&connection)? {
                // A packet came between the look and the removal.
                sweep.present += 1;
                continue;
            }
            sweep.removed += 1;
            if connection.wants_close() {
                sweep.closed += 1;
                closed(connection);
            }
        }
        if let (Some(changes), Some(before)) = (&self.changes, before) {
            sweep.evicted = changes.swept(before, seen, sweep.present);
        }
        Ok(sweep)
    }

    /// What is known of a connection.
    ///
    /// # Errors
    /// The kernel refused to read the table.
    pub fn lookup(&self, key: &ConnectionKey) -> Result<Option<CtValue>, MapsError> {
        let found = match key {
            ConnectionKey::V4(v4) => self.v4[index(key)].0.get(&Plain(*v4), 0),
            ConnectionKey::V6(v6) => self.v6[index(key)].0.get(&Plain(*v6), 0),
        };
        match found {
            Ok(Plain(value)) => Ok(Some(value)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(MapsError::kernel(NAME, "look up a connection")(error)),
        }
    }

    /// Removes a connection and gives what was known of it at that moment.
    ///
    /// # Errors
    /// The kernel refused to change the table.
    pub fn take(&mut self, key: &ConnectionKey) -> Result<Option<CtValue>, MapsError> {
        let taken = match key {
            ConnectionKey::V4(v4) => sys::take(self.v4[index(key)].0.map().fd().as_fd(), v4),
            ConnectionKey::V6(v6) => sys::take(self.v6[index(key)].0.map().fd().as_fd(), v6),
        };
        let taken = taken
            .map_err(|error| MapsError::kernel(NAME, "remove a connection")(MapError::IoError(error)))?;
        if let (Some(changes), Some(_)) = (&self.changes, &taken) {
            changes.removed();
        }
        Ok(taken)
    }

    /// Enters a connection unless there is one of its key. Gives whether it was entered.
    ///
    /// # Errors
    /// The kernel refused to change the table.
    pub fn insert(&mut self, connection: &Connection) -> Result<bool, MapsError> {
        let entered = match (connection.key, Plain(connection.value)) {
            (ConnectionKey::V4(key), value) => {
                self.v4[index(&connection.key)].0.insert(Plain(key), value, NO_EXIST)
            }
            (ConnectionKey::V6(key), value) => {
                self.v6[index(&connection.key)].0.insert(Plain(key), value, NO_EXIST)
            }
        };
        match entered {
            Ok(()) => {
                if let Some(changes) = &self.changes {
                    changes.added();
                }
                Ok(true)
            }
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {
                Ok(false)
            }
            Err(error) => Err(MapsError::kernel(NAME, "enter a connection")(error)),
        }
    }
}

/// One table.
#[derive(Debug)]
struct Table<K>(HashMap<MapData, Plain<K>, Plain<CtValue>>);

impl<K: Abi + Default> Table<K> {
    fn for_each(&self, mut visit: impl FnMut(K, CtValue)) -> Result<(), MapsError> {
        let failed = |error| MapsError::kernel(NAME, "list connections")(MapError::IoError(error));
        let mut chunks = sys::Chunks::<K, CtValue>::new(self.0.map().fd().as_fd());
        while let Some((keys, values)) = chunks.next_chunk().map_err(failed)? {
            for (Plain(key), Plain(value)) in keys.iter().zip(values) {
                visit(*key, *value);
            }
        }
        Ok(())
    }
}

/// Which of two tables holds a connection.
fn index(key: &ConnectionKey) -> usize {
    usize::from(key.proto() != proto::TCP)
}

fn wire(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => v4_mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Name of the tables in error messages.
const NAME: &str = "SP_CT*";
/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;
