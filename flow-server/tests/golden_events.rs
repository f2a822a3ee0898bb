//! The JSON of everything that is no flow, as Hubble's mapping has it: agent events of each kind, debug events, lost
//! events, changes of nodes; as answers and as exported lines.

use serde_json::{Value, json};
use specola_proto::{
    flow::{
        self as pb, AgentEvent, AgentEventType as Kind, DebugEvent, DebugEventType, LostEvent,
        LostEventSource, agent_event::Notification,
    },
    google::Timestamp,
    observer::{
        ExportEvent, GetAgentEventsResponse, GetDebugEventsResponse, GetFlowsResponse,
        export_event::ResponseTypes as Exported, get_flows_response::ResponseTypes as Answered,
    },
    relay::{NodeState, NodeStatusEvent},
};

const TIME: &str = "1970-01-01T00:00:01.500Z";

fn time() -> Option<Timestamp> {
    Some(Timestamp { seconds: 1, nanos: 500_000_000 })
}

/// The answer of the API and the exported line have the same JSON.
#[track_caller]
fn check_agent_event(kind: Kind, notification: Notification, expected: Value) {
    let event = AgentEvent { r#type: kind.into(), notification: Some(notification) };
    let expected = json!({"agent_event": expected, "node_name": "n1", "time": TIME});
    let exported = ExportEvent {
        node_name: "n1".into(),
        time: time(),
        response_types: Some(Exported::AgentEvent(event.clone())),
    };
    let answered = GetAgentEventsResponse { node_name: "n1".into(), time: time(), agent_event: Some(event) };
    assert_eq!(serde_json::to_value(answered).unwrap(), expected, "{kind:?}");
    assert_eq!(serde_json::to_value(&exported).unwrap(), expected, "{kind:?}");
    // What was written is read as the same event.
    assert_eq!(serde_json::from_value::<ExportEvent>(expected).unwrap(), exported);
}

#[test]
fn agent_and_policy() {
    let started = Notification::AgentStart(pb::TimeNotification { time: time() });
    check_agent_event(
        Kind::AgentStarted,
        started,
        json!({"type": "AGENT_STARTED", "agent_start": {"time": TIME}}),
    );
    for (kind, name) in [(Kind::PolicyUpdated, "POLICY_UPDATED"), (Kind::PolicyDeleted, "POLICY_DELETED")] {
        let policy =
            pb::PolicyUpdateNotification { labels: vec!["k8s:a=b".into()], revision: 7, rule_count: -2 };
        // 64 bits are text.
        let shown = json!({"labels": ["k8s:a=b"], "revision": "7", "rule_count": "-2"});
        check_agent_event(
            kind,
            Notification::PolicyUpdate(policy),
            json!({"type": name, "policy_update": shown}),
        );
    }
    let unknown = pb::AgentEventUnknown { r#type: "99".into(), notification: "{\"a\":1}".into() };
    let shown = json!({"unknown": {"type": "99", "notification": "{\"a\":1}"}});
    check_agent_event(Kind::AgentEventUnknown, Notification::Unknown(unknown), shown);
}

#[test]
fn endpoints() {
    for (kind, name, error) in [
        (Kind::EndpointRegenerateSuccess, "ENDPOINT_REGENERATE_SUCCESS", ""),
        (Kind::EndpointRegenerateFailure, "ENDPOINT_REGENERATE_FAILURE", "no room"),
    ] {
        let labels = vec!["k8s:app=db".to_owned()];
        let done = pb::EndpointRegenNotification { id: 8, labels, error: error.into() };
        let mut shown = json!({"id": "8", "labels": ["k8s:app=db"]});
        if !error.is_empty() {
            shown["error"] = json!(error);
        }
        let expected = json!({"type": name, "endpoint_regenerate": shown});
        check_agent_event(kind, Notification::EndpointRegenerate(done), expected);
    }
    for (kind, name) in
        [(Kind::EndpointCreated, "ENDPOINT_CREATED"), (Kind::EndpointDeleted, "ENDPOINT_DELETED")]
    {
        let endpoint = pb::EndpointUpdateNotification {
            id: 8,
            pod_name: "db".into(),
            namespace: "shop".into(),
            ..pb::EndpointUpdateNotification::default()
        };
        let shown = json!({"id": "8", "pod_name": "db", "namespace": "shop"});
        check_agent_event(
            kind,
            Notification::EndpointUpdate(endpoint),
            json!({"type": name, "endpoint_update": shown}),
        );
    }
}

#[test]
fn addresses_and_services() {
    for (kind, name, old, shown_old) in [
        (Kind::IpcacheUpserted, "IPCACHE_UPSERTED", Some(0), json!(0)),
        (Kind::IpcacheDeleted, "IPCACHE_DELETED", None, Value::Null),
    ] {
        let entry = pb::IpCacheNotification {
            cidr: "10.0.0.1/32".into(),
            identity: 300,
            old_identity: old,
            host_ip: "192.168.0.1".into(),
            old_host_ip: "192.168.0.2".into(),
            encrypt_key: 3,
            namespace: "shop".into(),
            pod_name: "web".into(),
        };
        let mut shown = json!({
            "cidr": "10.0.0.1/32",
            "identity": 300,
            "host_ip": "192.168.0.1",
            "old_host_ip": "192.168.0.2",
            "encrypt_key": 3,
            "namespace": "shop",
            "pod_name": "web",
        });
        if !shown_old.is_null() {
            // A known identity of 0 is not the same as none.
            shown["old_identity"] = shown_old;
        }
        check_agent_event(
            kind,
            Notification::IpcacheUpdate(entry),
            json!({"type": name, "ipcache_update": shown}),
        );
    }
    let address = |port| pb::ServiceUpsertNotificationAddr { ip: "10.0.0.9".into(), port };
    let service = pb::ServiceUpsertNotification {
        id: 4,
        frontend_address: Some(address(80)),
        backend_addresses: vec![address(8080), address(8081)],
        r#type: "ClusterIP".into(),
        name: "web".into(),
        namespace: "shop".into(),
        ext_traffic_policy: "Cluster".into(),
        int_traffic_policy: "Local".into(),
        ..pb::ServiceUpsertNotification::default()
    };
    let shown = json!({
        "id": 4,
        "frontend_address": {"ip": "10.0.0.9", "port": 80},
        "backend_addresses": [{"ip": "10.0.0.9", "port": 8080}, {"ip": "10.0.0.9", "port": 8081}],
        "type": "ClusterIP",
        "name": "web",
        "namespace": "shop",
        "ext_traffic_policy": "Cluster",
        "int_traffic_policy": "Local",
    });
    let expected = json!({"type": "SERVICE_UPSERTED", "service_upsert": shown});
    check_agent_event(Kind::ServiceUpserted, Notification::ServiceUpsert(service), expected);
    let gone = pb::ServiceDeleteNotification { id: 4 };
    let expected = json!({"type": "SERVICE_DELETED", "service_delete": {"id": 4}});
    check_agent_event(Kind::ServiceDeleted, Notification::ServiceDelete(gone), expected);
}

#[test]
fn debug_events() {
    let event = DebugEvent {
        r#type: DebugEventType::DbgCtLookup.into(),
        source: Some(pb::Endpoint { id: 8, identity: 301, ..pb::Endpoint::default() }),
        hash: Some(0xffff_ffff),
        arg1: Some(1),
        arg2: Some(0),
        arg3: None,
        message: "Conntrack lookup".into(),
        cpu: Some(0),
    };
    let shown = json!({
        "type": "DBG_CT_LOOKUP",
        "source": {"ID": 8, "identity": 301},
        "hash": 4_294_967_295_u32,
        "arg1": 1,
        // A wrapper of 0 is written, one that is not there is not.
        "arg2": 0,
        "message": "Conntrack lookup",
        "cpu": 0,
    });
    let expected = json!({"debug_event": shown, "node_name": "n1", "time": TIME});
    let answered =
        GetDebugEventsResponse { node_name: "n1".into(), time: time(), debug_event: Some(event.clone()) };
    assert_eq!(serde_json::to_value(answered).unwrap(), expected);
    let exported = ExportEvent {
        node_name: "n1".into(),
        time: time(),
        response_types: Some(Exported::DebugEvent(event)),
    };
    assert_eq!(serde_json::to_value(exported).unwrap(), expected);
}

#[test]
fn lost_events() {
    for (source, name, cpu) in [
        (LostEventSource::PerfEventRingBuffer, "PERF_EVENT_RING_BUFFER", Some(0)),
        (LostEventSource::ObserverEventsQueue, "OBSERVER_EVENTS_QUEUE", Some(3)),
        (LostEventSource::HubbleRingBuffer, "HUBBLE_RING_BUFFER", None),
    ] {
        let lost = LostEvent {
            source: source.into(),
            num_events_lost: 18_446_744_073_709_551_615,
            cpu,
            first: time(),
            last: Some(Timestamp { seconds: 2, nanos: 0 }),
        };
        let mut shown = json!({
            "source": name,
            "num_events_lost": "18446744073709551615",
            "first": TIME,
            "last": "1970-01-01T00:00:02Z",
        });
        if let Some(cpu) = cpu {
            shown["cpu"] = json!(cpu);
        }
        let expected = json!({"lost_events": shown, "node_name": "n1", "time": TIME});
        let answered = GetFlowsResponse {
            node_name: "n1".into(),
            time: time(),
            response_types: Some(Answered::LostEvents(lost)),
        };
        assert_eq!(serde_json::to_value(answered).unwrap(), expected);
        let exported = ExportEvent {
            node_name: "n1".into(),
            time: time(),
            response_types: Some(Exported::LostEvents(lost)),
        };
        assert_eq!(serde_json::to_value(exported).unwrap(), expected);
    }
}

#[test]
fn changes_of_nodes() {
    for (state, name) in [
        (NodeState::NodeConnected, "NODE_CONNECTED"),
        (NodeState::NodeUnavailable, "NODE_UNAVAILABLE"),
        (NodeState::NodeGone, "NODE_GONE"),
        (NodeState::NodeError, "NODE_ERROR"),
    ] {
        let message = if state == NodeState::NodeError { "no route" } else { "" };
        let change = NodeStatusEvent {
            state_change: state.into(),
            node_names: vec!["n1".into(), "east/n2".into()],
            message: message.into(),
        };
        let mut shown = json!({"state_change": name, "node_names": ["n1", "east/n2"]});
        if !message.is_empty() {
            shown["message"] = json!(message);
        }
        let answered = GetFlowsResponse {
            node_name: "relay".into(),
            time: time(),
            response_types: Some(Answered::NodeStatus(change)),
        };
        let expected = json!({"node_status": shown, "node_name": "relay", "time": TIME});
        assert_eq!(serde_json::to_value(answered).unwrap(), expected);
    }
}
