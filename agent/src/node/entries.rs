//! The engine's policy map as kernel entries.

use std::collections::HashMap;

use specola_datapath::PolicyUpdate;
use specola_datapath::abi::endpoint::{PolicyState, policy_flags};
use specola_datapath::abi::policy::{
    FULL_PREFIX_STATIC, PREFIX_PROTO, PolicyKey, PolicyValue, VALUE_AUDIT, VALUE_BY_DEFAULT, VALUE_DENY,
    VALUE_PLEN_SHIFT,
};
use specola_policy::{Diff, EndpointPolicy, Entry, Key, MapState, OriginSet, SubjectPolicy};

use super::life::Realized;
use crate::cookie::{CookieError, CookieTable, NO_COOKIE};

/// The kernel's form of a key.
pub(super) fn kernel_key(key: &Key) -> PolicyKey {
    let prefix_len = match key.proto {
        0 => FULL_PREFIX_STATIC,
        _ => PREFIX_PROTO + u32::from(key.port_bits),
    };
    PolicyKey {
        prefix_len,
        identity: key.identity,
        egress: u8::from(key.egress),
        proto: key.proto,
        dport_be: key.port.to_be(),
    }
}

/// The engine's form of a kernel key.
pub(super) fn engine_key(key: &PolicyKey) -> Key {
    let port_bits = u8::try_from(key.prefix_len.saturating_sub(PREFIX_PROTO)).unwrap_or(u8::MAX);
    Key {
        identity: key.identity,
        egress: key.egress != 0,
        proto: key.proto,
        port: u16::from_be(key.dport_be),
        port_bits,
    }
}

/// The kernel's form of an entry. A redirect has no listener yet, so it names a port that is none: the kernel drops it.
fn kernel_value(key: &Key, entry: &Entry, cookie: u32) -> PolicyValue {
    let specified = if key.proto == 0 { 0 } else { 8 + key.port_bits };
    let deny = if entry.deny { VALUE_DENY } else { 0 };
    let audit = if entry.audit { VALUE_AUDIT } else { 0 };
    let by_default = if entry.by_default { VALUE_BY_DEFAULT } else { 0 };
    PolicyValue {
        proxy_port_be: if entry.redirect && !entry.deny { NO_LISTENER.to_be() } else { 0 },
        deny_plen: (specified << VALUE_PLEN_SHIFT) | deny | audit | by_default,
        auth: entry.auth,
        precedence: entry.precedence,
        cookie,
    }
}

/// A change of one endpoint's policy, and what is enforced then.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) update: PolicyUpdate,
    pub(super) realized: Realized,
}

/// What turns the policy in force into a subject's present one: the difference from the version that is in force, or
/// all of it against the kernel's entries.
pub(super) fn follow(
    slot: u16,
    diff: Option<&Diff>,
    in_kernel: impl FnOnce() -> HashMap<PolicyKey, PolicyValue>,
    policy: SubjectPolicy<'_>,
    realized: Realized,
    cookies: &mut CookieTable,
) -> Result<Step, CookieError> {
    let (upserts, deletes) = match diff {
        Some(diff) => kernel_diff(diff, cookies)?,
        None => kernel_difference(&in_kernel(), policy.map(), cookies)?,
    };
    let state = state(&realized, cookies)?;
    Ok(Step { update: PolicyUpdate { slot, upserts, deletes, state }, realized })
}

/// What removes every entry.
pub(super) fn close(
    slot: u16,
    in_kernel: &HashMap<PolicyKey, PolicyValue>,
    realized: Realized,
    cookies: &mut CookieTable,
) -> Result<Step, CookieError> {
    let deletes = in_kernel.keys().copied().collect();
    let state = state(&realized, cookies)?;
    Ok(Step { update: PolicyUpdate { slot, upserts: Vec::new(), deletes, state }, realized })
}

fn state(realized: &Realized, cookies: &mut CookieTable) -> Result<PolicyState, CookieError> {
    let [ingress, egress] = &realized.closed_by;
    let mut cookie =
        |names: &Option<OriginSet>| names.as_ref().map_or(Ok(NO_COOKIE), |names| cookies.intern(names));
    Ok(PolicyState {
        default_cookie_ingress: cookie(ingress)?,
        default_cookie_egress: cookie(egress)?,
        // The kernel has 32 bits of the revision.
        revision: (realized.revision & u64::from(u32::MAX)) as u32,
        flags: policy_flags::READY | if realized.audit { policy_flags::AUDIT } else { 0 },
    })
}

fn kernel_diff(diff: &Diff, cookies: &mut CookieTable) -> Result<Changes, CookieError> {
    let upserts = diff.upserts.iter().map(|(key, entry)| kernel_entry(key, entry, cookies));
    Ok((upserts.collect::<Result<_, _>>()?, diff.deletes.iter().map(kernel_key).collect()))
}

fn kernel_difference(
    have: &HashMap<PolicyKey, PolicyValue>,
    want: &MapState,
    cookies: &mut CookieTable,
) -> Result<Changes, CookieError> {
    let want = want.iter().map(|(key, entry)| kernel_entry(key, entry, cookies));
    Ok(difference(have, &want.collect::<Result<_, _>>()?))
}

