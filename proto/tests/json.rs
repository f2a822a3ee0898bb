//! Protobuf JSON as Hubble's clients and exporters read and write it.
#![forbid(unsafe_code)]

use proptest::prelude::*;
use specola_proto::flow::{
    CiliumEventType, DropReason, Endpoint, Flow, FlowType, Ip, IpVersion, Layer4, LostEvent, LostEventSource,
    Tcp, TcpFlags, TraceObservationPoint, Verdict, layer4,
};
use specola_proto::google::{Any, FieldMask, Timestamp};
use specola_proto::observer::get_flows_response::ResponseTypes;
use specola_proto::observer::{ExportEvent, GetFlowsRequest, GetFlowsResponse, export_event};
use specola_proto::relay::{NodeState, NodeStatusEvent};
use specola_proto::specola::v1::FlowExtension;

/// A line that Hubble's own client printed for the flow of [`xwing_to_deathstar`].
const HUBBLE_LINE: &str = r#"{"flow":{"time":"2026-01-02T03:00:00.123456789Z","uuid":"f8c2d1a0-0000-4000-8000-000000000001","verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"10.0.0.2","ipVersion":"IPv4"},"l4":{"TCP":{"source_port":5000,"destination_port":80,"flags":{"SYN":true}}},"source":{"ID":10,"identity":12345,"namespace":"default","labels":["k8s:app=xwing"],"pod_name":"xwing"},"destination":{"ID":11,"identity":23456,"namespace":"default","pod_name":"deathstar-abc"},"Type":"L3_L4","node_name":"k8s1","event_type":{"type":4},"trace_observation_point":"TO_ENDPOINT","is_reply":false,"Summary":"TCP Flags: SYN"},"node_name":"k8s1","time":"2026-01-02T03:00:00.123456789Z"}"#;

