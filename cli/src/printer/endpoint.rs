//! The two ends of a flow as text.

use std::fmt;

use specola_labels::NumericIdentity;
use specola_proto::flow::{Endpoint, Flow, Service, layer4};

use crate::color::{Color, Paint};
use crate::printer::escape;

/// One end of a flow.
pub(super) struct Host {
    name: String,
    port: Option<String>,
    identity: u32,
}

/// Both ends.
pub(super) struct Ends {
    /// Where the packet comes from.
    pub(super) source: Host,
    /// Where it goes.
    pub(super) destination: Host,
}

/// Initiator and responder of a flow's connection without the initiator's port, as `a -> b:80`.
pub(crate) fn flow_ends(flow: &Flow) -> String {
    let ends = Ends::of(flow, true);
    let (left, arrow, right) = ends.arrow(flow.is_reply);
    let arrow = if arrow == "<-" { "->" } else { arrow };
    let port = right.port.as_ref().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{} {arrow} {}{port}", left.name, right.name)
}

/// An end and its identity, `ns/pod:port (ID:n)`.
pub(super) struct WithIdentity<'a> {
    host: &'a Host,
    paint: Paint,
}

impl Ends {
    /// Reads the ends, with names in place of addresses when `names` is set.
    pub(super) fn of(flow: &Flow, names: bool) -> Self {
        let (source_port, destination_port) = ports(flow);
        let (source_address, destination_address) = addresses(flow);
        Self {
            source: Host::new(
                flow.source.as_ref(),
                flow.source_service.as_ref(),
                &flow.source_names,
                source_address,
                source_port,
                names,
            ),
            destination: Host::new(
                flow.destination.as_ref(),
                flow.destination_service.as_ref(),
                &flow.destination_names,
                destination_address,
                destination_port,
                names,
            ),
        }
    }

    /// Left end, arrow, right end: the initiator of the connection is on the left where it is known.
    pub(super) fn arrow(&self, is_reply: Option<bool>) -> (&Host, &'static str, &Host) {
        match is_reply {
            Some(false) => (&self.source, "->", &self.destination),
            Some(true) => (&self.destination, "<-", &self.source),
            None => (&self.source, "<>", &self.destination),
        }
    }
}

impl Host {
    fn new(
        endpoint: Option<&Endpoint>,
        service: Option<&Service>,
        dns_names: &[String],
        address: Where<'_>,
        port: u32,
        names: bool,
    ) -> Self {
        let identity = endpoint.map_or(0, |endpoint| endpoint.identity);
        let ip = match address {
            Where::Mac(mac) => return Self { name: escape(mac), port: None, identity },
            Where::Ip(ip) => ip,
        };
        let port = (port != 0).then(|| port.to_string());
        let name = names.then(|| known_name(endpoint, service, dns_names)).flatten();
        let name = match name {
            Some(name) => escape(&name),
            None if port.is_some() && ip.contains(':') => format!("[{}]", escape(ip)),
            None => escape(ip),
        };
        Self { name, port, identity }
    }

    /// `name:port`.
    pub(super) fn text(&self, paint: Paint) -> String {
        match &self.port {
            Some(port) => {
                let port = paint.color(Color::Port, port);
                paint.color(Color::Host, &format!("{}:{port}", self.name))
            }
            None => paint.color(Color::Host, &self.name),
        }
    }

    /// `name:port (ID:n)`.
    pub(super) const fn with_identity(&self, paint: Paint) -> WithIdentity<'_> {
        WithIdentity { host: self, paint }
    }
}

impl fmt::Display for WithIdentity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = identity_text(self.host.identity);
        write!(
            f,
            "{} {}",
            self.host.text(self.paint),
            self.paint.color(Color::Identity, &format!("({identity})"))
        )
    }
}

/// `world` or `ID:n`.
pub(crate) fn identity_text(identity: u32) -> String {
    // Hubble's client knows the names up to this one.
    let named =
        (identity <= NumericIdentity::WORLD_IPV6.0).then(|| NumericIdentity(identity).reserved_name());
    match named.flatten() {
        Some(name) => name.to_owned(),
        None if identity == 0 => "unknown".to_owned(),
        None => format!("ID:{identity}"),
    }
}

/// An address of a flow.
#[derive(Clone, Copy)]
enum Where<'a> {
    Ip(&'a str),
    Mac(&'a str),
}

fn addresses(flow: &Flow) -> (Where<'_>, Where<'_>) {
    match (&flow.ip, &flow.ethernet) {
        (Some(ip), _) => (Where::Ip(&ip.source), Where::Ip(&ip.destination)),
        (None, Some(ethernet)) => (Where::Mac(&ethernet.source), Where::Mac(&ethernet.destination)),
        (None, None) => (Where::Ip(""), Where::Ip("")),
    }
}

fn ports(flow: &Flow) -> (u32, u32) {
    use layer4::Protocol;
    match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(Protocol::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
        Some(Protocol::Udp(udp)) => (udp.source_port, udp.destination_port),
        Some(Protocol::Sctp(sctp)) => (sctp.source_port, sctp.destination_port),
        _ => (0, 0),
    }
}

/// Pod, else service, else DNS names.
fn known_name(
    endpoint: Option<&Endpoint>,
    service: Option<&Service>,
    dns_names: &[String],
) -> Option<String> {
    if let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.pod_name.is_empty()) {
        return Some(qualified(&endpoint.namespace, &endpoint.pod_name));
    }
    if let Some(service) = service.filter(|service| !service.name.is_empty()) {
        return Some(qualified(&service.namespace, &service.name));
    }
    (!dns_names.is_empty()).then(|| dns_names.join(","))
}

fn qualified(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}
