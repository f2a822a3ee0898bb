//! L4 parts of an entry.

use std::sync::Arc;

use super::ParseOptions;
use super::l7::read_rules;
use super::read::{At, Fields, Problems};
use crate::icmp;
use crate::origin::Section;
use crate::rule::{IcmpFamily, IcmpMatch, L4, L7Rules, Port, PortMatch, Protocol};
use crate::yaml::Value;

/// Where ports stand: decides which request rules fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct PortContext<'a> {
    pub(super) section: Section,
    /// Namespace of the policy, none for cluster-wide ones.
    pub(super) namespace: Option<&'a str>,
    pub(super) host_subject: bool,
    pub(super) options: ParseOptions,
}

/// Reads `toPorts` and `icmps` of an entry.
pub(super) fn read_l4(fields: &mut Fields<'_>, context: &PortContext<'_>, problems: &mut Problems) -> L4 {
    let ports = fields.list("toPorts", problems).unwrap_or_default();
    let icmps = fields.get("icmps");
    let icmp_elements = icmps.as_ref().map(|at| at.list(problems)).unwrap_or_default();
    if let (Some(at), false, false) = (&icmps, ports.is_empty(), icmp_elements.is_empty()) {
        let message =
            "the ICMPs block may only be present without ToPorts. Define a separate rule to use ToPorts";
        problems.error(at, message);
    }
    if !icmp_elements.is_empty() {
        let types = icmp_elements.iter().flat_map(|element| read_icmps(element, problems)).collect();
        return L4::Icmp(types);
    }
    if ports.is_empty() {
        return L4::All;
    }
    let matches = ports.iter().flat_map(|element| read_port_rule(element, context, problems)).collect();
    L4::Ports(matches)
}

