//! Connections that were open before the programs were attached, entered into the connection table.

use std::net::IpAddr;

use anyhow::Context;
use nix::time::ClockId;
use specola_datapath::abi::conntrack::{
    CtKey4, CtKey6, CtSide, CtValue, NO_SLOT, SIDE_INITIATOR, SIDE_RESPONDER, SIDE_SEEDED, ZONE_HOST, flags,
    state,
};
use specola_datapath::abi::{endpoint::HOST_SLOT, proto};
use specola_datapath::{Connection, ConnectionKey, Conntrack};

use super::sockets::{self, Socket, Sockets, tcp_state};
use crate::sweep::clock_ns;

/// Enters connections.
#[derive(Debug)]
pub(crate) struct Seeder {
    table: Conntrack,
    /// How many may be entered at a time: a full table would push out what it has.
    limit: usize,
}

/// What was entered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Seeded {
    /// Connections that are in the table now and were not before.
    pub(crate) entered: usize,
    /// Connections for which there was no room.
    pub(crate) left_out: usize,
}

impl Seeder {
    pub(crate) const fn new(table: Conntrack, limit: usize) -> Self {
        Self { table, limit }
    }

    /// Enters the connections of this thread's network namespace that the table does not have. A deny ends them if its
    /// cookie is above `cookie`. Blocks.
    ///
    /// # Errors
    /// The sockets cannot be listed, or the table cannot be written.
    pub(crate) fn run(&mut self, cookie: u32) -> anyhow::Result<Seeded> {
        let clock = |clock| clock_ns(clock).context("reading the clock");
        let now =
            Now { boot_ns: clock(ClockId::CLOCK_BOOTTIME)?, monotonic_ns: clock(ClockId::CLOCK_MONOTONIC)? };
        let sockets = sockets::list().context("listing the sockets of this machine (sock_diag)")?;
        let mut seeded = Seeded::default();
        for socket in &sockets.connections {
            if seeded.entered == self.limit {
                seeded.left_out += 1;
                continue;
            }
            let connection = connection_of(socket, &sockets, cookie, now);
            seeded.entered += usize::from(self.table.insert(&connection)?);
        }
        Ok(seeded)
    }
}

/// A moment, on the two clocks of a connection.
#[derive(Clone, Copy)]
struct Now {
    boot_ns: u64,
    monotonic_ns: u64,
}

/// The table's entry for a socket. Who began a connection cannot be known any more; a port that somebody listens on
/// tells.
fn connection_of(socket: &Socket, sockets: &Sockets, cookie: u32, now: Now) -> Connection {
    let is_server = sockets.listening.contains(&socket.local.1);
    let local_is_low = socket.local <= socket.remote;
    let (low, high) =
        if local_is_low { (socket.local, socket.remote) } else { (socket.remote, socket.local) };
    let mut sides = [CtSide { slot: NO_SLOT, ..CtSide::default() }; 2];
    let own = if is_server { SIDE_RESPONDER } else { SIDE_INITIATOR };
    sides[own] = CtSide { slot: HOST_SLOT, cookie, flags: SIDE_SEEDED, ..CtSide::default() };
    let value = CtValue {
        created_ns: now.boot_ns,
        last_seen_ns: now.monotonic_ns,
        initiator: u8::from(local_is_low == is_server),
        state: match socket.state {
            tcp_state::ESTABLISHED => state::ESTABLISHED,
            tcp_state::SYN_SENT | tcp_state::SYN_RECV | tcp_state::NEW_SYN_RECV => state::NEW,
            _ => state::CLOSING,
        },
        flags: flags::SEEDED | flags::MID_STREAM,
        sides,
        ..CtValue::default()
    };
    Connection { key: key_of(low, high), value }
}

fn key_of(low: (IpAddr, u16), high: (IpAddr, u16)) -> ConnectionKey {
    match (low.0, high.0) {
        (IpAddr::V4(lo), IpAddr::V4(hi)) => ConnectionKey::V4(CtKey4 {
            lo_addr: lo.octets(),
            hi_addr: hi.octets(),
            lo_port: low.1,
            hi_port: high.1,
            proto: proto::TCP,
            pad: 0,
            zone: ZONE_HOST,
        }),
        (lo, hi) => ConnectionKey::V6(CtKey6 {
            lo_addr: octets(lo),
            hi_addr: octets(hi),
            lo_port: low.1,
            hi_port: high.1,
            proto: proto::TCP,
            pad: 0,
            zone: ZONE_HOST,
        }),
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::SocketAddr;

    use super::*;

    const NOW: Now = Now { boot_ns: 2_000, monotonic_ns: 1_000 };

    fn socket(local: &str, remote: &str) -> Socket {
        let end = |text: &str| {
            let end: SocketAddr = text.parse().expect("address and port");
            (end.ip(), end.port())
        };
        Socket { local: end(local), remote: end(remote), state: tcp_state::ESTABLISHED }
    }

    #[test]
    fn who_listens_did_not_begin() {
        let sockets = Sockets { listening: HashSet::from([22]), ..Sockets::default() };
        for (local, remote, own) in [
            ("192.0.2.1:22", "192.0.2.9:5000", SIDE_RESPONDER),
            ("192.0.2.9:22", "192.0.2.1:5000", SIDE_RESPONDER),
            ("192.0.2.1:5000", "192.0.2.9:443", SIDE_INITIATOR),
            ("[2001:db8::9]:5000", "[2001:db8::1]:443", SIDE_INITIATOR),
            ("[2001:db8::9]:22", "[2001:db8::1]:443", SIDE_RESPONDER),
        ] {
            let socket = socket(local, remote);
            let connection = connection_of(&socket, &sockets, 7, NOW);
            let [initiator, responder] = connection.ends();
            let ends = if own == SIDE_RESPONDER { (responder, initiator) } else { (initiator, responder) };
            assert_eq!(ends, (socket.local, socket.remote), "{local} {remote}");
            let side = connection.value.sides[own];
            assert_eq!((side.slot, side.cookie, side.flags, side.stamp), (HOST_SLOT, 7, SIDE_SEEDED, 0));
            assert_eq!(connection.value.sides[own ^ 1].slot, NO_SLOT);
        }
    }

    #[test]
    fn the_state_follows_the_sockets() {
        let sockets = Sockets::default();
        for (number, expected) in
            [(1, state::ESTABLISHED), (2, state::NEW), (12, state::NEW), (8, state::CLOSING)]
        {
            let socket = Socket { state: number, ..socket("192.0.2.1:1", "192.0.2.2:2") };
            assert_eq!(connection_of(&socket, &sockets, 0, NOW).value.state, expected, "{number}");
        }
    }
}
