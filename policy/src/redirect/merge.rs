//! Several rules about requests as one.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::eval::RequestFilter;
use crate::rule::{L7Rules, ParserKind, TlsRules};

/// The parser of all, and the requests that one of them lets through; none stands for a rule that does not look at
/// requests.
pub(super) fn merge<'a>(
    rules: impl Iterator<Item = Option<&'a Arc<L7Rules>>>,
) -> (Option<ParserKind>, RequestFilter) {
    let mut parser: Option<ParserKind> = None;
    let mut merged: Vec<L7Rules> = Vec::new();
    let mut passes_all = false;
    for rules in rules {
        let Some(rules) = rules else {
            passes_all = true;
            continue;
        };
        let own = rules.parser();
        // Parsers that do not go together are refused before anything is enforced.
        parser = Some(parser.map_or(own.clone(), |known| known.merge(&own).unwrap_or(known)));
        if !merged.iter_mut().any(|known| known.join(rules)) {
            merged.push(L7Rules::clone(rules));
        }
    }
    merged.iter_mut().for_each(L7Rules::deduplicate);
    let filter = if passes_all {
        RequestFilter::All
    } else {
        RequestFilter::AnyOf(merged.into_iter().map(Arc::new).collect())
    };
    (parser, filter)
}

impl L7Rules {
    /// Lets through what the other rules do as well. Returns whether that can be said in one list.
    fn join(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(own), Self::Http(other)) => join_lists(own, other),
            (Self::Dns(own), Self::Dns(other)) => join_lists(own, other),
            (Self::Kafka(own), Self::Kafka(other)) => join_lists(own, other),
            (
                Self::Generic { parser: own_parser, rules: own },
                Self::Generic { parser: other_parser, rules: other },
            ) if own_parser == other_parser => {
                // A list without rules lets everything through.
                if own.is_empty() || other.is_empty() {
                    own.clear();
                    return true;
                }
                join_lists(own, other)
            }
            (Self::Tls(own), Self::Tls(other)) => own.join(other),
            (own, other) => own == other,
        }
    }
}

impl L7Rules {
    fn deduplicate(&mut self) {
        match self {
            Self::Http(rules) => deduplicate(rules),
            Self::Dns(rules) => deduplicate(rules),
            Self::Kafka(rules) => deduplicate(rules),
            Self::Generic { rules, .. } => deduplicate(rules),
            Self::Tls(tls) => {
                deduplicate(&mut tls.server_names);
                tls.inner.as_deref_mut().into_iter().for_each(Self::deduplicate);
            }
            Self::Listener(_) => {}
        }
    }
}

impl TlsRules {
    /// Only where it stays exact: a name of the one list must not get the requests of the other one.
    fn join(&mut self, other: &Self) -> bool {
        if self.terminating != other.terminating || self.originating != other.originating {
            return false;
        }
        if self.server_names == other.server_names {
            return match (&mut self.inner, &other.inner) {
                (Some(own), Some(other)) => own.join(other),
                (own, other) => own == other,
            };
        }
        if self.inner != other.inner {
            return false;
        }
        if self.server_names.is_empty() || other.server_names.is_empty() {
            self.server_names.clear();
            return true;
        }
        join_lists(&mut self.server_names, &other.server_names)
    }
}

fn join_lists<T: Clone>(own: &mut Vec<T>, other: &[T]) -> bool {
    own.extend_from_slice(other);
    true
}

/// Keeps the first of equal rules.
fn deduplicate<T: Clone + Eq + Hash>(rules: &mut Vec<T>) {
    let mut known = HashSet::new();
    rules.retain(|rule| known.insert(rule.clone()));
}
