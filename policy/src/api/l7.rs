//! Request rules, TLS and listeners of a port.

use std::collections::BTreeMap;

use regex::Regex;

use super::ports::PortContext;
use super::read::{At, Fields, Problems};
use crate::rule::{
    DnsRule, HeaderMatch, HttpRule, InvalidDnsRule, KafkaRule, L7Rules, Listener, ListenerConfig,
    MismatchAction, ParserKind, Port, PortMatch, Protocol, ServerName, TlsContext, TlsRules,
};

/// Reads everything of a port rule but the ports, and checks that it fits them.
///
/// None where requests are not looked at.
pub(super) fn read_rules(
    fields: &mut Fields<'_>,
    ports: &[PortMatch],
    context: &PortContext<'_>,
    problems: &mut Problems,
) -> Option<L7Rules> {
    let at = fields.get("rules");
    let rules = at.as_ref().and_then(|at| read_families(at, problems));
    if let (Some(at), Some(rules)) = (&at, &rules) {
        check_ports(at, rules, ports, context, problems);
        check_subject(at, rules, context, problems);
    }
    let terminating = read_tls(fields, "terminatingTLS", problems);
    let originating = read_tls(fields, "originatingTLS", problems);
    let server_names = read_server_names(fields, rules.is_some() && terminating.is_none(), problems);
    let listener = read_listener(fields, rules.is_some(), context, problems);
    let is_tls = terminating.is_some() || originating.is_some() || !server_names.is_empty();
    if let (Some(at), true) = (fields.get("serverNames"), is_tls) {
        check_tcp(&at, ports, problems);
    }
    // A list without rules asks nothing of requests.
    let rules = rules.filter(|rules| match rules {
        L7Rules::Http(rules) => !rules.is_empty(),
        L7Rules::Dns(rules) => !rules.is_empty(),
        L7Rules::Kafka(rules) => !rules.is_empty(),
        L7Rules::Generic { .. } | L7Rules::Tls(_) | L7Rules::Listener(_) => true,
    });
    if let Some(listener) = listener {
        return Some(L7Rules::Listener(listener));
    }
    if !is_tls {
        return rules;
    }
    let inner = rules.map(Box::new);
    Some(L7Rules::Tls(TlsRules { server_names, terminating, originating, inner }))
}

/// TLS is spoken over TCP only.
fn check_tcp(at: &At<'_>, ports: &[PortMatch], problems: &mut Problems) {
    for port in ports.iter().filter(|port| !matches!(port.protocol, Protocol::Tcp | Protocol::Any)) {
        let name = port.protocol.name();
        problems.error(at, format!("serverNames can only apply to TCP (not {name})"));
    }
}

type ReadDnsRule = fn(&str) -> Result<DnsRule, InvalidDnsRule>;

/// Reads one DNS name or pattern.
pub(super) fn read_dns_rule(at: &At<'_>, problems: &mut Problems) -> Option<DnsRule> {
    let mut fields = at.fields(problems)?;
    let name = fields.get("matchName");
    let pattern = fields.get("matchPattern");
    fields.finish(problems);
    let (at, field, read): (_, _, ReadDnsRule) = match (name, pattern) {
        (Some(name), None) => (name, "MatchName", DnsRule::name),
        (None, Some(pattern)) => (pattern, "MatchPattern", DnsRule::pattern),
        (Some(_), Some(_)) => {
            problems.error(at, "only one of MatchName or MatchPattern is allowed in an FQDNSelector");
            return None;
        }
        (None, None) => {
            problems.error(at, "one of matchName or matchPattern must be given");
            return None;
        }
    };
    let text = at.text(problems)?;
    match read(text) {
        Ok(rule) => Some(rule),
        Err(cause @ InvalidDnsRule::Characters) => {
            problems.error(&at, format!("Invalid characters in {field}: \"{text}\"; {cause}"));
            None
        }
        Err(cause @ InvalidDnsRule::Length) => {
            problems.error(&at, format!("Invalid {field}: {} characters. {cause}", text.len()));
            None
        }
    }
}

