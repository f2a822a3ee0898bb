//! Label selectors.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;

use crate::cidr::{cidr_key, parse_cidr_key};
use crate::label::{Label, source};
use crate::set::LabelSet;

/// A conjunction of requirements. The empty selector matches everything.
///
/// Requirements are kept sorted and unique, so equal selectors compare and hash equal.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One condition on one key.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Requirement {
    key: SelectorKey,
    operator: Operator,
    /// Parsed form of a `cidr` key.
    prefix: Option<IpNet>,
}

/// Key of a requirement; source `any` stands for every source.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SelectorKey {
    source: String,
    key: String,
}

/// What a requirement asks of its key.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Operator {
    /// Present, with one of these values.
    In(BTreeSet<String>),
    /// Absent, or with another value.
    NotIn(BTreeSet<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

/// Why a requirement cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidSelector {
    /// A requirement without a key.
    #[error("a selector needs a key")]
    NoKey,
    /// `In` or `NotIn` without values.
    #[error("operator {operator} on \"{key}\" needs at least one value")]
    NoValues {
        /// Key of the requirement.
        key: String,
        /// Name of the operator.
        operator: &'static str,
    },
    /// `Exists` or `DoesNotExist` with values.
    #[error("operator {operator} on \"{key}\" takes no values")]
    Values {
        /// Key of the requirement.
        key: String,
        /// Name of the operator.
        operator: &'static str,
    },
    /// An operator that label selectors do not have.
    #[error("\"{operator}\" is not a selector operator; use In, NotIn, Exists or DoesNotExist")]
    UnknownOperator {
        /// The operator as given.
        operator: String,
    },
}

impl Selector {
    /// Makes a selector of requirements.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let sorted: BTreeSet<Requirement> = requirements.into_iter().collect();
        Self { requirements: sorted.into_iter().collect() }
    }

    /// Selects sets that have the key with this value.
    pub fn equals(key: SelectorKey, value: &str) -> Self {
        Self::new([Requirement::equals(key, value)])
    }

    /// Selects sets that have `reserved:<name>`.
    pub fn reserved(name: &str) -> Self {
        Self::new([Requirement::exists(SelectorKey::new(source::RESERVED, name))])
    }

    /// Selects prefixes inside `prefix`, less those inside an exception.
    ///
    /// None when the prefix or an exception has length 0: that is the world, which labels name otherwise.
    pub fn cidr(prefix: IpNet, except: &[IpNet]) -> Option<Self> {
        let exists = Requirement::cidr(prefix, Operator::Exists)?;
        let mut requirements = vec![exists];
        for exception in except {
            requirements.push(Requirement::cidr(*exception, Operator::DoesNotExist)?);
        }
        Some(Self::new(requirements))
    }

    /// Whether every requirement holds.
    pub fn matches(&self, labels: &LabelSet) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Requirements in order.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether the selector has no requirement and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// A selector with further requirements.
    #[must_use]
    pub fn and(&self, requirements: impl IntoIterator<Item = Requirement>) -> Self {
        Self::new(self.requirements.iter().cloned().chain(requirements))
    }
}

impl Requirement {
    /// Makes a requirement.
    pub fn new(key: SelectorKey, operator: Operator) -> Self {
        let prefix = (key.source == source::CIDR).then(|| parse_cidr_key(&key.key)).flatten();
        Self { key, operator, prefix }
    }

    /// Makes a requirement from the parts of a Kubernetes `matchExpressions` element.
    ///
    /// # Errors
    /// The operator is unknown or does not fit the number of values.
    pub fn from_expression(
        key: SelectorKey,
        operator: &str,
        values: BTreeSet<String>,
    ) -> Result<Self, InvalidSelector> {
        let operator = match (operator, values.is_empty()) {
            ("In", false) => Operator::In(values),
            ("NotIn", false) => Operator::NotIn(values),
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            (name, empty) => return Err(bad_operator(&key, name, empty)),
        };
        Ok(Self::new(key, operator))
    }

