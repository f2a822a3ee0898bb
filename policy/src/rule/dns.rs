//! Names of DNS, in `toFQDNs` and in DNS rules.

use std::hash::{Hash, Hasher};

use regex::Regex;
use specola_labels::{Label, source};

/// One name, or a pattern of names. Lower case, without a final dot.
#[derive(Clone, Debug)]
pub struct DnsRule {
    text: String,
    /// None for a literal name.
    pattern: Option<Regex>,
}

/// Why a text is no name or pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidDnsRule {
    /// A character that names do not have.
    #[error("use letters, digits, '-', '_' and '.', in patterns also '*'")]
    Characters,
    /// Longer than a name can be.
    #[error("Must be <= 255")]
    Length,
}

impl DnsRule {
    /// Reads a `matchName`.
    ///
    /// # Errors
    /// The text is not a name.
    pub fn name(text: &str) -> Result<Self, InvalidDnsRule> {
        check(text, is_name_char)?;
        Ok(Self { text: normal(text), pattern: None })
    }

    /// Reads a `matchPattern`: `*` alone is every name, a leading `**.` one or more labels, any other run of `*` any
    /// number of characters of one label.
    ///
    /// # Errors
    /// The text is not a pattern.
    pub fn pattern(text: &str) -> Result<Self, InvalidDnsRule> {
        check(text, |c| is_name_char(c) || c == '*')?;
        let text = normal(text);
        let pattern = Regex::new(&pattern_expression(&text))
            .expect("what is escaped and at most 255 characters long is a small expression");
        Ok(Self { text, pattern: Some(pattern) })
    }

    /// Whether the name matches, in any case, with or without a final dot.
    pub fn matches(&self, name: &str) -> bool {
        let name = normal(name);
        match &self.pattern {
            None => self.text == name,
            Some(pattern) => pattern.is_match(&name),
        }
    }

    /// Label of addresses that DNS gave for a matching name.
    pub fn label(&self) -> Label {
        Label::new(source::FQDN, &self.text, "")
    }

    /// Whether the text is a pattern, not a name.
    pub const fn is_pattern(&self) -> bool {
        self.pattern.is_some()
    }

    /// Differs where the rules do: the text, and whether it is a pattern.
    pub(crate) fn key(&self) -> (String, bool) {
        (self.text.clone(), self.pattern.is_some())
    }

    /// The name or pattern.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for DnsRule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.pattern.is_some() == other.pattern.is_some()
    }
}

impl Eq for DnsRule {}

impl Hash for DnsRule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.text, self.pattern.is_some()).hash(state);
    }
}

fn check(text: &str, allowed: impl Fn(char) -> bool) -> Result<(), InvalidDnsRule> {
    if text.is_empty() || !text.chars().all(allowed) {
        return Err(InvalidDnsRule::Characters);
    }
    if text.len() > MAX_LENGTH { Err(InvalidDnsRule::Length) } else { Ok(()) }
}

fn pattern_expression(text: &str) -> String {
    if text.chars().all(|c| c == '*') {
        return "^.*$".to_owned();
    }
    let (mut expression, mut rest) = ("^".to_owned(), text);
    let stars = text.len() - text.trim_start_matches('*').len();
    if stars >= 2
        && let Some(tail) = text.get(stars..).and_then(|tail| tail.strip_prefix('.'))
    {
        expression.push_str("(?:[-a-z0-9_]+\\.)+");
        rest = tail;
    }
    let mut in_stars = false;
    for c in rest.chars() {
        if c != '*' {
            expression.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
        } else if !in_stars {
            expression.push_str("[-a-z0-9_]*");
        }
        in_stars = c == '*';
    }
    expression.push('$');
    expression
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

const MAX_LENGTH: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expect) in [
            ("*", "a.b.c.", true),
            ("*.", "localhost", true),
            ("*.cilium.io", "www.cilium.io", true),
            ("*.cilium.io", "a.b.cilium.io", false),
            ("*.cilium.io", "cilium.io", false),
            ("*cilium.io", "cilium.io", true),
            ("*cilium.io", "subcilium.io", true),
            ("*cilium.io", "www.cilium.io", false),
            ("sub*.cilium.io", "sub.cilium.io", true),
            ("sub*.cilium.io", "SUB1.Cilium.IO.", true),
            ("**.cilium.io", "a.b.cilium.io", true),
            ("**.cilium.io", "www.cilium.io", true),
            ("**.cilium.io", "cilium.io", false),
            ("a.**.io", "a.b.io", true),
            ("a.**.io", "a.b.c.io", false),
            ("ciliumxio", "cilium.io", false),
            ("cilium.io", "ciliumxio", false),
        ] {
            assert_eq!(DnsRule::pattern(pattern).unwrap().matches(name), expect, "{pattern} {name}");
        }
    }

    #[test]
    fn the_worst_pattern_compiles() {
        let worst = DnsRule::pattern(&format!("**.{}", "*a".repeat(126))).unwrap();
        assert!(!worst.matches(&"a".repeat(255)));
        assert!(worst.matches(&format!("x.{}", "a".repeat(126))));
    }

    #[test]
    fn names_are_literal() {
        let name = DnsRule::name("WWW.cilium.io.").unwrap();
        assert!(name.matches("www.CILIUM.io"));
        assert!(!name.matches("wwwxcilium.io"));
        assert_eq!(name.label().to_string(), "fqdn:www.cilium.io");
        assert_eq!(DnsRule::name("*.io").unwrap_err(), InvalidDnsRule::Characters);
        assert_eq!(DnsRule::name("").unwrap_err(), InvalidDnsRule::Characters);
        assert_eq!(DnsRule::pattern(&"a".repeat(256)).unwrap_err(), InvalidDnsRule::Length);
    }
}
