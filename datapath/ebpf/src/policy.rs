//! One endpoint's policy for one packet: the answer of its trie, kept with the connection.

use core::ptr;

use specola_datapath_common::{
    conntrack::{CtSide, NO_SLOT, SIDE_AUDIT, SIDE_NODE, SIDE_SEEDED},
    direction,
    endpoint::{EndpointRecord, PolicyState, policy_flags},
    event::{ct_state, flags, kind, lane, match_type},
    metrics::drop,
    policy::{
        AUTH_TYPE_MASK, PRECEDENCE_DENY, PREFIX_FULL, PREFIX_PROTO, PolicyValue, VALUE_AUDIT,
        VALUE_BY_DEFAULT,
    },
    proto,
};

use crate::{
    conntrack::Track,
    endpoint::Endpoint,
    event,
    maps::{PolicyTrie, SP_POLICY},
    verdict::Drop,
    work::{Work, class},
};

/// Whose policy is asked, and about whom.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    pub(crate) endpoint: Endpoint,
    /// Side of the connection that the endpoint is, if the packet is the initiator's.
    pub(crate) side: usize,
    /// Identity of the other end.
    pub(crate) peer: u32,
    /// Way of the packet, seen from the endpoint; see [`direction`].
    pub(crate) direction: u8,
}

/// Where the packets of a known connection go while both sides' verdicts hold.
#[derive(Clone, Copy)]
pub(crate) enum Settled {
    /// To this pod of the node.
    Pod(Endpoint),
    /// To the node itself.
    Node,
    /// To somebody else.
    Elsewhere,
}

/// What the trie says.
#[derive(Clone, Copy)]
struct Answer {
    /// 0 or minus the drop reason.
    verdict: i32,
    cookie: u32,
    match_type: u8,
    audit: bool,
    /// Direction of the policy that was asked.
    direction: u8,
}

/// What a packet's connection remembers of where it goes, if all of it is still true and allows the packet: then
/// nobody needs to be asked.
#[inline(always)]
pub(crate) fn settled(work: &Work, track: &Track, sender: &Endpoint) -> Option<Settled> {
    let own = track.side(usize::from(track.dir))?;
    if !is_allowed(work, own, sender) {
        return None;
    }
    let other = track.side(usize::from(track.dir) ^ 1)?;
    // SAFETY: a live map value; other CPUs change it field by field, the stamp last.
    let (slot, flags) = unsafe { ((*other).slot, (*other).flags) };
    if slot == NO_SLOT {
        return match (is_elsewhere(work, other), flags & SIDE_NODE != 0) {
            (false, _) => None,
            (true, true) => Some(Settled::Node),
            (true, false) => Some(Settled::Elsewhere),
        };
    }
    let receiver = Endpoint::of_slot(u32::from(slot)).ok()?;
    if is_allowed(work, other, &receiver) { Some(Settled::Pod(receiver)) } else { None }
}

/// Whether the connection of a packet to `receiver` remembers that the sender is no pod of this node, and that the
/// receiver's policy allows the packet. Gives whether the sender is the node.
#[inline(always)]
pub(crate) fn settled_from_elsewhere(work: &Work, track: &Track, receiver: &Endpoint) -> Option<bool> {
    let own = track.side(usize::from(track.dir) ^ 1)?;
    let other = track.side(usize::from(track.dir))?;
    // SAFETY: as above.
    let (slot, flags) = unsafe { ((*other).slot, (*other).flags) };
    let holds = is_allowed(work, own, receiver) && slot == NO_SLOT && is_elsewhere(work, other);
    if holds { Some(flags & SIDE_NODE != 0) } else { None }
}

