#![no_main]
//! Any request for flows is answered or refused with a reason: filters, expressions, field masks, times, extensions.

mod server;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use specola_datapath_common::event::{Event, kind};
use specola_proto::flow::{FlowFilter, flow_filter};
use specola_proto::observer::GetFlowsRequest;
use tonic::Code;
use zerocopy::FromZeros;

thread_local! {
    static SERVER: RefCell<Option<server::Server>> = const { RefCell::new(None) };
}

fn server() -> server::Server {
    let mut server = server::Server::new();
    let event = |kind, port| Event {
        kind,
        ip_version: 4,
        proto: 6,
        dst_port: port,
        boot_ns: 1,
        ..Event::new_zeroed()
    };
    let events =
        [kind::DROP, kind::TRACE, kind::POLICY_VERDICT].map(|kind| event(kind, 80 + u16::from(kind)));
    server.ingest(&events);
    server
}

fuzz_target!(|input: (&[u8], Vec<String>)| {
    let (bytes, expressions) = input;
    SERVER.with_borrow_mut(|kept| {
        let server = kept.get_or_insert_with(server);
        let mut requests = Vec::new();
        requests.extend(GetFlowsRequest::decode(bytes));
        let experimental =
            Some(flow_filter::Experimental { cel_expression: expressions, ..Default::default() });
        let filter = FlowFilter { experimental, ..FlowFilter::default() };
        requests.push(GetFlowsRequest { whitelist: vec![filter], number: 10, ..GetFlowsRequest::default() });
        for request in requests {
            if let Err(status) = server.flows(request) {
                assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
                assert!(!status.message().is_empty());
            }
        }
    });
});
