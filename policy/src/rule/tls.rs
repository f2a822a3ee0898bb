//! TLS and listeners of a port.

use std::fmt;

use super::dns::DnsRule;
use super::l7::L7Rules;

/// What is asked of a TLS connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TlsRules {
    /// Names that a client may ask for (SNI); empty: any.
    pub server_names: Vec<ServerName>,
    /// Secret with which the proxy ends the client's connection.
    pub terminating: Option<TlsContext>,
    /// Secret with which the proxy opens its own connection.
    pub originating: Option<TlsContext>,
    /// Rules about the requests inside; only where the connection is ended.
    pub inner: Option<Box<L7Rules>>,
}

/// One element of `serverNames`: a name, `*.name` for one label more, `**.name` for one or more.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ServerName(DnsRule);

/// Where TLS material is kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TlsContext {
    /// Namespace of the secret, empty for that of the policy.
    pub namespace: String,
    /// Name of the secret.
    pub name: String,
    /// Keys of the secret for trusted CA, certificate and private key; empty for the usual ones.
    pub keys: [String; 3],
}

/// A listener of the proxy that takes the connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Object that defines it.
    pub config: ListenerConfig,
    /// Name in that object.
    pub name: String,
    /// 1 to 126; lower wins.
    pub priority: u8,
}

/// Object that defines listeners.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ListenerConfig {
    /// `CiliumEnvoyConfig` of a namespace.
    Namespaced {
        /// Namespace of the policy.
        namespace: String,
        /// Name.
        name: String,
    },
    /// `CiliumClusterwideEnvoyConfig`.
    Clusterwide(String),
}

impl ServerName {
    /// Reads an element of `serverNames`; none when it is no such name.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("**.").or_else(|| text.strip_prefix("*.")).unwrap_or(text);
        if rest.is_empty() || rest.contains('*') || rest.starts_with('.') {
            return None;
        }
        let is_name = rest.len() == text.len();
        let rule = if is_name { DnsRule::name(text) } else { DnsRule::pattern(text) };
        rule.ok().map(Self)
    }

    /// Whether a client may ask for the name.
    pub fn matches(&self, name: &str) -> bool {
        self.0.matches(name)
    }

    /// As written, in lower case.
    pub fn text(&self) -> &str {
        self.0.text()
    }
}

impl Listener {
    /// Priority of a listener that names none.
    pub const DEFAULT_PRIORITY: u8 = 126;
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.config {
            ListenerConfig::Namespaced { namespace, name } => write!(f, "{namespace}/{name}/{}", self.name),
            ListenerConfig::Clusterwide(name) => write!(f, "{name}/{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names() {
        for (pattern, name, expect) in [
            ("a.example", "A.example.", true),
            ("a.example", "b.example", false),
            ("*.cilium.io", "www.cilium.io", true),
            ("*.cilium.io", "cilium.io", false),
            ("*.cilium.io", "a.b.cilium.io", false),
            ("**.cilium.io", "a.b.cilium.io", true),
            ("**.cilium.io", "cilium.io", false),
        ] {
            assert_eq!(ServerName::parse(pattern).unwrap().matches(name), expect, "{pattern} {name}");
        }
        for bad in ["", "*", "**", "*.", "**.", "a*.b", "*a.b", "a.*", "*..b", "a b"] {
            assert_eq!(ServerName::parse(bad), None, "{bad}");
        }
    }
}