    /// The key has this value.
    pub fn equals(key: SelectorKey, value: &str) -> Self {
        Self::new(key, Operator::In(BTreeSet::from([value.to_owned()])))
    }

    /// The key is present.
    pub fn exists(key: SelectorKey) -> Self {
        Self::new(key, Operator::Exists)
    }

    /// Key.
    pub fn key(&self) -> &SelectorKey {
        &self.key
    }

    /// Operator with its values.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Whether the requirement holds for the set.
    pub fn matches(&self, labels: &LabelSet) -> bool {
        match &self.operator {
            Operator::In(values) => self.any_label(labels, |label| values.contains(label.value())),
            Operator::NotIn(values) => !self.any_label(labels, |label| values.contains(label.value())),
            Operator::Exists => self.any_label(labels, |_| true),
            Operator::DoesNotExist => !self.any_label(labels, |_| true),
        }
    }

    fn cidr(prefix: IpNet, operator: Operator) -> Option<Self> {
        (prefix.prefix_len() > 0).then(|| Self {
            key: SelectorKey::new(source::CIDR, &cidr_key(prefix)),
            operator,
            prefix: Some(prefix.trunc()),
        })
    }

    fn any_label(&self, labels: &LabelSet, accept: impl Fn(&Label) -> bool) -> bool {
        labels.iter().any(|label| self.names(label) && accept(label))
    }

    /// Whether the label is one that the key speaks of: same key, or a prefix inside the key's prefix.
    fn names(&self, label: &Label) -> bool {
        if self.key.source != source::ANY && self.key.source != label.source() {
            return false;
        }
        if self.key.key == label.key() {
            return true;
        }
        let Some(outer) = self.prefix else {
            return false;
        };
        label.source() == source::CIDR
            && parse_cidr_key(label.key()).is_some_and(|inner| outer.contains(&inner))
    }
}

impl SelectorKey {
    /// Makes a key of source and key.
    pub fn new(source: &str, key: &str) -> Self {
        Self { source: source.to_owned(), key: key.to_owned() }
    }

    /// Makes a key of source `k8s`.
    pub fn k8s(key: &str) -> Self {
        Self::new(source::K8S, key)
    }

    /// Reads the text form: `$name`, `source:key`, `reserved.key`, or `key` for any source.
    ///
    /// # Errors
    /// The text has no key.
    pub fn parse(text: &str) -> Result<Self, InvalidSelector> {
        let key = if let Some(name) = text.strip_prefix('$') {
            Self::new(source::RESERVED, name)
        } else if let Some((source, key)) = text.split_once(':') {
            Self::new(source, key)
        } else if let Some(name) = text.strip_prefix("reserved.") {
            Self::new(source::RESERVED, name)
        } else {
            Self::new(source::ANY, text)
        };
        if key.key.is_empty() || key.source.is_empty() {
            return Err(InvalidSelector::NoKey);
        }
        Ok(key)
    }

    /// Source, `any` for every source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Key without its source.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(",");
        match &self.operator {
            Operator::In(values) if values.len() == 1 => {
                write!(f, "{}={}", self.key, list(values))
            }
            Operator::In(values) => write!(f, "{} in ({})", self.key, list(values)),
            Operator::NotIn(values) => write!(f, "{} notin ({})", self.key, list(values)),
            Operator::Exists => write!(f, "{}", self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
        }
    }
}

impl fmt::Display for SelectorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)
    }
}

