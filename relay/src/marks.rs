//! What the relay says itself, as fields behind those of a peer's answer or as answers of its own.

use prost::Message;
use specola_proto::flow::{Flow, LostEvent, LostEventSource};
use specola_proto::google::{Any, Timestamp};
use specola_proto::observer::{GetFlowsResponse, get_flows_response::ResponseTypes};
use specola_proto::relay::NodeStatusEvent;
use specola_proto::specola::v1::RelayMark;

use crate::now_ns;

/// The field of `GetFlowsResponse` that holds a [`RelayMark`]; Hubble's clients skip it.
#[derive(Clone, PartialEq, prost::Message)]
struct Marked {
    #[prost(message, optional, tag = "150000")]
    extensions: Option<Any>,
}

/// Appends the mark of a flow that is out of order.
pub(crate) fn late(late_ns: u64, skew_ns: i64, out: &mut Vec<u8>) {
    let marked = Marked { extensions: Some(Any::pack(&RelayMark { late_ns, skew_ns })) };
    out.extend_from_slice(&marked.encode_to_vec());
}

/// Appends another node name. The last value of a field counts, and messages with the same field are merged.
pub(crate) fn rename(name: &str, is_flow: bool, out: &mut Vec<u8>) {
    let flow = ResponseTypes::Flow(Flow { node_name: name.to_owned(), ..Flow::default() });
    let answer =
        GetFlowsResponse { node_name: name.to_owned(), time: None, response_types: is_flow.then_some(flow) };
    out.extend_from_slice(&answer.encode_to_vec());
}

/// Flows that the relay had and one client was too slow for.
pub(crate) fn lost(relay: &str, count: u64) -> Vec<u8> {
    let event = LostEvent {
        source: LostEventSource::ObserverEventsQueue.into(),
        num_events_lost: count,
        ..LostEvent::default()
    };
    let answer = GetFlowsResponse {
        node_name: relay.to_owned(),
        time: Some(Timestamp::from_unix_nanos(i64::try_from(now_ns()).unwrap_or(i64::MAX))),
        response_types: Some(ResponseTypes::LostEvents(event)),
    };
    answer.encode_to_vec()
}

/// A message about nodes.
pub(crate) fn node_status(relay: &str, state: i32, names: Vec<String>, message: String) -> Vec<u8> {
    let event = NodeStatusEvent { state_change: state, node_names: names, message };
    let answer = GetFlowsResponse {
        node_name: relay.to_owned(),
        time: Some(Timestamp::from_unix_nanos(i64::try_from(now_ns()).unwrap_or(i64::MAX))),
        response_types: Some(ResponseTypes::NodeStatus(event)),
    };
    answer.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_behind_an_answer_change_it() {
        let flow = Flow { node_name: "n1".into(), uuid: "u".into(), ..Flow::default() };
        let answer = GetFlowsResponse {
            node_name: "n1".into(),
            time: None,
            response_types: Some(ResponseTypes::Flow(flow)),
        };
        let mut bytes = answer.encode_to_vec();
        rename("east/n1", true, &mut bytes);
        late(7, 0, &mut bytes);
        let read = GetFlowsResponse::decode(bytes.as_slice()).unwrap();
        let Some(ResponseTypes::Flow(flow)) = &read.response_types else { panic!("{read:?}") };
        assert_eq!(
            (read.node_name.as_str(), flow.node_name.as_str(), flow.uuid.as_str()),
            ("east/n1", "east/n1", "u")
        );
        let mark = Marked::decode(bytes.as_slice()).unwrap().extensions.unwrap();
        assert_eq!(mark.unpack::<RelayMark>().unwrap().unwrap().late_ns, 7);
    }
}
