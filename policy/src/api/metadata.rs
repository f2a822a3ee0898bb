//! `apiVersion`, `kind` and `metadata`.

use super::read::{Fields, Problems};
use crate::rule::{PolicyKind, PolicyRef};

/// What policies need of `metadata`.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) reference: PolicyRef,
    pub(super) uid: String,
    pub(super) audit: bool,
}

/// Reads the head of an object. Namespaced policies without a namespace are in `default`.
pub(super) fn read_metadata(
    root: &mut Fields<'_>,
    kind: PolicyKind,
    problems: &mut Problems,
) -> Option<Metadata> {
    root.ignore(&["apiVersion", "kind", "status"]);
    let Some(metadata) = root.get("metadata") else {
        problems.error(&root.at().named("metadata"), format!("{kind} must have name"));
        return None;
    };
    let mut fields = metadata.fields(problems)?;
    let name = fields.text("name", problems).unwrap_or_default();
    let namespace = fields.text("namespace", problems).unwrap_or_default();
    let uid = fields.text("uid", problems).unwrap_or_default();
    let annotations_at = fields.get("annotations");
    let annotations = annotations_at.as_ref().map(|at| at.text_map(problems)).unwrap_or_default();
    fields.ignore(&IGNORED);
    let at = fields.at().clone();
    fields.finish(problems);
    if name.is_empty() {
        problems.error(&at.named("metadata.name"), format!("{kind} must have name"));
        return None;
    }
    if !kind.is_namespaced() && !namespace.is_empty() {
        problems
            .error(&at.named("metadata.namespace"), format!("{kind} is cluster-wide; remove the namespace"));
    }
    let audit = match annotations.get(AUDIT_ANNOTATION).map(String::as_str) {
        None | Some("disabled") => false,
        Some("enabled") => true,
        Some(other) => {
            let at = annotations_at.as_ref().map_or_else(|| at.clone(), |at| at.child(AUDIT_ANNOTATION));
            problems.error(&at, format!("\"{other}\" is no audit mode; use enabled or disabled"));
            false
        }
    };
    let renamed =
        (kind == PolicyKind::NetworkPolicy).then(|| annotations.get("io.cilium.policy-name")).flatten();
    let namespace = match (kind.is_namespaced(), namespace) {
        (true, "") => "default",
        (true, namespace) => namespace,
        (false, _) => "",
    };
    Some(Metadata {
        reference: PolicyRef {
            kind,
            namespace: namespace.to_owned(),
            name: renamed.map_or(name, String::as_str).to_owned(),
        },
        uid: uid.to_owned(),
        audit,
    })
}

/// What an API server adds, and what people add for themselves.
const IGNORED: [&str; 11] = [
    "labels",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
];
/// Annotation that puts a policy, a namespace or a pod into audit mode.
pub const AUDIT_ANNOTATION: &str = "specola.io/policy-audit-mode";
