//! Names for the numbers in the maps, read from files and never changing them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use specola_labels::NumericIdentity;
use specola_policy::OriginSet;

use super::{NamedCookie, NamedIdentity};
use crate::cookie::CookieTable;
use crate::endpoint::EndpointFile;
use crate::identity::LocalIdentities;
use crate::node::show_origins;
use crate::store::{DirectoryStore, Store};

/// What is known of the numbers.
#[derive(Debug, Default)]
pub(super) struct Names {
    pods: BTreeMap<u16, String>,
    labels: HashMap<u32, Vec<String>>,
    cookies: HashMap<u32, OriginSet>,
    /// Files that could not be read.
    pub(super) notes: Vec<String>,
}

impl Names {
    /// Reads what there is. A file that is missing or unreadable only means fewer names.
    pub(super) fn read(state_dir: &Path, store_dir: &Path) -> Self {
        let mut names = Self::default();
        match EndpointFile::peek_all(&state_dir.join("endpoints")) {
            Ok(files) => names.pods = files.iter().map(|file| (file.id, pod_name(file))).collect(),
            Err(error) => names.notes.push(error.to_string()),
        }
        match CookieTable::peek(&state_dir.join("cookies.jsonl")) {
            Ok(cookies) => names.cookies = cookies,
            Err(error) => names.notes.push(error.to_string()),
        }
        match LocalIdentities::peek(&state_dir.join("identities.json")) {
            Ok(prefixes) => {
                let label = |prefix| format!("cidr:{prefix}");
                names.labels.extend(prefixes.into_iter().map(|(prefix, id)| (id, vec![label(prefix)])));
            }
            Err(error) => names.notes.push(error.to_string()),
        }
        match DirectoryStore::existing(store_dir).list() {
            Ok(contents) => {
                let known = contents.identities.iter();
                names
                    .labels
                    .extend(known.filter_map(|identity| Some((identity.number()?, identity.labels()))));
                names.notes.extend(contents.refused.into_iter().map(|cause| format!("store: {cause}")));
            }
            Err(error) => names.notes.push(error.to_string()),
        }
        names
    }

    /// `namespace/name` of an endpoint's pod.
    pub(super) fn pod(&self, endpoint: u16) -> Option<String> {
        self.pods.get(&endpoint).cloned()
    }

    pub(super) fn identity(&self, id: u32) -> NamedIdentity {
        let reserved = || NumericIdentity(id).reserved_labels().map(|labels| labels.to_strings());
        let labels = self.labels.get(&id).cloned().or_else(reserved).unwrap_or_default();
        NamedIdentity { id, labels }
    }

    pub(super) fn cookie(&self, id: u32) -> NamedCookie {
        NamedCookie { id, origins: self.cookies.get(&id).map(show_origins).unwrap_or_default() }
    }
}

fn pod_name(file: &EndpointFile) -> String {
    format!("{}/{}", file.pod_namespace, file.pod_name)
}

#[cfg(test)]
mod tests {
    use specola_policy::Origin;

    use super::*;

    #[test]
    fn numbers_get_the_names_that_files_have() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (state, store) = (dir.path().join("state"), dir.path().join("store"));
        std::fs::create_dir_all(&state).expect("directory");
        let mut cookies = CookieTable::open(&state.join("cookies.jsonl")).expect("opens");
        let origins: OriginSet = [Origin::allow_localhost()].into_iter().collect();
        let cookie = cookies.intern(&origins).expect("interns");
        cookies.commit().expect("writes");
        let mut local = LocalIdentities::open(&state.join("identities.json")).expect("opens");
        local.ensure(&["10.0.0.0/8".parse().expect("prefix")].into()).expect("allocates");
        let number = local.iter().next().expect("one").1.0;
        let labels = ["k8s:app=web".to_owned()];
        let objects = DirectoryStore::open(&store).expect("opens");
        let identity = objects.identity("digest", &labels).expect("allocates");

        let names = Names::read(&state, &store);
        assert_eq!(names.notes, Vec::<String>::new());
        assert_eq!(names.cookie(cookie).origins[0].name, "allow-localhost-ingress");
        assert_eq!(names.cookie(cookie + 1).origins, []);
        assert_eq!(names.identity(number).labels, ["cidr:10.0.0.0/8"]);
        assert_eq!(names.identity(identity).labels, labels);
        assert_eq!(names.identity(2).labels, ["reserved:world"]);
        assert_eq!(names.identity(4711).labels, Vec::<String>::new());
    }

    #[test]
    fn nothing_is_made_or_changed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (state, store) = (dir.path().join("state"), dir.path().join("store"));
        assert_eq!(Names::read(&state, &store).notes, Vec::<String>::new());
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 0);
        std::fs::create_dir_all(state.join("endpoints")).expect("directory");
        std::fs::write(state.join("endpoints/7.json"), "{").expect("writes");
        std::fs::write(state.join("identities.json"), "{").expect("writes");
        let names = Names::read(&state, &store);
        assert_eq!(names.notes.len(), 2, "{:?}", names.notes);
        assert!(state.join("endpoints/7.json").exists() && state.join("identities.json").exists());
    }
}