/// Whether a side is this endpoint's and its verdict, which still holds, lets packets pass.
#[inline(always)]
fn is_allowed(work: &Work, side: *mut CtSide, endpoint: &Endpoint) -> bool {
    // SAFETY: as above.
    let (slot, stamp) = unsafe { ((*side).slot, ptr::read_volatile(&raw const (*side).stamp)) };
    let (word, state) = endpoint.policy();
    u32::from(slot) == endpoint.slot
        && state.flags & policy_flags::READY != 0
        && stamp == CtSide::stamp_of(work.node_epoch, EndpointRecord::epoch(word), false)
}

/// Whether it still holds that a side is no pod of this node.
#[inline(always)]
fn is_elsewhere(work: &Work, side: *mut CtSide) -> bool {
    // SAFETY: as above.
    let stamp = unsafe { ptr::read_volatile(&raw const (*side).stamp) };
    stamp != 0 && stamp == CtSide::elsewhere(work.node_epoch)
}

/// Decides and reports: every deny, and every allow that is new or a change.
///
/// # Errors
/// The policy denies, or the endpoint has none yet.
#[inline(always)]
pub(crate) fn decide(work: &mut Work, track: &Track, question: &Question) -> Result<(), Drop> {
    let (word, state) = question.endpoint.enter(work, question.direction);
    let epoch = EndpointRecord::epoch(word);
    if state.flags & policy_flags::READY == 0 {
        return Err(Drop::new(drop::EP_NOT_READY));
    }
    if track.state == ct_state::RELATED || work.is(class::SELF) {
        return Ok(());
    }
    let (slot, node_epoch) = (question.endpoint.slot as u16, work.node_epoch);
    let side = question.side ^ usize::from(track.dir);
    let mut about = About { direction: question.direction, is_reply: false };
    let mut before = 0;
    // A side that another endpoint left behind, which had the address before, is replaced by the opener's packets; an
    // answer to it opens a connection of its own.
    let mut keep = track.side(side).filter(|_| track.state == ct_state::ESTABLISHED);
    if let Some(held) = track.side(side) {
        // SAFETY: a live map value; other CPUs replace it field by field, the stamp last.
        let stamp = unsafe { ptr::read_volatile(&raw const (*held).stamp) };
        // SAFETY: as above.
        let known = unsafe { &*held };
        if is_opener_of_seeded(work, held) {
            keep = None;
        } else if known.slot == slot {
            about = About::of(track, question.direction);
            before = stamp;
            keep = Some(held);
            if CtSide::is_current(stamp, node_epoch, epoch) {
                return again(work, known, stamp, about);
            }
        }
    }
    let mut answer = ask(work, question, about, EndpointRecord::active(word), &state);
    let seeded = seeded(keep, &answer);
    if seeded.is_some() {
        answer.verdict = 0;
    }
    let denied = answer.verdict < 0;
    let made = CtSide {
        stamp: CtSide::stamp_of(node_epoch, epoch, denied),
        cookie: seeded.unwrap_or(answer.cookie),
        verdict: answer.verdict,
        slot,
        proxy_port: 0,
        match_type: answer.match_type,
        flags: if seeded.is_some() {
            SIDE_SEEDED
        } else if answer.audit {
            SIDE_AUDIT
        } else {
            0
        },
        unreported_tcp_flags: 0,
        pad: 0,
    };
    match keep {
        Some(held) => store(held, &made),
        None => work.fresh.sides[side & 1] = made,
    }
    if denied || seeded.is_none() && (before == 0 || before & 1 != 0) {
        verdict_record(work, &answer);
        if !denied {
            work.event.direction = question.direction;
        }
    }
    if denied { Err(Drop::reported(answer.verdict.unsigned_abs() as u8)) } else { Ok(()) }
}

/// Which policy a packet is judged by.
#[derive(Clone, Copy)]
struct About {
    direction: u8,
    /// The packet is an answer: it is judged as its connection's first packet was, which went the other way.
    is_reply: bool,
}