fn bad_operator(key: &SelectorKey, operator: &str, empty: bool) -> InvalidSelector {
    let known = ["In", "NotIn", "Exists", "DoesNotExist"];
    let Some(operator) = known.into_iter().find(|name| *name == operator) else {
        return InvalidSelector::UnknownOperator { operator: operator.to_owned() };
    };
    let key = key.key.clone();
    if empty {
        InvalidSelector::NoValues { key, operator }
    } else {
        InvalidSelector::Values { key, operator }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(labels: &[&str]) -> LabelSet {
        labels.iter().map(|l| l.parse::<Label>().unwrap()).collect()
    }

    fn selector(key: &str, operator: &str, values: &[&str]) -> Selector {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        let key = SelectorKey::parse(key).unwrap();
        Selector::new([Requirement::from_expression(key, operator, values).unwrap()])
    }

    #[test]
    fn operators() {
        let web = set(&["k8s:app=web", "k8s:tier=front"]);
        for (key, operator, values, expect) in [
            ("app", "In", &["web", "db"][..], true),
            ("app", "In", &["db"], false),
            ("k8s:app", "In", &["web"], true),
            ("container:app", "In", &["web"], false),
            ("app", "NotIn", &["db"], true),
            ("app", "NotIn", &["web"], false),
            ("none", "NotIn", &["web"], true),
            ("tier", "Exists", &[], true),
            ("none", "Exists", &[], false),
            ("tier", "DoesNotExist", &[], false),
            ("none", "DoesNotExist", &[], true),
        ] {
            let selector = selector(key, operator, values);
            assert_eq!(selector.matches(&web), expect, "{selector}");
        }
        assert!(Selector::default().matches(&web));
        assert!(Selector::default().matches(&LabelSet::empty()));
    }

    #[test]
    fn key_forms() {
        for (text, form) in [
            ("$world", "reserved:world"),
            ("reserved:world", "reserved:world"),
            ("reserved.world", "reserved:world"),
            ("k8s:app", "k8s:app"),
            ("app.kubernetes.io/name", "any:app.kubernetes.io/name"),
        ] {
            assert_eq!(SelectorKey::parse(text).unwrap().to_string(), form);
        }
        for bad in ["", "$", "k8s:", ":app", "reserved."] {
            assert_eq!(SelectorKey::parse(bad), Err(InvalidSelector::NoKey), "{bad}");
        }
    }

    #[test]
    fn cidr_containment() {
        let address = set(&["cidr:10.1.2.3/32", "reserved:world"]);
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let cidr = |outer: &str, except: &[&str]| {
            let except: Vec<IpNet> = except.iter().map(|e| net(e)).collect();
            Selector::cidr(net(outer), &except).unwrap()
        };
        assert!(cidr("10.0.0.0/8", &[]).matches(&address));
        assert!(!cidr("10.0.0.0/8", &["10.1.0.0/16"]).matches(&address));
        assert!(cidr("10.0.0.0/8", &["10.2.0.0/16"]).matches(&address));
        assert!(!cidr("10.1.2.0/32", &[]).matches(&address));
        assert!(!cidr("10.1.2.3/32", &[]).matches(&set(&["cidr:10.0.0.0/8"])));
        let v6 = set(&["cidr:2001-db8--1/128"]);
        assert!(cidr("2001:db8::/32", &[]).matches(&v6));
        assert!(!cidr("2001:db8::/32", &["2001:db8::1/128"]).matches(&v6));
        assert!(selector("cidr:10.0.0.0/8", "Exists", &[]).matches(&address));
        assert_eq!(Selector::cidr(net("0.0.0.0/0"), &[]), None);
    }

    #[test]
    fn bad_expressions_say_why() {
        let key = || SelectorKey::parse("app").unwrap();
        let bad = |operator, values: &[&str]| {
            let values = values.iter().map(|v| (*v).to_owned()).collect();
            Requirement::from_expression(key(), operator, values).unwrap_err().to_string()
        };
        assert!(bad("In", &[]).contains("needs at least one value"));
        assert!(bad("Exists", &["x"]).contains("takes no values"));
        assert!(bad("Gt", &["1"]).contains("\"Gt\" is not a selector operator"));
    }

    #[test]
    fn equal_selectors_are_equal_in_any_order() {
        let a = Requirement::equals(SelectorKey::k8s("a"), "1");
        let b = Requirement::exists(SelectorKey::k8s("b"));
        assert_eq!(Selector::new([a.clone(), b.clone()]), Selector::new([b.clone(), a.clone(), b.clone()]));
        assert_eq!(Selector::new([a, b]).to_string(), "k8s:a=1,k8s:b");
    }
}
