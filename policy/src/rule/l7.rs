//! Request rules. They are validated here; the proxy that applies them is another crate.

use std::collections::BTreeMap;
use std::fmt;

use super::dns::DnsRule;
use super::tls::{Listener, TlsContext, TlsRules};

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
    /// TLS, with rules about what is in it or without.
    Tls(TlsRules),
    /// Whatever a named listener of the proxy does.
    Listener(Listener),
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
    /// TLS alone.
    Tls,
    /// A named listener.
    Listener(String),
}

/// All given fields must match the whole value.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
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
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
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
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
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
    /// Priority among redirects of one packet, 1 to 126; lower wins.
    pub fn priority(&self) -> u8 {
        match (self, self.parser()) {
            (Self::Listener(listener), _) => listener.priority,
            (_, ParserKind::Http) => 101,
            (_, ParserKind::Kafka) => 106,
            (_, ParserKind::Generic(_)) => 111,
            (_, ParserKind::Tls) => 116,
            (_, ParserKind::Dns) => 121,
            (_, ParserKind::Listener(_)) => Listener::DEFAULT_PRIORITY,
        }
    }

    /// Secrets for the client's side and for the proxy's own side of TLS; none where no rule names one.
    pub fn tls_secrets(&self) -> Option<[Option<&TlsContext>; 2]> {
        let Self::Tls(tls) = self else { return None };
        let secrets = [tls.terminating.as_ref(), tls.originating.as_ref()];
        secrets.iter().any(Option::is_some).then_some(secrets)
    }

    /// Family of the rules.
    pub fn parser(&self) -> ParserKind {
        match self {
            Self::Http(_) => ParserKind::Http,
            Self::Dns(_) => ParserKind::Dns,
            Self::Kafka(_) => ParserKind::Kafka,
            Self::Generic { parser, .. } => ParserKind::Generic(parser.clone()),
            Self::Tls(tls) => tls.inner.as_ref().map_or(ParserKind::Tls, |inner| inner.parser()),
            Self::Listener(listener) => ParserKind::Listener(listener.to_string()),
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
            Self::Tls => f.write_str("tls"),
            Self::Listener(name) => write!(f, "listener {name}"),
        }
    }
}

impl ParserKind {
    /// The parser for both, where one port and peer have rules of two; none when there is no such parser.
    pub fn merge(&self, other: &Self) -> Option<Self> {
        let promotes = |kind: &Self| matches!(kind, Self::Http | Self::Kafka | Self::Generic(_) | Self::Tls);
        match (self, other) {
            (one, two) if one == two => Some(one.clone()),
            (Self::Tls, other) | (other, Self::Tls) if promotes(other) => Some(other.clone()),
            _ => None,
        }
    }
}