impl About {
    #[inline(always)]
    const fn of(track: &Track, way: u8) -> Self {
        let is_reply = track.state == ct_state::REPLY;
        let other_way = if way == direction::EGRESS { direction::INGRESS } else { direction::EGRESS };
        Self { direction: if is_reply { other_way } else { way }, is_reply }
    }
}

/// Whether the packet would open a connection on the ports of one that is older than the programs: it is judged by
/// itself, and the verdict is not kept with the other's.
#[inline(always)]
fn is_opener_of_seeded(work: &Work, side: *mut CtSide) -> bool {
    // SAFETY: a live map value.
    work.is(class::OPENS) && unsafe { (*side).flags } & SIDE_SEEDED != 0
}

/// Whether a connection that is older than the programs goes on whatever the answer is: then the highest cookie that was
/// given when it was entered. A missing allow does not end it, nor does a deny that was there before it.
#[inline(always)]
fn seeded(cached: Option<*mut CtSide>, answer: &Answer) -> Option<u32> {
    // SAFETY: a live map value.
    let side = unsafe { &*cached? };
    let is_later_deny = answer.verdict == -i32::from(drop::POLICY_DENY) && answer.cookie > side.cookie;
    (side.flags & SIDE_SEEDED != 0 && !is_later_deny).then_some(side.cookie)
}

