//! One file of the desired state: its documents, and the last good versions of those that are wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use specola_policy::document::{Document, split_documents};
use specola_policy::{
    CidrGroup, DocumentError, ParseOptions, PolicyObject, PolicyRef, ProviderGroup, parse_policy_document,
};

use super::objects::{
    Backends, CidrGroupObject, EndpointSlice, EndpointsObject, FqdnCache, FqdnName, Namespace, Node,
    ObjectMeta, Pod, ServiceObject,
};
use super::{PodKey, Refused};
use crate::stamp::FileStamp;

/// Kind, namespace and name of an object.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct ObjectKey {
    kind: String,
    namespace: String,
    name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// An object that is used.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Namespace(String, Arc<Namespace>),
    Node(String, Arc<Node>),
    Pod(PodKey, Arc<Pod>),
    Policy(PolicyRef, Arc<PolicyObject>),
    CidrGroup(CidrGroup),
    /// Namespace, and the object.
    Service(String, ServiceObject),
    Backends(Backends),
    Names(Vec<FqdnName>),
    ProviderGroup(ProviderGroup),
}

/// An object with the line of its document.
#[derive(Clone, Debug)]
pub(super) struct Located {
    pub(super) line: u32,
    /// The document as it was written.
    pub(super) text: String,
    pub(super) object: Object,
}

/// What a file gave so far.
#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    text: Option<String>,
    /// Tells whether the file was changed since.
    stamp: Option<FileStamp>,
    pub(super) objects: BTreeMap<ObjectKey, Located>,
    pub(super) refused: Vec<Refused>,
    pub(super) warnings: Vec<String>,
}

/// A document in force, as it is kept for the next start of the agent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct SavedDocument {
    line: u32,
    text: String,
}

impl FileState {
    /// The documents that were in force when the agent ended: good until the file itself is read.
    pub(super) fn restore(file: &str, documents: Vec<SavedDocument>, options: ParseOptions) -> Self {
        let mut reading =
            Reading { file, options, state: Self::default(), refused_keys: Vec::new(), unknown: false };
        for SavedDocument { line, text } in documents {
            for document in split_documents(file, &text) {
                reading.document(document.map(|mut document| {
                    document.line = line;
                    document
                }));
            }
        }
        Self { objects: reading.state.objects, ..Self::default() }
    }

    /// What tells whether the file was changed since it was read; none when it is to be read again.
    pub(super) fn stamp(&self) -> Option<FileStamp> {
        self.stamp
    }

    /// The documents in force.
    pub(super) fn save(&self) -> Vec<SavedDocument> {
        let saved = |located: &Located| SavedDocument { line: located.line, text: located.text.clone() };
        self.objects.values().map(saved).collect()
    }

    /// Takes the file's new contents. Returns whether they differ from the ones before.
    pub(super) fn update(
        &mut self,
        file: &str,
        text: String,
        stamp: Option<FileStamp>,
        options: ParseOptions,
    ) -> bool {
        self.stamp = stamp;
        if self.text.as_ref() == Some(&text) {
            return false;
        }
        let mut next =
            Reading { file, options, state: Self::default(), refused_keys: Vec::new(), unknown: false };
        for document in split_documents(file, &text) {
            next.document(document);
        }
        let Reading { mut state, refused_keys, unknown, .. } = next;
        // Of what is refused, the last good version stays; a document that does not even say its name may be any.
        let kept = std::mem::take(&mut self.objects)
            .into_iter()
            .filter(|(key, _)| !state.objects.contains_key(key) && (unknown || refused_keys.contains(key)))
            .collect::<Vec<_>>();
        state.objects.extend(kept);
        state.text = Some(text);
        state.stamp = stamp;
        *self = state;
        true
    }

    /// Records that the file cannot be read; everything of it stays in force. Returns whether that is new.
    pub(super) fn unreadable(&mut self, file: &str, cause: &str) -> bool {
        let refused =
            Refused { file: file.to_owned(), line: 0, errors: vec![cause.to_owned()], object: String::new() };
        if self.text.is_none() && self.refused.first() == Some(&refused) {
            return false;
        }
        self.text = None;
        self.stamp = None;
        self.refused = vec![refused];
        true
    }
}

struct Reading<'a> {
    file: &'a str,
    options: ParseOptions,
    state: FileState,
    refused_keys: Vec<ObjectKey>,
    /// A document could not be recognised at all.
    unknown: bool,
}

impl Reading<'_> {
    fn document(&mut self, document: Result<Document, DocumentError>) {
        let document = match document {
            Ok(document) => document,
            Err(error) => {
                self.unknown = true;
                return self.refuse(error.line, vec![message(&error)], String::new());
            }
        };
        let key = key_of(&document);
        let line = document.line;
        match read(self.file, &document, self.options) {
            Ok(Some(_)) if document.name.is_empty() => {
                self.unknown = true;
                self.refuse(line, vec!["metadata.name: must be given".to_owned()], String::new());
            }
            Ok(Some(object)) => self.accept(key, Located { line, text: document.text.clone(), object }),
            Ok(None) => {
                let warning = format!("{}:{line}: objects of kind {} are not used", self.file, document.kind);
                self.state.warnings.push(warning);
            }
            Err((line, errors)) => {
                let object = key.to_string();
                self.unknown |= document.name.is_empty();
                self.refused_keys.push(key);
                self.refuse(line, errors, object);
            }
        }
    }

    fn accept(&mut self, key: ObjectKey, located: Located) {
        if let Some(first) = self.state.objects.get(&key) {
            let cause = format!("metadata.name: {key} is defined in line {} already", first.line);
            return self.refuse(located.line, vec![cause], key.to_string());
        }
        self.state.objects.insert(key, located);
    }

    fn refuse(&mut self, line: u32, errors: Vec<String>, object: String) {
        self.state.refused.push(Refused { file: self.file.to_owned(), line, errors, object });
    }
}

