//! Requests that may pass through the proxy.

use specola_proto::specola::v1::dns_rule::Match;
use specola_proto::specola::v1::request_rules::Rules;
use specola_proto::specola::v1::{HttpRule, KafkaRule, Redirect, RedirectGrant, RequestRules};

use super::{origin_text, port_text, protocol_text};
use crate::columns::Columns;
use crate::printer::{escape, identity_text};

/// One line for each grant.
pub(super) fn table(redirects: &[Redirect]) -> Columns {
    let mut table = Columns::new(["REDIRECT", "PROTOCOL", "PORT", "PEERS", "PARSER", "REQUESTS", "ORIGIN"]);
    for (redirect, grant) in redirects.iter().flat_map(|one| one.grants.iter().map(move |grant| (one, grant)))
    {
        let origins: Vec<_> = grant.origins.iter().map(origin_text).collect();
        table.row([
            escape(&redirect.direction),
            protocol_text(redirect.protocol),
            port_text(redirect.first_port, redirect.last_port),
            peers_text(grant),
            if grant.parser.is_empty() { "-".to_owned() } else { escape(&grant.parser) },
            requests_text(grant),
            origins.join(", "),
        ]);
    }
    table
}

fn peers_text(grant: &RedirectGrant) -> String {
    if grant.any_peer {
        return "any".to_owned();
    }
    let known = grant.identities.iter().take(SHOWN).map(|identity| identity_text(*identity));
    let more = grant.identities.len().saturating_sub(SHOWN);
    let more = (more > 0).then(|| format!("{more} more"));
    let texts: Vec<String> = known.chain(more).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(",") }
}

fn requests_text(grant: &RedirectGrant) -> String {
    if grant.all_requests {
        return "all".to_owned();
    }
    let texts: Vec<String> = grant.rules.iter().flat_map(rules_texts).collect();
    let more = texts.len().saturating_sub(SHOWN);
    let mut shown: Vec<String> = texts.into_iter().take(SHOWN).collect();
    shown.extend((more > 0).then(|| format!("{more} more")));
    if shown.is_empty() { "none".to_owned() } else { escape(&shown.join(" or ")) }
}

fn rules_texts(rules: &RequestRules) -> Vec<String> {
    match &rules.rules {
        None => Vec::new(),
        Some(Rules::Http(http)) => http.rules.iter().map(http_text).collect(),
        Some(Rules::Dns(dns)) => {
            let names = dns.rules.iter().filter_map(|rule| rule.r#match.as_ref());
            names.map(|(Match::Name(text) | Match::Pattern(text))| text.clone()).collect()
        }
        Some(Rules::Kafka(kafka)) => kafka.rules.iter().map(kafka_text).collect(),
        Some(Rules::Generic(generic)) if generic.rules.is_empty() => vec!["all".to_owned()],
        Some(Rules::Generic(generic)) => {
            let pairs = |pairs: &std::collections::HashMap<String, String>| {
                let mut texts: Vec<String> =
                    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
                texts.sort_unstable();
                all_of(texts)
            };
            generic.rules.iter().map(|rule| pairs(&rule.pairs)).collect()
        }
        Some(Rules::Tls(tls)) => {
            let names =
                if tls.server_names.is_empty() { "any name".to_owned() } else { tls.server_names.join(",") };
            let inner = tls.inner.as_deref().map(rules_texts).unwrap_or_default();
            let inner = if inner.is_empty() { String::new() } else { format!(" ({})", inner.join(" or ")) };
            vec![format!("tls {names}{inner}")]
        }
        Some(Rules::Listener(listener)) => vec![format!("listener {}/{}", listener.config, listener.name)],
    }
}

fn http_text(rule: &HttpRule) -> String {
    let mut texts: Vec<String> = rule.method.iter().chain(&rule.path).cloned().collect();
    texts.extend(rule.host.iter().map(|host| format!("host {host}")));
    texts.extend(rule.headers.iter().map(|header| match (&header.value, &header.secret) {
        (Some(value), _) => format!("{}: {value}", header.name),
        (None, Some(secret)) => format!("{}: secret {}/{}", header.name, secret.namespace, secret.name),
        (None, None) => header.name.clone(),
    }));
    all_of(texts)
}

fn kafka_text(rule: &KafkaRule) -> String {
    let keys: Vec<String> = rule.api_keys.iter().map(ToString::to_string).collect();
    let mut texts: Vec<String> = Vec::new();
    texts.extend((!keys.is_empty()).then(|| format!("api keys {}", keys.join(","))));
    texts.extend(rule.api_version.map(|version| format!("version {version}")));
    texts.extend(rule.client_id.iter().map(|id| format!("client {id}")));
    texts.extend(rule.topic.iter().map(|topic| format!("topic {topic}")));
    all_of(texts)
}

fn all_of(texts: Vec<String>) -> String {
    if texts.is_empty() { "all".to_owned() } else { texts.join(" ") }
}

/// Elements of a list that are shown; `-o json` has all.
const SHOWN: usize = 8;
