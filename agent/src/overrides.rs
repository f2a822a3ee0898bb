//! What an operator sets by the admin API beside the desired state: addresses of names, and audit mode.
//!
//! It is on disk before it is in force, and outlives the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use specola_policy::PolicyRef;
use specola_policy::rule::DnsRule;

use crate::persist::{self, PersistError};

/// Why something could not be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OverrideError {
    #[error(transparent)]
    File(#[from] PersistError),
    #[error("{field}: {message}")]
    Invalid { field: &'static str, message: String },
    #[error("{MAX_NAMES} names are set already; delete some with `specola fqdn cache delete`")]
    TooManyNames,
}

/// What was set, and the file that keeps it.
#[derive(Debug)]
pub(crate) struct Overrides {
    path: PathBuf,
    state: State,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
struct State {
    /// Addresses by name.
    names: BTreeMap<String, BTreeSet<IpAddr>>,
    audited_namespaces: BTreeSet<String>,
    audited_policies: BTreeSet<PolicyRef>,
}

impl Overrides {
    /// Takes up what was set.
    pub(crate) fn open(path: &Path) -> Result<Self, PersistError> {
        let state = persist::load_json(path)?.unwrap_or_default();
        Ok(Self { path: path.to_owned(), state })
    }

    /// Addresses by name.
    pub(crate) fn names(&self) -> &BTreeMap<String, BTreeSet<IpAddr>> {
        &self.state.names
    }

    /// Sets the addresses of a name.
    pub(crate) fn set_name(&mut self, name: &str, addresses: BTreeSet<IpAddr>) -> Result<(), OverrideError> {
        let invalid = |field, message| OverrideError::Invalid { field, message };
        let rule = DnsRule::name(name)
            .map_err(|error| invalid("name", format!("{name:?} is no name of DNS: {error}")))?;
        if addresses.is_empty() {
            let message = "give at least one address; `specola fqdn cache delete` removes a name".to_owned();
            return Err(invalid("addresses", message));
        }
        if addresses.len() > MAX_ADDRESSES {
            let message = format!("{} addresses, a name may have {MAX_ADDRESSES}", addresses.len());
            return Err(invalid("addresses", message));
        }
        let mut next = self.state.clone();
        next.names.insert(rule.text().to_owned(), addresses);
        if next.names.len() > MAX_NAMES {
            return Err(OverrideError::TooManyNames);
        }
        Ok(self.save(next)?)
    }

    /// Forgets names, and returns them.
    pub(crate) fn delete_names(&mut self, pattern: &str) -> Result<Vec<String>, OverrideError> {
        let rule = DnsRule::pattern(pattern).map_err(|error| OverrideError::Invalid {
            field: "pattern",
            message: format!("{pattern:?} is no name or pattern: {error}"),
        })?;
        let gone: Vec<String> = self.state.names.keys().filter(|name| rule.matches(name)).cloned().collect();
        let mut next = self.state.clone();
        next.names.retain(|name, _| !gone.contains(name));
        self.save(next)?;
        Ok(gone)
    }

    /// Namespaces whose endpoints are in audit mode.
    pub(crate) fn audited_namespaces(&self) -> &BTreeSet<String> {
        &self.state.audited_namespaces
    }

    /// Policies in audit mode.
    pub(crate) fn audited_policies(&self) -> &BTreeSet<PolicyRef> {
        &self.state.audited_policies
    }

    /// Switches audit mode of a namespace.
    pub(crate) fn audit_namespace(&mut self, namespace: &str, is_on: bool) -> Result<(), PersistError> {
        let mut next = self.state.clone();
        if is_on {
            next.audited_namespaces.insert(namespace.to_owned());
        } else {
            next.audited_namespaces.remove(namespace);
        }
        self.save(next)
    }

    /// Switches audit mode of a policy.
    pub(crate) fn audit_policy(&mut self, policy: &PolicyRef, is_on: bool) -> Result<(), PersistError> {
        let mut next = self.state.clone();
        if is_on {
            next.audited_policies.insert(policy.clone());
        } else {
            next.audited_policies.remove(policy);
        }
        self.save(next)
    }

    /// Forgets policies that are no more: one of the same name that comes later is another one.
    pub(crate) fn retain_policies(
        &mut self,
        is_there: impl Fn(&PolicyRef) -> bool,
    ) -> Result<(), PersistError> {
        let mut next = self.state.clone();
        next.audited_policies.retain(|policy| is_there(policy));
        self.save(next)
    }

    fn save(&mut self, next: State) -> Result<(), PersistError> {
        if next != self.state {
            persist::save_json(&self.path, &next)?;
            self.state = next;
        }
        Ok(())
    }
}

/// Names that can be set.
const MAX_NAMES: usize = 10_000;
/// Addresses that a name can have.
const MAX_ADDRESSES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
        list.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn what_was_set_survives_a_restart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("overrides.json");
        let mut overrides = Overrides::open(&path).expect("opens");
        overrides.set_name("API.Example.org.", addresses(&["192.0.2.1"])).expect("sets");
        overrides.set_name("db.example.org", addresses(&["192.0.2.2"])).expect("sets");
        overrides.set_name("other.test", addresses(&["2001:db8::1"])).expect("sets");
        overrides.audit_namespace("shop", true).expect("sets");
        let known = overrides.state.clone();
        drop(overrides);
        let mut overrides = Overrides::open(&path).expect("opens");
        assert_eq!(overrides.state, known);
        assert!(overrides.names().contains_key("api.example.org"), "names have one form");
        assert_eq!(overrides.delete_names("*.example.org").expect("deletes").len(), 2);
        assert!(overrides.delete_names("nobody.test").expect("deletes nothing").is_empty());
        overrides.audit_namespace("shop", false).expect("sets");
        let overrides = Overrides::open(&path).expect("opens");
        assert_eq!(overrides.names().keys().collect::<Vec<_>>(), ["other.test"]);
        assert!(overrides.audited_namespaces().is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut overrides = Overrides::open(&dir.path().join("overrides.json")).expect("opens");
        let many: BTreeSet<IpAddr> =
            (0..=MAX_ADDRESSES as u32).map(|number| IpAddr::from(number.to_be_bytes())).collect();
        for (name, addresses, field) in [
            ("a b", addresses(&["192.0.2.1"]), "name"),
            ("*.example.org", addresses(&["192.0.2.1"]), "name"),
            ("", addresses(&["192.0.2.1"]), "name"),
            ("a.test", addresses(&[]), "addresses"),
            ("a.test", many, "addresses"),
        ] {
            let error = overrides.set_name(name, addresses).expect_err(name).to_string();
            assert!(error.starts_with(field), "{error}");
        }
        assert!(overrides.delete_names("a b").is_err());
        assert!(overrides.names().is_empty());
    }
}