/// Reads a port number or name as written.
pub(super) fn parse_port(text: &str) -> Option<Port> {
    if let Ok(number) = text.parse::<u16>() {
        return Some(single_port(number));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let is_name = !text.is_empty()
        && text.len() <= 15
        && text.chars().all(allowed)
        && text.chars().any(|c| c.is_ascii_alphabetic());
    is_name.then(|| Port::Named(text.to_ascii_lowercase()))
}

/// One port; 0 stands for all.
pub(super) const fn single_port(number: u16) -> Port {
    match number {
        0 => Port::All,
        number => Port::Range { first: number, last: number },
    }
}

fn read_port_rule(at: &At<'_>, context: &PortContext<'_>, problems: &mut Problems) -> Vec<PortMatch> {
    let Some(mut fields) = at.fields(problems) else {
        return Vec::new();
    };
    let elements = fields.list("ports", problems).unwrap_or_default();
    if elements.len() > MAX_FIELDS {
        problems.error(at, format!("too many ports, the max is {MAX_FIELDS}"));
    }
    if elements.is_empty() {
        problems.warning(at, "toPorts without ports matches no packet");
    }
    let ports: Vec<PortMatch> =
        elements.iter().filter_map(|element| read_port(element, context, problems)).collect();
    // Deny entries know nothing but ports: other fields are refused as unknown.
    let rules =
        if context.section.is_deny() { None } else { read_rules(&mut fields, &ports, context, problems) };
    fields.finish(problems);
    with_rules(ports, rules)
}

fn with_rules(ports: Vec<PortMatch>, rules: Option<L7Rules>) -> Vec<PortMatch> {
    let rules = rules.map(Arc::new);
    let attach = |port| PortMatch { l7: rules.clone(), ..port };
    ports.into_iter().map(attach).collect()
}

fn read_port(at: &At<'_>, context: &PortContext<'_>, problems: &mut Problems) -> Option<PortMatch> {
    let mut fields = at.fields(problems)?;
    let protocol = match fields.get("protocol") {
        Some(protocol) => read_protocol(&protocol, context.options, problems),
        None => Some(Protocol::Any),
    };
    let port = fields.get("port");
    let end = fields
        .get("endPort")
        .and_then(|end| end.integer(0, 65_535, problems))
        .and_then(|end| u16::try_from(end).ok());
    fields.finish(problems);
    let protocol = protocol?;
    if matches!(protocol, Protocol::Vrrp | Protocol::Igmp) {
        let text = port.as_ref().map(|port| port.text(problems).unwrap_or_default());
        if !matches!(text, None | Some("" | "0")) {
            problems.error(at, "port must be empty or 0");
        }
        return Some(port_match(protocol, Port::All));
    }
    let text = port.as_ref().and_then(|port| port.text(problems));
    let (Some(at), Some(text)) = (port.as_ref(), text.filter(|text| !text.is_empty())) else {
        if port.is_none() || text == Some("") {
            problems.error(at, "port must be specified");
        }
        return None;
    };
    let Some(parsed) = parse_port(text) else {
        problems
            .error(at, format!("unable to parse port: \"{text}\" is neither 0 to 65535 nor a service name"));
        return None;
    };
    Some(port_match(protocol, extend(parsed, end, at, problems)))
}

fn extend(port: Port, end: Option<u16>, at: &At<'_>, problems: &mut Problems) -> Port {
    match (port, end) {
        (Port::Range { first, .. }, Some(last)) if last > first => Port::Range { first, last },
        (Port::Named(name), Some(_)) => {
            problems.warning(at, "endPort has no meaning with a named port");
            Port::Named(name)
        }
        (port, _) => port,
    }
}

const fn port_match(protocol: Protocol, port: Port) -> PortMatch {
    PortMatch { protocol, port, l7: None }
}

fn read_protocol(at: &At<'_>, options: ParseOptions, problems: &mut Problems) -> Option<Protocol> {
    let text = at.text(problems)?;
    let name = text.to_ascii_uppercase();
    let all = [Protocol::Any, Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Vrrp, Protocol::Igmp];
    let Some(protocol) = all.into_iter().find(|protocol| protocol.name() == name) else {
        if text.is_empty() {
            return Some(Protocol::Any);
        }
        problems.error(
            at,
            format!("invalid protocol \"{text}\", must be {{ tcp | udp | sctp | vrrp | igmp | any }}"),
        );
        return None;
    };
    if matches!(protocol, Protocol::Vrrp | Protocol::Igmp) && !options.extended_protocols {
        let message =
            format!("protocol {name} can only be used when the \"enable-extended-ip-protocols\" flag is set");
        problems.error(at, message);
        return None;
    }
    Some(protocol)
}

fn read_icmps(at: &At<'_>, problems: &mut Problems) -> Vec<IcmpMatch> {
    let Some(mut fields) = at.fields(problems) else {
        return Vec::new();
    };
    let elements = fields.list("fields", problems).unwrap_or_default();
    fields.finish(problems);
    if elements.len() > MAX_FIELDS {
        problems.error(at, format!("too many types, the max is {MAX_FIELDS}"));
    }
    elements.iter().filter_map(|element| read_icmp(element, problems)).collect()
}

fn read_icmp(at: &At<'_>, problems: &mut Problems) -> Option<IcmpMatch> {
    let mut fields = at.fields(problems)?;
    let family = match fields.get("family") {
        None => Some((IcmpFamily::V4, "IPv4")),
        Some(family) => match family.text(problems)? {
            "IPv4" | "" => Some((IcmpFamily::V4, "IPv4")),
            "IPv6" => Some((IcmpFamily::V6, "IPv6")),
            other => {
                problems.error(&family, format!("wrong family: {other}"));
                None
            }
        },
    };
    let icmp_type = fields.get("type");
    fields.finish(problems);
    let Some(icmp_type) = icmp_type else {
        problems.error(at, "type must be given: a number of 0 to 255 or a name");
        return None;
    };
    let (family, family_name) = family?;
    let number = match &icmp_type.node.value {
        Value::Integer(_) => icmp_type.integer(0, 255, problems)?.try_into().ok()?,
        _ => {
            let text = icmp_type.text(problems)?;
            let known = text.parse().ok().or_else(|| icmp::type_number(family, text));
            let Some(number) = known else {
                problems.error(&icmp_type, format!("ICMP type {text} not found in {family_name}"));
                return None;
            };
            number
        }
    };
    Some(IcmpMatch { family, icmp_type: number })
}

const MAX_FIELDS: usize = 40;
