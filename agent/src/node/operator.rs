//! What an operator sets by the admin API: addresses of names, and audit mode of a policy or a namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use specola_policy::{PolicyObject, PolicyRef};
use specola_proto::specola::v1 as pb;

use super::{Node, NodeError};
use crate::desired::Shared;

/// What audit mode is switched for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum AuditTarget {
    Namespace(String),
    /// Without a kind, the one policy of that name.
    Policy {
        kind: String,
        namespace: String,
        name: String,
    },
}

impl Node {
    /// Names of DNS with their addresses, from documents and from the operator.
    pub(super) fn names(&self) -> impl Iterator<Item = (&String, &BTreeSet<IpAddr>)> {
        self.desired.fqdn.iter().chain(self.overrides.names())
    }

    /// The names with where they are from, and who selects by them.
    pub(crate) fn show_names(&self) -> Vec<pb::FqdnEntry> {
        let selectors = self.engine.repository().dns_selectors();
        let entry = |source: &str, (name, addresses): (&String, &BTreeSet<IpAddr>)| {
            let matching = selectors.iter().filter(|rule| rule.matches(name));
            pb::FqdnEntry {
                name: name.clone(),
                addresses: addresses.iter().map(ToString::to_string).collect(),
                source: source.to_owned(),
                selectors: matching.map(|rule| rule.text().to_owned()).collect(),
            }
        };
        let documents = self.desired.fqdn.iter().map(|name| entry("document", name));
        let operator = self.overrides.names().iter().map(|name| entry("admin", name));
        let mut entries: Vec<pb::FqdnEntry> = documents.chain(operator).collect();
        entries.sort_by(|one, other| (&one.name, &one.source).cmp(&(&other.name, &other.source)));
        entries
    }

    /// Sets the addresses of a name, and brings the kernel in line.
    ///
    /// # Errors
    /// The name or its addresses make no sense, or cannot be kept.
    pub(crate) fn set_name(&mut self, name: &str, addresses: BTreeSet<IpAddr>) -> Result<(), NodeError> {
        self.overrides.set_name(name, addresses)?;
        self.names_changed();
        Ok(())
    }

    /// Takes names back that were set, and returns them.
    ///
    /// # Errors
    /// None was set that matches, or it cannot be kept.
    pub(crate) fn delete_names(&mut self, pattern: &str) -> Result<Vec<String>, NodeError> {
        let gone = self.overrides.delete_names(pattern)?;
        if gone.is_empty() {
            return Err(NodeError::Unknown(format!(
                "no name that was set matches {pattern:?}; names of documents go with them, and \
                 `specola fqdn cache list` shows which those are"
            )));
        }
        self.names_changed();
        Ok(gone)
    }

    fn names_changed(&mut self) {
        self.seen.names = true;
        self.seen.named = None;
        self.reconcile();
    }

    /// The policy as it is to be in force.
    pub(super) fn overridden(&self, policy: &PolicyObject) -> PolicyObject {
        let audit = policy.audit || self.overrides.audited_policies().contains(&policy.reference);
        PolicyObject { audit, ..policy.clone() }
    }

    /// Everything in audit mode, with the cause.
    pub(crate) fn show_audit(&self) -> Vec<pb::Audited> {
        let audited = |kind: &str, namespace: &str, name: &str, source: &str| pb::Audited {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            source: source.to_owned(),
        };
        let mut list = Vec::new();
        if self.settings.audit_mode {
            list.push(audited("Node", "", &self.settings.node_name, "settings"));
        }
        let operator = self.overrides.audited_namespaces().iter();
        list.extend(operator.map(|name| audited("Namespace", "", name, "admin")));
        let (namespaces, pods) = self.desired.annotated_audit();
        list.extend(namespaces.map(|name| audited("Namespace", "", name, "annotation")));
        list.extend(pods.map(|(namespace, name)| audited("Pod", namespace, name, "annotation")));
        let policy = |policy: &PolicyRef, source| {
            audited(policy.kind.as_str(), &policy.namespace, &policy.name, source)
        };
        list.extend(self.overrides.audited_policies().iter().map(|reference| policy(reference, "admin")));
        let annotated = self.desired.policies.values().filter(|object| object.audit);
        list.extend(annotated.map(|object| policy(&object.reference, "annotation")));
        list
    }