/// The object; nothing for a kind that is not used; else the line of the first error, and every error.
fn read(
    file: &str,
    document: &Document,
    options: ParseOptions,
) -> Result<Option<Object>, (u32, Vec<String>)> {
    let name = document.name.clone();
    match (document.api_version.as_str(), document.kind.as_str()) {
        ("v1", "Namespace") => Ok(Some(Object::Namespace(
            name,
            Arc::new(decode::<Namespace>(file, document, |object| &object.metadata)?),
        ))),
        ("v1", "Node") => {
            let node = decode::<Node>(file, document, |object| &object.metadata)?;
            check_node(&node).map_err(|error| (document.line, vec![error]))?;
            Ok(Some(Object::Node(name, Arc::new(node))))
        }
        ("v1", "Pod") => {
            let pod = decode::<Pod>(file, document, |object| &object.metadata)?;
            Ok(Some(Object::Pod((namespace_of(document), name), Arc::new(pod))))
        }
        ("v1", "Service") => {
            let service = decode::<ServiceObject>(file, document, |object| &object.metadata)?;
            Ok(Some(Object::Service(namespace_of(document), service)))
        }
        ("v1", "Endpoints") => {
            let endpoints = decode::<EndpointsObject>(file, document, |object| &object.metadata)?;
            Ok(Some(Object::Backends(endpoints.backends(namespace_of(document)))))
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            let slice = decode::<EndpointSlice>(file, document, |object| &object.metadata)?;
            Ok(slice.backends(namespace_of(document)).map(Object::Backends))
        }
        ("cilium.io/v2" | "cilium.io/v2alpha1", "CiliumCIDRGroup") => {
            let group = decode::<CidrGroupObject>(file, document, |object| &object.metadata)?;
            let prefixes = group.spec.external_cidrs;
            Ok(Some(Object::CidrGroup(CidrGroup { name, labels: group.metadata.labels, prefixes })))
        }
        ("specola.io/v1alpha1", "FQDNCache") => Ok(Some(Object::Names(
            decode::<FqdnCache>(file, document, |object| &object.metadata)?.spec.names,
        ))),
        (ProviderGroup::API_VERSION, ProviderGroup::KIND) => {
            let read = ProviderGroup::read(file, document);
            read.map(|group| Some(Object::ProviderGroup(group)))
                .map_err(|error| (error.line, vec![message(&error)]))
        }
        _ => read_policy(file, document, options),
    }
}

fn read_policy(
    file: &str,
    document: &Document,
    options: ParseOptions,
) -> Result<Option<Object>, (u32, Vec<String>)> {
    let mut parsed = parse_policy_document(file, document, options);
    if let Some(first) = parsed.errors.first() {
        return Err((first.line, parsed.errors.iter().map(message).collect()));
    }
    let object = parsed.objects.pop();
    Ok(object.map(|object| Object::Policy(object.reference.clone(), Arc::new(object))))
}

fn decode<T: DeserializeOwned>(
    file: &str,
    document: &Document,
    metadata: impl Fn(&T) -> &ObjectMeta,
) -> Result<T, (u32, Vec<String>)> {
    let object = document.read::<T>(file).map_err(|error| (error.line, vec![message(&error)]))?;
    if metadata(&object).name != document.name {
        return Err((document.line, vec!["metadata.name: must be a plain string".to_owned()]));
    }
    Ok(object)
}

fn check_node(node: &Node) -> Result<(), String> {
    for address in node.status.addresses.iter().filter(|address| address.kind.ends_with("IP")) {
        if address.address.parse::<std::net::IpAddr>().is_err() {
            let (kind, text) = (&address.kind, &address.address);
            return Err(format!("status.addresses: {kind} {text:?} is no IP address"));
        }
    }
    Ok(())
}

fn message(error: &DocumentError) -> String {
    match error.field.as_str() {
        "" => error.message.clone(),
        field => format!("{field}: {}", error.message),
    }
}

fn key_of(document: &Document) -> ObjectKey {
    ObjectKey { kind: document.kind.clone(), namespace: namespace_of(document), name: document.name.clone() }
}

fn namespace_of(document: &Document) -> String {
    match (document.kind.as_str(), document.namespace.as_str()) {
        (
            "Node"
            | "Namespace"
            | "CiliumClusterwideNetworkPolicy"
            | "ClusterNetworkPolicy"
            | "CiliumCIDRGroup"
            | "FQDNCache"
            | "ProviderGroup",
            _,
        ) => String::new(),
        (_, "") => "default".to_owned(),
        (_, namespace) => namespace.to_owned(),
    }
}
