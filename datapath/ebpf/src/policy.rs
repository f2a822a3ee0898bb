//! One endpoint's policy for one packet: the answer of its trie, kept with the connection.

use core::ptr;

use specola_datapath_common::{
    conntrack::{CtSide, SIDE_AUDIT},
    direction,
    endpoint::{EndpointRecord, PolicyState, policy_flags},
    event::{ct_state, flags, kind, lane, match_type},
    metrics::drop,
    policy::{
        AUTH_TYPE_MASK, PRECEDENCE_DENY, PREFIX_FULL, PREFIX_PROTO, PolicyValue, VALUE_AUDIT, VALUE_BY_DEFAULT,
    },
};

use crate::{
    conntrack::Track,
    endpoint::Endpoint,
    event,
    maps::{PolicyTrie, SP_NODE, SP_POLICY},
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
    /// See [`direction`]; the endpoint's.
    pub(crate) direction: u8,
}

/// What the trie says.
#[derive(Clone, Copy)]
struct Answer {
    /// 0 or minus the drop reason.
    verdict: i32,
    cookie: u32,
    match_type: u8,
    audit: bool,
}

/// Decides and reports: every deny, and every allow that is new or a change.
///
/// # Errors
/// The policy denies, or the endpoint has none yet.
#[inline(always)]
pub(crate) fn decide(work: &mut Work, track: &Track, question: &Question) -> Result<(), Drop> {
    question.endpoint.describe(work, question.direction);
    let (word, state) = question.endpoint.policy();
    let epoch = EndpointRecord::epoch(word);
    work.event.epoch = epoch;
    work.event.revision = state.revision;
    if state.flags & policy_flags::READY == 0 {
        return Err(Drop::new(drop::EP_NOT_READY));
    }
    let slot = question.endpoint.slot as u16;
    if track.is_exempt() && !is_inherited(track, question.side, slot) || work.is(class::SELF) {
        return Ok(());
    }
    let node_epoch = SP_NODE.get(0).map_or(0, |epoch| {
        // SAFETY: the reference is valid; user space stores the word while we read it, by one aligned store.
        unsafe { ptr::read_volatile(epoch) as u32 }
    });
    let cached = track.side(question.side);
    let mut before = 0;
    if let Some(side) = cached {
        // SAFETY: a live map value; other CPUs replace it field by field, the stamp last.
        let stamp = unsafe { ptr::read_volatile(&raw const (*side).stamp) };
        // SAFETY: as above.
        let side = unsafe { &*side };
        if side.slot == slot {
            before = stamp;
            if CtSide::is_current(stamp, node_epoch, epoch) {
                return again(work, side, stamp);
            }
        }
    }
    let answer = ask(work, question, EndpointRecord::active(word), &state);
    let denied = answer.verdict < 0;
    let side = CtSide {
        stamp: CtSide::stamp_of(node_epoch, epoch, denied),
        cookie: answer.cookie,
        verdict: answer.verdict,
        slot,
        proxy_port: 0,
        match_type: answer.match_type,
        flags: if answer.audit { SIDE_AUDIT } else { 0 },
        unreported_tcp_flags: 0,
        pad: 0,
    };
    match cached {
        Some(cached) => store(cached, &side),
        None => work.fresh.sides[question.side & 1] = side,
    }
    if denied || before == 0 || before & 1 != 0 {
        verdict_record(work, &answer);
    }
    if denied { Err(Drop::reported(answer.verdict.unsigned_abs() as u8)) } else { Ok(()) }
}

/// Whether a reply is one to a connection of another endpoint, which had the address before. `side` is the endpoint's,
/// if the packet were the initiator's.
#[inline(always)]
fn is_inherited(track: &Track, side: usize, slot: u16) -> bool {
    if track.state != ct_state::REPLY || track.entry.is_null() {
        return false;
    }
    // SAFETY: the entry is a live map value; the index is 0 or 1.
    let holder = unsafe { ptr::read_volatile(&raw const (*track.entry).sides[(side ^ 1) & 1].slot) };
    holder != slot
}

/// Repeats a verdict that still holds. A deny is reported each time.
#[inline(always)]
fn again(work: &mut Work, side: &CtSide, stamp: u64) -> Result<(), Drop> {
    if stamp & 1 == 0 {
        return Ok(());
    }
    let verdict = if side.verdict < 0 { side.verdict } else { -i32::from(drop::POLICY_DENIED) };
    let answer = Answer { verdict, cookie: side.cookie, match_type: side.match_type, audit: false };
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
    ask(work, &question, EndpointRecord::active(word), &state).cookie
}

/// Asks the active trie: first about this peer, then about any.
#[inline(always)]
fn ask(work: &mut Work, question: &Question, active: u32, state: &PolicyState) -> Answer {
    let egress = question.direction == direction::EGRESS;
    let default = if egress { state.default_cookie_egress } else { state.default_cookie_ingress };
    let no_ports = work.is(class::NO_PORTS);
    let audit_mode = state.flags & policy_flags::AUDIT != 0;
    work.policy.prefix_len = if no_ports { PREFIX_PROTO } else { PREFIX_FULL };
    work.policy.egress = u8::from(egress);
    work.policy.proto = work.event.proto;
    work.policy.dport_be = if no_ports { 0 } else { work.policy_port.to_be() };
    let hit = best(work, 2 * question.endpoint.slot + active, question.peer);
    let Some((value, any_peer)) = hit else {
        let reason = if no_ports { drop::FRAG_NOT_FOUND } else { drop::POLICY_DENIED };
        let verdict = if audit_mode { 0 } else { -i32::from(reason) };
        return Answer { verdict, cookie: default, match_type: match_type::NONE, audit: audit_mode };
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
    Answer { verdict, cookie: value.cookie, match_type: match_type_of(&value, any_peer), audit }
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
    event.cookie = answer.cookie;
    event.flags &= !(flags::AUDIT | flags::CLOSE | flags::COUNTERS);
    if answer.audit {
        event.flags |= flags::AUDIT;
    }
    event::emit(work);
}
