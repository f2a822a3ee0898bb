//! What can be set.

use super::HUBBLE_SERVER;
use super::file::Value;
use crate::observe::go_duration;
use crate::personality::Personality;

/// One setting; its name is that of the flag.
#[derive(Debug)]
pub(crate) struct Key {
    /// Name of the flag, without dashes.
    pub(crate) name: &'static str,
    kind: Kind,
    default: &'static str,
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Bool,
    /// Texts, with commas in a variable or on the command line.
    List,
    /// JSON texts, which have commas of their own.
    Json,
    /// A duration such as `5s`.
    Duration,
    /// A port; 0 is any free one.
    Port,
}

/// Every setting, by name.
pub(crate) const KEYS: &[Key] = &[
    key("allowlist", Kind::Json, ""),
    key("basic-auth-password", Kind::Text, ""),
    key("basic-auth-username", Kind::Text, ""),
    key("debug", Kind::Bool, "false"),
    key("denylist", Kind::Json, ""),
    key("kube-context", Kind::Text, ""),
    key("kube-namespace", Kind::Text, "kube-system"),
    key("kubeconfig", Kind::Text, ""),
    key("port-forward", Kind::Bool, "false"),
    key("port-forward-port", Kind::Port, "4245"),
    key("request-timeout", Kind::Duration, "12s"),
    key("server", Kind::Text, HUBBLE_SERVER),
    key("timeout", Kind::Duration, "5s"),
    key("tls", Kind::Bool, "false"),
    key("tls-allow-insecure", Kind::Bool, "false"),
    key("tls-ca-cert-files", Kind::List, ""),
    key("tls-client-cert-file", Kind::Text, ""),
    key("tls-client-key-file", Kind::Text, ""),
    key("tls-server-name", Kind::Text, ""),
];

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default }
}

impl Key {
    /// The key with this name.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The value when nobody sets one.
    pub(crate) fn default_value(&self, personality: Personality) -> Value {
        // Without a server, Specola asks the agent of this machine.
        if self.name == "server" && personality == Personality::Specola {
            return Value::Text(String::new());
        }
        match self.kind {
            Kind::List | Kind::Json => Value::List(Vec::new()),
            Kind::Bool => Value::Bool(self.default == "true"),
            Kind::Text | Kind::Duration | Kind::Port => Value::Text(self.default.to_owned()),
        }
    }

    /// Reads a value as it is written in a variable or on the command line.
    ///
    /// # Errors
    /// The key does not take it.
    pub(crate) fn parse(&self, text: &str) -> Result<Value, String> {
        match self.kind {
            Kind::Bool => parse_bool(text).map(Value::Bool),
            Kind::Json if text.is_empty() => Ok(Value::List(Vec::new())),
            Kind::Json => Ok(Value::List(vec![text.to_owned()])),
            Kind::List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(Value::List(items.map(str::to_owned).collect()))
            }
            Kind::Duration => {
                let is_duration = go_duration(text).is_some_and(|nanos| nanos > 0);
                let refused = || format!("{text:?} is no duration; use one such as 5s");
                is_duration.then(|| Value::Text(text.to_owned())).ok_or_else(refused)
            }
            Kind::Port => match text.parse::<u16>() {
                Ok(_) => Ok(Value::Text(text.to_owned())),
                Err(_) => Err(format!("{text:?} is no port, 0 to 65535")),
            },
            Kind::Text => Ok(Value::Text(text.to_owned())),
        }
    }

    /// Checks a value of a file, where lists may be lists.
    ///
    /// # Errors
    /// The key does not take it.
    pub(crate) fn check(&self, value: &Value) -> Result<Value, String> {
        match (self.kind, value) {
            (Kind::List | Kind::Json, Value::List(_)) | (Kind::Bool, Value::Bool(_)) => Ok(value.clone()),
            (_, Value::Text(text)) => self.parse(text),
            (_, Value::Bool(value)) => self.parse(if *value { "true" } else { "false" }),
            (_, Value::List(_)) => Err("is a list and should be one value".to_owned()),
        }
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}
