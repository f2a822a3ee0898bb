//! The node itself as an endpoint: packets that its devices receive for it and send for it.
//!
//! Everything is reported; policy is asked only where one governs the node. What cannot be parsed or tracked passes
//! unless policy is enforced: a machine that is only looked at behaves as before.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use specola_datapath_common::{
    IPV4, IPV6,
    config::host_mode,
    conntrack::{SIDE_INITIATOR, SIDE_RESPONDER},
    direction,
    endpoint::{HOST_SLOT, host_word, policy_flags},
    event::{ct_state, point},
    ipcache::{IpInfo, ip_flags},
    proto,
};

use crate::{
    address::Address,
    config::CFG_HOST_MODE,
    conntrack,
    endpoint::Endpoint,
    maps::SP_HOST,
    parse,
    policy::{self, Question},
    trace,
    verdict::{Drop, Outcome, PASS},
    work::{Work, class},
};

/// The host endpoint at this moment.
#[derive(Clone, Copy)]
pub(crate) struct Host {
    endpoint: Endpoint,
    /// Policy is asked.
    is_governed: bool,
    /// What policy denies, and what cannot be judged, is dropped.
    pub(crate) is_strict: bool,
}

impl Host {
    /// The host endpoint, if there is one.
    #[inline(always)]
    pub(crate) fn find() -> Option<Self> {
        const GOVERNED: u32 = policy_flags::READY | policy_flags::ENFORCED;
        if !is_on() {
            return None;
        }
        let endpoint = Endpoint::of_slot(u32::from(HOST_SLOT)).ok()?;
        let (_, state) = endpoint.policy();
        let is_governed = state.flags & GOVERNED == GOVERNED && !is_suspended();
        let is_strict = is_governed && state.flags & policy_flags::AUDIT == 0;
        Some(Self { endpoint, is_governed, is_strict })
    }

    /// A packet from the network for the node.
    ///
    /// # Errors
    /// Policy is enforced, and denies the packet or cannot judge it.
    #[inline(always)]
    pub(crate) fn receive(self, ctx: &TcContext, work: &mut Work) -> Outcome {
        work.event.dst_identity = self.endpoint.record.identity;
        let question = Question {
            endpoint: self.endpoint,
            side: SIDE_RESPONDER,
            peer: work.event.src_identity,
            direction: direction::INGRESS,
        };
        self.pass(ctx, work, &question, point::TO_HOST)
    }

    /// A packet of the node to the network.
    ///
    /// # Errors
    /// As for [`Self::receive`].
    #[inline(always)]
    pub(crate) fn send(self, ctx: &TcContext, work: &mut Work) -> Outcome {
        work.event.src_identity = self.endpoint.record.identity;
        let question = Question {
            endpoint: self.endpoint,
            side: SIDE_INITIATOR,
            peer: work.event.dst_identity,
            direction: direction::EGRESS,
        };
        self.pass(ctx, work, &question, point::TO_NETWORK)
    }

    /// A packet of a pod of this node for the node: judged, no more. The pod's programs report it.
    ///
    /// # Errors
    /// As for [`Self::receive`].
    #[inline(always)]
    pub(crate) fn receive_of_pod(self, ctx: &TcContext, work: &mut Work) -> Result<(), Drop> {
        work.event.dst_identity = self.endpoint.record.identity;
        let question = Question {
            endpoint: self.endpoint,
            side: SIDE_RESPONDER,
            peer: work.event.src_identity,
            direction: direction::INGRESS,
        };
        self.check(ctx, work, &question)
    }

    /// A packet of the node to a pod of this node: judged, no more. The draft is about the node then.
    ///
    /// # Errors
    /// As for [`Self::receive`].
    #[inline(always)]
    pub(crate) fn send_to_pod(self, ctx: &TcContext, work: &mut Work) -> Result<(), Drop> {
        work.event.src_identity = self.endpoint.record.identity;
        let question = Question {
            endpoint: self.endpoint,
            side: SIDE_INITIATOR,
            peer: work.event.dst_identity,
            direction: direction::EGRESS,
        };
        self.check(ctx, work, &question)
    }

