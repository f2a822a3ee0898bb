//! What some flows carry and a record in the ring has no place for.

mod clip;

use std::fmt;

use specola_proto::flow as pb;

pub use clip::Clipped;

/// Application data, names and translations of a flow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowDetail {
    /// Request or response of the application layer.
    pub l7: Option<pb::Layer7>,
    /// DNS names of the source's address, as the destination knows them.
    pub source_names: Vec<String>,
    /// DNS names of the destination's address, as the source knows them.
    pub destination_names: Vec<String>,
    /// Service that the source's address and port belong to.
    pub source_service: Option<pb::Service>,
    /// Service that the destination's address and port belong to.
    pub destination_service: Option<pb::Service>,
    /// Source address after translation; empty when it was not translated.
    pub source_ip_xlated: String,
    /// Whether the packet is encrypted between the nodes.
    pub encrypted: bool,
    /// Trace id of the request (W3C), hex; empty without one.
    pub trace_id: String,
    /// Id in an IP option.
    pub ip_trace_id: Option<pb::IpTraceId>,
}

impl FlowDetail {
    /// Puts the details into a message that was made of the record alone.
    pub fn fill(&self, message: &mut pb::Flow) {
        if let Some(l7) = &self.l7 {
            message.r#type = pb::FlowType::L7.into();
            message.summary = summary(l7);
            message.l7 = Some(l7.clone());
        }
        message.source_names.clone_from(&self.source_names);
        message.destination_names.clone_from(&self.destination_names);
        message.source_service.clone_from(&self.source_service);
        message.destination_service.clone_from(&self.destination_service);
        if let Some(ip) = &mut message.ip {
            ip.encrypted = self.encrypted;
            ip.source_xlated.clone_from(&self.source_ip_xlated);
        }
        if !self.trace_id.is_empty() {
            let parent = pb::TraceParent { trace_id: self.trace_id.clone() };
            message.trace_context = Some(pb::TraceContext { parent: Some(parent) });
        }
        message.ip_trace_id.clone_from(&self.ip_trace_id);
    }
}

/// Summary of application data.
pub(crate) fn summary(l7: &pb::Layer7) -> String {
    L7Summary(l7).to_string()
}

/// Prints the summary of application data, in Hubble's words.
struct L7Summary<'a>(&'a pb::Layer7);

impl fmt::Display for L7Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use pb::layer7::Record;
        let is_response = self.0.r#type == i32::from(pb::L7FlowType::Response);
        match &self.0.record {
            Some(Record::Http(http)) if is_response => {
                let latency_ms = self.0.latency_ns / 1_000_000;
                let pb::Http { protocol, code, method, url, .. } = http;
                write!(f, "{protocol} {code} {latency_ms}ms ({method} {url})")
            }
            Some(Record::Http(http)) => write!(f, "{} {} {}", http.protocol, http.method, http.url),
            Some(Record::Dns(dns)) if is_response => write_dns_answer(f, dns),
            Some(Record::Dns(dns)) => write!(f, "DNS Query {} {}", dns.query, dns.qtypes.join(",")),
            Some(Record::Kafka(kafka)) if is_response => {
                let pb::Kafka { api_key, correlation_id, topic, error_code, .. } = kafka;
                write!(
                    f,
                    "Kafka response {api_key} correlation id {correlation_id} topic '{topic}' return code \
                     {error_code}"
                )
            }
            Some(Record::Kafka(kafka)) => {
                let pb::Kafka { api_key, correlation_id, topic, .. } = kafka;
                write!(f, "Kafka request {api_key} correlation id {correlation_id} topic '{topic}'")
            }
            None => Ok(()),
        }
    }
}

fn write_dns_answer(f: &mut fmt::Formatter<'_>, dns: &pb::Dns) -> fmt::Result {
    f.write_str("DNS Answer ")?;
    if dns.rcode != 0 {
        match RCODES.iter().find(|(code, _)| *code == dns.rcode) {
            Some((_, text)) => write!(f, "RCode: {text}")?,
            None => write!(f, "RCode: {}", dns.rcode)?,
        }
    } else if !dns.ips.is_empty() {
        write!(f, "\"{}\"", dns.ips.join(","))?;
    }
    write!(f, " TTL: {}", dns.ttl)?;
    if !dns.cnames.is_empty() {
        write!(f, " CNAMEs: \"{}\"", dns.cnames.join(","))?;
    }
    let source = if dns.observation_source == "proxy" { "Proxy" } else { "Query" };
    write!(f, " ({source} {} {})", dns.query, dns.qtypes.join(","))
}

/// Names of DNS response codes (RFC 1035, RFC 2136) in Hubble's words.
const RCODES: [(u32, &str); 5] = [
    (1, "Format Error"),
    (2, "Server Failure "),
    (3, "Non-Existent Domain"),
    (4, "Not Implemented"),
    (5, "Query Refused"),
];

#[cfg(test)]
mod tests {
    use pb::layer7::Record;

    use super::*;

    #[test]
    fn summaries() {
        let http = |code| pb::Http {
            code,
            method: "GET".into(),
            url: "http://web/x".into(),
            protocol: "HTTP/1.1".into(),
            ..pb::Http::default()
        };
        let dns = |rcode, ips: &[&str], cnames: &[&str]| pb::Dns {
            query: "web.shop.".into(),
            ips: ips.iter().map(ToString::to_string).collect(),
            cnames: cnames.iter().map(ToString::to_string).collect(),
            ttl: 30,
            rcode,
            qtypes: vec!["A".into(), "AAAA".into()],
            observation_source: "proxy".into(),
            ..pb::Dns::default()
        };
        for (kind, record, text) in [
            (1, Record::Http(http(0)), "HTTP/1.1 GET http://web/x"),
            (2, Record::Http(http(200)), "HTTP/1.1 200 5ms (GET http://web/x)"),
            (1, Record::Dns(dns(0, &[], &[])), "DNS Query web.shop. A,AAAA"),
            (
                2,
                Record::Dns(dns(0, &["1.2.3.4", "5.6.7.8"], &["a.", "b."])),
                "DNS Answer \"1.2.3.4,5.6.7.8\" TTL: 30 CNAMEs: \"a.,b.\" (Proxy web.shop. A,AAAA)",
            ),
            (
                2,
                Record::Dns(dns(3, &[], &[])),
                "DNS Answer RCode: Non-Existent Domain TTL: 30 (Proxy web.shop. A,AAAA)",
            ),
        ] {
            let l7 = pb::Layer7 { r#type: kind, latency_ns: 5_900_000, record: Some(record) };
            assert_eq!(summary(&l7), text);
        }
    }
}