fn read_families(at: &At<'_>, problems: &mut Problems) -> Option<L7Rules> {
    let mut fields = at.fields(problems)?;
    let http = fields.list("http", problems);
    let dns = fields.list("dns", problems);
    let kafka = fields.list("kafka", problems);
    let parser = fields.text("l7proto", problems).map(str::to_owned);
    let generic = fields.list("l7", problems);
    fields.finish(problems);
    if generic.is_some() && parser.is_none() {
        problems.error(at, "'l7' may only be specified when a 'l7proto' is also specified");
    }
    let given = usize::from(http.is_some())
        + usize::from(dns.is_some())
        + usize::from(kafka.is_some())
        + usize::from(parser.is_some());
    if given > 1 {
        problems.error(at, "multiple L7 protocol rule types specified in single rule");
    }
    if let Some(http) = http {
        let rules = http.iter().filter_map(|rule| read_http(rule, problems));
        return Some(L7Rules::Http(rules.collect()));
    }
    if let Some(dns) = dns {
        let rules = dns.iter().filter_map(|rule| read_dns_rule(rule, problems));
        return Some(L7Rules::Dns(rules.collect()));
    }
    if let Some(kafka) = kafka {
        let rules = kafka.iter().filter_map(|rule| read_kafka(rule, problems));
        return Some(L7Rules::Kafka(rules.collect()));
    }
    let rules: Vec<BTreeMap<String, String>> =
        generic.unwrap_or_default().iter().map(|rule| rule.text_map(problems)).collect();
    parser.map(|parser| L7Rules::Generic { parser, rules })
}

fn check_ports(
    at: &At<'_>,
    rules: &L7Rules,
    ports: &[PortMatch],
    context: &PortContext<'_>,
    problems: &mut Problems,
) {
    let is_dns = rules.parser() == ParserKind::Dns;
    if is_dns && ports.is_empty() {
        problems.error(at, "port 53 must be specified for DNS rules");
    }
    if is_dns && !context.section.is_egress() {
        problems.error(at, "L7 protocol DNS is not supported on ingress yet");
    }
    for port in ports {
        let fits = match port.protocol {
            Protocol::Tcp => true,
            Protocol::Udp | Protocol::Any => is_dns,
            _ => false,
        };
        if !fits {
            let name = port.protocol.name();
            problems.error(at, format!("L7 rules can only apply to TCP (not {name}) except for DNS rules"));
        }
        match port.port {
            Port::All => problems.error(at, "L7 rules can not be used when a port is 0"),
            Port::Range { first, last } if is_dns && first != last => {
                problems.error(at, "DNS rules do not support port ranges");
            }
            _ => {}
        }
    }
}

fn check_subject(at: &At<'_>, rules: &L7Rules, context: &PortContext<'_>, problems: &mut Problems) {
    if !context.host_subject {
        return;
    }
    let parser = rules.parser();
    if !context.section.is_egress() {
        problems.error(at, "L7 policy is not supported on host ingress yet");
    } else if parser != ParserKind::Dns {
        let name = parser.to_string().to_ascii_uppercase();
        problems.error(at, format!("L7 protocol {name} is not supported on host egress yet"));
    }
}

/// Reads where a secret of TLS is.
fn read_tls(fields: &mut Fields<'_>, name: &'static str, problems: &mut Problems) -> Option<TlsContext> {
    let at = fields.get(name)?;
    let mut fields = at.fields(problems)?;
    let secret = fields.get("secret");
    let mut key = |name, problems: &mut Problems| fields.text(name, problems).unwrap_or_default().to_owned();
    let keys = [key("trustedCA", problems), key("certificate", problems), key("privateKey", problems)];
    fields.finish(problems);
    let Some(secret) = secret else {
        problems.error(&at, "secret must be given");
        return None;
    };
    let (namespace, name) = read_secret(&secret, problems)?;
    Some(TlsContext { namespace, name, keys })
}

fn read_server_names(
    fields: &mut Fields<'_>,
    l7_without_tls: bool,
    problems: &mut Problems,
) -> Vec<ServerName> {
    let Some(at) = fields.get("serverNames") else {
        return Vec::new();
    };
    let elements = at.list(problems);
    let mut names = Vec::new();
    for element in &elements {
        match element.text(problems) {
            None => {}
            Some("") => problems.error(element, "empty server name is not allowed"),
            Some(text) => match ServerName::parse(text) {
                Some(name) => names.push(name),
                None => problems.error(
                    element,
                    format!("\"{text}\" is no server name; write a name, *.name or **.name, at most 255 characters"),
                ),
            },
        }
    }
    if l7_without_tls && !elements.is_empty() {
        problems.error(&at, "ServerNames are not allowed with L7 rules without TLS termination");
    }
    names
}