fn xwing_to_deathstar() -> GetFlowsResponse {
    let time = Some(Timestamp { seconds: 1_767_322_800, nanos: 123_456_789 });
    let flags = TcpFlags { syn: true, ..TcpFlags::default() };
    let flow = Flow {
        time,
        uuid: "f8c2d1a0-0000-4000-8000-000000000001".to_owned(),
        verdict: Verdict::Forwarded.into(),
        ip: Some(Ip {
            source: "10.0.0.1".to_owned(),
            destination: "10.0.0.2".to_owned(),
            ip_version: IpVersion::IPv4.into(),
            ..Ip::default()
        }),
        l4: Some(Layer4 {
            protocol: Some(layer4::Protocol::Tcp(Tcp {
                source_port: 5000,
                destination_port: 80,
                flags: Some(flags),
            })),
        }),
        source: Some(Endpoint {
            id: 10,
            identity: 12345,
            namespace: "default".to_owned(),
            labels: vec!["k8s:app=xwing".to_owned()],
            pod_name: "xwing".to_owned(),
            ..Endpoint::default()
        }),
        destination: Some(Endpoint {
            id: 11,
            identity: 23456,
            namespace: "default".to_owned(),
            pod_name: "deathstar-abc".to_owned(),
            ..Endpoint::default()
        }),
        r#type: FlowType::L3L4.into(),
        node_name: "k8s1".to_owned(),
        event_type: Some(CiliumEventType { r#type: 4, sub_type: 0 }),
        trace_observation_point: TraceObservationPoint::ToEndpoint.into(),
        is_reply: Some(false),
        summary: "TCP Flags: SYN".to_owned(),
        ..Flow::default()
    };
    GetFlowsResponse { response_types: Some(ResponseTypes::Flow(flow)), node_name: "k8s1".to_owned(), time }
}

#[test]
fn a_flow_is_written_and_read_like_hubbles() {
    assert_eq!(serde_json::to_string(&xwing_to_deathstar()).unwrap(), HUBBLE_LINE);
    assert_eq!(serde_json::from_str::<GetFlowsResponse>(HUBBLE_LINE).unwrap(), xwing_to_deathstar());
}

#[test]
fn wide_integers_are_strings_and_wrappers_are_bare() {
    let lost = LostEvent {
        source: LostEventSource::HubbleRingBuffer.into(),
        num_events_lost: 42,
        cpu: Some(0),
        first: Some(Timestamp { seconds: 0, nanos: 0 }),
        last: None,
    };
    let time = Some(Timestamp { seconds: 1, nanos: 500_000_000 });
    let response = GetFlowsResponse {
        response_types: Some(ResponseTypes::LostEvents(lost)),
        node_name: "k8s1".to_owned(),
        time,
    };
    let json = concat!(
        r#"{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"42","cpu":0,"first":"1970-01-01T00:00:00Z"},"#,
        r#""node_name":"k8s1","time":"1970-01-01T00:00:01.500Z"}"#
    );
    assert_eq!(serde_json::to_string(&response).unwrap(), json);
    assert_eq!(serde_json::from_str::<GetFlowsResponse>(json).unwrap(), response);
    let exported = ExportEvent {
        response_types: Some(export_event::ResponseTypes::LostEvents(lost)),
        node_name: "k8s1".to_owned(),
        time,
    };
    assert_eq!(serde_json::to_string(&exported).unwrap(), json);
    assert_eq!(serde_json::from_str::<ExportEvent>(json).unwrap(), exported);
}

#[test]
fn node_status_names_its_nodes() {
    let status = NodeStatusEvent {
        state_change: NodeState::NodeUnavailable.into(),
        node_names: vec!["n1".to_owned()],
        message: String::new(),
    };
    let response = GetFlowsResponse {
        response_types: Some(ResponseTypes::NodeStatus(status)),
        ..GetFlowsResponse::default()
    };
    let json = r#"{"node_status":{"state_change":"NODE_UNAVAILABLE","node_names":["n1"]}}"#;
    assert_eq!(serde_json::to_string(&response).unwrap(), json);
}

#[test]
fn times_have_0_3_6_or_9_digits() {
    for (nanos, text) in [
        (0, "1970-01-01T00:00:07Z"),
        (120_000_000, "1970-01-01T00:00:07.120Z"),
        (1_000, "1970-01-01T00:00:07.000001Z"),
        (7, "1970-01-01T00:00:07.000000007Z"),
    ] {
        let time = Timestamp { seconds: 7, nanos };
        assert_eq!(serde_json::to_string(&time).unwrap(), format!("{text:?}"));
        assert_eq!(serde_json::from_str::<Timestamp>(&format!("{text:?}")).unwrap(), time);
    }
    let offset: Timestamp = serde_json::from_str("\"1970-01-01T01:00:07+01:00\"").unwrap();
    assert_eq!(offset, Timestamp { seconds: 7, nanos: 0 });
}

#[test]
fn wrong_times_are_errors() {
    for time in [
        Timestamp { seconds: i64::MAX, nanos: 0 },
        Timestamp { seconds: 0, nanos: -1 },
        Timestamp { seconds: 0, nanos: 1_000_000_000 },
    ] {
        assert!(serde_json::to_string(&time).is_err(), "{time:?}");
    }
    assert!(serde_json::from_str::<Timestamp>("\"yesterday\"").is_err());
}

#[test]
fn an_unknown_enum_value_is_written_as_its_number() {
    let flow = Flow { verdict: 99, drop_reason_desc: DropReason::PolicyDeny.into(), ..Flow::default() };
    assert_eq!(serde_json::to_string(&flow).unwrap(), r#"{"verdict":99,"drop_reason_desc":"POLICY_DENY"}"#);
}

#[test]
fn unknown_fields_are_ignored() {
    let flow: Flow = serde_json::from_str(r#"{"verdict":"DROPPED","from_the_future":{"x":[1]}}"#).unwrap();
    assert_eq!(flow, Flow { verdict: Verdict::Dropped.into(), ..Flow::default() });
}

#[test]
fn packed_messages_show_their_fields() {
    let extension = FlowExtension { packets_forward: 12, default_deny: true, ..FlowExtension::default() };
    let any = Any::pack(&extension);
    let json = r#"{"@type":"type.googleapis.com/specola.v1.FlowExtension","packets_forward":"12","default_deny":true}"#;
    assert_eq!(serde_json::to_string(&any).unwrap(), json);
    let read: Any = serde_json::from_str(json).unwrap();
    assert_eq!(read.unpack::<FlowExtension>().unwrap(), Some(extension));
}

#[test]
fn a_packed_message_that_cannot_be_read_keeps_its_bytes() {
    let any = Any { value: vec![0xff], ..Any::pack(&FlowExtension::default()) };
    let json = r#"{"@type":"type.googleapis.com/specola.v1.FlowExtension","value":"/w=="}"#;
    assert_eq!(serde_json::to_string(&any).unwrap(), json);
}

#[test]
fn packed_messages_of_unknown_types_keep_their_bytes() {
    let any = Any { type_url: "type.googleapis.com/a.B".to_owned(), value: vec![1, 2, 3] };
    let json = r#"{"@type":"type.googleapis.com/a.B","value":"AQID"}"#;
    assert_eq!(serde_json::to_string(&any).unwrap(), json);
    assert_eq!(serde_json::from_str::<Any>(json).unwrap(), any);
    assert!(serde_json::from_str::<Any>(r#"{"value":"AQID"}"#).is_err());
    assert!(serde_json::from_str::<Any>(r#"{"@type":"a.B","value":"?"}"#).is_err());
}

#[test]
fn a_request_keeps_its_mask() {
    let request = GetFlowsRequest {
        number: 20,
        field_mask: Some(FieldMask::from_iter(["time", "source.pod_name"])),
        ..GetFlowsRequest::default()
    };
    let json = r#"{"number":"20","field_mask":"time,source.pod_name"}"#;
    assert_eq!(serde_json::to_string(&request).unwrap(), json);
    assert_eq!(serde_json::from_str::<GetFlowsRequest>(json).unwrap(), request);
}

proptest! {
    #[test]
    fn times_survive_json_and_nanoseconds(nanos in -62_000_000_000_000_000_i64..9_000_000_000_000_000_000) {
        let time = Timestamp::from_unix_nanos(nanos);
        prop_assert_eq!(time.unix_nanos(), nanos);
        prop_assert!((0..1_000_000_000).contains(&time.nanos));
        let json = serde_json::to_string(&time).unwrap();
        prop_assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
        prop_assert_eq!(Timestamp::from(std::time::SystemTime::from(time)), time);
    }
}
