//! Protobuf JSON that is not generated: envelopes with their payload first, and packed messages of known types.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::{Message as _, Name as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::flow::{AgentEvent, DebugEvent, Flow, LostEvent};
use crate::google::{Any, Timestamp};
use crate::observer::{ExportEvent, GetFlowsResponse, export_event, get_flows_response};
use crate::relay::NodeStatusEvent;
use crate::specola::v1::{FlowExtension, FlowRequestOptions};

/// Why JSON is no packed message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error("the fields fit no such message: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the value is no base64: {0}")]
    Base64(#[from] base64::DecodeError),
    #[error("a packed message of an unknown type needs its bytes in \"value\"")]
    NoValue,
}

/// Writes a packed message: the fields of one of ours, the bytes of any other and of one that cannot be read.
pub(crate) fn serialize_any<S: Serializer>(any: &Any, serializer: S) -> Result<S::Ok, S::Error> {
    let type_url = any.type_url.as_str();
    if let Ok(Some(fields)) = any.unpack::<FlowExtension>() {
        return Packed { type_url, fields }.serialize(serializer);
    }
    if let Ok(Some(fields)) = any.unpack::<FlowRequestOptions>() {
        return Packed { type_url, fields }.serialize(serializer);
    }
    Packed { type_url, fields: PackedBytes { value: BASE64.encode(&any.value) } }.serialize(serializer)
}

/// JSON of a packed message.
#[derive(Serialize)]
struct Packed<'a, F> {
    #[serde(rename = "@type")]
    type_url: &'a str,
    #[serde(flatten)]
    fields: F,
}

/// What is known of a message of another type.
#[derive(Serialize)]
struct PackedBytes {
    value: String,
}

/// Packs a message that was read from JSON.
pub(crate) fn pack(type_url: String, mut fields: Map<String, Value>) -> Result<Any, PackError> {
    let name = type_url.rsplit('/').next().unwrap_or_default();
    let value = if name == FlowExtension::full_name() {
        serde_json::from_value::<FlowExtension>(Value::Object(fields))?.encode_to_vec()
    } else if name == FlowRequestOptions::full_name() {
        serde_json::from_value::<FlowRequestOptions>(Value::Object(fields))?.encode_to_vec()
    } else {
        match fields.remove("value") {
            Some(Value::String(text)) => BASE64.decode(text)?,
            _ => return Err(PackError::NoValue),
        }
    };
    Ok(Any { type_url, value })
}

/// The value of an enum field: its name, or its number when this version does not know it.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum EnumValue<E> {
    Known(E),
    Unknown(i32),
}

impl<E> EnumValue<E> {
    /// The value that is no variant of `E`.
    pub(crate) fn unknown(error: prost::UnknownEnumValue) -> Self {
        Self::Unknown(error.0)
    }
}

/// JSON form of the envelopes; a field that is not set is left out.
#[derive(Deserialize, Serialize)]
struct Envelope<F, N, L, A, D> {
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    flow: Option<F>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none", alias = "nodeStatus")]
    node_status: Option<N>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none", alias = "lostEvents")]
    lost_events: Option<L>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none", alias = "agentEvent")]
    agent_event: Option<A>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none", alias = "debugEvent")]
    debug_event: Option<D>,
    #[serde(default, skip_serializing_if = "String::is_empty", alias = "nodeName")]
    node_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
}

/// What an envelope is written from.
type Borrowed<'a> = Envelope<&'a Flow, &'a NodeStatusEvent, &'a LostEvent, &'a AgentEvent, &'a DebugEvent>;

/// What an envelope is read into.
type Owned = Envelope<Flow, NodeStatusEvent, LostEvent, AgentEvent, DebugEvent>;

fn none<T>() -> Option<T> {
    None
}

fn envelope<'a>(node_name: &str, time: Option<Timestamp>) -> Borrowed<'a> {
    Envelope {
        flow: None,
        node_status: None,
        lost_events: None,
        agent_event: None,
        debug_event: None,
        node_name: node_name.to_owned(),
        time,
    }
}

impl Serialize for GetFlowsResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use get_flows_response::ResponseTypes;
        let mut json = envelope(&self.node_name, self.time);
        match &self.response_types {
            Some(ResponseTypes::Flow(flow)) => json.flow = Some(flow),
            Some(ResponseTypes::NodeStatus(status)) => json.node_status = Some(status),
            Some(ResponseTypes::LostEvents(lost)) => json.lost_events = Some(lost),
            None => {}
        }
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for GetFlowsResponse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use get_flows_response::ResponseTypes;
        let json = Owned::deserialize(deserializer)?;
        let response_types = (json.flow.map(ResponseTypes::Flow))
            .or(json.node_status.map(ResponseTypes::NodeStatus))
            .or(json.lost_events.map(ResponseTypes::LostEvents));
        Ok(Self { node_name: json.node_name, time: json.time, response_types })
    }
}

impl Serialize for ExportEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use export_event::ResponseTypes;
        let mut json = envelope(&self.node_name, self.time);
        match &self.response_types {
            Some(ResponseTypes::Flow(flow)) => json.flow = Some(flow),
            Some(ResponseTypes::NodeStatus(status)) => json.node_status = Some(status),
            Some(ResponseTypes::LostEvents(lost)) => json.lost_events = Some(lost),
            Some(ResponseTypes::AgentEvent(event)) => json.agent_event = Some(event),
            Some(ResponseTypes::DebugEvent(event)) => json.debug_event = Some(event),
            None => {}
        }
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ExportEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use export_event::ResponseTypes;
        let json = Owned::deserialize(deserializer)?;
        let response_types = (json.flow.map(ResponseTypes::Flow))
            .or(json.node_status.map(ResponseTypes::NodeStatus))
            .or(json.lost_events.map(ResponseTypes::LostEvents))
            .or(json.agent_event.map(ResponseTypes::AgentEvent))
            .or(json.debug_event.map(ResponseTypes::DebugEvent));
        Ok(Self { node_name: json.node_name, time: json.time, response_types })
    }
}