fn read_listener(
    fields: &mut Fields<'_>,
    with_l7: bool,
    context: &PortContext<'_>,
    problems: &mut Problems,
) -> Option<Listener> {
    let at = fields.get("listener")?;
    let mut fields = at.fields(problems)?;
    let name = fields.text("name", problems).unwrap_or_default().to_owned();
    let config = fields.get("envoyConfig");
    let priority = fields.get("priority").and_then(|at| at.integer(1, 100, problems));
    fields.finish(problems);
    if !context.section.is_egress() {
        problems.error(&at, format!("Listener is not allowed on ingress ({name})"));
    }
    if with_l7 {
        problems.error(&at, format!("Listener is not allowed with L7 rules ({name})"));
    }
    if name.is_empty() {
        problems.error(&at, "listener name must be given");
    }
    let Some(config) = config else {
        problems.error(&at, "envoyConfig must be given");
        return None;
    };
    let config = read_listener_config(&config, context, problems)?;
    let priority = priority.and_then(|priority| u8::try_from(priority).ok());
    Some(Listener { config, name, priority: priority.unwrap_or(Listener::DEFAULT_PRIORITY) })
}

/// The kind defaults to that of the policy's own scope.
fn read_listener_config(
    at: &At<'_>,
    context: &PortContext<'_>,
    problems: &mut Problems,
) -> Option<ListenerConfig> {
    let mut fields = at.fields(problems)?;
    let kind = fields.get("kind");
    let name = fields.text("name", problems).unwrap_or_default().to_owned();
    fields.finish(problems);
    if name.is_empty() {
        problems.error(at, "name of the envoyConfig must be given");
    }
    let text = match &kind {
        Some(kind) => kind.text(problems)?,
        None => "",
    };
    match (text, context.namespace) {
        ("CiliumClusterwideEnvoyConfig", _) | ("", None) => Some(ListenerConfig::Clusterwide(name)),
        ("CiliumEnvoyConfig" | "", Some(namespace)) => {
            Some(ListenerConfig::Namespaced { namespace: namespace.to_owned(), name })
        }
        ("CiliumEnvoyConfig", None) => {
            let message =
                "a cluster-wide policy cannot name a CiliumEnvoyConfig; use CiliumClusterwideEnvoyConfig";
            problems.error(at, message);
            None
        }
        (other, _) => {
            let message =
                format!("unknown kind \"{other}\"; use CiliumEnvoyConfig or CiliumClusterwideEnvoyConfig");
            problems.error(at, message);
            None
        }
    }
}

fn read_http(at: &At<'_>, problems: &mut Problems) -> Option<HttpRule> {
    let mut fields = at.fields(problems)?;
    let mut regex = |name, problems: &mut Problems| {
        let at = fields.get(name)?;
        let text = at.text(problems)?;
        if let Err(error) = Regex::new(text) {
            let message = format!("error parsing regexp: {}", last_line(&error.to_string()));
            problems.error(&at, message);
        }
        Some(text.to_owned())
    };
    let path = regex("path", problems);
    let method = regex("method", problems);
    let host = regex("host", problems);
    let headers = fields
        .get("headers")
        .map(|at| at.texts(problems))
        .unwrap_or_default()
        .into_iter()
        .map(split_header)
        .collect();
    let header_matches = fields
        .list("headerMatches", problems)
        .unwrap_or_default()
        .iter()
        .filter_map(|element| read_header_match(element, problems))
        .collect();
    fields.finish(problems);
    Some(HttpRule { path, method, host, headers, header_matches })
}

/// `Name: value`, `Name value` or `Name`.
fn split_header(text: &str) -> (String, Option<String>) {
    let Some((name, value)) = text.split_once([':', ' ']) else {
        return (text.to_owned(), None);
    };
    (name.to_owned(), Some(value.trim_start().to_owned()))
}

