#![no_main]
//! Any bytes of a peer, in frames of any size, are answers or are refused; what is read in place is what a decoder reads.

#[expect(dead_code, reason = "the module is the relay's own")]
#[path = "../../relay/src/envelope.rs"]
mod envelope;

use envelope::{Answer, Kind, Splitter};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use prost::bytes::Bytes;
use specola_proto::observer::GetFlowsResponse;
use specola_proto::observer::get_flows_response::ResponseTypes;

fuzz_target!(|input: (u8, &[u8])| {
    let (frame, bytes) = input;
    let (mut splitter, mut answers) = (Splitter::default(), Vec::new());
    for data in bytes.chunks(usize::from(frame).max(1)) {
        if splitter.split(Bytes::copy_from_slice(data), &mut answers).is_err() {
            break;
        }
    }
    let whole = Answer::read(Bytes::copy_from_slice(bytes));
    for answer in answers.into_iter().chain(whole) {
        let Ok(decoded) = GetFlowsResponse::decode(answer.bytes) else { continue };
        // As a server writes it: every field once.
        let written = Answer::read(Bytes::from(decoded.encode_to_vec())).expect("a message is read");
        let kind = match decoded.response_types {
            Some(ResponseTypes::Flow(_)) => Kind::Flow,
            Some(ResponseTypes::LostEvents(lost)) => Kind::Lost(lost.num_events_lost),
            Some(ResponseTypes::NodeStatus(_)) | None => Kind::Other,
        };
        assert_eq!(written.kind, kind);
        assert_eq!(written.time_ns.is_some(), decoded.time.is_some());
    }
});
