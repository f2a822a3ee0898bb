//! Judges single requests by request rules. Slow and simple: the measure of what a proxy does.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::rule::{HeaderMatch, HttpRule, KafkaRule, L7Rules};

/// One request of an application.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// HTTP.
    Http(HttpRequest),
    /// A DNS query for this name.
    Dns(String),
    /// Kafka.
    Kafka(KafkaRequest),
    /// Key and value pairs of a named parser.
    Pairs(BTreeMap<String, String>),
    /// A TLS client that asks for this name.
    Sni(String),
}

/// What policy sees of an HTTP request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HttpRequest {
    /// Path with its query.
    pub path: String,
    /// Method.
    pub method: String,
    /// Host.
    pub host: String,
    /// Headers, names in any case.
    pub headers: Vec<(String, String)>,
}

/// What policy sees of a Kafka request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KafkaRequest {
    /// Number of the request kind.
    pub api_key: i16,
    /// Version of the request kind.
    pub api_version: i16,
    /// Client id.
    pub client_id: String,
    /// Topics that it is about, may be empty.
    pub topics: BTreeSet<String>,
}

impl L7Rules {
    /// Whether the rules let the request through. A request of another family never passes.
    pub fn allow(&self, request: &Request) -> bool {
        match (self, request) {
            (Self::Http(rules), Request::Http(request)) => rules.iter().any(|rule| http(rule, request)),
            (Self::Dns(rules), Request::Dns(name)) => rules.iter().any(|rule| rule.matches(name)),
            (Self::Kafka(rules), Request::Kafka(request)) => kafka(rules, request),
            (Self::Generic { rules, .. }, Request::Pairs(pairs)) => {
                let all = |rule: &BTreeMap<String, String>| {
                    rule.iter().all(|(key, value)| pairs.get(key) == Some(value))
                };
                rules.is_empty() || rules.iter().any(all)
            }
            (Self::Tls(rules), Request::Sni(name)) => {
                rules.server_names.is_empty() || rules.server_names.iter().any(|own| own.matches(name))
            }
            (Self::Tls(rules), request) => rules.inner.as_ref().is_some_and(|inner| inner.allow(request)),
            // What the listener does is not a matter of policy.
            (Self::Listener(_), _) => true,
            _ => false,
        }
    }
}

fn http(rule: &HttpRule, request: &HttpRequest) -> bool {
    whole(rule.path.as_deref(), &request.path)
        && whole(rule.method.as_deref(), &request.method)
        && whole(rule.host.as_deref(), &request.host)
        && rule.headers.iter().all(|(name, value)| has_header(request, name, value.as_deref()))
        && rule.header_matches.iter().all(|rule| header_match(rule, request))
}

/// Whether the expression matches the whole text. No expression matches everything.
fn whole(expression: Option<&str>, text: &str) -> bool {
    let Some(expression) = expression else {
        return true;
    };
    // What cannot be compiled was refused when the policy was read; here it matches nothing.
    Regex::new(&format!("^(?:{expression})$")).is_ok_and(|regex| regex.is_match(text))
}

fn has_header(request: &HttpRequest, name: &str, value: Option<&str>) -> bool {
    request
        .headers
        .iter()
        .any(|(own, text)| own.eq_ignore_ascii_case(name) && value.is_none_or(|value| value == text))
}

/// With an action for a mismatch the rule matches anyway. The value of a secret is not known here.
fn header_match(rule: &HeaderMatch, request: &HttpRequest) -> bool {
    if rule.mismatch.is_some() {
        return true;
    }
    if rule.secret.is_some() && rule.value.is_none() {
        return false;
    }
    has_header(request, &rule.name, rule.value.as_deref())
}

/// Each topic must be allowed by some rule; a request without topics is judged by the rest of a rule.
fn kafka(rules: &[KafkaRule], request: &KafkaRequest) -> bool {
    let fits = |rule: &KafkaRule, topic: Option<&String>| {
        (rule.api_keys.is_empty() || rule.api_keys.contains(&request.api_key))
            && rule.api_version.is_none_or(|version| version == request.api_version)
            && rule.client_id.as_ref().is_none_or(|id| *id == request.client_id)
            && (topic.is_none() || rule.topic.is_none() || rule.topic.as_ref() == topic)
    };
    if request.topics.is_empty() {
        return rules.iter().any(|rule| fits(rule, None));
    }
    request.topics.iter().all(|topic| rules.iter().any(|rule| fits(rule, Some(topic))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::MismatchAction;

    #[test]
    fn header_rules() {
        let request =
            HttpRequest { headers: vec![("x-token".to_owned(), "a".to_owned())], ..HttpRequest::default() };
        let rule = |value: Option<&str>, mismatch, secret: Option<(String, String)>| HeaderMatch {
            name: "X-Token".to_owned(),
            value: value.map(str::to_owned),
            secret,
            mismatch,
        };
        let secret = || Some(("ns".to_owned(), "name".to_owned()));
        for (rule, expect) in [
            (rule(None, None, None), true),
            (rule(Some("a"), None, None), true),
            (rule(Some("b"), None, None), false),
            (rule(Some("b"), Some(MismatchAction::Log), None), true),
            (rule(None, None, secret()), false),
        ] {
            assert_eq!(header_match(&rule, &request), expect, "{rule:?}");
        }
    }

    #[test]
    fn a_request_of_another_family_never_passes() {
        let rules = L7Rules::Http(vec![HttpRule::default()]);
        assert!(rules.allow(&Request::Http(HttpRequest::default())));
        assert!(!rules.allow(&Request::Dns("x.org".to_owned())));
    }

    #[test]
    fn alternatives_match_whole_values_only() {
        assert!(whole(Some("GET|HEAD"), "HEAD"));
        assert!(!whole(Some("GET|HEAD"), "HEADER"));
        assert!(!whole(Some("("), "("));
    }
}
