//! The kernel's answer: one pod on a loaded datapath, whose programs get single packets.

use std::net::IpAddr;

use ipnet::IpNet;
use specola_agent::test_util::Translator;
use specola_datapath::abi::endpoint::EndpointRecord;
use specola_datapath::abi::event::{Event, flags, kind};
use specola_datapath::abi::ipcache::IpInfo;
use specola_datapath::abi::metrics::drop;
use specola_datapath::abi::names::{FROM_CONTAINER, FROM_NETDEV, TO_CONTAINER};
use specola_datapath::abi::{direction, proto};
use specola_datapath::{Config, Conntrack, Datapath, EventReader, OBJECT, PolicyUpdate};
use specola_policy::eval::{self, Verdict};
use specola_policy::{EndpointPolicy, MapState};
use specola_testkit::packet::Frame;
use specola_testkit::{BpfFs, object_under_test};

use crate::Answer;
use crate::cluster::{Cluster, ENDS, net};
use crate::packets::{ICMP_V4, ICMP_V6, Kind, Packet};

/// A loaded datapath with one pod, and the policy that the pod has.
pub(crate) struct Node {
    datapath: Datapath,
    conntrack: Conntrack,
    reader: EventReader,
    translator: Translator,
    in_force: MapState,
    revision: u64,
    /// Packets since connections were forgotten: no two of them belong to one connection.
    sent: u16,
    _pins: BpfFs,
    _files: tempfile::TempDir,
}

/// A packet as it was sent, and what came of it.
#[derive(Debug)]
pub(crate) struct Seen {
    sent: Sent,
    action: u32,
    events: Vec<Event>,
}

/// A packet in full.
#[derive(Clone, Copy, Debug)]
struct Sent {
    program: &'static str,
    egress: bool,
    peer: IpAddr,
    proto: u8,
    /// Destination port or ICMP type.
    port: u16,
    /// Source port, or the id of an ICMP echo.
    unique: u16,
}

impl Node {
    /// Loads the programs, with a pod that has no policy yet.
    pub(crate) fn start() -> Self {
        let pins = BpfFs::mount();
        let files = tempfile::tempdir().expect("a temporary directory");
        let config = Config {
            lane_bytes: [1 << 16; 3],
            ct_tcp_entries: 1024,
            ct_any_entries: 1024,
            dual_stack: true,
            // Each packet shall have its record.
            fold_per_second: 0,
            ..Config::new(pins.path().join("node"))
        };
        let mut datapath = Datapath::load_object(&config, &object_under_test(OBJECT))
            .unwrap_or_else(|error| panic!("the kernel takes the programs: {error}"));
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (pod_address(false), pod_address(true)) else {
            panic!("one address of each family");
        };
        let record = EndpointRecord {
            ifindex: LOOPBACK,
            identity: IDENTITY,
            id: ENDPOINT_ID,
            mac: POD_MAC,
            host_mac: HOST_MAC,
            ipv4: v4.octets(),
            ipv6: v6.octets(),
            ..EndpointRecord::default()
        };
        datapath.add_endpoint(SLOT, &record).unwrap_or_else(|error| panic!("{error}"));
        Self {
            conntrack: datapath.take_conntrack().expect("taken once"),
            reader: datapath.take_reader().expect("taken once"),
            datapath,
            translator: Translator::open(&files.path().join("cookies")).expect("a new file"),
            in_force: MapState::default(),
            revision: 0,
            sent: 0,
            _pins: pins,
            _files: files,
        }
    }

    /// Ends every connection.
    pub(crate) fn forget_connections(&mut self) {
        self.conntrack.sweep(u64::MAX, |_| ()).unwrap_or_else(|error| panic!("{error}"));
        self.sent = 0;
    }

