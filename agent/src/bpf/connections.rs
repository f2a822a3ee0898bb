//! The connection tables.

use std::net::IpAddr;

use nix::time::ClockId;
use serde::Serialize;
use specola_datapath::Connection;
use specola_datapath::abi::conntrack::{
    CtSide, NO_SLOT, SIDE_AUDIT, SIDE_INITIATOR, SIDE_RESPONDER, flags, lifetime_of, state,
};
use specola_datapath::abi::endpoint::EndpointRecord;
use specola_datapath::abi::{names, proto};

use super::{Dump, NamedCookie, NodeView, clock_ns, count};

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectionRow {
    /// IANA protocol number.
    pub protocol: u8,
    /// `new`, `established`, `closing` or `closed`.
    pub state: &'static str,
    /// The end that began.
    pub initiator: ConnectionEnd,
    /// The other end.
    pub responder: ConnectionEnd,
    /// Whether it was first seen in its middle.
    pub mid_stream: bool,
    /// Time since its first packet, milliseconds.
    pub age_ms: u64,
    /// Time since its last packet, milliseconds.
    pub idle_ms: u64,
    /// When it is over without another packet, milliseconds from now; 0 = over, to be removed by the next sweep.
    pub expires_in_ms: u64,
}

/// The clocks that a connection's times are of.
struct Now {
    boot_ns: u64,
    /// Without the time that the machine was suspended.
    awake_ns: u64,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectionEnd {
    /// Its address.
    pub address: IpAddr,
    /// Its port (ICMP echo: the id).
    pub port: u16,
    /// Packets from here.
    pub packets: u64,
    /// Bytes from here, with link headers.
    pub bytes: u64,
    /// TCP flags seen from here.
    pub tcp_flags: u8,
    /// Endpoint id, when its policy decided.
    pub endpoint: Option<u16>,
    /// `namespace/name` of that pod, if known.
    pub pod: Option<String>,
    /// What that endpoint's policy decided: `allowed`, `audited`, `redirected` or `denied`.
    pub verdict: Option<&'static str>,
    /// Drop reason of a denial, Hubble's number.
    pub drop_reason: Option<u8>,
    /// The rules that decided.
    pub cookie: Option<NamedCookie>,
}

impl NodeView {
    /// The connections, those with the latest packet first.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn connections(&self) -> anyhow::Result<Dump<ConnectionRow>> {
        let endpoints = self.pinned.endpoints()?;
        let mut rows = Vec::new();
        let mut used = [0_usize; 4];
        let mut found = Vec::new();
        self.pinned.for_each_connection(|connection| found.push(connection))?;
        // After the reading, so that no packet is from the future.
        let now = Now {
            boot_ns: clock_ns(ClockId::CLOCK_BOOTTIME)?,
            awake_ns: clock_ns(ClockId::CLOCK_MONOTONIC)?,
        };
        for connection in found {
            used[table_of(&connection)] += 1;
            rows.push(self.connection(&connection, &now, &endpoints));
        }
        rows.sort_by_key(|row: &ConnectionRow| (row.idle_ms, row.age_ms));
        let mut maps = Vec::new();
        for (name, used) in TABLES.into_iter().zip(used) {
            maps.push(self.fill(name, used)?);
        }
        debug_assert_eq!(count(rows.len()), maps.iter().map(|map| map.used).sum::<u64>());
        Ok(Dump { entries: rows, maps })
    }

    fn connection(
        &self,
        connection: &Connection,
        now: &Now,
        endpoints: &[(u16, EndpointRecord)],
    ) -> ConnectionRow {
        let value = &connection.value;
        let [initiator, responder] = connection.ends();
        let end = |(address, port), side: usize| {
            let decided = self.decision(&value.sides[side], endpoints);
            ConnectionEnd {
                address,
                port,
                packets: value.packets[side],
                bytes: value.bytes[side],
                tcp_flags: value.tcp_flags[side],
                ..decided.unwrap_or_else(|| undecided(address, port))
            }
        };
        let idle_ms = now.awake_ns.saturating_sub(value.last_seen_ns) / 1_000_000;
        ConnectionRow {
            protocol: connection.key.proto(),
            state: match value.state {
                state::NEW => "new",
                state::ESTABLISHED => "established",
                state::CLOSING => "closing",
                state::CLOSED => "closed",
                _ => "unknown",
            },
            initiator: end(initiator, SIDE_INITIATOR),
            responder: end(responder, SIDE_RESPONDER),
            mid_stream: value.flags & flags::MID_STREAM != 0,
            age_ms: now.boot_ns.saturating_sub(value.created_ns) / 1_000_000,
            idle_ms,
            expires_in_ms: lifetime_of(connection.key.proto(), value.state).saturating_sub(idle_ms),
        }
    }

    /// What a local endpoint's policy decided about its side.
    fn decision(&self, side: &CtSide, endpoints: &[(u16, EndpointRecord)]) -> Option<ConnectionEnd> {
        if side.stamp == 0 || side.slot == 0 || side.slot == NO_SLOT {
            return None;
        }
        let endpoint = endpoints.iter().find(|(slot, _)| *slot == side.slot).map(|(_, record)| record.id);
        Some(ConnectionEnd {
            endpoint,
            pod: endpoint.and_then(|id| self.names.pod(id)),
            verdict: Some(verdict(side)),
            drop_reason: u8::try_from(-i64::from(side.verdict)).ok().filter(|reason| *reason != 0),
            cookie: Some(self.names.cookie(side.cookie)),
            ..undecided(IpAddr::from([0, 0, 0, 0]), 0)
        })
    }
}

fn undecided(address: IpAddr, port: u16) -> ConnectionEnd {
    ConnectionEnd {
        address,
        port,
        packets: 0,
        bytes: 0,
        tcp_flags: 0,
        endpoint: None,
        pod: None,
        verdict: None,
        drop_reason: None,
        cookie: None,
    }
}

fn verdict(side: &CtSide) -> &'static str {
    match side.verdict {
        ..0 => "denied",
        _ if side.flags & SIDE_AUDIT != 0 => "audited",
        0 => "allowed",
        1.. => "redirected",
    }
}

/// Index in [`TABLES`].
fn table_of(connection: &Connection) -> usize {
    let other = usize::from(connection.key.proto() != proto::TCP);
    let family = if connection.key.ends()[0].0.is_ipv4() { 0 } else { 2 };
    family + other
}

const TABLES: [&str; 4] = [names::CT4_TCP, names::CT4_ANY, names::CT6_TCP, names::CT6_ANY];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_have_names() {
        for (number, flags, name) in
            [(0, 0, "allowed"), (-133, 0, "denied"), (0, SIDE_AUDIT, "audited"), (9000, 0, "redirected")]
        {
            assert_eq!(verdict(&CtSide { verdict: number, flags, ..CtSide::default() }), name, "{number}");
        }
    }
}
