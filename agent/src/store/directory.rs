//! The store as a directory that every agent of the cluster can reach.
//!
//! ```text
//! ciliumidentities/<number>.yaml
//! ciliumendpoints/<namespace>/<pod>.yaml
//! ciliumnodes/<node>.yaml
//! identity-index/<sha256 of the label set>      contains the number
//! ```

mod view;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::view::StoreView;
use super::{CiliumIdentity, Contents, Key, Kind, Object, Store, StoreError};
use crate::fs_watch::DirWatch;
use crate::persist;

/// Smallest and largest number of an identity that the cluster allocates.
pub(crate) const IDENTITY_RANGE: std::ops::RangeInclusive<u32> = 256..=65535;

/// A [`Store`] in a directory: files appear whole (rename) and once (exclusive link).
#[derive(Clone, Debug)]
pub(crate) struct DirectoryStore {
    root: PathBuf,
}

impl DirectoryStore {
    /// Opens a directory, making it when it is missing.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self { root: root.to_owned() };
        for kind in [Kind::Identity, Kind::Endpoint, Kind::Node] {
            persist::make_dir(&store.dir(kind))?;
        }
        persist::make_dir(&store.root.join(INDEX))?;
        Ok(store)
    }

    /// A directory to be read only; nothing is made.
    pub(crate) fn existing(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A watch on every directory that holds objects; call it again after each change, for new namespaces.
    pub(crate) fn watch(&self, watch: &DirWatch) -> Result<(), StoreError> {
        let mut dirs = vec![self.dir(Kind::Identity), self.dir(Kind::Endpoint), self.dir(Kind::Node)];
        dirs.extend(subdirectories(&self.dir(Kind::Endpoint))?);
        for dir in dirs {
            match watch.add(&dir) {
                Ok(()) => {}
                // A namespace directory that was removed meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(cause) => return Err(StoreError::Watch { path: dir, cause }),
            }
        }
        Ok(())
    }

    fn dir(&self, kind: Kind) -> PathBuf {
        self.root.join(match kind {
            Kind::Identity => "ciliumidentities",
            Kind::Endpoint => "ciliumendpoints",
            Kind::Node => "ciliumnodes",
        })
    }

    fn path(&self, kind: Kind, key: &Key) -> Result<PathBuf, StoreError> {
        check_name(&key.name)?;
        let dir = self.dir(kind);
        let dir = match kind {
            Kind::Endpoint => {
                check_name(&key.namespace)?;
                dir.join(&key.namespace)
            }
            Kind::Identity | Kind::Node => dir,
        };
        Ok(dir.join(format!("{}.yaml", key.name)))
    }

    fn prepare(&self, object: &Object) -> Result<(PathBuf, String), StoreError> {
        let key = object.key();
        let path = self.path(object.kind(), &key)?;
        if let Some(parent) = path.parent() {
            persist::make_dir(parent)?;
        }
        let text = match object {
            Object::Identity(object) => encode(&key, object),
            Object::Endpoint(object) => encode(&key, object),
            Object::Node(object) => encode(&key, object),
        }?;
        Ok((path, text))
    }

    fn indexed(&self, index: &Path, labels: &[String]) -> Result<Option<u32>, StoreError> {
        let Some(text) = persist::read(index)? else { return Ok(None) };
        let Ok(number) = text.trim().parse::<u32>() else {
            persist::set_aside(index)?;
            return Ok(None);
        };
        let object = CiliumIdentity::new(number, labels);
        let path = self.path(Kind::Identity, &Key::cluster(number.to_string()))?;
        match persist::read(&path)? {
            Some(text) => {
                let found: CiliumIdentity = decode(&path, &text)?;
                if found.labels() == object.labels() {
                    return Ok(Some(number));
                }
                // The number was given away by hand: this entry of the index is wrong.
                persist::remove(index)?;
                Ok(None)
            }
            // The object was deleted while endpoints still use the number: put it back.
            None if self.create(&Object::Identity(object))? => Ok(Some(number)),
            None => Ok(None),
        }
    }

    /// A number whose object has exactly these labels and is not in the index yet, or a new object.
    fn claimable(&self, labels: &[String]) -> Result<(u32, bool), StoreError> {
        let contents = self.list()?;
        let identities = contents.identities;
        let wanted = CiliumIdentity::new(0, labels).security_labels;
        if let Some(found) = identities.iter().find(|identity| identity.security_labels == wanted) {
            return Ok((found.number().unwrap_or_default(), false));
        }
        let (first, last) = (*IDENTITY_RANGE.start(), *IDENTITY_RANGE.end());
        let taken: BTreeSet<u32> = identities.iter().filter_map(CiliumIdentity::number).collect();
        let highest = taken.iter().copied().filter(|number| IDENTITY_RANGE.contains(number)).max();
        let start = highest.map_or(first, |number| number + 1);
        // Fresh numbers first; holes only when the range is used up.
        for number in (start..=last).chain(first..start.min(last)) {
            if !taken.contains(&number)
                && self.create(&Object::Identity(CiliumIdentity::new(number, labels)))?
            {
                return Ok((number, true));
            }
        }
        Err(StoreError::IdentitiesExhausted { first, last })
    }
}

