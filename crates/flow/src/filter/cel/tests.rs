use proptest::prelude::*;

use super::super::tests::{Sample, detailed, http_response, sample};
use super::*;
use crate::{DropReason, EventType, Verdict, flags};

fn is_true(text: &str, sample: &Sample) -> bool {
    let expression = Expression::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    expression.matches(&sample.view())
}

#[test]
fn fields_of_a_connection() {
    for (text, expected) in [
        ("true", true),
        ("_flow.verdict == Verdict.FORWARDED", true),
        ("_flow.verdict == flow.Verdict.DROPPED", false),
        ("_flow.verdict in [Verdict.DROPPED, Verdict.FORWARDED]", true),
        ("_flow.source.namespace == 'shop' && _flow.source.pod_name.startsWith('web-')", true),
        ("_flow.source.pod_name.endsWith('9') || _flow.destination.pod_name.contains('b-')", true),
        ("_flow.source.pod_name.matches('^web-[0-9]+$')", true),
        ("matches(_flow.source.pod_name, 'db')", false),
        ("_flow.source.identity == 300u && _flow.destination.identity != 300u", true),
        ("_flow.destination.identity > 300", true),
        ("'k8s:app=web' in _flow.source.labels", true),
        ("_flow.source.labels.exists(l, l == 'k8s:tier=front')", true),
        ("_flow.source.labels.all(l, l.startsWith('k8s:'))", true),
        ("_flow.source.labels.exists_one(l, l.startsWith('k8s:'))", false),
        ("size(_flow.source.labels) == 2 && _flow.source.labels.size() > 1", true),
        ("_flow.source.labels.filter(l, l.contains('tier')).size() == 1", true),
        ("_flow.source.labels.map(l, size(l)).exists(n, n > 10)", true),
        ("_flow.source.labels[0] == 'k8s:app=web'", true),
        ("_flow.source.labels[9] == 'k8s:app=web'", false),
        ("_flow.source.workloads.exists(w, w.kind == 'Deployment' && w.name == 'web-')", true),
        ("_flow.source.workloads[0].kind == 'Deployment'", true),
        ("_flow.source.cluster_name == 'east' && _flow.node_name == 'east/n1'", true),
        ("_flow.node_labels == ['zone=a']", true),
        ("_flow.IP.source == '10.0.0.1' && _flow.IP.ipVersion == IPVersion.IPv4", true),
        ("_flow.IP.destination.startsWith('10.')", true),
        ("_flow.l4.TCP.destination_port == 5432u", true),
        ("_flow.l4.TCP.destination_port in [80u, 5432u]", true),
        ("_flow.l4.UDP.destination_port == 5432u", false),
        ("_flow.l4.TCP.flags.SYN && !_flow.l4.TCP.flags.ACK", true),
        ("has(_flow.l4.TCP) && !has(_flow.l4.UDP) && has(_flow.IP)", true),
        ("has(_flow.l7) || has(_flow.tunnel)", false),
        ("has(_flow.source.pod_name) && !has(_flow.source.workloads[0].nothing) || true", true),
        ("_flow.is_reply == false", true),
        ("_flow.is_reply", false),
        ("_flow.is_reply == null", false),
        ("has(_flow.is_reply)", true),
        ("_flow.Type == FlowType.L3_L4 && _flow.event_type.type == 4", true),
        ("_flow.traffic_direction == TrafficDirection.EGRESS", true),
        ("_flow.Summary == 'TCP Flags: SYN'", true),
        ("_flow.trace_observation_point == TraceObservationPoint.TO_STACK", true),
        ("_flow.time == timestamp('1970-01-01T00:00:00Z')", true),
        ("_flow.time > timestamp('2026-01-02T03:04:05Z')", false),
        ("_flow.uuid.size() == 36", true),
        ("(_flow.verdict == 1 ? 'yes' : 'no') == 'yes'", true),
        ("string(_flow.source.identity) + '!' == '300!'", true),
        ("int(_flow.source.identity) - 301 == -1 && -(1) == 0 - 1", true),
        ("uint('7') * 3u / 2u % 4u == 2u", true),
        ("_flow.drop_reason_desc == DropReason.DROP_REASON_UNKNOWN", true),
        ("_flow.l7.http.url == ''", true),
        ("_flow.aggregate.ingress_flow_count == 0u", true),
    ] {
        // Not every text compiles by design of the list: a wrong one fails here.
        if text.contains("nothing") {
            assert!(Expression::compile(text).is_err(), "{text}");
        } else {
            assert_eq!(is_true(text, &sample()), expected, "{text}");
        }
    }
}

#[test]
fn fields_of_verdicts_and_requests() {
    let denied = sample().with(|sample| {
        sample.flow.verdict = Verdict::DROPPED.0;
        sample.flow.drop_reason = DropReason::POLICY_DENIED.0;
        sample.flow.event_type = EventType::POLICY_VERDICT.0;
        sample.flow.match_type = 2;
        sample.flow.flags = flags::ATTRIBUTED;
        sample.flow.cookie = 9;
    });
    let request = detailed(http_response());
    for (text, on_denied, on_request) in [
        ("_flow.drop_reason_desc == DropReason.POLICY_DENIED && _flow.drop_reason == 133u", true, false),
        ("_flow.egress_denied_by.exists(p, p.name == 'allow-web' && p.revision == 3u)", true, false),
        ("size(_flow.egress_denied_by) == 2 && size(_flow.egress_allowed_by) == 0", true, false),
        ("_flow.policy_log == ['seen']", true, false),
        ("_flow.policy_match_type == 2u", true, false),
        ("has(_flow.is_reply)", false, true),
        ("_flow.is_reply || true", true, true),
        ("_flow.is_reply || false", false, false),
        ("_flow.l7.type == L7FlowType.RESPONSE && _flow.l7.http.code == 404u", false, true),
        ("_flow.l7.http.headers.exists(h, h.key == 'X-Id' && h.value == '7')", false, true),
        ("_flow.destination_names.exists(n, n.endsWith('.org'))", false, true),
        ("_flow.destination_service.name == 'db'", false, true),
        ("_flow.trace_context.parent.trace_id.startsWith('4bf9')", false, true),
        ("_flow.ip_trace_id.trace_id == 77u && _flow.IP.encrypted", false, true),
        ("_flow.Summary.contains('404')", false, true),
    ] {
        assert_eq!(is_true(text, &denied), on_denied, "denied: {text}");
        assert_eq!(is_true(text, &request), on_request, "request: {text}");
    }
}

