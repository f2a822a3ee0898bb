//! The state that packets meet, and the ways in.

use specola_datapath_common::{
    conntrack::{CtKey6, CtValue},
    direction,
    endpoint::EndpointRecord,
    event::Event,
    event::lane,
    ipcache::{IpInfo, IpPrefixKey},
    metrics::{METRIC_ENTRIES, PacketCount, metric_index},
};

use crate::{
    addresses::Addresses,
    conntrack::Connections,
    fragment::Fragments,
    frame::Frame,
    hooks::Run,
    policy::Policy,
    sweep::Sweeps,
    verdict::{Action, Stop},
};

/// How the datapath is set up.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Least time between two trace records of one direction of a connection, ms; 0 = every packet has one.
    pub trace_interval_ms: u32,
    /// The world is two identities, one for each address family.
    pub dual_stack: bool,
    /// Connections in each of the four tables: IPv4 and IPv6, TCP and the rest.
    pub connections: usize,
    /// Packets for the node itself are reported as handed to the host, not to the stack.
    pub host_device: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { trace_interval_ms: 5_000, dual_stack: false, connections: 65_536, host_device: false }
    }
}

/// A local endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// As in the kernel's table; of `word` the epoch counts, `policy` does not.
    pub record: EndpointRecord,
    /// What it enforces.
    pub policy: Policy,
}

/// A packet to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its bytes.
    pub frame: Frame<'a>,
    /// When it came, ns; stamps may go back.
    pub time_ns: u64,
    /// Interface that it came through.
    pub ifindex: u32,
}

/// What became of connections.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConnectionCounts {
    /// Begun.
    pub created: u64,
    /// Displaced by newer ones; what they had not reported is in no record.
    pub evicted: u64,
    /// Known now.
    pub present: u64,
}

/// Endpoints, addresses, connections: what the maps of the kernel programs hold.
#[derive(Debug)]
pub struct Datapath {
    pub(crate) config: Config,
    pub(crate) endpoints: Vec<Option<Endpoint>>,
    pub(crate) addresses: Addresses,
    pub(crate) connections: Connections,
    pub(crate) fragments: Fragments,
    pub(crate) node_epoch: u32,
    pub(crate) lane_seq: [u32; lane::COUNT],
    pub(crate) sweeps: Sweeps,
    metrics: Vec<PacketCount>,
    /// The latest time of any packet.
    pub(crate) now_ns: u64,
}

impl Datapath {
    /// A datapath that knows nobody.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            endpoints: Vec::new(),
            addresses: Addresses::new(config.dual_stack),
            connections: Connections::new(config.connections),
            fragments: Fragments::new(),
            node_epoch: 1,
            lane_seq: [0; lane::COUNT],
            sweeps: Sweeps::default(),
            metrics: vec![PacketCount::default(); METRIC_ENTRIES as usize],
            now_ns: 0,
        }
    }

    /// Puts an endpoint into a slot; slot 0 is nobody's.
    pub fn set_endpoint(&mut self, slot: u16, endpoint: Endpoint) {
        let at = usize::from(slot);
        if self.endpoints.len() <= at {
            self.endpoints.resize(at + 1, None);
        }
        self.endpoints[at] = Some(endpoint);
    }

    /// Says what is known of a prefix or, with 128 bits, of an address.
    pub fn set_address(&mut self, prefix: IpPrefixKey, info: IpInfo) {
        self.addresses.insert(prefix, info);
    }

    /// A packet of a capture: from an endpoint, to an endpoint, or both, as its addresses say. Appends its records.
    pub fn observe(&mut self, packet: &Packet<'_>, out: &mut Vec<Event>) -> Action {
        self.tick(packet.time_ns, out);
        let mut run = Run::new(self, packet, out);
        let outcome = run.observe();
        run.finish(outcome)
    }

    /// A packet that the endpoint in a slot sends (the program `from_container`).
    pub fn leave_container(&mut self, slot: u16, packet: &Packet<'_>, out: &mut Vec<Event>) -> Action {
        self.run(packet, out, direction::EGRESS, |run| run.leaves_container(slot))
    }

    /// A packet that the stack sends to the endpoint in a slot (the program `to_container`).
    pub fn enter_container(&mut self, slot: u16, packet: &Packet<'_>, out: &mut Vec<Event>) -> Action {
        self.run(packet, out, direction::INGRESS, |run| run.enters_container(slot))
    }

    /// A packet from the network (the program `from_netdev`).
    pub fn receive(&mut self, packet: &Packet<'_>, out: &mut Vec<Event>) -> Action {
        self.run(packet, out, direction::UNKNOWN, |run| run.comes_from_netdev())
    }

    /// What became of connections.
    pub fn connections(&self) -> ConnectionCounts {
        let Connections { created, evicted, .. } = self.connections;
        ConnectionCounts { created, evicted, present: self.connections.len() as u64 }
    }

    /// All connections, those that were idle longest first within each table.
    pub fn tracked(&self) -> impl Iterator<Item = (&CtKey6, &CtValue)> {
        self.connections.iter()
    }

    /// Packets and bytes under a direction and a drop reason, 0 = they passed.
    pub fn counted(&self, direction: u8, reason: u8) -> PacketCount {
        self.metrics[metric_index(direction, reason) as usize]
    }

    fn run(
        &mut self,
        packet: &Packet<'_>,
        out: &mut Vec<Event>,
        direction: u8,
        hook: impl FnOnce(&mut Run<'_>) -> Result<(), Stop>,
    ) -> Action {
        self.now_ns = self.now_ns.max(packet.time_ns);
        let mut run = Run::new(self, packet, out);
        run.work.event.direction = direction;
        let outcome = hook(&mut run);
        run.finish(outcome)
    }

    pub(crate) fn count(&mut self, direction: u8, reason: u8, bytes: u32) {
        // The index is below the number of entries whatever the direction: it counts modulo 4, and 3 is none.
        if let Some(count) = self.metrics.get_mut(metric_index(direction, reason) as usize) {
            count.packets += 1;
            count.bytes += u64::from(bytes);
        }
    }
}
