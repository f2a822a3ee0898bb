//! What all files define together, kept up to date file by file.

use std::collections::{BTreeMap, BTreeSet};

use specola_policy::{PolicyRef, ProviderGroup, Service};

use super::super::file::{FileState, Located, Object, ObjectKey};
use super::super::objects::FqdnName;
use super::super::{Desired, PodKey, Refused, Shared};

/// The desired state, and which files it comes from.
#[derive(Debug, Default)]
pub(super) struct Merged {
    desired: Desired,
    holders: BTreeMap<ObjectKey, Holders>,
    /// Objects that more than one file defines.
    contested: BTreeSet<ObjectKey>,
    /// Objects that are used joined with others: services, their backends, names of DNS, groups of providers.
    joined: BTreeSet<ObjectKey>,
    /// Files about which something is to be said.
    faulty: BTreeSet<String>,
}

/// The files that define an object, of which the first counts, and where it is in the desired state.
#[derive(Debug)]
struct Holders {
    files: BTreeSet<String>,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Namespace(String),
    Node(String),
    Pod(PodKey),
    Policy(PolicyRef),
    CidrGroup(String),
    Joined,
}

type Files = BTreeMap<String, FileState>;

impl Merged {
    /// Takes up what a file defines now; `before` is what it defined.
    pub(super) fn follow(&mut self, files: &Files, name: &str, before: Vec<ObjectKey>) {
        let now = files.get(name);
        let is_faulty = now.is_some_and(|state| !state.refused.is_empty() || !state.warnings.is_empty());
        if is_faulty {
            self.faulty.insert(name.to_owned());
        } else {
            self.faulty.remove(name);
        }
        let mut keys: BTreeSet<ObjectKey> = before.into_iter().collect();
        keys.extend(now.iter().flat_map(|state| state.objects.keys().cloned()));
        let mut rejoin = false;
        for key in keys {
            rejoin |= self.hold(files, name, &key);
        }
        if rejoin {
            self.join(files);
        }
    }

    /// The state, with everything that is to be said about the files.
    pub(super) fn desired(&self, files: &Files) -> Desired {
        let mut refused: BTreeMap<&str, Vec<Refused>> = BTreeMap::new();
        let mut desired = self.desired.clone();
        for (name, state) in self.faulty.iter().filter_map(|name| Some((name, files.get(name)?))) {
            refused.entry(name).or_default().extend(state.refused.iter().cloned());
            desired.warnings.extend(state.warnings.iter().cloned());
        }
        for key in &self.contested {
            let Some(holders) = self.holders.get(key) else { continue };
            let mut located =
                holders.files.iter().filter_map(|name| Some((name, files.get(name)?.objects.get(key)?)));
            let Some((first, Located { line: first_line, .. })) = located.next() else { continue };
            for (name, Located { line, .. }) in located {
                let cause = format!("metadata.name: {key} is defined in {first}:{first_line} already");
                let object = key.to_string();
                let again = Refused { file: name.clone(), line: *line, errors: vec![cause], object };
                refused.entry(name).or_default().push(again);
            }
        }
        desired.refused = refused.into_values().flatten().collect();
        desired
    }

    /// Notes whether the file defines the object, and puts the definition that counts now into the state. Returns
    /// whether the object is one of those that are joined.
    fn hold(&mut self, files: &Files, name: &str, key: &ObjectKey) -> bool {
        let own = files.get(name).and_then(|state| state.objects.get(key));
        let holders = match own {
            Some(located) => {
                let place = place_of(&located.object);
                let holders = self
                    .holders
                    .entry(key.clone())
                    .or_insert_with(|| Holders { files: BTreeSet::new(), place: place.clone() });
                holders.place = place;
                holders.files.insert(name.to_owned());
                holders
            }
            None => {
                let Some(holders) = self.holders.get_mut(key) else { return false };
                holders.files.remove(name);
                holders
            }
        };
        let place = holders.place.clone();
        let winner = holders.files.first().and_then(|first| files.get(first)?.objects.get(key));
        if holders.files.len() > 1 {
            self.contested.insert(key.clone());
        } else {
            self.contested.remove(key);
        }
        if holders.files.is_empty() {
            self.holders.remove(key);
        }
        let is_joined = matches!(place, Place::Joined);
        if is_joined && winner.is_some() {
            self.joined.insert(key.clone());
        } else {
            self.joined.remove(key);
        }
        put(&mut self.desired, place, winner);
        is_joined
    }