#[test]
fn wrong_expressions_are_refused() {
    for (text, says) in [
        ("1", "got \"int\", wanted \"bool\" result type"),
        ("_flow.source.labels", "got \"list(string)\", wanted \"bool\""),
        ("_flow.verdict = 1", "error compiling CEL expression: "),
        ("_flow.nope == 1", "undefined field 'nope'"),
        ("_flow.source.nope == ''", "undefined field 'nope'"),
        ("_flow.uuid.nope == ''", "type 'string' does not support field selection"),
        ("flow.verdict == 1", "undeclared reference to 'flow'"),
        ("_flow.source == _flow.destination", "is a message (flow.Endpoint)"),
        ("_flow == _flow", "_flow is a message"),
        ("_flow.uuid == 1", "no matching overload for '_==_' applied to '(string, int)'"),
        ("_flow.uuid.startsWith(1)", "no matching overload for 'startsWith' applied to '(string, int)'"),
        ("nope(_flow.uuid)", "no matching overload for 'nope'"),
        ("_flow.uuid.matches(_flow.Summary)", "must be a constant text"),
        ("_flow.uuid.matches('(')", "failed to compile regexp"),
        ("_flow.source.labels.exists(l, 1)", "exists() needs a bool, not 'int'"),
        ("_flow.uuid.exists(l, true)", "works on a list, not on 'string'"),
        ("timestamp('x') == _flow.time", "is no RFC 3339 time"),
        ("{'a': 1} == {}", "cannot be made in a filter"),
        ("1.5 < 2.0", "double"),
        ("true &&", "error compiling CEL expression: "),
        ("", "error compiling CEL expression: "),
    ] {
        let error = Expression::compile(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    let long = format!("true{}", " || true".repeat(1_000));
    assert!(matches!(Expression::compile(&long), Err(InvalidExpression::TooLong { .. })));
}

#[test]
fn evaluation_is_bounded() {
    let list = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]";
    let nested = format!("{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, a + b + c + d > 0))))");
    assert!(!is_true(&nested, &sample()));
    assert!(is_true(&format!("{list}.all(a, a > 0)"), &sample()));
    let doubled = "['xxxxxxxxxxxxxxxx'].map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a)\
                   .map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).size() == 1";
    assert!(!is_true(doubled, &sample()));
    for failing in ["1 / 0 == 1", "9223372036854775807 + 1 > 0", "0u - 1u > 0u", "int('x') == 1"] {
        assert!(!is_true(failing, &sample()), "{failing}");
        assert!(is_true(&format!("{failing} || true"), &sample()), "{failing}");
    }
}

#[test]
fn depth_is_bounded() {
    let shapes = [
        ("(", "true", ")"),
        ("[", "true", "]"),
        ("!", "true", ""),
        ("-", "1", ""),
        ("size([", "1", "])"),
        ("true ? true : ", "true", ""),
        ("true && (true || ", "true", ")"),
        ("1+", "1", ""),
        ("", "[1]", ".map(a, a)"),
        ("", "_flow", ".source"),
        ("true ? (", "true", ") : true"),
    ];
    for (open, middle, close) in shapes {
        for times in [MAX_BRACKETS / 2, MAX_BRACKETS, usize::from(MAX_DEPTH), 500] {
            let text = format!("{}{middle}{}", open.repeat(times), close.repeat(times));
            // A stack that overflows ends the test; any answer is right.
            let _answer = Expression::compile(&text).map(|expression| expression.matches(&sample().view()));
        }
    }
    for deep in ["(".repeat(25) + "true" + &")".repeat(25), "1+".repeat(60) + "1 > 0"] {
        assert_eq!(Expression::compile(&deep).unwrap_err(), InvalidExpression::TooDeep, "{deep}");
    }
    assert!(is_true(&("(".repeat(24) + "true" + &")".repeat(24)), &sample()));
    let wide = vec!["true"; 250].join(" && ");
    assert!(is_true(&wide, &sample()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A panic fails the test; any answer is right.
    #[test]
    fn any_text_is_answered(text in "\\PC{0,60}") {
        let _answer = Expression::compile(&text).map(|expression| expression.matches(&sample().view()));
    }

    #[test]
    fn any_likely_text_is_answered(parts in prop::collection::vec(prop::sample::select(PARTS), 0..14)) {
        let text: String = parts.concat();
        let _answer = Expression::compile(&text).map(|expression| expression.matches(&sample().view()));
    }
}

const PARTS: &[&str] = &[
    "_flow", ".source", ".labels", ".uuid", "(", ")", "[", "]", "'a'", "\"", "1", "u", "-", "!", "&&", "||",
    "==", "<", "in", "has(", ".exists(", "x", ",", "?", ":", "true", "{", "}", "\\u", "b'\\xff'", "1e400",
    ".", " ", "0x", "//",
];
