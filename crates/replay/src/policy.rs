//! One endpoint's policy: its entries, and what they say of a packet.

use std::collections::HashMap;

use specola_datapath_common::{
    endpoint::{PolicyState, policy_flags},
    event::match_type,
    metrics::drop,
    policy::{
        AUTH_TYPE_MASK, FULL_PREFIX_STATIC, PRECEDENCE_DENY, PREFIX_FULL, PREFIX_PROTO, PolicyKey,
        PolicyValue, VALUE_AUDIT, VALUE_BY_DEFAULT,
    },
};

/// Entries of an endpoint as in the kernel's map, and what goes with them.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    state: PolicyState,
    entries: HashMap<PolicyKey, PolicyValue>,
    /// Prefix lengths that entries have, as bits above [`FULL_PREFIX_STATIC`].
    lengths: u32,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    pub(crate) peer: u32,
    pub(crate) egress: bool,
    pub(crate) proto: u8,
    /// Destination port or ICMP type; none = a fragment whose ports nobody knows.
    pub(crate) port: Option<u16>,
}

/// What the policy says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// 0 or minus the drop reason.
    pub(crate) verdict: i32,
    pub(crate) cookie: u32,
    pub(crate) match_type: u8,
    pub(crate) audit: bool,
    /// Direction of the policy that was asked.
    pub(crate) direction: u8,
}

impl Policy {
    /// A policy of these entries; keys have their unspecified bits zero.
    pub fn new(state: PolicyState, entries: impl IntoIterator<Item = (PolicyKey, PolicyValue)>) -> Self {
        let entries: HashMap<_, _> = entries
            .into_iter()
            .filter(|(key, _)| (FULL_PREFIX_STATIC..=PREFIX_FULL).contains(&key.prefix_len))
            .collect();
        let lengths = entries.keys().fold(0, |all, key| all | 1 << (key.prefix_len - FULL_PREFIX_STATIC));
        Self { state, entries, lengths }
    }

    pub(crate) const fn state(&self) -> &PolicyState {
        &self.state
    }

    /// Asks first about this peer, then about any.
    pub(crate) fn ask(&self, query: Query, direction: u8) -> Answer {
        let default =
            if query.egress { self.state.default_cookie_egress } else { self.state.default_cookie_ingress };
        let audit_mode = self.state.flags & policy_flags::AUDIT != 0;
        let Some((value, any_peer)) = self.best(query) else {
            let reason = if query.port.is_none() { drop::FRAG_NOT_FOUND } else { drop::POLICY_DENIED };
            let verdict = if audit_mode { 0 } else { -i32::from(reason) };
            let match_type = match_type::NONE;
            return Answer { verdict, cookie: default, match_type, audit: audit_mode, direction };
        };
        let refusal = refusal(&value);
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
            direction,
        }
    }

    /// The entry that decides, and whether it is one for any peer.
    fn best(&self, query: Query) -> Option<(PolicyValue, bool)> {
        let own = self.longest(query);
        if let Some(own) = own
            && own.precedence == PRECEDENCE_DENY
        {
            return Some((own, false));
        }
        match (own, self.longest(Query { peer: 0, ..query })) {
            (Some(own), Some(any)) => {
                let any_wins = any.precedence > own.precedence
                    || any.precedence == own.precedence && any.l4_prefix() > own.l4_prefix();
                Some(if any_wins { (any, true) } else { (own, false) })
            }
            (Some(own), None) => Some((own, false)),
            (None, any) => any.map(|any| (any, true)),
        }
    }

    /// The entry with the longest prefix of the key.
    fn longest(&self, query: Query) -> Option<PolicyValue> {
        let asked = if query.port.is_some() { PREFIX_FULL } else { PREFIX_PROTO };
        let port = query.port.unwrap_or(0);
        let mut lengths = self.lengths & (u32::MAX >> (31 - (asked - FULL_PREFIX_STATIC)));
        while lengths != 0 {
            let bits = 31 - lengths.leading_zeros();
            lengths &= !(1 << bits);
            if let Some(value) = self.entries.get(&key(query, port, bits)) {
                return Some(*value);
            }
        }
        None
    }
}

/// The key with this many bits of protocol and port.
fn key(query: Query, port: u16, bits: u32) -> PolicyKey {
    let proto_mask = u8::MAX.checked_shl(8_u32.saturating_sub(bits)).unwrap_or(0);
    let port_mask = u16::MAX.checked_shl(16 - bits.saturating_sub(8)).unwrap_or(0);
    PolicyKey {
        prefix_len: FULL_PREFIX_STATIC + bits,
        identity: query.peer,
        egress: u8::from(query.egress),
        proto: query.proto & proto_mask,
        dport_be: (port & port_mask).to_be(),
    }
}

const fn refusal(value: &PolicyValue) -> u8 {
    if value.is_deny() && value.deny_plen & VALUE_BY_DEFAULT != 0 {
        drop::POLICY_DENIED
    } else if value.is_deny() {
        drop::POLICY_DENY
    } else if value.auth & AUTH_TYPE_MASK != 0 {
        // Nobody authenticates, so no pair of identities has done so.
        drop::AUTH_REQUIRED
    } else {
        0
    }
}

const fn match_type_of(value: &PolicyValue, any_peer: bool) -> u8 {
    match (value.l4_prefix(), any_peer) {
        (0, false) => match_type::L3_ONLY,
        (0, true) => match_type::ALL,
        (1..=8, false) => match_type::L3_PROTO,
        (1..=8, true) => match_type::PROTO_ONLY,
        (_, false) => match_type::L3_L4,
        (_, true) => match_type::L4_ONLY,
    }
}
