//! Which labels count for identity.

use std::sync::LazyLock;

use regex::Regex;

use crate::label::{Label, source};

/// A list of key prefixes (regular expressions, anchored at the start) that keep or drop labels.
///
/// A label that nothing excludes is kept; an excluded one is kept when an including prefix matches more of its key.
/// One including prefix added by the user turns the filter into a white list.
#[derive(Clone, Debug)]
pub struct LabelFilter {
    prefixes: Vec<Prefix>,
    whitelist: bool,
}

/// Why a prefix cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("label prefix \"{prefix}\" is not a regular expression")]
pub struct InvalidFilter {
    /// The prefix as given.
    pub prefix: String,
    /// What the expression parser says.
    #[source]
    pub cause: regex::Error,
}

#[derive(Clone, Debug)]
struct Prefix {
    exclude: bool,
    source: Option<String>,
    pattern: Regex,
}

impl LabelFilter {
    /// The default list: what Kubernetes sets per pod is dropped, what names an application is kept.
    pub fn identity_relevant() -> Self {
        DEFAULT.clone()
    }

    /// The default list with user prefixes: `[!][source:]regex`, `!` excludes.
    ///
    /// # Errors
    /// A prefix is not a regular expression.
    pub fn with_user_prefixes<S: AsRef<str>>(
        prefixes: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidFilter> {
        let mut filter = Self::identity_relevant();
        for text in prefixes {
            let prefix = Prefix::parse(text.as_ref())?;
            filter.whitelist |= !prefix.exclude;
            filter.prefixes.push(prefix);
        }
        Ok(filter)
    }

    /// Whether the label is part of the identity.
    pub fn keeps(&self, label: &Label) -> bool {
        let mut included = 0;
        let mut excluded: Option<usize> = None;
        for prefix in &self.prefixes {
            let Some(len) = prefix.match_len(label) else {
                continue;
            };
            if prefix.exclude {
                excluded = Some(excluded.map_or(len, |shortest| shortest.min(len)));
            } else {
                included = included.max(len);
            }
        }
        match excluded {
            None => !self.whitelist || included > 0,
            Some(excluded) => included > excluded,
        }
    }
}

impl Default for LabelFilter {
    fn default() -> Self {
        Self::identity_relevant()
    }
}

impl Prefix {
    fn parse(text: &str) -> Result<Self, InvalidFilter> {
        let (exclude, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (source, pattern) = match rest.split_once(':') {
            Some((source, pattern)) => (Some(source.to_owned()), pattern),
            None => (None, rest),
        };
        let pattern = Regex::new(&format!("^(?:{pattern})"))
            .map_err(|cause| InvalidFilter { prefix: text.to_owned(), cause })?;
        Ok(Self { exclude, source, pattern })
    }

    fn match_len(&self, label: &Label) -> Option<usize> {
        let source_fits = match self.source.as_deref() {
            None | Some(source::ANY) => true,
            Some(source) => source == label.source(),
        };
        if !source_fits {
            return None;
        }
        self.pattern.find(label.key()).map(|found| found.len())
    }
}

static DEFAULT: LazyLock<LabelFilter> = LazyLock::new(|| LabelFilter {
    prefixes: DEFAULT_PREFIXES
        .iter()
        .map(|text| Prefix::parse(text).expect("the built-in prefixes are regular expressions"))
        .collect(),
    whitelist: false,
});

const DEFAULT_PREFIXES: [&str; 21] = [
    "reserved:.*",
    r"io\.kubernetes\.pod\.namespace",
    r"io\.cilium\.k8s\.namespace\.labels",
    r"app\.kubernetes\.io",
    r"io\.cilium\.k8s\.policy\.cluster",
    r"io\.cilium\.k8s\.policy\.serviceaccount",
    r"!io\.kubernetes",
    r"!kubernetes\.io",
    "!statefulset.kubernetes.io/pod-name",
    "!apps.kubernetes.io/pod-index",
    "!batch.kubernetes.io/job-completion-index",
    "!batch.kubernetes.io/controller-uid",
    r"!.*beta\.kubernetes\.io",
    r"!k8s\.io",
    "!pod-template-generation",
    "!pod-template-hash",
    "!controller-revision-hash",
    "!controller-uid",
    "!annotation.*",
    "!etcd_node",
    r"!topology\.kubernetes\.io",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_list() {
        let filter = LabelFilter::default();
        for (text, kept) in [
            ("k8s:app=web", true),
            ("k8s:io.kubernetes.pod.namespace=shop", true),
            ("k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop", true),
            ("k8s:app.kubernetes.io/name=orders", true),
            ("k8s:io.kubernetes.container=x", false),
            ("k8s:kubernetes.io/hostname=x", false),
            ("k8s:pod-template-hash=abc", false),
            ("k8s:statefulset.kubernetes.io/pod-name=x", false),
            ("k8s:topology.kubernetes.io/zone=z1", false),
            ("k8s:beta.kubernetes.io/arch=amd64", false),
            ("k8s:annotation.x=1", false),
            ("reserved:world", true),
        ] {
            assert_eq!(filter.keeps(&text.parse().unwrap()), kept, "{text}");
        }
    }

    #[test]
    fn user_prefixes() {
        let drop = LabelFilter::with_user_prefixes(["!build"]).unwrap();
        assert!(!drop.keeps(&"k8s:build-id=1".parse().unwrap()));
        assert!(drop.keeps(&"k8s:app=web".parse().unwrap()));
        let only = LabelFilter::with_user_prefixes(["k8s:app"]).unwrap();
        assert!(only.keeps(&"k8s:app=web".parse().unwrap()));
        assert!(!only.keeps(&"k8s:tier=web".parse().unwrap()));
        assert!(only.keeps(&"k8s:io.kubernetes.pod.namespace=shop".parse().unwrap()));
        assert!(LabelFilter::with_user_prefixes(["("]).is_err());
    }
}
