//! The connection tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::{HashMap, Map, MapData, MapError};
use aya::{Ebpf, Pod};
use specola_datapath_common::conntrack::{CtKey4, CtKey6, CtValue};
use specola_datapath_common::{names, proto};

use super::endpoints::is_not_found;
use super::plain::Plain;
use super::{MapsError, take};

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
}

/// The four connection tables: by address family, TCP apart from the rest.
#[derive(Debug)]
pub struct Conntrack {
    v4: [HashMap<MapData, Plain<CtKey4>, Plain<CtValue>>; 2],
    v6: [HashMap<MapData, Plain<CtKey6>, Plain<CtValue>>; 2],
    /// More keys than this in one walk of a table mean that the walk began anew.
    steps: usize,
}

impl Conntrack {
    pub(crate) fn open(ebpf: &mut Ebpf, largest: u32) -> Result<Self, MapsError> {
        Ok(Self {
            v4: [table(ebpf, names::CT4_TCP)?, table(ebpf, names::CT4_ANY)?],
            v6: [table(ebpf, names::CT6_TCP)?, table(ebpf, names::CT6_ANY)?],
            steps: 2 * largest as usize,
        })
    }

    /// Shows every connection to `visit`, in no order. Connections that come or go meanwhile may be seen, missed or,
    /// rarely, seen twice.
    ///
    /// # Errors
    /// The kernel refused to read a table.
    pub fn for_each(&self, mut visit: impl FnMut(Connection)) -> Result<(), MapsError> {
        for table in &self.v4 {
            self.walk(table, |key, value| visit(Connection { key: ConnectionKey::V4(key), value }))?;
        }
        for table in &self.v6 {
            self.walk(table, |key, value| visit(Connection { key: ConnectionKey::V6(key), value }))?;
        }
        Ok(())
    }

    /// What is known of a connection.
    ///
    /// # Errors
    /// The kernel refused to read the table.
    pub fn lookup(&self, key: &ConnectionKey) -> Result<Option<CtValue>, MapsError> {
        let is_tcp = key.proto() == proto::TCP;
        let found = match key {
            ConnectionKey::V4(key) => self.v4[table_of(is_tcp)].get(&Plain(*key), 0),
            ConnectionKey::V6(key) => self.v6[table_of(is_tcp)].get(&Plain(*key), 0),
        };
        match found {
            Ok(Plain(value)) => Ok(Some(value)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(MapsError::kernel(NAME, "look up a connection")(error)),
        }
    }

    #[cfg(test)]
    pub(crate) fn insert(&mut self, key: &ConnectionKey, value: &CtValue) -> Result<(), MapError> {
        let is_tcp = key.proto() == proto::TCP;
        match key {
            ConnectionKey::V4(key) => self.v4[table_of(is_tcp)].insert(Plain(*key), Plain(*value), 0),
            ConnectionKey::V6(key) => self.v6[table_of(is_tcp)].insert(Plain(*key), Plain(*value), 0),
        }
    }

    /// Forgets a connection. Gives whether it was known.
    ///
    /// # Errors
    /// The kernel refused to change the table.
    pub fn remove(&mut self, key: &ConnectionKey) -> Result<bool, MapsError> {
        let is_tcp = key.proto() == proto::TCP;
        let removed = match key {
            ConnectionKey::V4(key) => self.v4[table_of(is_tcp)].remove(&Plain(*key)),
            ConnectionKey::V6(key) => self.v6[table_of(is_tcp)].remove(&Plain(*key)),
        };
        match removed {
            Ok(()) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(MapsError::kernel(NAME, "remove a connection")(error)),
        }
    }

    fn walk<K: Copy>(
        &self,
        table: &HashMap<MapData, Plain<K>, Plain<CtValue>>,
        mut visit: impl FnMut(K, CtValue),
    ) -> Result<(), MapsError>
    where
        Plain<K>: Pod,
    {
        // A key that vanishes under the walk sends it back to the start, so its length is bounded here.
        for entry in table.iter().take(self.steps) {
            let (Plain(key), Plain(value)) = entry.map_err(MapsError::kernel(NAME, "list connections"))?;
            visit(key, value);
        }
        Ok(())
    }
}

fn table<K>(ebpf: &mut Ebpf, name: &'static str) -> Result<HashMap<MapData, K, Plain<CtValue>>, MapsError>
where
    K: Pod,
    HashMap<MapData, K, Plain<CtValue>>: TryFrom<Map, Error = MapError>,
{
    take(ebpf, name)?.try_into().map_err(MapsError::kernel(name, "open"))
}

fn table_of(is_tcp: bool) -> usize {
    usize::from(!is_tcp)
}

/// Name of the tables in error messages.
const NAME: &str = "SP_CT*";
