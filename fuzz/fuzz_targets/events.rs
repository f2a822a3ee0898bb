#![no_main]
//! Any bytes in a lane are events that become flows, or are rejected and counted; every flow can be sent.

mod server;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use specola_datapath_common::event::{Event, kind};
use specola_proto::observer::GetFlowsRequest;
use zerocopy::FromBytes;

thread_local! {
    static SERVER: RefCell<server::Server> = RefCell::new(server::Server::new());
}

fuzz_target!(|bytes: &[u8]| {
    SERVER.with_borrow_mut(|server| {
        let mut events = Vec::new();
        for sample in bytes.chunks(size_of::<Event>()) {
            if let Ok(mut event) = Event::read_from_bytes(sample) {
                // Most numbers are no kind: the decoder behind that check is what is looked at.
                if !matches!(event.kind, kind::DROP | kind::TRACE | kind::POLICY_VERDICT) {
                    event.kind = [kind::DROP, kind::TRACE, kind::POLICY_VERDICT][usize::from(event.kind % 3)];
                }
                events.push(event);
            }
            // Refused or not, never a panic.
            drop(Event::from_bytes(sample));
        }
        let before = server.book();
        server.ingest(&events);
        let after = server.book();
        let counted = |book: &specola_flow_server::LedgerCounts| {
            (book.consumed + book.agent, book.rejected.iter().map(|(_, count)| count).sum::<u64>())
        };
        let ((taken, rejected), (taken_before, rejected_before)) = (counted(&after), counted(&before));
        assert_eq!(taken - taken_before, events.len() as u64, "each record is counted");
        assert!(rejected - rejected_before <= events.len() as u64);
        let request = GetFlowsRequest { number: u64::MAX, ..GetFlowsRequest::default() };
        server.flows(request).expect("every flow can be sent");
    });
});
