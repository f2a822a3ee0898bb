//! A made-up node and its events: the mix of a busy cluster, the same for the same seed. For tests, benchmarks and for
//! trying clients without a kernel.
//!
//! Connections run side by side: TCP from handshake to FIN with counters, DNS over UDP, pings; pod to pod on the node
//! and across nodes, pod to the world; one in ten is denied. Requests and responses of applications come beside them. Records carry what the kernel programs would write, and are
//! numbered per lane without gaps.

mod requests;
mod world;

use specola_datapath_common::{
    IPV4, IPV6, direction,
    event::{Event, ct_state, flags, kind, lane, match_type, point, tcp_flags},
    proto,
};
use specola_directory::Change;
use specola_flow::DropReason;

use requests::Requests;
use world::Pod;

use crate::access::AccessRecord;

/// Makes events.
#[derive(Debug)]
pub struct Synthetic {
    random: Random,
    connections: Vec<Connection>,
    lane_seq: [u32; lane::COUNT],
    requests: Requests,
}

/// Connections that are open at a time.
const OPEN: usize = 512;

impl Synthetic {
    /// Makes the node. Equal seeds give equal events, but for their times.
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let connections = (0..OPEN).map(|_| Connection::new(&mut random)).collect();
        Self { random, connections, lane_seq: [0; lane::COUNT], requests: Requests::new(!seed) }
    }

    /// What the directory must know of the node: pods, identities, rules, interfaces.
    pub fn changes() -> Vec<Change> {
        world::changes()
    }

    /// The next request or response of an application, stamped with this wall time, ns: HTTP, DNS and Kafka.
    pub fn access(&mut self, time_ns: u64) -> AccessRecord {
        self.requests.next(time_ns)
    }

    /// The next event, stamped with this time of the boot clock, ns.
    pub fn event(&mut self, boot_ns: u64) -> Event {
        loop {
            let index = self.random.below(self.connections.len());
            let connection = &mut self.connections[index];
            let Some(event) = connection.step(boot_ns) else {
                *connection = Connection::new(&mut self.random);
                continue;
            };
            let sequence = &mut self.lane_seq[usize::from(event.lane)];
            *sequence = sequence.wrapping_add(1);
            return Event { lane_seq: *sequence, ..event };
        }
    }
}

/// SplitMix64: small, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0 and small against 2^64.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Course {
    /// A TCP connection that is allowed.
    Tcp,
    /// A question and its answer.
    Udp,
    /// An echo request and its reply.
    Icmp,
    /// Denied by a rule, or because no rule allows it.
    Denied(DropReason),
    /// Sent from an address that is not the pod's.
    Forged,
}

/// A connection and how far it is.
#[derive(Debug)]
struct Connection {
    course: Course,
    source: Pod,
    destination: Pod,
    is_v6: bool,
    source_port: u16,
    stage: usize,
    created_ns: u64,
    /// Packets from each side.
    packets: [u64; 2],
}

/// Steps of an allowed connection.
#[derive(Clone, Copy)]
enum Stage {
    /// Both sides' policies.
    Verdict(u8),
    /// Trace of a packet: from the responder?, flags, state, whether it closes.
    Trace(bool, u8, u8, bool),
}

const TCP_STAGES: [Stage; 8] = [
    Stage::Verdict(direction::EGRESS),
    Stage::Verdict(direction::INGRESS),
    Stage::Trace(false, tcp_flags::SYN, ct_state::NEW, false),
    Stage::Trace(true, tcp_flags::SYN | tcp_flags::ACK, ct_state::REPLY, false),
    Stage::Trace(false, tcp_flags::ACK | tcp_flags::PSH, ct_state::ESTABLISHED, false),
    Stage::Trace(true, tcp_flags::ACK | tcp_flags::PSH, ct_state::REPLY, false),
    Stage::Trace(false, tcp_flags::ACK | tcp_flags::FIN, ct_state::ESTABLISHED, false),
    Stage::Trace(true, tcp_flags::ACK | tcp_flags::FIN, ct_state::REPLY, true),
];

const DATAGRAM_STAGES: [Stage; 4] = [
    Stage::Verdict(direction::EGRESS),
    Stage::Verdict(direction::INGRESS),
    Stage::Trace(false, 0, ct_state::NEW, false),
    Stage::Trace(true, 0, ct_state::REPLY, false),
];

impl Connection {
    fn new(random: &mut Random) -> Self {
        let course = match random.below(100) {
            0..62 => Course::Tcp,
            62..86 => Course::Udp,
            86..89 => Course::Icmp,
            89..95 => Course::Denied(DropReason::POLICY_DENIED),
            95..99 => Course::Denied(DropReason::POLICY_DENY),
            _ => Course::Forged,
        };
        let source = world::local(random.below(usize::MAX));
        let destination = match random.below(100) {
            0..45 => world::local(random.below(usize::MAX)),
            45..85 => world::remote(random.below(usize::MAX)),
            _ => world::outside(random.below(usize::MAX)),
        };
        Self {
            course,
            source,
            destination,
            is_v6: random.percent(10),
            // Below 2^16.
            source_port: (32_768 + random.below(28_000)) as u16,
            stage: 0,
            created_ns: 0,
            packets: [0; 2],
        }
    }

