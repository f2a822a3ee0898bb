//! What a proxy must know of an endpoint's connections.

use specola_policy::eval::RequestFilter;
use specola_policy::rule::{
    DnsRule, HeaderMatch, HttpRule, KafkaRule, L7Rules, Listener, ListenerConfig, MismatchAction, TlsContext,
    TlsRules,
};
use specola_policy::{Grant, Redirect, RedirectPeers, SubjectId};
use specola_proto::specola::v1 as pb;

use super::super::Node;
use super::show_origins;
use pb::request_rules::Rules;

impl Node {
    /// Redirects of an endpoint with the rules about requests.
    pub(super) fn show_redirects(&self, subject: SubjectId) -> Vec<pb::Redirect> {
        self.engine.redirects(subject).iter().map(show_redirect).collect()
    }
}

fn show_redirect(redirect: &Redirect) -> pb::Redirect {
    pb::Redirect {
        direction: if redirect.egress { "egress" } else { "ingress" }.to_owned(),
        protocol: redirect.proto.into(),
        first_port: redirect.first.into(),
        last_port: redirect.last.into(),
        grants: redirect.grants.iter().map(show_grant).collect(),
    }
}

fn show_grant(grant: &Grant) -> pb::RedirectGrant {
    let identities = match &grant.peers {
        RedirectPeers::Any => Vec::new(),
        RedirectPeers::Identities(identities) => identities.iter().map(|identity| identity.0).collect(),
    };
    let rules = match &grant.requests {
        RequestFilter::All => Vec::new(),
        RequestFilter::AnyOf(rules) => rules.iter().map(|rules| show_rules(rules)).collect(),
    };
    pb::RedirectGrant {
        any_peer: grant.peers == RedirectPeers::Any,
        identities,
        parser: grant.parser.as_ref().map(ToString::to_string).unwrap_or_default(),
        all_requests: grant.requests == RequestFilter::All,
        rules,
        origins: show_origins(&grant.origins),
    }
}

fn show_rules(rules: &L7Rules) -> pb::RequestRules {
    let rules = match rules {
        L7Rules::Http(rules) => Rules::Http(pb::HttpRules { rules: rules.iter().map(show_http).collect() }),
        L7Rules::Dns(rules) => Rules::Dns(pb::DnsRules { rules: rules.iter().map(show_dns).collect() }),
        L7Rules::Kafka(rules) => {
            Rules::Kafka(pb::KafkaRules { rules: rules.iter().map(show_kafka).collect() })
        }
        L7Rules::Generic { parser, rules } => {
            let pairs =
                rules.iter().map(|pairs| pb::GenericRule { pairs: pairs.clone().into_iter().collect() });
            Rules::Generic(pb::GenericRules { parser: parser.clone(), rules: pairs.collect() })
        }
        L7Rules::Tls(rules) => Rules::Tls(Box::new(show_tls(rules))),
        L7Rules::Listener(listener) => Rules::Listener(show_listener(listener)),
    };
    pb::RequestRules { rules: Some(rules) }
}

fn show_http(rule: &HttpRule) -> pb::HttpRule {
    let plain = rule.headers.iter().map(|(name, value)| pb::HeaderMatch {
        name: name.clone(),
        value: value.clone(),
        ..Default::default()
    });
    pb::HttpRule {
        path: rule.path.clone(),
        method: rule.method.clone(),
        host: rule.host.clone(),
        headers: plain.chain(rule.header_matches.iter().map(show_header)).collect(),
    }
}

fn show_header(rule: &HeaderMatch) -> pb::HeaderMatch {
    let mismatch = rule.mismatch.map(|action| match action {
        MismatchAction::Log => "LOG",
        MismatchAction::Add => "ADD",
        MismatchAction::Delete => "DELETE",
        MismatchAction::Replace => "REPLACE",
    });
    pb::HeaderMatch {
        name: rule.name.clone(),
        value: rule.value.clone(),
        secret: rule.secret.as_ref().map(|(namespace, name)| show_secret(namespace, name)),
        mismatch: mismatch.unwrap_or_default().to_owned(),
    }
}

fn show_dns(rule: &DnsRule) -> pb::DnsRule {
    let text = rule.text().to_owned();
    let is_pattern = rule.is_pattern();
    let found = if is_pattern { pb::dns_rule::Match::Pattern(text) } else { pb::dns_rule::Match::Name(text) };
    pb::DnsRule { r#match: Some(found) }
}

fn show_kafka(rule: &KafkaRule) -> pb::KafkaRule {
    pb::KafkaRule {
        api_keys: rule.api_keys.iter().copied().map(i32::from).collect(),
        api_version: rule.api_version.map(i32::from),
        client_id: rule.client_id.clone(),
        topic: rule.topic.clone(),
    }
}

fn show_tls(rules: &TlsRules) -> pb::TlsRules {
    pb::TlsRules {
        server_names: rules.server_names.iter().map(|name| name.text().to_owned()).collect(),
        terminating: rules.terminating.as_ref().map(show_tls_context),
        originating: rules.originating.as_ref().map(show_tls_context),
        inner: rules.inner.as_deref().map(|inner| Box::new(show_rules(inner))),
    }
}

fn show_tls_context(context: &TlsContext) -> pb::TlsContext {
    let [trusted_ca, certificate, private_key] = context.keys.clone();
    let secret = Some(show_secret(&context.namespace, &context.name));
    pb::TlsContext { secret, trusted_ca, certificate, private_key }
}

fn show_secret(namespace: &str, name: &str) -> pb::SecretRef {
    pb::SecretRef { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn show_listener(listener: &Listener) -> pb::ProxyListener {
    let (kind, namespace, config) = match &listener.config {
        ListenerConfig::Namespaced { namespace, name } => ("CiliumEnvoyConfig", namespace.as_str(), name),
        ListenerConfig::Clusterwide(name) => ("CiliumClusterwideEnvoyConfig", "", name),
    };
    pb::ProxyListener {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        config: config.clone(),
        name: listener.name.clone(),
        priority: listener.priority.into(),
    }
}
