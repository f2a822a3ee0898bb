//! One endpoint's policy for one packet: the answer of its entries, kept with the connection.

use specola_datapath_common::{
    conntrack::{CtSide, SIDE_AUDIT, SIDE_SEEDED},
    direction,
    endpoint::{EndpointRecord, policy_flags},
    event::{ct_state, flags, kind, lane},
    metrics::drop,
    proto,
};

use crate::{
    conntrack::Track,
    hooks::Run,
    policy::{Answer, Query},
    verdict::Stop,
    work::class,
};

/// Whose policy is asked, and about whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) slot: u16,
    /// Side of the connection that the endpoint is, if the packet is the initiator's.
    pub(crate) side: usize,
    /// Identity of the other end.
    pub(crate) peer: u32,
    /// Way of the packet, seen from the endpoint.
    pub(crate) direction: u8,
}

/// Which policy a packet is judged by.
#[derive(Clone, Copy, Debug)]
struct About {
    direction: u8,
    /// The packet is an answer: it is judged as its connection's first packet was, which went the other way.
    is_reply: bool,
}

impl About {
    const fn of(track: &Track, way: u8) -> Self {
        let is_reply = track.state == ct_state::REPLY;
        let other_way = if way == direction::EGRESS { direction::INGRESS } else { direction::EGRESS };
        Self { direction: if is_reply { other_way } else { way }, is_reply }
    }
}

impl Run<'_> {
    /// Decides and reports: every deny, and every allow that is new or a change.
    pub(crate) fn decide(&mut self, track: &Track, question: Question) -> Result<(), Stop> {
        let epoch = self.enter(question)?;
        if track.state == ct_state::RELATED || self.work.is(class::SELF) {
            return Ok(());
        }
        let node_epoch = self.datapath.node_epoch;
        let side = question.side ^ usize::from(track.dir);
        let mut about = About { direction: question.direction, is_reply: false };
        let mut before = 0;
        // A side that another endpoint left behind, which had the address before, is replaced by the opener's packets;
        // an answer to it opens a connection of its own.
        let held = self.datapath.connections.side(track, side).copied();
        let mut keep = held.filter(|_| track.state == ct_state::ESTABLISHED).is_some();
        if let Some(known) = held {
            if self.work.is(class::OPENS) && known.flags & SIDE_SEEDED != 0 {
                keep = false;
            } else if known.slot == question.slot {
                about = About::of(track, question.direction);
                before = known.stamp;
                keep = true;
                if CtSide::is_current(known.stamp, node_epoch, epoch) {
                    return self.again(&known, about);
                }
            }
        }
        let answer = self.ask(question, about);
        let denied = answer.verdict < 0;
        let made = CtSide {
            stamp: CtSide::stamp_of(node_epoch, epoch, denied),
            cookie: answer.cookie,
            verdict: answer.verdict,
            slot: question.slot,
            proxy_port: 0,
            match_type: answer.match_type,
            flags: if answer.audit { SIDE_AUDIT } else { 0 },
            unreported_tcp_flags: 0,
            pad: 0,
        };
        match self.datapath.connections.side_mut(track, side).filter(|_| keep) {
            Some(kept) => *kept = CtSide { unreported_tcp_flags: kept.unreported_tcp_flags, ..made },
            None => self.work.fresh.sides[side & 1] = made,
        }
        if denied || before == 0 || before & 1 != 0 {
            self.verdict_record(&answer);
            if !denied {
                self.work.event.direction = question.direction;
            }
        }
        if denied { Err(Stop::reported(reason(answer.verdict))) } else { Ok(()) }
    }

    /// Makes the draft one about the endpoint and what is in force for it. Gives its epoch.
    fn enter(&mut self, question: Question) -> Result<u32, Stop> {
        self.describe(question.slot, question.direction)?;
        let endpoint = self.endpoint(question.slot)?;
        let (epoch, state) = (EndpointRecord::epoch(endpoint.record.word), *endpoint.policy.state());
        self.work.event.epoch = epoch;
        self.work.event.revision = state.revision;
        if state.flags & policy_flags::READY == 0 {
            return Err(Stop::drop(drop::EP_NOT_READY));
        }
        Ok(epoch)
    }

    /// Repeats a verdict that still holds. A deny is reported each time.
    fn again(&mut self, side: &CtSide, about: About) -> Result<(), Stop> {
        if side.stamp & 1 == 0 {
            return Ok(());
        }
        let verdict = if side.verdict < 0 { side.verdict } else { -i32::from(drop::POLICY_DENIED) };
        let answer = Answer {
            verdict,
            cookie: side.cookie,
            match_type: side.match_type,
            audit: false,
            direction: about.direction,
        };
        self.verdict_record(&answer);
        Err(Stop::reported(reason(verdict)))
    }

    fn ask(&mut self, question: Question, about: About) -> Answer {
        if about.is_reply {
            self.work.policy_port = self.opener_port();
        }
        let query = Query {
            peer: question.peer,
            egress: about.direction == direction::EGRESS,
            proto: self.work.event.proto,
            port: (!self.work.is(class::NO_PORTS)).then_some(self.work.policy_port),
        };
        let endpoint = self.endpoint(question.slot).expect("it was entered");
        endpoint.policy.ask(query, about.direction)
    }

    /// Port of the policy key that an answer's connection was opened with: where the answer comes from. Of ICMP only
    /// answers to echo requests have a connection.
    const fn opener_port(&self) -> u16 {
        const ECHO: u16 = 8;
        const ECHO_IPV6: u16 = 128;
        match self.work.event.proto {
            proto::ICMP => ECHO,
            proto::ICMPV6 => ECHO_IPV6,
            _ => self.work.event.src_port,
        }
    }

    fn verdict_record(&mut self, answer: &Answer) {
        let event = &mut self.work.event;
        event.kind = kind::POLICY_VERDICT;
        event.lane = if answer.verdict < 0 || answer.audit { lane::DENY } else { lane::ALLOW };
        event.obs_point = 0;
        event.verdict = answer.verdict;
        event.match_type = answer.match_type;
        event.direction = answer.direction;
        event.cookie = answer.cookie;
        event.flags &= !(flags::AUDIT | flags::CLOSE | flags::COUNTERS);
        if answer.audit {
            event.flags |= flags::AUDIT;
        }
        self.emit();
    }
}

fn reason(verdict: i32) -> u8 {
    u8::try_from(verdict.unsigned_abs()).unwrap_or(drop::POLICY_DENIED)
}