/// What turns one policy into another.
pub(crate) fn update(
    slot: u16,
    old: &MapState,
    new: &EndpointPolicy,
    cookies: &mut CookieTable,
) -> Result<PolicyUpdate, CookieError> {
    let (upserts, deletes) = kernel_diff(&MapState::diff(old, &new.map), cookies)?;
    let named = |is_closed: bool, names: &OriginSet| is_closed.then(|| names.clone());
    let closed_by = [
        named(new.ingress_enforced, &new.ingress_selected_by),
        named(new.egress_enforced, &new.egress_selected_by),
    ];
    let realized = Realized {
        made_from: None,
        revision: new.revision,
        entries: new.map.len(),
        closed_by,
        audit: new.audit,
    };
    Ok(PolicyUpdate { slot, upserts, deletes, state: state(&realized, cookies)? })
}

fn kernel_entry(
    key: &Key,
    entry: &Entry,
    cookies: &mut CookieTable,
) -> Result<(PolicyKey, PolicyValue), CookieError> {
    let cookie = cookies.intern(&entry.origins)?;
    Ok((kernel_key(key), kernel_value(key, entry, cookie)))
}

type Changes = (Vec<(PolicyKey, PolicyValue)>, Vec<PolicyKey>);

fn difference(have: &HashMap<PolicyKey, PolicyValue>, want: &HashMap<PolicyKey, PolicyValue>) -> Changes {
    let upserts = want.iter().filter(|(key, value)| have.get(key) != Some(value)).map(|(k, v)| (*k, *v));
    let deletes = have.keys().filter(|key| !want.contains_key(key)).copied();
    (upserts.collect(), deletes.collect())
}

/// Any port but 0: the kernel takes it as "redirect", and drops it for want of a proxy.
const NO_LISTENER: u16 = 1;

#[cfg(test)]
mod tests {
    use specola_policy::{Origin, OriginSet, PRECEDENCE_ALLOW, PRECEDENCE_DENY};

    use super::*;

    fn entry(deny: bool) -> Entry {
        let precedence = if deny { PRECEDENCE_DENY } else { PRECEDENCE_ALLOW };
        let origins: OriginSet = [Origin::allow_any(false)].into_iter().collect();
        Entry { deny, audit: false, by_default: false, redirect: false, auth: 0, precedence, origins }
    }

    #[test]
    fn keys_and_values_have_the_kernels_prefixes() {
        let key = |proto, port, port_bits| Key { identity: 300, egress: true, proto, port, port_bits };
        for (key, prefix_len, specified) in [
            (key(0, 0, 0), 40, 0),
            (key(6, 0, 0), 48, 8),
            (key(6, 80, 16), 64, 24),
            (key(17, 0x1000, 4), 52, 12),
        ] {
            let kernel = kernel_key(&key);
            assert_eq!((kernel.prefix_len, kernel.identity, kernel.egress), (prefix_len, 300, 1), "{key:?}");
            assert_eq!(u16::from_be(kernel.dport_be), key.port);
            let value = kernel_value(&key, &entry(true), 9);
            assert_eq!((value.l4_prefix(), value.is_deny(), value.cookie), (specified, true, 9), "{key:?}");
        }
    }

    #[test]
    fn a_redirect_is_closed_and_a_deny_is_no_redirect() {
        let key = Key { identity: 0, egress: false, proto: 6, port: 80, port_bits: 16 };
        let redirect = Entry { redirect: true, ..entry(false) };
        assert_ne!(kernel_value(&key, &redirect, 1).proxy_port_be, 0);
        let deny = Entry { redirect: true, ..entry(true) };
        assert_eq!(kernel_value(&key, &deny, 1).proxy_port_be, 0);
    }

    #[test]
    fn after_a_restart_the_kernels_entries_are_the_old_state() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut cookies = CookieTable::open(&dir.path().join("cookies")).expect("opens");
        let key = |identity| Key { identity, egress: false, proto: 0, port: 0, port_bits: 0 };
        let map = MapState::from_entries([(key(300), entry(false)), (key(301), entry(false))]);
        let (kept, value) = kernel_entry(&key(300), &entry(false), &mut cookies).expect("interns");
        let in_kernel = HashMap::from([(kept, value), (kernel_key(&key(299)), value)]);
        let (upserts, deletes) = kernel_difference(&in_kernel, &map, &mut cookies).expect("interns");
        assert_eq!(upserts.iter().map(|(key, _)| key.identity).collect::<Vec<_>>(), [301]);
        assert_eq!(deletes.iter().map(|key| key.identity).collect::<Vec<_>>(), [299]);
    }

    #[test]
    fn kernel_keys_are_read_back() {
        for (proto, port, port_bits) in [(0, 0, 0), (6, 0, 0), (6, 80, 16), (17, 0x1000, 4)] {
            let key = Key { identity: 300, egress: true, proto, port, port_bits };
            assert_eq!(engine_key(&kernel_key(&key)), key);
        }
    }
}