fn read_header_match(at: &At<'_>, problems: &mut Problems) -> Option<HeaderMatch> {
    let mut fields = at.fields(problems)?;
    let name = fields.text("name", problems).unwrap_or_default();
    let value = fields.text("value", problems).map(str::to_owned);
    let secret = fields.get("secret");
    let mismatch = fields.get("mismatch");
    fields.finish(problems);
    if name.is_empty() {
        problems.error(at, "Header name missing");
    }
    let secret = secret.and_then(|secret| read_secret(&secret, problems));
    let mismatch = match &mismatch {
        None => None,
        Some(at) => match at.text(problems)? {
            "LOG" => Some(MismatchAction::Log),
            "ADD" => Some(MismatchAction::Add),
            "DELETE" => Some(MismatchAction::Delete),
            "REPLACE" => Some(MismatchAction::Replace),
            other => {
                problems.error(at, format!("Invalid header action: {other}"));
                None
            }
        },
    };
    Some(HeaderMatch { name: name.to_owned(), value, secret, mismatch })
}

fn read_secret(at: &At<'_>, problems: &mut Problems) -> Option<(String, String)> {
    let mut fields = at.fields(problems)?;
    let namespace = fields.text("namespace", problems).unwrap_or_default();
    let name = fields.text("name", problems).unwrap_or_default();
    fields.finish(problems);
    if name.is_empty() {
        problems.error(at, "Secret name missing");
    }
    Some((namespace.to_owned(), name.to_owned()))
}

fn read_kafka(at: &At<'_>, problems: &mut Problems) -> Option<KafkaRule> {
    let mut fields = at.fields(problems)?;
    let role = fields.text("role", problems).unwrap_or_default();
    let key = fields.text("apiKey", problems).unwrap_or_default();
    let version = fields.text("apiVersion", problems).unwrap_or_default();
    let client_id = fields.text("clientID", problems).map(str::to_owned);
    let topic = fields.text("topic", problems).filter(|topic| !topic.is_empty());
    fields.finish(problems);
    if !role.is_empty() && !key.is_empty() {
        let message = format!("cannot set both Role \"{role}\" and APIKey \"{key}\" together");
        problems.error(at, message);
    }
    let api_keys = match (role.to_ascii_lowercase().as_str(), key) {
        ("produce", _) => PRODUCE.to_vec(),
        ("consume", _) => CONSUME.to_vec(),
        ("", "") => Vec::new(),
        ("", key) => match KAFKA_KEYS.iter().position(|name| *name == key.to_ascii_lowercase()) {
            Some(number) => i16::try_from(number).into_iter().collect(),
            None => {
                problems.error(at, format!("invalid Kafka APIKey \"{key}\""));
                Vec::new()
            }
        },
        _ => {
            problems.error(at, format!("invalid Kafka Role \"{role}\"; use produce or consume"));
            Vec::new()
        }
    };
    let api_version = version.parse().ok();
    if !version.is_empty() && api_version.is_none() {
        problems.error(at, format!("invalid Kafka APIVersion \"{version}\""));
    }
    if let Some(topic) = topic
        && (topic.len() > 255 || !topic.chars().all(is_name_char))
    {
        problems.error(at, format!("invalid Kafka Topic name \"{topic}\""));
    }
    Some(KafkaRule { api_keys, api_version, client_id, topic: topic.map(str::to_owned) })
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

const PRODUCE: [i16; 3] = [0, 3, 18];
const CONSUME: [i16; 11] = [1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18];
/// Names of Kafka requests; the index is the number.
const KAFKA_KEYS: [&str; 34] = [
    "produce",
    "fetch",
    "offsets",
    "metadata",
    "leaderandisr",
    "stopreplica",
    "updatemetadata",
    "controlledshutdown",
    "offsetcommit",
    "offsetfetch",
    "findcoordinator",
    "joingroup",
    "heartbeat",
    "leavegroup",
    "syncgroup",
    "describegroups",
    "listgroups",
    "saslhandshake",
    "apiversions",
    "createtopics",
    "deletetopics",
    "deleterecords",
    "initproducerid",
    "offsetforleaderepoch",
    "addpartitionstotxn",
    "addoffsetstotxn",
    "endtxn",
    "writetxnmarkers",
    "txnoffsetcommit",
    "describeacls",
    "createacls",
    "deleteacls",
    "describeconfigs",
    "alterconfigs",
];