    /// The next event; `None` at the end.
    fn step(&mut self, boot_ns: u64) -> Option<Event> {
        let stages = match self.course {
            Course::Tcp => TCP_STAGES.as_slice(),
            Course::Udp | Course::Icmp => &DATAGRAM_STAGES,
            Course::Denied(_) | Course::Forged => {
                self.stage += 1;
                return (self.stage == 1).then(|| self.refusal(boot_ns));
            }
        };
        loop {
            let stage = stages.get(self.stage)?;
            self.stage += 1;
            if self.created_ns == 0 {
                self.created_ns = boot_ns;
            }
            match *stage {
                // The other node's agent reports that.
                Stage::Verdict(direction::INGRESS) if !self.destination.is_local() => {}
                Stage::Verdict(direction) => return Some(self.allowed(boot_ns, direction)),
                Stage::Trace(is_reply, set, state, is_end) => {
                    return Some(self.trace(boot_ns, is_reply, (set, state), is_end));
                }
            }
        }
    }

    fn allowed(&self, boot_ns: u64, direction: u8) -> Event {
        let by = if direction == direction::EGRESS { self.source } else { self.destination };
        Event {
            kind: kind::POLICY_VERDICT,
            lane: lane::ALLOW,
            direction,
            match_type: match_type::L3_L4,
            cookie: world::allow_cookie(by, direction),
            ..self.base(boot_ns, false, by)
        }
    }

    fn refusal(&self, boot_ns: u64) -> Event {
        let base = Event {
            lane: lane::DENY,
            direction: direction::EGRESS,
            ..self.base(boot_ns, false, self.source)
        };
        match self.course {
            Course::Denied(reason) => Event {
                kind: kind::POLICY_VERDICT,
                verdict: -i32::from(reason.0),
                match_type: if reason == DropReason::POLICY_DENY {
                    match_type::L3_ONLY
                } else {
                    match_type::NONE
                },
                cookie: world::deny_cookie(self.source, reason),
                ..base
            },
            _ => Event { kind: kind::DROP, verdict: -i32::from(DropReason::INVALID_SOURCE_IP.0), ..base },
        }
    }

    fn trace(&mut self, boot_ns: u64, is_reply: bool, (set, ct_state): (u8, u8), is_end: bool) -> Event {
        let at = if is_reply { self.source } else { self.destination };
        self.packets[usize::from(is_reply)] += 1 + u64::from(self.source_port % 7);
        let [packets_fwd, packets_rev] = self.packets;
        let base = self.base(boot_ns, is_reply, if at.is_local() { at } else { self.source });
        Event {
            kind: kind::TRACE,
            lane: lane::TRACE,
            obs_point: if at.is_local() { point::TO_ENDPOINT } else { point::TO_NETWORK },
            direction: if is_reply { direction::EGRESS } else { direction::INGRESS },
            tcp_flags: if self.course == Course::Tcp { set } else { 0 },
            ct_state,
            flags: flags::COUNTERS
                | if is_end { flags::CLOSE } else { 0 }
                | if is_reply { flags::REPLY } else { 0 },
            packets_fwd,
            packets_rev,
            bytes_fwd: packets_fwd * 180,
            bytes_rev: packets_rev * 640,
            created_ns: self.created_ns,
            ..base
        }
    }

    /// What all events of the connection have in common, in the direction of the packet. `endpoint` is whom it is about.
    fn base(&self, boot_ns: u64, is_reply: bool, endpoint: Pod) -> Event {
        let (proto, port) = match self.course {
            Course::Udp => (proto::UDP, 53),
            Course::Icmp => (if self.is_v6 { proto::ICMPV6 } else { proto::ICMP }, 0),
            _ => (proto::TCP, self.destination.port()),
        };
        let is_icmp = self.course == Course::Icmp;
        let source_port = if is_icmp { 0 } else { self.source_port };
        let ends = [(self.source, source_port), (self.destination, port)];
        let [(source, src_port), (destination, dst_port)] = if is_reply { [ends[1], ends[0]] } else { ends };
        let icmp_type = match (is_icmp, self.is_v6, is_reply) {
            (true, false, false) => 8,
            (true, true, false) => 128,
            (true, true, true) => 129,
            _ => 0,
        };
        Event {
            boot_ns,
            endpoint_id: endpoint.id(),
            ip_version: if self.is_v6 { IPV6 } else { IPV4 },
            proto,
            ifindex: endpoint.ifindex(),
            length: 74,
            src_identity: source.identity(),
            dst_identity: destination.identity(),
            src_addr: source.address(self.is_v6),
            dst_addr: destination.address(self.is_v6),
            src_port,
            dst_port,
            tcp_flags: if proto == proto::TCP { tcp_flags::SYN } else { 0 },
            icmp_type,
            revision: 7,
            src_mac: source.mac(),
            dst_mac: destination.mac(),
            ..Event::zeroed()
        }
    }
}

#[cfg(test)]
mod tests;
