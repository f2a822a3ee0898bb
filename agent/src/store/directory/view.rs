//! What a directory holds, kept up to date file by file.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::{DirectoryStore, Kind, check, decode, entries, subdirectories};
use crate::persist;
use crate::stamp::FileStamp;
use crate::store::{Contents, Object, StoreError};

/// The contents as of the last look.
#[derive(Debug)]
pub(crate) struct StoreView {
    store: DirectoryStore,
    contents: Contents,
    /// Files that were read, with what tells whether they were changed since; none when they are to be read again.
    files: HashMap<PathBuf, Option<FileStamp>>,
    refused: BTreeMap<PathBuf, String>,
}

impl StoreView {
    /// Nothing was looked at yet.
    pub(crate) fn new(store: DirectoryStore) -> Self {
        Self { store, contents: Contents::default(), files: HashMap::new(), refused: BTreeMap::new() }
    }

    /// The contents as of the last look.
    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Looks at everything, and reads files that may have changed. Returns whether anything did.
    ///
    /// # Errors
    /// A directory cannot be listed; nothing is changed then.
    pub(crate) fn refresh(&mut self) -> Result<bool, StoreError> {
        let mut dirs: Vec<PathBuf> =
            [Kind::Identity, Kind::Node].into_iter().map(|kind| self.store.dir(kind)).collect();
        dirs.extend(subdirectories(&self.store.dir(Kind::Endpoint))?);
        let mut found = HashSet::new();
        for dir in dirs {
            found.extend(entries(&dir)?.into_iter().filter(|path| is_object(path)));
        }
        let gone: Vec<PathBuf> = self.files.keys().filter(|path| !found.contains(*path)).cloned().collect();
        let mut changed = false;
        for path in found.iter().chain(&gone) {
            changed |= self.look_at(path);
        }
        Ok(self.finish(changed))
    }

    /// Looks at some files, and at all of a directory. Returns whether anything changed.
    ///
    /// # Errors
    /// A directory cannot be listed.
    pub(crate) fn refresh_paths(&mut self, paths: &BTreeSet<PathBuf>) -> Result<bool, StoreError> {
        let mut changed = false;
        for path in paths {
            if path.parent() == Some(&self.store.dir(Kind::Endpoint)) {
                for path in entries(path)?.iter().filter(|path| is_object(path)) {
                    changed |= self.look_at(path);
                }
            } else if is_object(path) {
                changed |= self.look_at(path);
            }
        }
        Ok(self.finish(changed))
    }

    fn finish(&mut self, changed: bool) -> bool {
        if changed {
            self.contents.refused = self.refused.values().cloned().collect();
        }
        changed
    }

    /// Takes up what a file is now. Returns whether that is something else.
    fn look_at(&mut self, path: &Path) -> bool {
        let Some((kind, key)) = self.place(path) else { return false };
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
        let known = self.files.get(path).copied().flatten();
        if known.is_some() && metadata.as_ref().map(FileStamp::of) == known {
            return false;
        }
        let stamp = metadata.as_ref().and_then(FileStamp::settled);
        // A file that vanished since the listing is simply gone.
        let text = metadata.map(|_| persist::read(path).map_err(StoreError::from)).transpose();
        let object = text.and_then(|text| text.flatten().map(|text| read(kind, path, &text)).transpose());
        match object {
            Ok(Some(object)) => {
                self.files.insert(path.to_owned(), stamp);
                self.refused.remove(path).is_some() | self.put(key, object)
            }
            Ok(None) => {
                self.files.remove(path);
                self.refused.remove(path).is_some() | self.remove(kind, &key)
            }
            Err(error) => {
                self.files.insert(path.to_owned(), stamp);
                let cause = error.to_string();
                let is_new = self.refused.insert(path.to_owned(), cause.clone()) != Some(cause);
                is_new | self.remove(kind, &key)
            }
        }
    }

    fn put(&mut self, key: String, object: Object) -> bool {
        match object {
            Object::Identity(object) => self.contents.identities.insert(key, object),
            Object::Endpoint(object) => self.contents.endpoints.insert(key, object),
            Object::Node(object) => self.contents.nodes.insert(key, object),
        }
    }

    fn remove(&mut self, kind: Kind, key: &str) -> bool {
        match kind {
            Kind::Identity => self.contents.identities.remove(key),
            Kind::Endpoint => self.contents.endpoints.remove(key),
            Kind::Node => self.contents.nodes.remove(key),
        }
    }

    /// What kind of object a path stands for, and its key.
    fn place(&self, path: &Path) -> Option<(Kind, String)> {
        let (dir, name) = (path.parent()?, path.file_stem()?.to_str()?);
        for kind in [Kind::Identity, Kind::Node] {
            if dir == self.store.dir(kind) {
                return Some((kind, name.to_owned()));
            }
        }
        let namespace = dir.file_name()?.to_str()?;
        (dir.parent()? == self.store.dir(Kind::Endpoint))
            .then(|| (Kind::Endpoint, format!("{namespace}/{name}")))
    }
}

/// Whether a file of that name holds an object.
fn is_object(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    !persist::is_temporary(name) && name.ends_with(".yaml")
}

fn read(kind: Kind, path: &Path, text: &str) -> Result<Object, StoreError> {
    let object = match kind {
        Kind::Identity => Object::Identity(decode(path, text)?),
        Kind::Endpoint => Object::Endpoint(decode(path, text)?),
        Kind::Node => Object::Node(decode(path, text)?),
    };
    check(path, &object)?;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CiliumIdentity, Key, Store};

    #[test]
    fn named_files_are_looked_at_and_give_what_a_look_at_everything_gives() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = DirectoryStore::open(dir.path()).expect("opens");
        let mut view = StoreView::new(store.clone());
        assert!(!view.refresh().expect("lists"));
        let identity = |number: u32, label: &str| {
            Object::Identity(CiliumIdentity::new(number, &[format!("k8s:app={label}")]))
        };
        let path = |name: &str| dir.path().join(name);
        let endpoint = "apiVersion: cilium.io/v2\nkind: CiliumEndpoint\nmetadata: {name: web, namespace: shop}\n\
                        status: {id: 7, identity: {id: 300}, networking: {addressing: []}}\n";
        let number = |view: &StoreView| view.contents().identities.len();
        store.put(&identity(300, "web")).expect("puts");
        store.put(&identity(301, "db")).expect("puts");
        assert!(view.refresh_paths(&[path("ciliumidentities/300.yaml")].into()).expect("reads"));
        assert_eq!(number(&view), 1, "nothing else was looked at");
        assert!(view.refresh().expect("lists"));
        assert_eq!(number(&view), 2);
        // A namespace comes with what is in it.
        std::fs::create_dir(path("ciliumendpoints/shop")).expect("makes a directory");
        std::fs::write(path("ciliumendpoints/shop/web.yaml"), endpoint).expect("writes");
        assert!(view.refresh_paths(&[path("ciliumendpoints/shop")].into()).expect("reads"));
        std::fs::write(path("ciliumidentities/301.yaml"), "oops: [").expect("writes");
        store.delete(Kind::Identity, &Key::cluster("300")).expect("deletes");
        let both = [path("ciliumidentities/300.yaml"), path("ciliumidentities/301.yaml")];
        assert!(view.refresh_paths(&both.into()).expect("reads"));
        assert!(!view.refresh().expect("lists"));
        let contents = view.contents();
        assert_eq!((number(&view), contents.endpoints.len(), contents.refused.len()), (0, 1, 1));
        assert_eq!(*contents, store.list().expect("lists"));
    }
}
