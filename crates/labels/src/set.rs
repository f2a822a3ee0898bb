//! Immutable label sets.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::k8s::NAMESPACE_KEY;
use crate::label::{Label, source};

/// Labels sorted by source and key, each (source, key) once. Cloning copies a pointer.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LabelSet(Arc<[Label]>);

impl LabelSet {
    /// The set without labels.
    pub fn empty() -> Self {
        Self(Arc::from([]))
    }

    /// Labels in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Value of the label with this source and key.
    pub fn value(&self, source: &str, key: &str) -> Option<&str> {
        self.0
            .binary_search_by(|label| (label.source(), label.key()).cmp(&(source, key)))
            .ok()
            .and_then(|index| self.0.get(index))
            .map(Label::value)
    }

    /// Whether `reserved:<name>` is in the set.
    pub fn has_reserved(&self, name: &str) -> bool {
        self.value(source::RESERVED, name).is_some()
    }

    /// Namespace of a pod's set.
    pub fn namespace(&self) -> Option<&str> {
        self.value(source::K8S, NAMESPACE_KEY)
    }

    /// A set with these labels added; of two with one source and key the later wins.
    #[must_use]
    pub fn with(&self, labels: impl IntoIterator<Item = Label>) -> Self {
        self.iter().cloned().chain(labels).collect()
    }

    /// `source:key=value;` of every label in order: what [`Self::sha256`] digests.
    pub fn serialised(&self) -> String {
        let mut text = String::new();
        for label in self.iter() {
            text.push_str(label.source());
            text.push(':');
            text.push_str(label.key());
            text.push('=');
            text.push_str(label.value());
            text.push(';');
        }
        text
    }

    /// SHA-256 of the sorted, serialised set: the index under which an identity is found.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.serialised().as_bytes()).into()
    }

    /// [`Self::sha256`] in lower-case hexadecimal.
    pub fn sha256_hex(&self) -> String {
        self.sha256().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Text form of every label, in order.
    pub fn to_strings(&self) -> Vec<String> {
        self.iter().map(Label::to_string).collect()
    }
}

impl Default for LabelSet {
    fn default() -> Self {
        Self::empty()
    }
}

impl FromIterator<Label> for LabelSet {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        let mut sorted: Vec<Label> = labels.into_iter().collect();
        // Stable, and reversed first: of equal (source, key) the last given one comes first and is kept.
        sorted.reverse();
        sorted.sort_by(|a, b| (a.source(), a.key()).cmp(&(b.source(), b.key())));
        sorted.dedup_by(|a, b| (a.source(), a.key()) == (b.source(), b.key()));
        Self(sorted.into())
    }
}

impl<'a> IntoIterator for &'a LabelSet {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{label}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl Serialize for LabelSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for LabelSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Label>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(labels: &[&str]) -> LabelSet {
        labels.iter().map(|l| l.parse::<Label>().unwrap()).collect()
    }

    #[test]
    fn sorted_unique_last_wins() {
        let a = set(&["k8s:b=1", "k8s:a=1", "k8s:b=2", "cidr:10.0.0.0/8"]);
        assert_eq!(a.to_string(), "cidr:10.0.0.0/8,k8s:a=1,k8s:b=2");
        assert_eq!(a.value("k8s", "b"), Some("2"));
        assert_eq!(a.value("k8s", "c"), None);
        assert_eq!(a.with(["k8s:a=9".parse().unwrap()]).value("k8s", "a"), Some("9"));
    }

    #[test]
    fn digest_ignores_order_and_is_stable() {
        let a = set(&["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"]);
        let b = set(&["k8s:io.kubernetes.pod.namespace=shop", "k8s:app=web"]);
        assert_eq!(a.sha256(), b.sha256());
        assert_eq!(a.serialised(), "k8s:app=web;k8s:io.kubernetes.pod.namespace=shop;");
        assert_ne!(a.sha256(), set(&["k8s:app=web"]).sha256());
        assert_eq!(
            LabelSet::empty().sha256_hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn serde_is_a_list_of_texts() {
        let a = set(&["k8s:app=web", "reserved:host"]);
        let json = serde_json::to_string(&a).unwrap();
        assert_eq!(json, r#"["k8s:app=web","reserved:host"]"#);
        assert_eq!(serde_json::from_str::<LabelSet>(&json).unwrap(), a);
    }
}