/// Repeats a verdict that still holds. A deny is reported each time.
#[inline(always)]
fn again(work: &mut Work, side: &CtSide, stamp: u64, about: About) -> Result<(), Drop> {
    if stamp & 1 == 0 {
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
    verdict_record(work, &answer);
    Err(Drop::reported(verdict.unsigned_abs() as u8))
}

#[inline(always)]
fn store(at: *mut CtSide, side: &CtSide) {
    // SAFETY: a live map value. The stamp goes last, so that nobody takes the new fields for the old verdict.
    unsafe {
        (*at).cookie = side.cookie;
        (*at).verdict = side.verdict;
        (*at).slot = side.slot;
        (*at).match_type = side.match_type;
        (*at).flags = side.flags;
        ptr::write_volatile(&raw mut (*at).stamp, side.stamp);
    }
}

/// The cookie of what the trie says of an endpoint's packet, nothing kept and nothing reported.
#[cfg(feature = "bench")]
#[inline(always)]
pub(crate) fn lookup(work: &mut Work, endpoint: Endpoint, peer: u32, direction: u8) -> u32 {
    let (word, state) = endpoint.policy();
    let question = Question { endpoint, side: 0, peer, direction };
    let about = About { direction, is_reply: false };
    ask(work, &question, about, EndpointRecord::active(word), &state).cookie
}

/// Asks the active trie: first about this peer, then about any.
#[inline(always)]
fn ask(work: &mut Work, question: &Question, about: About, active: u32, state: &PolicyState) -> Answer {
    let egress = about.direction == direction::EGRESS;
    let default = if egress { state.default_cookie_egress } else { state.default_cookie_ingress };
    let no_ports = work.is(class::NO_PORTS);
    let audit_mode = state.flags & policy_flags::AUDIT != 0;
    if about.is_reply {
        work.policy_port = opener_port(work);
    }
    work.policy.prefix_len = if no_ports { PREFIX_PROTO } else { PREFIX_FULL };
    work.policy.egress = u8::from(egress);
    work.policy.proto = work.event.proto;
    work.policy.dport_be = if no_ports { 0 } else { work.policy_port.to_be() };
    let hit = best(work, 2 * question.endpoint.slot + active, question.peer);
    let Some((value, any_peer)) = hit else {
        let reason = if no_ports { drop::FRAG_NOT_FOUND } else { drop::POLICY_DENIED };
        let verdict = if audit_mode { 0 } else { -i32::from(reason) };
        return Answer {
            verdict,
            cookie: default,
            match_type: match_type::NONE,
            audit: audit_mode,
            direction: about.direction,
        };
    };
    let refusal = if value.is_deny() && value.deny_plen & VALUE_BY_DEFAULT != 0 {
        drop::POLICY_DENIED
    } else if value.is_deny() {
        drop::POLICY_DENY
    } else if value.auth & AUTH_TYPE_MASK != 0 {
        // Nobody authenticates yet, so no pair of identities has done so.
        drop::AUTH_REQUIRED
    } else {
        0
    };
    let audit = refusal != 0 && (audit_mode || value.deny_plen & VALUE_AUDIT != 0);
    let verdict = if audit {
        0
    } else if refusal != 0 {
        -i32::from(refusal)
    } else if value.proxy_port_be != 0 {
        -i32::from(drop::PROXY_NOT_SUPPORTED)
    } else {
        0
    };
    Answer {
        verdict,
        cookie: value.cookie,
        match_type: match_type_of(&value, any_peer),
        audit,
        direction: about.direction,
    }
}

/// Port of the policy key that an answer's connection was opened with: where the answer comes from. Of ICMP only answers
/// to echo requests have a connection.
#[inline(always)]
fn opener_port(work: &Work) -> u16 {
    const ECHO: u16 = 8;
    const ECHO_IPV6: u16 = 128;
    match work.event.proto {
        proto::ICMP => ECHO,
        proto::ICMPV6 => ECHO_IPV6,
        _ => work.event.src_port,
    }
}

/// The entry that decides, and whether it is one for any peer.
#[inline(always)]
fn best(work: &mut Work, trie_index: u32, peer: u32) -> Option<(PolicyValue, bool)> {
    match work.lend(|| sp_policy(trie_index, peer)) {
        OWN => Some((work.answer, false)),
        ANY => Some((work.answer, true)),
        _ => None,
    }
}

/// [`sp_policy`]: no entry.
const NONE: i32 = 0;
/// [`sp_policy`]: an entry of this peer.
const OWN: i32 = 1;
/// [`sp_policy`]: an entry of any peer.
const ANY: i32 = 2;

/// Looks `work.policy` up in a trie, for this peer and for any, and leaves the better entry in `work.answer`. A global
/// function, which the verifier walks through once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sp_policy(trie_index: u32, peer: u32) -> i32 {
    let (Some(work), Some(trie)) = (Work::current(), SP_POLICY.get(trie_index)) else {
        return NONE;
    };
    work.policy.identity = peer;
    let own = entry(work, trie);
    if let Some(own) = own
        && own.precedence == PRECEDENCE_DENY
    {
        work.answer = own;
        return OWN;
    }
    work.policy.identity = 0;
    let any = entry(work, trie);
    match (own, any) {
        (Some(own), Some(any)) => {
            let any_wins = any.precedence > own.precedence
                || any.precedence == own.precedence && any.l4_prefix() > own.l4_prefix();
            work.answer = if any_wins { any } else { own };
            if any_wins { ANY } else { OWN }
        }
        (Some(own), None) => {
            work.answer = own;
            OWN
        }
        (None, Some(any)) => {
            work.answer = any;
            ANY
        }
        (None, None) => NONE,
    }
}

#[inline(always)]
fn entry(work: &Work, trie: &PolicyTrie) -> Option<PolicyValue> {
    // SAFETY: a prefix length and what it counts in: the same layout.
    trie.get(unsafe { &*ptr::from_ref(&work.policy).cast() }).copied()
}

#[inline(always)]
fn match_type_of(value: &PolicyValue, any_peer: bool) -> u8 {
    match (value.l4_prefix(), any_peer) {
        (0, false) => match_type::L3_ONLY,
        (0, true) => match_type::ALL,
        (1..=8, false) => match_type::L3_PROTO,
        (1..=8, true) => match_type::PROTO_ONLY,
        (_, false) => match_type::L3_L4,
        (_, true) => match_type::L4_ONLY,
    }
}

#[inline(always)]
fn verdict_record(work: &mut Work, answer: &Answer) {
    let event = &mut work.event;
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
    event::emit(work);
}