impl Store for DirectoryStore {
    fn list(&self) -> Result<Contents, StoreError> {
        let mut view = StoreView::new(self.clone());
        view.refresh()?;
        Ok(view.contents().clone())
    }

    fn create(&self, object: &Object) -> Result<bool, StoreError> {
        let (path, text) = self.prepare(object)?;
        Ok(persist::create_exclusive(&path, text.as_bytes())?)
    }

    fn put(&self, object: &Object) -> Result<(), StoreError> {
        let (path, text) = self.prepare(object)?;
        Ok(persist::write_atomic(&path, text.as_bytes())?)
    }

    fn delete(&self, kind: Kind, key: &Key) -> Result<bool, StoreError> {
        Ok(persist::remove(&self.path(kind, key)?)?)
    }

    fn identity(&self, digest: &str, labels: &[String]) -> Result<u32, StoreError> {
        check_name(digest)?;
        let index = self.root.join(INDEX).join(digest);
        for _ in 0..ATTEMPTS {
            if let Some(number) = self.indexed(&index, labels)? {
                return Ok(number);
            }
            let (number, ours) = self.claimable(labels)?;
            if persist::create_exclusive(&index, number.to_string().as_bytes())? {
                return Ok(number);
            }
            // Another agent was quicker; the next round reads its number.
            if ours {
                self.delete(Kind::Identity, &Key::cluster(number.to_string()))?;
            }
        }
        Err(StoreError::Unstable { labels: labels.join(",") })
    }
}

/// Whether an object may say what it says. An endpoint that claims to be the host, say, would pass every policy.
fn check(path: &Path, object: &Object) -> Result<(), StoreError> {
    let (first, last) = IDENTITY_RANGE.into_inner();
    let message = match object {
        Object::Identity(identity) => {
            let name = &identity.metadata.name;
            let is_valid = identity.number().is_some_and(|number| IDENTITY_RANGE.contains(&number));
            if !is_valid {
                format!("the name {name:?} is no number from {first} to {last}")
            } else if path.file_stem().and_then(|stem| stem.to_str()) != Some(name) {
                format!("the object is named {name}; name the file {name}.yaml")
            } else {
                return Ok(());
            }
        }
        Object::Endpoint(endpoint) => {
            let identity = endpoint.status.identity.id;
            if IDENTITY_RANGE.contains(&identity) {
                return Ok(());
            }
            format!("{identity} is no identity of a pod")
        }
        Object::Node(_) => return Ok(()),
    };
    Err(StoreError::Invalid { path: path.to_owned(), message })
}

fn subdirectories(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    Ok(entries(dir)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths =
            fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        paths.sort_unstable();
        Ok(paths)
    };
    match list() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|cause| StoreError::List { path: dir.to_owned(), cause }),
    }
}

fn encode<T: Serialize>(key: &Key, object: &T) -> Result<String, StoreError> {
    serde_saphyr::to_string(object)
        .map_err(|error| StoreError::Encode { key: key.clone(), message: error.to_string() })
}

fn decode<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, StoreError> {
    serde_saphyr::from_str(text)
        .map_err(|error| StoreError::Decode { path: path.to_owned(), message: error.to_string() })
}

fn check_name(name: &str) -> Result<(), StoreError> {
    if is_object_name(name) { Ok(()) } else { Err(StoreError::Name(name.to_owned())) }
}

/// Whether a name is a DNS subdomain, as object names are: no separator, no `..`, never hidden.
pub(crate) fn is_object_name(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= 253 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().copied().all(valid)
}

const INDEX: &str = "identity-index";
const ATTEMPTS: usize = 16;

#[cfg(test)]
mod tests;
