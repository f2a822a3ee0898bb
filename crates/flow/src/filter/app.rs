//! Conditions on application data and DNS names.

use regex::{Regex, RegexBuilder};
use specola_proto::flow::{self as pb, layer7::Record};

use super::{name::NamePattern, pattern::PodPattern};
use crate::{FlowDetail, Side};

/// A condition; each variant matches when one of its values does.
#[derive(Clone, Debug)]
pub(super) enum AppClause {
    Service(Side, Vec<PodPattern>),
    Fqdn(Side, Vec<NamePattern>),
    DnsQuery(Vec<Regex>),
    HttpStatus(Vec<StatusMatch>),
    HttpMethod(Vec<String>),
    HttpPath(Vec<Regex>),
    HttpUrl(Vec<Regex>),
    HttpHeader(Vec<pb::HttpHeader>),
    TraceId(Vec<String>),
}

impl AppClause {
    pub(super) fn matches(&self, detail: &FlowDetail) -> bool {
        match self {
            Self::Service(side, patterns) => {
                let service = match side {
                    Side::Source => &detail.source_service,
                    Side::Destination => &detail.destination_service,
                };
                service.as_ref().is_some_and(|s| patterns.iter().any(|p| p.matches(&s.namespace, &s.name)))
            }
            Self::Fqdn(side, patterns) => {
                let names = match side {
                    Side::Source => &detail.source_names,
                    Side::Destination => &detail.destination_names,
                };
                names.iter().any(|name| patterns.iter().any(|pattern| pattern.matches(name)))
            }
            Self::DnsQuery(patterns) => match record(detail) {
                Some(Record::Dns(dns)) => patterns.iter().any(|pattern| pattern.is_match(&dns.query)),
                _ => false,
            },
            Self::TraceId(wanted) => wanted.contains(&detail.trace_id),
            _ => match record(detail) {
                Some(Record::Http(http)) => self.matches_http(http),
                _ => false,
            },
        }
    }

    fn matches_http(&self, http: &pb::Http) -> bool {
        match self {
            Self::HttpStatus(wanted) => wanted.iter().any(|status| status.matches(http.code)),
            Self::HttpMethod(wanted) => wanted.iter().any(|method| method.eq_ignore_ascii_case(&http.method)),
            Self::HttpPath(patterns) => {
                path(&http.url).is_some_and(|path| patterns.iter().any(|pattern| pattern.is_match(&path)))
            }
            Self::HttpUrl(patterns) => patterns.iter().any(|pattern| pattern.is_match(&http.url)),
            Self::HttpHeader(wanted) => http.headers.iter().any(|header| wanted.contains(header)),
            _ => false,
        }
    }
}

fn record(detail: &FlowDetail) -> Option<&Record> {
    detail.l7.as_ref()?.record.as_ref()
}

/// A status code, or its first digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct StatusMatch {
    first: u32,
    last: u32,
}

impl StatusMatch {
    /// Reads `404`, `40+` or `4+`; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (digits, is_prefix) = text.strip_suffix('+').map_or((text, false), |digits| (digits, true));
        let is_number = digits.bytes().all(|b| b.is_ascii_digit());
        let starts_well = digits.as_bytes().first().is_some_and(|first| (b'1'..=b'5').contains(first));
        let scale = match (digits.len(), is_prefix) {
            (3, false) => 1,
            (2, true) => 10,
            (1, true) => 100,
            _ => return None,
        };
        let number: u32 = digits.parse().ok().filter(|_| is_number && starts_well)?;
        Some(Self { first: number * scale, last: number * scale + scale - 1 })
    }

    const fn matches(self, code: u32) -> bool {
        self.first <= code && code <= self.last
    }
}

/// Compiles a pattern that takes bounded memory and time linear in the text.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).build();
    built.map_err(|cause| format!("failed to compile regexp: {cause}"))
}

/// Memory of one compiled pattern, bytes.
const REGEX_BYTES: usize = 256 << 10;

/// Decoded path of a request's URL; `None` when it is not one.
fn path(url: &str) -> Option<String> {
    let rest = match url.split_once("://") {
        _ if url.starts_with('/') => url,
        Some((scheme, rest)) if !scheme.is_empty() => {
            rest.find(['/', '?']).map_or("", |start| &rest[start..])
        }
        _ => return None,
    };
    let encoded = rest.split('?').next().unwrap_or_default();
    decode_percent(encoded)
}

fn decode_percent(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let hex = |digit: Option<u8>| char::from(digit?).to_digit(16).and_then(|n| u8::try_from(n).ok());
        decoded.push(if byte == b'%' { hex(bytes.next())? << 4 | hex(bytes.next())? } else { byte });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes() {
        for (text, matching, others) in [
            ("404", &[404][..], &[0, 40, 403, 4040][..]),
            ("50+", &[500, 509], &[0, 5, 50, 510, 499]),
            ("4+", &[400, 499], &[0, 4, 399, 500]),
        ] {
            let status = StatusMatch::parse(text).unwrap();
            assert!(matching.iter().all(|code| status.matches(*code)), "{text}");
            assert!(!others.iter().any(|code| status.matches(*code)), "{text}");
        }
        for text in ["", "+", "600", "099", "40", "4", "404+", "0+", "-1+", "+4+", "4x4", "٤٠٤"] {
            assert_eq!(StatusMatch::parse(text), None, "{text}");
        }
    }

    #[test]
    fn paths_of_urls() {
        for (url, expected) in [
            ("/a/b?c=d", Some("/a/b")),
            ("http://host/a%20b?x", Some("/a b")),
            ("http://host", Some("")),
            ("http://host?x", Some("")),
            ("/%zz", None),
            ("/%4", None),
            ("host/a", None),
            ("", None),
        ] {
            assert_eq!(path(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn patterns_have_bounds() {
        assert!(pattern("^a.*b$").is_ok());
        for text in ["(", "(?:\\w{1000}){1000}", "\\pL{2000}"] {
            assert!(pattern(text).unwrap_err().starts_with("failed to compile regexp: "), "{text}");
        }
    }
}
