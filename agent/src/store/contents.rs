//! What a store holds. Copies share what they have in common.

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::{CiliumEndpoint, CiliumIdentity, CiliumNode};
use crate::desired::Shared;

/// Everything in the store at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Contents {
    pub(crate) identities: Objects<CiliumIdentity>,
    pub(crate) endpoints: Objects<CiliumEndpoint>,
    pub(crate) nodes: Objects<CiliumNode>,
    /// Objects that could not be read, with the cause.
    pub(crate) refused: Vec<String>,
}

/// Objects of one kind by the name that the store has for them: `namespace/name`, or the name alone.
#[derive(Clone, Debug)]
pub(crate) struct Objects<T>(OrdMap<String, Shared<T>>);

impl<T> Objects<T> {
    pub(crate) fn get(&self, key: &str) -> Option<&T> {
        self.0.get(key).map(|object| &***object)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|object| &***object)
    }

    /// Sets an object. One that is the same as before changes nothing; returns whether it was another.
    pub(crate) fn insert(&mut self, key: String, object: T) -> bool
    where
        T: PartialEq,
    {
        let is_other = self.get(&key) != Some(&object);
        if is_other {
            self.0.insert(key, Shared::new(object));
        }
        is_other
    }

    /// Returns whether there was such an object.
    pub(crate) fn remove(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    /// What another state has otherwise: keys with the object of this one and that of the other.
    pub(crate) fn changes<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a str, Option<&'a T>, Option<&'a T>)>
    where
        T: PartialEq,
    {
        let changes = self.0.diff(&other.0).map(|change| match change {
            DiffItem::Add(key, new) => (key.as_str(), None, Some(&***new)),
            DiffItem::Update { old: (_, old), new: (key, new) } => {
                (key.as_str(), Some(&***old), Some(&***new))
            }
            DiffItem::Remove(key, old) => (key.as_str(), Some(&***old), None),
        });
        changes.filter(|(_, old, new)| old != new)
    }
}

#[cfg(test)]
impl<T> Objects<T> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Objects with names that do not matter.
    pub(crate) fn unnamed(objects: impl IntoIterator<Item = T>) -> Self {
        let numbered = objects.into_iter().enumerate();
        Self(numbered.map(|(index, object)| (format!("{index:06}"), Shared::new(object))).collect())
    }
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<T: PartialEq> PartialEq for Objects<T> {
    fn eq(&self, other: &Self) -> bool {
        self.changes(other).next().is_none()
    }
}

impl<T: Eq> Eq for Objects<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(number: u32, label: &str) -> CiliumIdentity {
        CiliumIdentity::new(number, &[label.to_owned()])
    }

    #[test]
    fn only_what_is_other_counts_as_changed() {
        let mut before = Objects::default();
        assert!(before.insert("300".to_owned(), identity(300, "k8s:a=b")));
        assert!(before.insert("301".to_owned(), identity(301, "k8s:a=b")));
        assert!(!before.insert("300".to_owned(), identity(300, "k8s:a=b")));
        let mut after = before.clone();
        assert!(after.insert("300".to_owned(), identity(300, "k8s:a=c")) && after.remove("301"));
        assert!(!after.remove("301") && after.insert("302".to_owned(), identity(302, "k8s:a=b")));
        let changes: Vec<_> = before
            .changes(&after)
            .map(|(key, old, new)| (key.to_owned(), old.is_some(), new.is_some()))
            .collect();
        let change = |key: &str, old, new| (key.to_owned(), old, new);
        assert_eq!(
            changes,
            [change("300", true, true), change("301", true, false), change("302", false, true)]
        );
        // Read anew, every object is another one and yet the same.
        let anew: Objects<_> = Objects(
            [("300", "k8s:a=c"), ("302", "k8s:a=b")]
                .map(|(key, label)| {
                    (key.to_owned(), Shared::new(identity(key.parse().expect("a number"), label)))
                })
                .into_iter()
                .collect(),
        );
        assert!(anew == after && anew != before);
    }
}
