//! What of requests must not leave the node.

use specola_proto::flow::{Layer7, layer7::Record};

/// Stands in place of what is left out; Hubble's own text.
const REDACTED: &str = "HUBBLE_REDACTED";

/// What to leave out of application records.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Redaction {
    url_query: bool,
    user_info: bool,
    kafka_api_key: bool,
    headers: Headers,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Headers {
    /// All values are left out.
    #[default]
    None,
    /// Only values of these stay.
    Allow(Vec<String>),
    /// Only values of these are left out.
    Deny(Vec<String>),
}

/// Both lists were given.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("headers to keep and headers to leave out are both given: give one of the lists")]
pub struct RedactionConflict;

impl Redaction {
    /// Leaves out passwords of URLs, and values of headers.
    ///
    /// # Errors
    /// Both lists have entries.
    pub fn new(allow: &[String], deny: &[String]) -> Result<Self, RedactionConflict> {
        let lower = |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
        let headers = match (allow.is_empty(), deny.is_empty()) {
            (true, true) => Headers::None,
            (false, true) => Headers::Allow(lower(allow)),
            (true, false) => Headers::Deny(lower(deny)),
            (false, false) => return Err(RedactionConflict),
        };
        Ok(Self { user_info: true, headers, ..Self::default() })
    }

    /// Whether passwords in URLs are left out.
    #[must_use]
    pub const fn with_user_info(mut self, redact: bool) -> Self {
        self.user_info = redact;
        self
    }

    /// Whether query and fragment of URLs are left out.
    #[must_use]
    pub const fn with_url_query(mut self, redact: bool) -> Self {
        self.url_query = redact;
        self
    }

    /// Whether Kafka's API keys are left out.
    #[must_use]
    pub const fn with_kafka_api_key(mut self, redact: bool) -> Self {
        self.kafka_api_key = redact;
        self
    }

    /// Takes out what must not be seen. To be done before the record is stored: its summary is made of what is left.
    pub fn apply(&self, record: &mut Layer7) {
        match &mut record.record {
            Some(Record::Http(http)) => {
                self.url(&mut http.url);
                for header in &mut http.headers {
                    if !self.keeps(&header.key) {
                        REDACTED.clone_into(&mut header.value);
                    }
                }
            }
            Some(Record::Kafka(kafka)) if self.kafka_api_key => REDACTED.clone_into(&mut kafka.api_key),
            _ => {}
        }
    }

    fn keeps(&self, key: &str) -> bool {
        let is_in = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case(key));
        match &self.headers {
            Headers::None => false,
            Headers::Allow(names) => is_in(names),
            Headers::Deny(names) => !is_in(names),
        }
    }

    fn url(&self, url: &mut String) {
        if self.url_query
            && let Some(end) = url.find(['?', '#'])
        {
            url.truncate(end);
        }
        if self.user_info
            && let Some(start) = url.find("//").map(|at| at + 2)
        {
            let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
            if let Some(at) = url[start..end].rfind('@').map(|at| start + at)
                && let Some(colon) = url[start..at].find(':').map(|colon| start + colon)
            {
                url.replace_range(colon + 1..at, REDACTED);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use specola_proto::flow::{Http, HttpHeader};

    use super::*;

    #[test]
    fn urls() {
        let redaction = Redaction::new(&[], &[]).unwrap().with_url_query(true);
        for (url, left) in [
            ("http://me:secret@host:80/a?b=c#d", "http://me:HUBBLE_REDACTED@host:80/a"),
            ("http://me@host/a", "http://me@host/a"),
            ("http://me:s@cret@host/", "http://me:HUBBLE_REDACTED@host/"),
            ("/a:b@c", "/a:b@c"),
            ("http://host:80/a@b#c", "http://host:80/a@b"),
            ("", ""),
        ] {
            let mut text = url.to_owned();
            redaction.url(&mut text);
            assert_eq!(text, left, "{url}");
        }
    }

    #[test]
    fn headers() {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (allow, deny, kept) in [
            (names(&[]), names(&[]), vec![]),
            (names(&["HOST"]), names(&[]), vec!["Host"]),
            (names(&[]), names(&["cookie"]), vec!["Host"]),
        ] {
            let header = |key: &str| HttpHeader { key: key.into(), value: "x".into() };
            let http = Http { headers: vec![header("Host"), header("Cookie")], ..Http::default() };
            let mut record = Layer7 { record: Some(Record::Http(http)), ..Layer7::default() };
            Redaction::new(&allow, &deny).unwrap().apply(&mut record);
            let Some(Record::Http(http)) = record.record else { unreachable!() };
            let stayed: Vec<_> = http
                .headers
                .iter()
                .filter(|header| header.value == "x")
                .map(|header| header.key.as_str())
                .collect();
            assert_eq!(stayed, kept, "{allow:?} {deny:?}");
        }
        assert_eq!(Redaction::new(&names(&["a"]), &names(&["b"])), Err(RedactionConflict));
    }
}