    /// Makes the kernel's table of addresses the cluster's.
    pub(crate) fn know_addresses(&mut self, cluster: &Cluster) {
        let mut wanted = cluster.addresses();
        let pod = IpInfo { identity: IDENTITY, slot: SLOT, ..IpInfo::default() };
        wanted.extend([false, true].map(|v6| (IpNet::from(pod_address(v6)), pod)));
        self.datapath.sync_ips(&wanted).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Puts a policy into force, by what differs from the one before.
    pub(crate) fn realize(&mut self, policy: &EndpointPolicy) {
        let update = self.update(policy);
        self.datapath
            .apply_policy(SLOT, &update.upserts, &update.deletes, update.state)
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// The same, up to where packets see the new policy: the trie that was in force still holds the old one.
    pub(crate) fn realize_first_half(&mut self, policy: &EndpointPolicy) {
        let update = self.update(policy);
        self.datapath.apply_first_half(&update).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Makes this one of the two tries the active one, without another policy.
    pub(crate) fn use_trie(&mut self, side: u32, in_force: &EndpointPolicy) {
        let record = self.datapath.endpoint(SLOT).expect("the pod lives");
        if EndpointRecord::active(record.word) != side {
            self.realize(in_force);
        }
    }

    fn update(&mut self, policy: &EndpointPolicy) -> PolicyUpdate {
        let update = self.translator.update(SLOT, &self.in_force, policy).expect("cookies are left");
        self.in_force = policy.map.clone();
        self.revision = policy.revision;
        update
    }

    /// Sends a packet that begins a connection.
    pub(crate) fn send(&mut self, packet: &Packet, cluster: &Cluster) -> Seen {
        self.sent += 1;
        let peer = address_in(net(ENDS[packet.end]), self.sent);
        let (proto, port) = match (packet.kind, peer.is_ipv4()) {
            (Kind::Ports { proto, port }, _) => (proto, port),
            (Kind::Icmp(index), true) => (proto::ICMP, ICMP_V4[index].into()),
            (Kind::Icmp(index), false) => (proto::ICMPV6, ICMP_V6[index].into()),
        };
        let program = match packet.egress {
            true => FROM_CONTAINER,
            // The network does not send from the node's own addresses.
            false if packet.from_network && !cluster.is_local_node(peer) => FROM_NETDEV,
            false => TO_CONTAINER,
        };
        let unique = FIRST_UNIQUE + self.sent;
        self.run(Sent { program, egress: packet.egress, peer, proto, port, unique }, false)
    }

    /// Sends the next packet of a connection that passed.
    pub(crate) fn send_again(&mut self, first: &Seen) -> Seen {
        self.run(first.sent, true)
    }

    fn run(&mut self, sent: Sent, goes_on: bool) -> Seen {
        let run = self
            .datapath
            .test_run(sent.program, &sent.frame(goes_on))
            .unwrap_or_else(|error| panic!("{error}"));
        let mut events = Vec::new();
        self.reader.read_now(|tick| {
            assert_eq!(tick.rejected.total(), 0, "every sample is an event");
            events = tick.events.to_vec();
        });
        Seen { sent, action: run.action, events }
    }

    /// Compares what was seen with what the rules and the map ask for.
    ///
    /// # Errors
    /// What differs.
    pub(crate) fn check(
        &self,
        seen: &Seen,
        question: &eval::Packet,
        reports_allow: bool,
        match_type: u8,
        answer: &Answer,
    ) -> Result<(), String> {
        let passes = answer.verdict == Verdict::Allow || answer.audited;
        let expected = if passes { seen.sent.pass_action() } else { TC_ACT_SHOT };
        if seen.action != expected {
            return Err(format!("action {}, expected {expected}; {}", seen.action, self.told(seen)));
        }
        if let Some(drop) = seen.events.iter().find(|event| event.kind == kind::DROP) {
            return Err(format!("dropped before policy: {}", drop.verdict));
        }
        let verdicts: Vec<&Event> = seen.verdicts().collect();
        match verdicts.as_slice() {
            [] if passes && !reports_allow => Ok(()),
            [event] if !passes || reports_allow => self
                .check_record(event, question, match_type, answer)
                .map_err(|cause| format!("{cause}; {}", self.told(seen))),
            records => Err(format!("{} verdict records; {}", records.len(), self.told(seen))),
        }
    }

    fn check_record(
        &self,
        event: &Event,
        question: &eval::Packet,
        match_type: u8,
        answer: &Answer,
    ) -> Result<(), String> {
        let verdict = match answer.verdict {
            _ if answer.audited => 0,
            Verdict::Allow => 0,
            Verdict::AuthRequired => -i32::from(drop::AUTH_REQUIRED),
            Verdict::Deny => -i32::from(drop::POLICY_DENY),
            Verdict::DefaultDeny => -i32::from(drop::POLICY_DENIED),
            // Nothing listens.
            Verdict::Redirect => -i32::from(drop::PROXY_NOT_SUPPORTED),
        };
        let (way, ends) = if question.egress {
            (direction::EGRESS, (IDENTITY, question.peer))
        } else {
            (direction::INGRESS, (question.peer, IDENTITY))
        };
        // 0 names no rules.
        let cookie = self.translator.cookie(&answer.origins).unwrap_or(0);
        let facts = [
            ("verdict", i64::from(event.verdict), i64::from(verdict)),
            (
                "audited",
                (event.flags & flags::AUDIT).into(),
                if answer.audited { flags::AUDIT.into() } else { 0 },
            ),
            ("match type", event.match_type.into(), match_type.into()),
            ("cookie", event.cookie.into(), cookie.into()),
            ("direction", event.direction.into(), way.into()),
            ("source identity", event.src_identity.into(), ends.0.into()),
            ("destination identity", event.dst_identity.into(), ends.1.into()),
            ("endpoint", event.endpoint_id.into(), ENDPOINT_ID.into()),
            ("revision", event.revision.into(), i64::try_from(self.revision).unwrap_or(-1)),
        ];
        match facts.into_iter().find(|(_, got, wanted)| got != wanted) {
            None => Ok(()),
            Some((name, got, wanted)) => Err(format!("{name} {got}, expected {wanted}")),
        }
    }

    /// What the kernel's records say, in words.
    fn told(&self, seen: &Seen) -> String {
        let verdicts = seen.verdicts().map(|event| {
            let origins = self.translator.origins(event.cookie);
            let names = origins.map_or_else(|| "no rules".to_owned(), ToString::to_string);
            format!("verdict {} by {names} (match type {})", event.verdict, event.match_type)
        });
        let said: Vec<String> = verdicts.collect();
        if said.is_empty() { "no verdict record".to_owned() } else { said.join(", ") }
    }
}

impl Seen {
    pub(crate) fn passed(&self) -> bool {
        self.action != TC_ACT_SHOT
    }

    pub(crate) fn peer(&self) -> IpAddr {
        self.sent.peer
    }

    pub(crate) fn proto(&self) -> u8 {
        self.sent.proto
    }

    /// Destination port or ICMP type.
    pub(crate) fn port(&self) -> u16 {
        self.sent.port
    }

    fn verdicts(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(|event| event.kind == kind::POLICY_VERDICT)
    }
}

impl Sent {
    fn frame(&self, goes_on: bool) -> Vec<u8> {
        let pod = pod_address(self.peer.is_ipv6());
        let frame = if self.egress {
            Frame::new(pod, self.peer).macs(POD_MAC, HOST_MAC)
        } else {
            Frame::new(self.peer, pod)
        };
        let Self { port, unique, .. } = *self;
        match self.proto {
            proto::TCP => frame.tcp(unique, port, if goes_on { ACK } else { SYN }),
            proto::UDP => frame.udp(unique, port),
            proto::SCTP => {
                frame.raw(proto::SCTP, &[unique.to_be_bytes(), port.to_be_bytes(), [0; 2], [0; 2]].concat())
            }
            _ => frame.icmp(u8::try_from(port).expect("types have 8 bits"), 0, unique),
        }
        .bytes()
    }

    fn pass_action(&self) -> u32 {
        if self.program == FROM_NETDEV { TC_ACT_REDIRECT } else { TC_ACT_OK }
    }
}

/// The `number`th address of a prefix; a whole address is its own.
fn address_in(prefix: IpNet, number: u16) -> IpAddr {
    match prefix {
        IpNet::V4(net) if net.prefix_len() == 32 => net.addr().into(),
        IpNet::V4(net) => IpAddr::V4((u32::from(net.addr()) + u32::from(number)).into()),
        IpNet::V6(net) if net.prefix_len() == 128 => net.addr().into(),
        IpNet::V6(net) => IpAddr::V6((u128::from(net.addr()) + u128::from(number)).into()),
    }
}

fn pod_address(v6: bool) -> IpAddr {
    let text = if v6 { "fd00:9::9" } else { "172.30.0.9" };
    text.parse().expect("an address")
}

/// Test runs happen on the loopback interface.
const LOOPBACK: u32 = 1;
const SLOT: u16 = 1;
const ENDPOINT_ID: u16 = 42;
const IDENTITY: u32 = 300;
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 9];
const FIRST_UNIQUE: u16 = 20_000;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
