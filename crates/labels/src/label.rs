//! One label: source, key and value.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cidr::cidr_key;

/// Names of label sources.
pub mod source {
    /// Pod, namespace, service account and cluster labels.
    pub const K8S: &str = "k8s";
    /// Special identities such as `world`.
    pub const RESERVED: &str = "reserved";
    /// Prefixes outside the cluster.
    pub const CIDR: &str = "cidr";
    /// Membership of a prefix in a named group.
    pub const CIDR_GROUP: &str = "cidrgroup";
    /// Addresses learned from DNS.
    pub const FQDN: &str = "fqdn";
    /// Node labels.
    pub const NODE: &str = "node";
    /// Selectors only: any source.
    pub const ANY: &str = "any";
    /// Labels that came without a source.
    pub const UNSPEC: &str = "unspec";
}

/// A label, printed `source:key=value`, or `source:key` when the value is empty.
///
/// Labels order by source, then key, then value.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Label {
    source: Arc<str>,
    key: Arc<str>,
    value: Arc<str>,
}

/// Why a text is not a label.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidLabel {
    /// Nothing left of `=`, or nothing after the source.
    #[error("label \"{0}\" has no key; write source:key=value")]
    NoKey(String),
}

impl Label {
    /// Makes a label of its three parts.
    pub fn new(source: &str, key: &str, value: &str) -> Self {
        Self { source: source.into(), key: key.into(), value: value.into() }
    }

    /// Makes a label of source `k8s`.
    pub fn k8s(key: &str, value: &str) -> Self {
        Self::new(source::K8S, key, value)
    }

    /// Makes the label `reserved:<name>`.
    pub fn reserved(name: &str) -> Self {
        Self::new(source::RESERVED, name, "")
    }

    /// Makes the label of a prefix, `cidr:10.0.0.0/8` or `cidr:2001-db8--/32`. Host bits are cleared.
    ///
    /// A prefix of length 0 has no such label: it is the world label of its family.
    pub fn cidr(prefix: IpNet) -> Option<Self> {
        (prefix.prefix_len() > 0).then(|| Self::new(source::CIDR, &cidr_key(prefix), ""))
    }

    /// Source, such as `k8s`.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Key without its source.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Value, may be empty.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// `source:key`, as upstream's CiliumIdentity objects name it.
    pub fn source_key(&self) -> String {
        format!("{}:{}", self.source, self.key)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)?;
        if self.value.is_empty() {
            return Ok(());
        }
        write!(f, "={}", self.value)
    }
}

impl FromStr for Label {
    type Err = InvalidLabel;

    /// Reads `source:key=value`, `source:key`, `key=value` (source `unspec`) or `$name` (`reserved:name`).
    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        if let Some(name) = text.strip_prefix('$') {
            return non_empty(text, source::RESERVED, name, "");
        }
        let (left, value) = text.split_once('=').unwrap_or((text, ""));
        match left.split_once(':') {
            Some((source, key)) if !source.is_empty() => non_empty(text, source, key, value),
            Some((_, key)) => non_empty(text, source::UNSPEC, key, value),
            None => non_empty(text, source::UNSPEC, left, value),
        }
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn non_empty(text: &str, source: &str, key: &str, value: &str) -> Result<Label, InvalidLabel> {
    if key.is_empty() {
        return Err(InvalidLabel::NoKey(text.to_owned()));
    }
    Ok(Label::new(source, key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for (text, source, key, value) in [
            ("k8s:app=web", "k8s", "app", "web"),
            ("reserved:world", "reserved", "world", ""),
            ("k8s:url=http://x:80/a=b", "k8s", "url", "http://x:80/a=b"),
            ("cidr:10.0.0.0/8", "cidr", "10.0.0.0/8", ""),
        ] {
            let label: Label = text.parse().unwrap();
            assert_eq!((label.source(), label.key(), label.value()), (source, key, value), "{text}");
            assert_eq!(label.to_string(), text);
        }
    }

    #[test]
    fn short_forms_are_read() {
        assert_eq!("$world".parse::<Label>().unwrap(), Label::reserved("world"));
        assert_eq!("a=b".parse::<Label>().unwrap().to_string(), "unspec:a=b");
        for bad in ["", "=b", "k8s:", "$", ":=x"] {
            assert!(bad.parse::<Label>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cidr_labels_name_the_network() {
        let label = |text: &str| Label::cidr(text.parse().unwrap()).map(|l| l.to_string());
        assert_eq!(label("10.1.2.3/8").unwrap(), "cidr:10.0.0.0/8");
        assert_eq!(label("::1/128").unwrap(), "cidr:0--1/128");
        assert_eq!(label("2001:db8::/32").unwrap(), "cidr:2001-db8--0/32");
        assert_eq!(label("0.0.0.0/0"), None);
    }
}
