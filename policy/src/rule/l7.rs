//! Request rules. They are validated here; the proxy that applies them is another crate.

use std::collections::BTreeMap;
use std::fmt;

use super::dns::DnsRule;

/// Request rules of one port, all of one family. An empty list lets every request through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum L7Rules {
    /// HTTP requests.
    Http(Vec<HttpRule>),
    /// DNS queries.
    Dns(Vec<DnsRule>),
    /// Kafka requests.
    Kafka(Vec<KafkaRule>),
    /// Key and value pairs of a named parser.
    Generic {
        /// Name of the parser.
        parser: String,
        /// One of these must match with all its pairs.
        rules: Vec<BTreeMap<String, String>>,
    },
}

/// Family of request rules.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ParserKind {
    /// HTTP.
    Http,
    /// DNS.
    Dns,
    /// Kafka.
    Kafka,
    /// A named parser.
    Generic(String),
}

/// All given fields must match the whole value.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HttpRule {
    /// Regular expression of the path with its query.
    pub path: Option<String>,
    /// Regular expression of the method.
    pub method: Option<String>,
    /// Regular expression of the host.
    pub host: Option<String>,
    /// Headers that must be there, with a value or without.
    pub headers: Vec<(String, Option<String>)>,
    /// Headers with an action for a mismatch.
    pub header_matches: Vec<HeaderMatch>,
}

/// One element of `headerMatches`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeaderMatch {
    /// Header name.
    pub name: String,
    /// Expected value; none: presence.
    pub value: Option<String>,
    /// Secret (namespace, name) that holds the value.
    pub secret: Option<(String, String)>,
    /// What happens when it does not match; none: the rule does not match.
    pub mismatch: Option<MismatchAction>,
}

/// What to do with a header that does not match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MismatchAction {
    /// Log only.
    Log,
    /// Add the header.
    Add,
    /// Delete the header.
    Delete,
    /// Replace the header.
    Replace,
}

/// All given fields must match.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KafkaRule {
    /// Request kinds; empty: every one.
    pub api_keys: Vec<i16>,
    /// Version of the request.
    pub api_version: Option<i16>,
    /// Client id.
    pub client_id: Option<String>,
    /// Topic.
    pub topic: Option<String>,
}

impl L7Rules {
    /// Family of the rules.
    pub fn parser(&self) -> ParserKind {
        match self {
            Self::Http(_) => ParserKind::Http,
            Self::Dns(_) => ParserKind::Dns,
            Self::Kafka(_) => ParserKind::Kafka,
            Self::Generic { parser, .. } => ParserKind::Generic(parser.clone()),
        }
    }
}

impl fmt::Display for ParserKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("http"),
            Self::Dns => f.write_str("dns"),
            Self::Kafka => f.write_str("kafka"),
            Self::Generic(name) => f.write_str(name),
        }
    }
}