    /// Joins services with their backends, and the addresses of names.
    fn join(&mut self, files: &Files) {
        let Self { desired, holders, joined, .. } = self;
        desired.services.clear();
        desired.fqdn.clear();
        desired.provider_groups.clear();
        let mut services: BTreeMap<(String, String), Service> = BTreeMap::new();
        let objects = || {
            joined.iter().filter_map(|key| {
                Some(&files.get(holders.get(key)?.files.first()?)?.objects.get(key)?.object)
            })
        };
        for object in objects() {
            match object {
                Object::Service(namespace, object) => {
                    let (namespace, name) = (namespace.clone(), object.metadata.name.clone());
                    let (labels, selector) = (object.metadata.labels.clone(), object.spec.selector.clone());
                    let key = (namespace.clone(), name.clone());
                    let service = Service { namespace, name, labels, selector, backends: Vec::new() };
                    services.insert(key, service);
                }
                Object::Names(names) => {
                    for FqdnName { name, addresses } in names {
                        desired.fqdn.entry(name.clone()).or_default().extend(addresses.iter().copied());
                    }
                }
                Object::ProviderGroup(ProviderGroup { group, prefixes }) => {
                    desired.provider_groups.entry(group.clone()).or_default().extend(prefixes);
                }
                _ => {}
            }
        }
        for object in objects() {
            if let Object::Backends(backends) = object
                && let Some(service) =
                    services.get_mut(&(backends.namespace.clone(), backends.service.clone()))
            {
                service.backends.extend(&backends.addresses);
            }
        }
        desired.services = services.into_iter().collect();
    }
}

fn place_of(object: &Object) -> Place {
    match object {
        Object::Namespace(name, _) => Place::Namespace(name.clone()),
        Object::Node(name, _) => Place::Node(name.clone()),
        Object::Pod(key, _) => Place::Pod(key.clone()),
        Object::Policy(reference, _) => Place::Policy(reference.clone()),
        Object::CidrGroup(group) => Place::CidrGroup(group.name.clone()),
        Object::Service(..) | Object::Backends(_) | Object::Names(_) | Object::ProviderGroup(_) => {
            Place::Joined
        }
    }
}

/// Puts a definition where it belongs, or nothing.
fn put(desired: &mut Desired, place: Place, located: Option<&Located>) {
    let object = located.map(|located| &located.object);
    match (place, object) {
        (Place::Namespace(key), Some(Object::Namespace(_, object))) => {
            desired.namespaces.insert(key, Shared::of(object));
        }
        (Place::Node(key), Some(Object::Node(_, object))) => {
            drop(desired.nodes.insert(key, Shared::of(object)))
        }
        (Place::Pod(key), Some(Object::Pod(_, object))) => drop(desired.pods.insert(key, Shared::of(object))),
        (Place::Policy(key), Some(Object::Policy(_, object))) => {
            desired.policies.insert(key, Shared::of(object));
        }
        (Place::CidrGroup(key), Some(Object::CidrGroup(group))) => {
            desired.cidr_groups.insert(key, group.clone());
        }
        (Place::Namespace(key), _) => drop(desired.namespaces.remove(&key)),
        (Place::Node(key), _) => drop(desired.nodes.remove(&key)),
        (Place::Pod(key), _) => drop(desired.pods.remove(&key)),
        (Place::Policy(key), _) => drop(desired.policies.remove(&key)),
        (Place::CidrGroup(key), _) => drop(desired.cidr_groups.remove(&key)),
        (Place::Joined, _) => {}
    }
}
