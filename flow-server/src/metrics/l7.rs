//! Metrics of requests and responses.

use specola_flow::{Direction, FlowView, Verdict};
use specola_proto::flow::{Dns, Http, Kafka, L7FlowType, Layer7, layer7::Record};

use super::{
    config::{MetricName, MetricSpec},
    handler::{Handler, layer7},
    table::{Kind, Label, Sample, Table},
};

/// The families of a metric of this kind.
pub(super) fn tables(spec: &MetricSpec) -> Vec<Table> {
    let exemplars = spec.options.exemplars;
    let counter = |name, help, labels| Table::new((name, help, Kind::Counter), labels, exemplars);
    let duration = |name, help, labels| Table::new((name, help, Kind::Histogram), labels, exemplars);
    let many = |names: &[&'static str]| names.iter().map(|name| Label::many(name)).collect::<Vec<_>>();
    match spec.name {
        MetricName::Dns => {
            let with_query = |mut labels: Vec<Label>| {
                labels.extend(spec.options.query.then_some(Label::many("query")));
                labels
            };
            let message = || with_query(many(&["rcode", "qtypes", "ips_returned"]));
            vec![
                counter("dns_queries", "DNS queries", message()),
                counter("dns_responses", "DNS responses", message()),
                counter(
                    "dns_response_types",
                    "Records in DNS responses",
                    with_query(many(&["type", "qtypes"])),
                ),
            ]
        }
        MetricName::Http => vec![
            counter("http_requests", "HTTP requests", many(&["method", "protocol", "reporter"])),
            counter("http_responses", "HTTP responses", many(&["method", "protocol", "status", "reporter"])),
            duration(
                "http_request_duration_seconds",
                "Time from an HTTP request to its response",
                many(&["method", "reporter"]),
            ),
        ],
        MetricName::HttpV2 => vec![
            counter(
                "http_requests",
                "HTTP requests with their responses",
                many(&["method", "protocol", "status", "reporter"]),
            ),
            duration(
                "http_request_duration_seconds",
                "Time from an HTTP request to its response",
                many(&["method", "reporter"]),
            ),
        ],
        MetricName::Kafka => vec![
            counter(
                "kafka_requests",
                "Kafka requests",
                many(&["topic", "api_key", "error_code", "reporter"]),
            ),
            duration(
                "kafka_request_duration_seconds",
                "Time from a Kafka request to its response",
                many(&["topic", "api_key", "reporter"]),
            ),
        ],
        _ => Vec::new(),
    }
}

const QUERIES: usize = 0;
const RESPONSES: usize = 1;
const RESPONSE_TYPES: usize = 2;

pub(super) fn dns(handler: &mut Handler, view: &FlowView<'_>) {
    let Some(Layer7 { record: Some(Record::Dns(dns)), .. }) = layer7(view) else {
        return;
    };
    let options = handler.spec.options;
    if options.ignore_aaaa && matches!(dns.qtypes.as_slice(), [only] if only == "AAAA") {
        return;
    }
    let is_response = view.flow.is_reply() == Some(true);
    let message = |handler: &mut Handler, table, rcode: &str| {
        handler.count(table, view, |key| {
            key.value(rcode);
            key.join(&dns.qtypes);
            key.end();
            key.print(dns.ips.len());
            if options.query {
                key.value(&dns.query);
            }
        });
    };
    if view.flow.verdict() == Verdict::DROPPED {
        return message(handler, QUERIES, "Policy denied");
    }
    if !is_response {
        return message(handler, QUERIES, "");
    }
    message(handler, RESPONSES, rcode(dns));
    for kind in &dns.rrtypes {
        handler.count(RESPONSE_TYPES, view, |key| {
            key.value(kind);
            key.join(&dns.qtypes);
            key.end();
            if options.query {
                key.value(&dns.query);
            }
        });
    }
}

/// Response codes in the words that dashboards for Hubble look for (numbers: RFC 1035, RFC 2136, RFC 6895).
const fn rcode(dns: &Dns) -> &'static str {
    match dns.rcode {
        0 => "No Error",
        1 => "Format Error",
        2 => "Server Failure ",
        3 => "Non-Existent Domain",
        4 => "Not Implemented",
        5 => "Query Refused",
        6 => "Name Exists when it should not",
        7 => "RR Set Exists when it should not",
        8 => "RR Set that should exist does not",
        9 => "Server Not Authoritative for zone",
        10 => "Name not contained in zone",
        _ => "Unknown",
    }
}

/// Who tells of a request.
fn reporter(view: &FlowView<'_>) -> &'static str {
    match view.flow.direction() {
        Direction::EGRESS => "client",
        Direction::INGRESS => "server",
        _ => "unknown",
    }
}

fn seconds(l7: &Layer7) -> f64 {
    l7.latency_ns as f64 / 1e9
}

fn http_record<'a>(view: &FlowView<'a>) -> Option<(&'a Layer7, &'a Http)> {
    let l7 = layer7(view)?;
    match l7.record.as_ref()? {
        Record::Http(http) => Some((l7, http)),
        _ => None,
    }
}

pub(super) fn http(handler: &mut Handler, view: &FlowView<'_>) {
    let Some((l7, http)) = http_record(view) else {
        return;
    };
    let sample = Sample { seconds: seconds(l7), trace_id: trace_id(view) };
    match l7.r#type() {
        L7FlowType::Request => handler.sample((0, false, sample), view, |key| {
            key.value(&http.method);
            key.value(&http.protocol);
            key.value(reporter(view));
        }),
        L7FlowType::Response => {
            handler.sample((1, false, sample), view, |key| {
                key.value(&http.method);
                key.value(&http.protocol);
                key.print(http.code);
                key.value(reporter(view));
            });
            handler.sample((2, false, sample), view, |key| {
                key.value(&http.method);
                key.value(reporter(view));
            });
        }
        _ => {}
    }
}

pub(super) fn http_v2(handler: &mut Handler, view: &FlowView<'_>) {
    let Some((l7, http)) = http_record(view) else {
        return;
    };
    if l7.r#type() != L7FlowType::Response {
        return;
    }
    let sample = Sample { seconds: seconds(l7), trace_id: trace_id(view) };
    handler.sample((0, true, sample), view, |key| {
        key.value(&http.method);
        key.value(&http.protocol);
        key.print(http.code);
        key.value(reporter(view));
    });
    handler.sample((1, true, sample), view, |key| {
        key.value(&http.method);
        key.value(reporter(view));
    });
}

fn trace_id<'a>(view: &FlowView<'a>) -> &'a str {
    view.detail.map_or("", |detail| &detail.trace_id)
}

pub(super) fn kafka(handler: &mut Handler, view: &FlowView<'_>) {
    let Some(l7) = layer7(view) else {
        return;
    };
    let Some(Record::Kafka(kafka)) = &l7.record else {
        return;
    };
    if l7.r#type() != L7FlowType::Response {
        return;
    }
    let Kafka { topic, api_key, error_code, .. } = kafka;
    handler.sample((0, true, Sample::ONE), view, |key| {
        key.value(topic);
        key.value(api_key);
        key.print(error_code);
        key.value(reporter(view));
    });
    handler.sample((1, true, Sample { seconds: seconds(l7), trace_id: "" }), view, |key| {
        key.value(topic);
        key.value(api_key);
        key.value(reporter(view));
    });
}
