//! What the agents of a cluster share: identities, endpoints and nodes, as upstream's own objects.
//!
//! Identities are never allocated by one agent alone (two nodes must give one label set the same number); the ipcache
//! of a node is filled from the endpoints that the other nodes publish. Losing the store leaves a node stale but
//! enforced.

mod contents;
mod directory;
mod none;
mod objects;

use std::fmt;
use std::path::PathBuf;

pub(crate) use contents::Contents;
#[cfg(test)]
pub(crate) use contents::Objects;
pub(crate) use directory::{DirectoryStore, StoreView, is_object_name};
pub(crate) use none::NoStore;
pub(crate) use objects::{
    Addressing, CiliumEndpoint, CiliumIdentity, CiliumNode, Direction, EndpointIdentity, EndpointStatus,
    ExternalIdentifiers, FlowApi, NamedPort, Networking, NodeAddress, NodeSpec, ObjectMeta,
};

use crate::persist::PersistError;

/// Kinds of objects in the store.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    Identity,
    Endpoint,
    Node,
}

/// Namespace (empty for cluster-wide objects) and name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn cluster(name: impl Into<String>) -> Self {
        Self { namespace: String::new(), name: name.into() }
    }

    pub(crate) fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// An object of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Object {
    Identity(CiliumIdentity),
    Endpoint(CiliumEndpoint),
    Node(CiliumNode),
}

impl Object {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Identity(_) => Kind::Identity,
            Self::Endpoint(_) => Kind::Endpoint,
            Self::Node(_) => Kind::Node,
        }
    }

    pub(crate) fn key(&self) -> Key {
        let meta = match self {
            Self::Identity(object) => &object.metadata,
            Self::Endpoint(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
        };
        Key::namespaced(meta.namespace.clone(), meta.name.clone())
    }
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    File(#[from] PersistError),
    #[error("cannot watch {path}: {cause}", path = path.display())]
    Watch { path: PathBuf, cause: std::io::Error },
    #[error("cannot list {path}: {cause}", path = path.display())]
    List { path: PathBuf, cause: std::io::Error },
    #[error("{path}: {message}; correct or remove the file", path = path.display())]
    Decode { path: PathBuf, message: String },
    #[error("{path}: {message}", path = path.display())]
    Invalid { path: PathBuf, message: String },
    #[error("cannot encode {key}: {message}")]
    Encode { key: Key, message: String },
    #[error("{0:?} is no valid object name")]
    Name(String),
    #[error("no identity is free between {first} and {last}; remove unused CiliumIdentity objects")]
    IdentitiesExhausted { first: u32, last: u32 },
    #[error("this machine has no pods and no store; run the agent without --devices")]
    None,
    #[error("identity index of {labels} keeps changing; another program writes to the store")]
    Unstable { labels: String },
}

/// A place that all agents of a cluster share.
///
/// Calls are short and may block; [`Store::list`] is level triggered: a watcher asks for everything after a change.
pub(crate) trait Store: fmt::Debug + Send + Sync {
    /// Everything that is there; objects that cannot be read are in [`Contents::refused`].
    fn list(&self) -> Result<Contents, StoreError>;

    /// Creates an object; `false` when one of that key exists.
    fn create(&self, object: &Object) -> Result<bool, StoreError>;

    /// Creates or replaces an object.
    fn put(&self, object: &Object) -> Result<(), StoreError>;

    /// Removes an object; `false` when there was none.
    fn delete(&self, kind: Kind, key: &Key) -> Result<bool, StoreError>;

    /// The number that stands for a label set in the whole cluster, allocated at first use and never changed.
    /// `digest` is the label set's SHA-256 in hex, `labels` its labels as `source:key=value`.
    fn identity(&self, digest: &str, labels: &[String]) -> Result<u32, StoreError>;
}
