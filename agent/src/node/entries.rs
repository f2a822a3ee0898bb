//! The engine's policy map as kernel entries.

use std::collections::HashMap;

use specola_datapath::PolicyUpdate;
use specola_datapath::abi::endpoint::{PolicyState, policy_flags};
use specola_datapath::abi::policy::{
    FULL_PREFIX_STATIC, PREFIX_PROTO, PolicyKey, PolicyValue, VALUE_AUDIT, VALUE_BY_DEFAULT, VALUE_DENY,
    VALUE_PLEN_SHIFT,
};
use specola_policy::{EndpointPolicy, Entry, Key, MapState};

use crate::cookie::{CookieError, CookieTable};

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

/// What turns the policy in force (`old`, or the kernel's entries after a restart) into `new`.
pub(crate) fn update(
    slot: u16,
    old: Option<&MapState>,
    in_kernel: impl FnOnce() -> HashMap<PolicyKey, PolicyValue>,
    new: &EndpointPolicy,
    cookies: &mut CookieTable,
) -> Result<PolicyUpdate, CookieError> {
    let (upserts, deletes) = match old {
        Some(old) => {
            let diff = MapState::diff(old, &new.map);
            let upserts = diff.upserts.iter().map(|(key, entry)| kernel_entry(key, entry, cookies));
            (upserts.collect::<Result<_, _>>()?, diff.deletes.iter().map(kernel_key).collect())
        }
        None => {
            let wanted = new.map.iter().map(|(key, entry)| kernel_entry(key, entry, cookies));
            difference(&in_kernel(), &wanted.collect::<Result<HashMap<_, _>, _>>()?)
        }
    };
    let state = PolicyState {
        default_cookie_ingress: cookies.intern(&new.ingress_selected_by)?,
        default_cookie_egress: cookies.intern(&new.egress_selected_by)?,
        // The kernel has 32 bits of the revision.
        revision: (new.revision & u64::from(u32::MAX)) as u32,
        flags: policy_flags::READY,
    };
    Ok(PolicyUpdate { slot, upserts, deletes, state })
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
        let policy = EndpointPolicy { revision: 5, map, ..EndpointPolicy::default() };
        let (kept, value) = kernel_entry(&key(300), &entry(false), &mut cookies).expect("interns");
        let in_kernel = HashMap::from([(kept, value), (kernel_key(&key(299)), value)]);
        let update = update(3, None, || in_kernel, &policy, &mut cookies).expect("makes the update");
        assert_eq!(update.upserts.iter().map(|(key, _)| key.identity).collect::<Vec<_>>(), [301]);
        assert_eq!(update.deletes.iter().map(|key| key.identity).collect::<Vec<_>>(), [299]);
        assert_eq!((update.state.revision, update.state.flags), (5, policy_flags::READY));
    }
}