    /// Judges a parsed packet by the node's entry of the connection, which the pod's programs do not know of.
    #[inline(always)]
    fn check(self, ctx: &TcContext, work: &mut Work, question: &Question) -> Result<(), Drop> {
        let (flags, policy_port) = (work.event.flags, work.policy_port);
        self.endpoint.describe(work, question.direction);
        work.class |= class::OF_HOST | class::BESIDE;
        let track = conntrack::track(ctx, work);
        if self.is_governed {
            match policy::decide(work, &track, question) {
                Err(drop) if self.is_strict => return Err(drop),
                _ => {}
            }
        } else if track.state == ct_state::NEW || track.state == ct_state::REOPENED {
            // As in `judge`.
            work.fresh.sides[question.side & 1].slot = HOST_SLOT;
        }
        match conntrack::follow(work, &track) {
            Err(drop) if self.is_strict => return Err(drop),
            _ => {}
        }
        work.class &= !(class::OF_HOST | class::BESIDE);
        work.event.flags = flags;
        work.policy_port = policy_port;
        Ok(())
    }

    #[inline(always)]
    fn pass(self, ctx: &TcContext, work: &mut Work, question: &Question, point: u8) -> Outcome {
        self.endpoint.describe(work, question.direction);
        match self.judge(ctx, work, question, point) {
            Err(drop) if self.is_strict => Err(drop),
            _ => PASS,
        }
    }

    #[inline(always)]
    fn judge(self, ctx: &TcContext, work: &mut Work, question: &Question, point: u8) -> Result<(), Drop> {
        if is_group_membership(work) {
            return Ok(());
        }
        parse::transport(ctx, work)?;
        if work.is(class::NEIGHBOR) {
            return Ok(());
        }
        work.class |= class::OF_HOST;
        let track = conntrack::track(ctx, work);
        if self.is_governed && !is_dhcp_client(work, question.direction) {
            policy::decide(work, &track, question)?;
        } else if track.state == ct_state::NEW || track.state == ct_state::REOPENED {
            // Nothing is decided, but the connection is the node's: what answers it will be exempt.
            work.fresh.sides[question.side & 1].slot = HOST_SLOT;
        }
        trace::commit(ctx, work, &track, Some(point)).map(|_| ())
    }
}

/// Whether the programs work for the node itself.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    CFG_HOST_MODE.load() != host_mode::OFF
}

/// Whether there are no pods.
#[inline(always)]
pub(crate) fn is_only() -> bool {
    CFG_HOST_MODE.load() == host_mode::ONLY
}

/// What the hook of a node device returns. On a machine without pods nothing is dropped where policy is not enforced,
/// and what passes goes on to the programs of others at the hook.
#[inline(always)]
pub(crate) fn finally(outcome: Outcome) -> Outcome {
    if !is_only() {
        return outcome;
    }
    match outcome {
        Err(drop) if Host::find().is_some_and(|host| host.is_strict) => Err(drop),
        _ => Ok(TC_ACT_UNSPEC),
    }
}

/// Whether an address is the node's: one of those that are known, or an IPv6 address that only this link has.
#[inline(always)]
pub(crate) fn is_own(address: &Address, info: &IpInfo, version: u8) -> bool {
    info.flags & ip_flags::LOCAL_NODE != 0 || version == IPV6 && address.is_link_local()
}

/// `specola host-policy panic-off` was given.
#[inline(always)]
fn is_suspended() -> bool {
    // SAFETY: the reference is valid; user space stores the word while we read it, by one aligned store.
    SP_HOST.get(0).is_some_and(|word| unsafe { core::ptr::read_volatile(word) } & host_word::SUSPENDED != 0)
}

/// IGMP (RFC 3376) of the link. (Its counterpart for IPv6 is [`class::NEIGHBOR`].)
#[inline(always)]
fn is_group_membership(work: &Work) -> bool {
    const IGMP: u8 = 2;
    work.event.ip_version == IPV4 && work.event.proto == IGMP && work.hop_limit == 1
}

/// Between a DHCP client on the node and a server (RFC 2131, RFC 8415).
#[inline(always)]
fn is_dhcp_client(work: &Work, way: u8) -> bool {
    let event = &work.event;
    let (own, other) = if way == direction::EGRESS {
        (event.src_port, event.dst_port)
    } else {
        (event.dst_port, event.src_port)
    };
    let (client, server) = if event.ip_version == IPV4 { (68, 67) } else { (546, 547) };
    event.proto == proto::UDP && own == client && other == server
}
