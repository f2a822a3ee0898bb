//! From YAML to rules: the only place where policies are checked.

mod cilium;
mod cluster;
mod kubernetes;
mod l7;
mod metadata;
mod peers;
mod ports;
mod read;
mod selector;

use std::fmt;
use std::sync::Arc;

pub use self::metadata::AUDIT_ANNOTATION;
use self::read::{At, Problems};
use crate::document::{Document, split_documents};
use crate::rule::{PolicyKind, PolicyObject};

/// Switches that decide which policies are valid.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ParseOptions {
    /// `fromNodes` and `toNodes` may be used.
    pub node_selector_labels: bool,
    /// Protocols VRRP and IGMP may be used.
    pub extended_protocols: bool,
    /// `ClusterNetworkPolicy` of Kubernetes may be used.
    pub cluster_network_policy: bool,
}

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct ParsedFile {
    /// Valid policies, in order. A policy with one error is not among them.
    pub objects: Vec<PolicyObject>,
    /// Every error of every document.
    pub errors: Vec<DocumentError>,
    /// What is accepted but probably not meant.
    pub warnings: Vec<DocumentError>,
}

/// One thing that is wrong in one document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DocumentError {
    /// File as it was named by the caller.
    pub file: String,
    /// Line of the field, or of what it is missing from.
    pub line: u32,
    /// Kind and `namespace/name` of the object, empty when they could not be read.
    pub object: String,
    /// Path of the field, such as `spec.ingress[0].fromCIDR[1]`; empty for the whole document.
    pub field: String,
    /// Cause and remedy.
    pub message: String,
}

/// Reads the policies of a file with the default switches.
pub fn parse_policies(file: &str, yaml: &str) -> ParsedFile {
    parse_policies_with(file, yaml, ParseOptions::default())
}

/// Reads the policies of a file, which may hold several documents. Documents of other kinds are passed over.
pub fn parse_policies_with(file: &str, yaml: &str, options: ParseOptions) -> ParsedFile {
    let mut parsed = ParsedFile::default();
    for document in split_documents(file, yaml) {
        match document {
            Ok(document) => read_document(file, &document, options, &mut parsed),
            Err(error) => parsed.errors.push(error),
        }
    }
    parsed
}

/// Reads one document of a file, with line numbers of the file. A document of another kind gives nothing.
pub fn parse_policy_document(file: &str, document: &Document, options: ParseOptions) -> ParsedFile {
    let mut parsed = ParsedFile::default();
    read_document(file, document, options, &mut parsed);
    parsed
}

impl ParsedFile {
    /// Whether there is no error.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

impl DocumentError {
    /// The message as upstream's status condition words it.
    pub fn status_message(&self) -> String {
        let Some((kind, _)) = self.object.split_once(' ') else {
            return self.message.clone();
        };
        let part = self.field.split(['.', '[']).next().unwrap_or_default();
        format!("Invalid {kind} {part}: {}", self.message)
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for DocumentError {}

fn read_document(file: &str, document: &Document, options: ParseOptions, parsed: &mut ParsedFile) {
    let mut problems = Problems::new(file, document);
    let kind = match policy_kind(document) {
        Ok(Some(kind)) => kind,
        Ok(None) => return,
        Err(message) => {
            problems.error(&At::root(&document.root), message);
            parsed.errors.append(&mut problems.errors);
            return;
        }
    };
    let read = match kind {
        PolicyKind::NetworkPolicy => kubernetes::read(&document.root, &mut problems),
        PolicyKind::ClusterNetworkPolicy => cluster::read(&document.root, options, &mut problems),
        _ => cilium::read(&document.root, kind, options, &mut problems),
    };
    parsed.warnings.append(&mut problems.warnings);
    if read.is_none() && problems.errors.is_empty() {
        problems.error(&At::root(&document.root), "the object cannot be read");
    }
    let (Some((metadata, rules)), true) = (read, problems.errors.is_empty()) else {
        parsed.errors.append(&mut problems.errors);
        return;
    };
    parsed.objects.push(PolicyObject {
        reference: metadata.reference,
        uid: metadata.uid,
        audit: metadata.audit,
        rules,
        file: file.to_owned(),
        line: document.line,
        text: Arc::from(document.text.as_str()),
    });
}

/// Kind of a policy document, none for other objects.
fn policy_kind(document: &Document) -> Result<Option<PolicyKind>, String> {
    let (group, _) = document.api_version.split_once('/').unwrap_or(("", &document.api_version));
    let (kind, version) = match (group, document.kind.as_str()) {
        (_, "CiliumNetworkPolicy") => (PolicyKind::CiliumNetworkPolicy, "cilium.io/v2"),
        (_, "CiliumClusterwideNetworkPolicy") => (PolicyKind::CiliumClusterwideNetworkPolicy, "cilium.io/v2"),
        (_, "NetworkPolicy") => (PolicyKind::NetworkPolicy, "networking.k8s.io/v1"),
        (_, "ClusterNetworkPolicy") => {
            (PolicyKind::ClusterNetworkPolicy, "policy.networking.k8s.io/v1alpha2")
        }
        ("policy.networking.k8s.io", kind) => {
            return Err(format!("{kind} is not supported; write a ClusterNetworkPolicy (v1alpha2) instead"));
        }
        ("cilium.io", "CiliumLocalRedirectPolicy") => {
            return Err(
                "CiliumLocalRedirectPolicy is not supported: it is about services, not policy".to_owned()
            );
        }
        _ => return Ok(None),
    };
    if document.api_version == version {
        return Ok(Some(kind));
    }
    Err(format!("{} has apiVersion {version}, not \"{}\"", kind.as_str(), document.api_version))
}
