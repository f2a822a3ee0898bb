//! gRPC messages of an answer, one behind the other: a byte for "not compressed", four for the length, the message.

use prost::{
    DecodeError, Message as _,
    bytes::{Buf, Bytes},
    encoding::encode_varint,
};
use specola_flow::{FlowEncoder, FlowMask, MaskError, NodeInfo, WireFlow};
use specola_proto::observer::GetFlowsResponse;

/// Bytes before each message.
const PREFIX: usize = 5;
/// Key of `GetFlowsResponse.flow`, which is also the key of `Flow.time`: field 1, length-delimited.
const FIELD_1: u8 = 0x0a;
/// Key of `GetFlowsResponse.time`: field 1001, length-delimited.
const TIME: [u8; 2] = [0xca, 0x3e];
/// `Flow.node_name`.
const FLOW_NODE_NAME: u32 = 11;

/// Writes flows as `GetFlowsResponse` messages.
#[derive(Clone, Debug)]
pub(crate) struct FrameWriter {
    encoder: FlowEncoder,
    /// `GetFlowsResponse.node_name` with its key; empty when the mask has no node name.
    node_name: Vec<u8>,
}

impl FrameWriter {
    pub(crate) fn new(version: &str, node: &NodeInfo, mask: Option<FlowMask>, extension: bool) -> Self {
        let encoder = FlowEncoder::new(version, node, mask, extension);
        let named = GetFlowsResponse { node_name: node.absolute_name(), ..GetFlowsResponse::default() };
        let node_name = if encoder.wants(FLOW_NODE_NAME) { named.encode_to_vec() } else { Vec::new() };
        Self { encoder, node_name }
    }

    /// Appends a flow. The envelope repeats its node name and time as far as the mask lets them through.
    pub(crate) fn flow(&mut self, wire: &WireFlow<'_>, out: &mut Vec<u8>) -> Result<(), MaskError> {
        let at = out.len();
        // The flow's length takes two bytes unless a mask leaves very little of it.
        out.extend_from_slice(&[0, 0, 0, 0, 0, FIELD_1, 0, 0]);
        let start = out.len();
        if let Err(error) = self.encoder.encode(wire, out) {
            out.truncate(at);
            return Err(error);
        }
        let start = set_length(out, start);
        out.extend_from_slice(&self.node_name);
        copy_time(start, out);
        set_prefix(out, at);
        Ok(())
    }
}

/// Puts the length of all from `start` on into the two bytes before it, or as many as it takes. Returns where the
/// content starts then.
fn set_length(out: &mut Vec<u8>, start: usize) -> usize {
    let length = out.len() - start;
    if let 0x80..0x4000 = length {
        out[start - 2] = length as u8 | 0x80;
        out[start - 1] = (length >> 7) as u8;
        return start;
    }
    let mut prefix = Vec::with_capacity(10);
    encode_varint(length as u64, &mut prefix);
    let moved = start - 2 + prefix.len();
    out.splice(start - 2..start, prefix);
    moved
}

/// Appends the flow's time as the envelope's. It is the first field of the flow when it is there.
fn copy_time(start: usize, out: &mut Vec<u8>) {
    if let Some([FIELD_1, length]) = out.get(start..start + 2) {
        // A timestamp has 18 bytes at most, so its length is one byte, and the flow goes on behind it.
        let end = start + 2 + usize::from(*length);
        out.extend_from_slice(&TIME);
        out.extend_from_within(start + 1..end);
    }
}

/// Writes the prefix of the message that begins at `at` and ends the buffer.
fn set_prefix(out: &mut [u8], at: usize) {
    let length = u32::try_from(out.len() - at - PREFIX).expect("an answer has far less than 4 GiB");
    out[at + 1..at + PREFIX].copy_from_slice(&length.to_be_bytes());
}

/// Appends any other answer.
pub(crate) fn push_frame(answer: &GetFlowsResponse, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    answer.encode(out).expect("a vector takes all that is written");
    set_prefix(out, at);
}

/// Takes answers apart again. The bytes are those of [`push_frame`] and [`FrameWriter::flow`].
pub(crate) fn split_frames(mut frames: Bytes) -> Result<Vec<GetFlowsResponse>, DecodeError> {
    let mut answers = Vec::new();
    while frames.remaining() >= PREFIX {
        frames.advance(1);
        let length = frames.get_u32() as usize;
        answers.push(GetFlowsResponse::decode(frames.split_to(length.min(frames.len())))?);
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use specola_flow::{Flow, FlowUuid, InstanceId};
    use specola_proto::observer::get_flows_response::ResponseTypes;

    use super::*;

    fn frame(node_name: &str, labels: usize, paths: &[&str]) -> Vec<u8> {
        let node = NodeInfo {
            name: node_name.into(),
            cluster_name: String::new(),
            labels: vec!["label=value".into(); labels],
        };
        let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
        let mask = FlowMask::compile(&paths).unwrap();
        let flow = Flow { time_ns: 7_000_000_009, ..Flow::default() };
        let wire = WireFlow {
            flow: &flow,
            uuid: FlowUuid { instance: InstanceId::new(1), seq: 2 },
            source: &[],
            destination: &[],
            origins: None,
            interface: None,
            detail: None,
        };
        let mut out = Vec::new();
        FrameWriter::new("1", &node, mask, false).flow(&wire, &mut out).unwrap();
        out
    }

    #[test]
    fn envelopes_are_those_of_prost() {
        let long_name = "n".repeat(300);
        for (node_name, labels, paths) in [
            ("n1", 1, &[][..]),
            ("", 0, &[]),
            (&long_name, 0, &[]),
            // More than two bytes of length.
            ("n1", 2_000, &[]),
            ("n1", 1, &["time"]),
            ("n1", 1, &["time.nanos", "uuid"]),
            ("n1", 1, &["uuid"]),
            ("n1", 1, &["node_name"]),
            ("n1", 1, &["l7"]),
        ] {
            let written = frame(node_name, labels, paths);
            let [answer] = split_frames(written.clone().into()).unwrap().try_into().unwrap();
            let Some(ResponseTypes::Flow(flow)) = &answer.response_types else { panic!("{answer:?}") };
            assert_eq!((&answer.node_name, answer.time), (&flow.node_name, flow.time), "{paths:?}");
            let mut expected = Vec::new();
            push_frame(&answer, &mut expected);
            assert_eq!(written, expected, "{node_name} {labels} {paths:?}");
        }
    }
}