    /// Switches audit mode, brings the kernel in line, and returns why the target is in audit mode all the same.
    ///
    /// # Errors
    /// There is no such policy or namespace, or it cannot be kept.
    pub(crate) fn set_audit(
        &mut self,
        target: &AuditTarget,
        is_on: bool,
    ) -> Result<Vec<pb::Audited>, NodeError> {
        match target {
            AuditTarget::Namespace(namespace) => {
                self.check_namespace(namespace, is_on)?;
                self.overrides.audit_namespace(namespace, is_on)?;
            }
            AuditTarget::Policy { kind, namespace, name } => {
                let policy = self.find_policy(kind, namespace, name)?;
                self.overrides.audit_policy(&policy.reference, is_on)?;
                self.take_audit(&policy)?;
            }
        }
        self.reconcile();
        let is_target = |one: &pb::Audited| match target {
            AuditTarget::Namespace(namespace) => one.kind == "Namespace" && one.name == *namespace,
            AuditTarget::Policy { kind, namespace, name } => {
                (kind.is_empty() || one.kind == *kind)
                    && !["Node", "Namespace", "Pod"].contains(&one.kind.as_str())
                    && one.namespace == *namespace
                    && one.name == *name
            }
        };
        let remaining = self.show_audit().into_iter().filter(|one| one.source == "annotation");
        Ok(remaining.filter(|one| !is_on && is_target(one)).collect())
    }

    /// Puts a policy into force with the audit mode that it has now.
    fn take_audit(&mut self, policy: &PolicyObject) -> Result<(), NodeError> {
        if self.engine.repository().get(&policy.reference).is_none() {
            // It waits for its prefixes' identities, and is taken as it shall be then.
            return Ok(());
        }
        let before = self.engine.repository().revision();
        let revision = self.engine.upsert(self.overridden(policy));
        if revision > before {
            self.revisions.note(policy, revision)?;
            self.revisions.commit(revision)?;
            self.notices.policy_updated(policy, revision);
        }
        Ok(())
    }

    fn find_policy(&self, kind: &str, namespace: &str, name: &str) -> Result<Arc<PolicyObject>, NodeError> {
        let is_it = |policy: &&Shared<PolicyObject>| {
            let reference = &policy.reference;
            reference.namespace == namespace
                && reference.name == name
                && (kind.is_empty() || reference.kind.as_str() == kind)
        };
        let found: Vec<&Shared<PolicyObject>> = self.desired.policies.values().filter(is_it).collect();
        let shown = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        match found.as_slice() {
            [policy] => Ok(Arc::clone(policy)),
            [] => Err(NodeError::Unknown(format!(
                "no policy {shown} is in force; `specola policy list` shows those that are"
            ))),
            several => {
                let kinds: Vec<&str> = several.iter().map(|policy| policy.reference.kind.as_str()).collect();
                let message = format!("policies of several kinds are named {shown}: {}", kinds.join(", "));
                Err(NodeError::Invalid { field: "kind", message })
            }
        }
    }

    /// A namespace that nothing is in is a mistake of writing; one that is gone can be switched off still.
    fn check_namespace(&self, namespace: &str, is_on: bool) -> Result<(), NodeError> {
        let desired = &self.desired;
        let is_known = desired.namespaces.contains_key(namespace)
            || desired.pods.keys().any(|(own, _)| own == namespace)
            || self.endpoints.values().any(|endpoint| endpoint.file.pod_namespace == namespace)
            || (!is_on && self.overrides.audited_namespaces().contains(namespace));
        if is_known {
            return Ok(());
        }
        let known: BTreeSet<&str> = desired
            .namespaces
            .keys()
            .chain(desired.pods.keys().map(|(namespace, _)| namespace))
            .map(String::as_str)
            .collect();
        let known: Vec<&str> = known.into_iter().take(NAMED).collect();
        let known = if known.is_empty() { "none is known".to_owned() } else { known.join(", ") };
        Err(NodeError::Unknown(format!("no namespace {namespace:?} on this node; known: {known}")))
    }
}

/// Namespaces that a message names.
const NAMED: usize = 16;
