//! A YAML document as a tree that knows its lines: the one reader of everything that is an object.
//!
//! Scalars mean what they mean to Kubernetes' tools, which have the rules of YAML 1.1: `y`, `yes` and `on` are
//! booleans (in any case of letters), `010` is eight, `1_000` a thousand. Who means text quotes it; nothing is turned into text silently.

mod decode;

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value and the line that it starts on.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Line in the text that was parsed, from 1.
    pub(crate) line: u32,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number that is no integer of 64 bits.
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Name, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) line: u32,
    pub(crate) text: String,
}

/// Text that is not YAML.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    /// Line in the text that was parsed, from 1; 0 when it is not known.
    pub(crate) line: u32,
    pub(crate) message: String,
}

impl Node {
    /// Parses one document.
    pub(crate) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
            legacy_octal_numbers: true,
        };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| SyntaxError {
            line: error.location().map_or(0, |location| line_number(location.line())),
            message: describe(&error.without_snippet().to_string()),
        })
    }

    /// Value of a key, when the node is a map.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Value::Map(fields) = &self.value else {
            return None;
        };
        fields.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
    }

    /// Text, when the node is text.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What the node is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// How a file is read that has objects in it.
pub(crate) fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { legacy_octal_numbers: true }
}

impl fmt::Display for Node {
    /// Writes the node as JSON, which is YAML too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Number(value) if value.is_finite() => write!(f, "{value:?}"),
            Value::Number(_) => f.write_str("null"),
            Value::Text(text) => write_text(f, text),
            Value::List(nodes) => {
                f.write_str("[")?;
                for (index, node) in nodes.iter().enumerate() {
                    f.write_str(if index > 0 { ", " } else { "" })?;
                    node.fmt(f)?;
                }
                f.write_str("]")
            }
            Value::Map(fields) => {
                f.write_str("{")?;
                for (index, (name, node)) in fields.iter().enumerate() {
                    f.write_str(if index > 0 { ", " } else { "" })?;
                    write_text(f, &name.text)?;
                    f.write_str(": ")?;
                    node.fmt(f)?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(f, "\\u{unit:04x}")?;
                }
            }
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: line_number(spanned.referenced.line()), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<String>::deserialize(deserializer)?;
        Ok(Self { line: line_number(spanned.referenced.line()), text: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Number(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = sequence.next_element::<Node>()? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry::<Name, Node>()? {
            fields.push(field);
        }
        Ok(Value::Map(fields))
    }
}

/// Levels of lists and maps in a document. Each costs tens of kilobytes of stack in a build without optimisation;
/// Kubernetes objects need about a dozen.
const MAX_DEPTH: usize = 24;

fn line_number(line: u64) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// First line of the parser's message without its own line number, which counts from the start of the document.
fn describe(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let cause = line.rsplit_once(" at line ").map_or(line, |(cause, _)| cause);
    if let Some(limit) = cause.strip_prefix("budget breached: ") {
        return format!("document is too large, nested too deep or repeats too much: {limit}");
    }
    cause.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_their_lines() {
        let node = Node::parse("a: 1\nb:\n  - x\n  - {c: '2', d: null}\n").unwrap();
        let b = node.get("b").unwrap();
        let Value::List(items) = &b.value else {
            panic!("{b:?}");
        };
        assert_eq!(items[0].line, 3);
        assert_eq!(items[0].as_text(), Some("x"));
        assert_eq!(items[1].get("c").unwrap().as_text(), Some("2"));
        assert_eq!(items[1].get("c").unwrap().line, 4);
        assert_eq!(items[1].get("d").unwrap().kind(), "nothing");
        assert_eq!(node.get("a").unwrap().kind(), "an integer");
    }

    #[test]
    fn a_written_node_reads_as_the_same() {
        let text = "a: [1, -2.5, true, null, '1', \"x\\u0001\\\"\\\\ü\\n\"]\n'b c': {}\n";
        let written = Node::parse(text).unwrap().to_string();
        assert_eq!(Node::parse(&written).unwrap().to_string(), written);
        assert!(written.starts_with("{\"a\": [1, -2.5, true, null, \"1\", \"x\\u0001"), "{written}");
    }

    #[test]
    fn scalars_mean_what_they_mean_to_kubernetes() {
        let kinds: [(&str, &[&str]); 5] = [
            ("true", &["y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE", "yEs"]),
            ("false", &["n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"]),
            ("null", &["", "~", "null", "Null", "NULL"]),
            ("8", &["8", "010", "0o10", "0x8", "0b1000", "0_1_0", "+8"]),
            ("1000", &["1000", "1_000", "0x3e8", "01750"]),
        ];
        for (value, texts) in kinds {
            for text in texts {
                assert_eq!(
                    Node::parse(&format!("a: {text}\n")).unwrap().get("a").unwrap().to_string(),
                    value,
                    "{text}"
                );
                let quoted = Node::parse(&format!("a: '{text}'\n")).unwrap();
                assert_eq!(quoted.get("a").unwrap().as_text(), Some(*text), "{text} in quotes");
            }
        }
        for text in ["yep", "x", "1.2.3.4", "10.0.0.0/8", "0x", "08a", "1s", "80/tcp", "a_b", "::1"] {
            assert_eq!(Node::parse(&format!("a: {text}\n")).unwrap().get("a").unwrap().as_text(), Some(text));
        }
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Node::parse(&nested(MAX_DEPTH)).is_ok());
        assert!(Node::parse(&nested(MAX_DEPTH + 1)).is_err());
    }

    #[test]
    fn what_is_not_yaml_is_an_error_with_a_line() {
        for (text, line) in [("a: 1\nb: [\n", 2), ("a: 1\na: 2\n", 2), ("a: *x\n", 1)] {
            let error = Node::parse(text).unwrap_err();
            assert!(error.line >= line, "{text}: {error:?}");
            assert!(!error.message.is_empty() && !error.message.contains("line"), "{error:?}");
        }
    }
}
