//! Refuses entries that the trie or the programs would take for something else.

use specola_datapath_common::policy::{
    FULL_PREFIX_STATIC, PREFIX_FULL, PREFIX_PROTO, PolicyKey, PolicyValue,
};

use super::{ApplyError, PolicyUpdate};

pub(super) fn entries(update: &PolicyUpdate) -> Result<(), ApplyError> {
    let bad = |key: &PolicyKey, reason| ApplyError::BadEntry { slot: update.slot, key: *key, reason };
    for key in &update.deletes {
        check_key(key).map_err(|reason| bad(key, reason))?;
    }
    for (key, value) in &update.upserts {
        check_key(key).and_then(|()| check_value(key, value)).map_err(|reason| bad(key, reason))?;
    }
    Ok(())
}

fn check_key(key: &PolicyKey) -> Result<(), &'static str> {
    if key.egress > 1 {
        return Err("direction is neither 0 (ingress) nor 1 (egress)");
    }
    match key.prefix_len {
        FULL_PREFIX_STATIC if key.proto != 0 => Err("protocol is set but outside of the prefix"),
        FULL_PREFIX_STATIC if key.dport_be != 0 => Err("port is set but outside of the prefix"),
        PREFIX_PROTO..=PREFIX_FULL => {
            // Two keys that differ only after the prefix are one entry of the trie.
            let after = PREFIX_FULL - key.prefix_len;
            let port = u32::from(u16::from_be(key.dport_be));
            if port & ((1 << after) - 1) == 0 { Ok(()) } else { Err("port has bits outside of the prefix") }
        }
        FULL_PREFIX_STATIC => Ok(()),
        _ => Err("prefix is neither 40 nor 48 to 64 bits"),
    }
}

fn check_value(key: &PolicyKey, value: &PolicyValue) -> Result<(), &'static str> {
    if u32::from(value.l4_prefix()) + FULL_PREFIX_STATIC != key.prefix_len {
        return Err("prefix bits in the value are not those of the key");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use specola_datapath_common::endpoint::PolicyState;
    use specola_datapath_common::policy::{PRECEDENCE_ALLOW, VALUE_PLEN_SHIFT};

    use super::*;

    fn key(prefix_len: u32, egress: u8, proto: u8, port: u16) -> PolicyKey {
        PolicyKey { prefix_len, identity: 300, egress, proto, dport_be: port.to_be() }
    }

    #[test]
    fn keys_that_the_trie_would_misread_are_refused() {
        for (key, good) in [
            (key(40, 0, 0, 0), true),
            (key(40, 1, 0, 0), true),
            (key(48, 0, 6, 0), true),
            (key(64, 0, 6, 443), true),
            (key(63, 0, 6, 442), true),
            (key(52, 1, 17, 0xf000), true),
            (key(40, 2, 0, 0), false),
            (key(40, 0, 6, 0), false),
            (key(40, 0, 0, 80), false),
            (key(44, 0, 0, 0), false),
            (key(0, 0, 0, 0), false),
            (key(65, 0, 6, 443), false),
            (key(u32::MAX, 0, 6, 443), false),
            (key(63, 0, 6, 443), false),
            (key(48, 0, 6, 443), false),
        ] {
            let update =
                PolicyUpdate { slot: 1, upserts: vec![], deletes: vec![key], state: PolicyState::default() };
            assert_eq!(entries(&update).is_ok(), good, "{key:?}");
        }
    }

    #[test]
    fn a_value_must_agree_with_its_key() {
        for (plen, good) in [(24, true), (8, false), (0, false)] {
            let value = PolicyValue {
                proxy_port_be: 0,
                deny_plen: plen << VALUE_PLEN_SHIFT,
                auth: 0,
                precedence: PRECEDENCE_ALLOW,
                cookie: 1,
            };
            let update = PolicyUpdate {
                slot: 1,
                upserts: vec![(key(64, 0, 6, 443), value)],
                deletes: vec![],
                state: PolicyState::default(),
            };
            assert_eq!(entries(&update).is_ok(), good, "plen {plen}");
        }
    }
}
