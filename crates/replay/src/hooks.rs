//! The ways of a packet, one function for each hook.

use specola_datapath_common::{
    IPV4,
    conntrack::{SIDE_INITIATOR, SIDE_RESPONDER},
    direction,
    event::{Event, ct_state, kind, lane, point},
    identity,
    ipcache::ip_flags,
    metrics::drop,
};

use crate::{
    datapath::{Datapath, Endpoint, Packet},
    frame::Frame,
    judge::Question,
    parse::{self, Network},
    verdict::{Action, Stop},
    work::{Work, class},
};

/// A packet on its way.
pub(crate) struct Run<'a> {
    pub(crate) datapath: &'a mut Datapath,
    pub(crate) frame: &'a Frame<'a>,
    pub(crate) work: Work,
    pub(crate) out: &'a mut Vec<Event>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(datapath: &'a mut Datapath, packet: &'a Packet<'a>, out: &'a mut Vec<Event>) -> Self {
        let now_ns = datapath.now_ns;
        let work = Work::new(packet.time_ns, now_ns, packet.ifindex, packet.frame.length);
        Self { datapath, frame: &packet.frame, work, out }
    }

    /// A packet of which nothing but its bytes is known.
    pub(crate) fn observe(&mut self) -> Result<(), Stop> {
        let Network::Ip = parse::network(self.frame, &mut self.work)? else {
            return Ok(());
        };
        let (src, dst, version) =
            (self.work.event.src_addr, self.work.event.dst_addr, self.work.event.ip_version);
        let from = self.datapath.addresses.find(&src, version);
        if from.slot != 0 {
            self.work.event.direction = direction::EGRESS;
            self.describe_sender(from.slot)?;
            return self.of_pod(from.slot, false);
        }
        let to = self.datapath.addresses.find(&dst, version);
        if to.slot != 0 {
            self.work.event.direction = direction::INGRESS;
            self.describe(to.slot, direction::INGRESS)?;
            return self.for_pod(to.slot);
        }
        (self.work.event.src_identity, self.work.event.dst_identity) = (from.identity, to.identity);
        self.of_others()
    }

    pub(crate) fn leaves_container(&mut self, slot: u16) -> Result<(), Stop> {
        self.describe_sender(slot)?;
        let network = parse::network(self.frame, &mut self.work)?;
        if self.work.event.src_mac != self.endpoint(slot)?.record.mac {
            return Err(Stop::drop(drop::INVALID_SOURCE_MAC));
        }
        match network {
            Network::Ip => {}
            Network::Arp => return Ok(()),
            Network::Other => return Err(Stop::drop(drop::UNSUPPORTED_L3)),
        }
        let only_neighbor = self.check_address(slot)?;
        self.of_pod(slot, only_neighbor)
    }

    pub(crate) fn enters_container(&mut self, slot: u16) -> Result<(), Stop> {
        self.describe(slot, direction::INGRESS)?;
        match parse::network(self.frame, &mut self.work)? {
            Network::Ip => self.for_pod(slot),
            Network::Arp => Ok(()),
            Network::Other => Err(Stop::drop(drop::UNSUPPORTED_L3)),
        }
    }

    pub(crate) fn comes_from_netdev(&mut self) -> Result<(), Stop> {
        let Network::Ip = parse::network(self.frame, &mut self.work)? else {
            return Ok(());
        };
        let (dst, version) = (self.work.event.dst_addr, self.work.event.ip_version);
        let to = self.datapath.addresses.find(&dst, version);
        self.work.event.dst_identity = to.identity;
        if to.slot == 0 {
            return self.check_foreign().map(|_is_node| ());
        }
        self.work.event.direction = direction::INGRESS;
        self.describe(to.slot, direction::INGRESS)?;
        self.transport()?;
        let track = self.datapath.connections.track(self.frame, &mut self.work);
        self.check_foreign()?;
        self.set_elsewhere(&track, usize::from(track.dir), false);
        self.deliver(&track, to.slot)
    }

    /// Counts the packet, and reports a drop that was not reported.
    pub(crate) fn finish(&mut self, outcome: Result<(), Stop>) -> Action {
        let (direction, bytes) = (self.work.event.direction, self.work.event.length);
        match outcome {
            Ok(()) => {
                self.datapath.count(direction, 0, bytes);
                Action::Pass
            }
            Err(Stop::Cut) => Action::Cut,
            Err(Stop::Drop { reason, reported }) => {
                self.datapath.count(direction, reason, bytes);
                if !reported {
                    self.drop_record(reason);
                }
                Action::Drop(reason)
            }
        }
    }

    fn drop_record(&mut self, reason: u8) {
        if self.work.event.ip_version != 0 {
            self.identify();
        }
        let event = &mut self.work.event;
        event.kind = kind::DROP;
        event.lane = lane::DENY;
        event.verdict = -i32::from(reason);
        event.match_type = 0;
        event.ct_state = ct_state::UNKNOWN;
        event.cookie = 0;
        self.emit();
    }

    /// The endpoint sends an IP packet.
    fn of_pod(&mut self, sender: u16, only_neighbor: bool) -> Result<(), Stop> {
        self.transport()?;
        // A pod is no router.
        if parse::is_of_router(&self.work) {
            return Err(Stop::drop(drop::FORBIDDEN_ICMPV6_MESSAGE));
        }
        if only_neighbor && !self.work.is(class::NEIGHBOR) {
            return Err(Stop::drop(drop::INVALID_SOURCE_IP));
        }
        self.work.class |= class::FROM_POD;
        let track = self.datapath.connections.track(self.frame, &mut self.work);
        let (addr, version) = (self.work.event.dst_addr, self.work.event.ip_version);
        let dst = self.datapath.addresses.find(&addr, version);
        self.work.event.dst_identity = dst.identity;
        let is_node = dst.flags & ip_flags::LOCAL_NODE != 0;
        let stays_on_link = parse::is_multicast(&addr) || parse::is_link_local(&addr) || is_node;
        if self.work.is(class::NEIGHBOR) && stays_on_link {
            return Ok(());
        }
        let question =
            Question { slot: sender, side: SIDE_INITIATOR, peer: dst.identity, direction: direction::EGRESS };
        self.decide(&track, question)?;
        if dst.slot != 0 {
            self.endpoint(dst.slot)?;
            self.deliver(&track, dst.slot)?;
            self.datapath.count(direction::EGRESS, 0, self.work.event.length);
            return Ok(());
        }
        self.set_elsewhere(&track, SIDE_RESPONDER ^ usize::from(track.dir), is_node);
        let to_host = is_node && self.datapath.config.host_device;
        self.commit(&track, if to_host { point::TO_HOST } else { point::TO_STACK });
        Ok(())
    }

    /// An IP packet for the endpoint, from anybody but one of this node.
    fn for_pod(&mut self, receiver: u16) -> Result<(), Stop> {
        self.transport()?;
        if self.work.is(class::NEIGHBOR) {
            return Ok(());
        }
        let track = self.datapath.connections.track(self.frame, &mut self.work);
        let is_node = self.check_routed()?;
        self.set_elsewhere(&track, usize::from(track.dir), is_node);
        self.deliver(&track, receiver)
    }

    /// Nobody's packet: it is counted and reported, and no policy is asked.
    fn of_others(&mut self) -> Result<(), Stop> {
        self.transport()?;
        if self.work.is(class::NEIGHBOR) {
            return Ok(());
        }
        self.work.class |= class::OF_HOST;
        let track = self.datapath.connections.track(self.frame, &mut self.work);
        self.commit(&track, point::FROM_NETWORK);
        Ok(())
    }

    fn deliver(&mut self, track: &crate::conntrack::Track, receiver: u16) -> Result<(), Stop> {
        self.work.event.dst_identity = self.endpoint(receiver)?.record.identity;
        let question = Question {
            slot: receiver,
            side: SIDE_RESPONDER,
            peer: self.work.event.src_identity,
            direction: direction::INGRESS,
        };
        self.decide(track, question)?;
        self.commit(track, point::TO_ENDPOINT);
        Ok(())
    }

    fn transport(&mut self) -> Result<(), Stop> {
        parse::transport(self.frame, &mut self.work, &mut self.datapath.fragments)
    }

    /// Finds out who sent a packet that the stack sends to a pod. Gives whether it is the node.
    fn check_routed(&mut self) -> Result<bool, Stop> {
        let (addr, version) = (self.work.event.src_addr, self.work.event.ip_version);
        let src = self.datapath.addresses.find(&addr, version);
        self.work.event.src_identity = src.identity;
        if src.slot != 0 {
            return Err(Stop::drop(drop::INVALID_SOURCE_IP));
        }
        Ok(src.flags & ip_flags::LOCAL_NODE != 0)
    }

    /// The same for a packet from the network, where nobody may use an address of this node's.
    fn check_foreign(&mut self) -> Result<(), Stop> {
        let is_node = self.check_routed();
        if is_node == Ok(false) {
            return Ok(());
        }
        self.work.event.direction = direction::INGRESS;
        Err(Stop::drop(drop::INVALID_SOURCE_IP))
    }

    /// Checks the sender's network address. `true` = right only for neighbour discovery: link-local, or none yet.
    fn check_address(&self, sender: u16) -> Result<bool, Stop> {
        let (record, src) = (&self.endpoint(sender)?.record, &self.work.event.src_addr);
        if self.work.event.ip_version == IPV4 {
            let is_own = record.ipv4 != [0; 4] && src[12..] == record.ipv4;
            return if is_own { Ok(false) } else { Err(Stop::drop(drop::INVALID_SOURCE_IP)) };
        }
        if *src == [0; 16] || parse::is_link_local(src) {
            return Ok(true);
        }
        if *src == record.ipv6 { Ok(false) } else { Err(Stop::drop(drop::INVALID_SOURCE_IP)) }
    }

    fn describe_sender(&mut self, slot: u16) -> Result<(), Stop> {
        self.work.event.src_identity = self.endpoint(slot)?.record.identity;
        self.describe(slot, direction::EGRESS)
    }

    /// Makes the draft of the record one about this endpoint.
    pub(crate) fn describe(&mut self, slot: u16, direction: u8) -> Result<(), Stop> {
        let id = self.endpoint(slot)?.record.id;
        let event = &mut self.work.event;
        event.endpoint_slot = slot;
        event.endpoint_id = id;
        event.direction = direction;
        Ok(())
    }

    pub(crate) fn endpoint(&self, slot: u16) -> Result<&Endpoint, Stop> {
        let endpoint = self.datapath.endpoints.get(usize::from(slot)).and_then(Option::as_ref);
        let is_live = |endpoint: &&Endpoint| endpoint.record.identity != 0;
        endpoint.filter(is_live).ok_or(Stop::drop(drop::EP_NOT_READY))
    }

    fn set_elsewhere(&mut self, track: &crate::conntrack::Track, side: usize, is_node: bool) {
        let epoch = self.datapath.node_epoch;
        self.datapath.connections.set_elsewhere(&mut self.work, track, side, is_node, epoch);
    }

    /// Fills the identities of the record that nobody needed until now.
    pub(crate) fn identify(&mut self) {
        let (addresses, event) = (&self.datapath.addresses, &mut self.work.event);
        if event.src_identity == identity::UNKNOWN {
            event.src_identity = addresses.find(&event.src_addr, event.ip_version).identity;
        }
        if event.dst_identity == identity::UNKNOWN {
            event.dst_identity = addresses.find(&event.dst_addr, event.ip_version).identity;
        }
    }
}
