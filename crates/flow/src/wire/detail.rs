//! What a record has no place for, encoded once.

use prost::Message as _;
use specola_proto::flow as pb;

use crate::FlowDetail;

/// The fields that a [`FlowDetail`] decides, each with its key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WireDetail {
    pub(super) source_names: Box<[u8]>,
    pub(super) destination_names: Box<[u8]>,
    pub(super) l7: Box<[u8]>,
    pub(super) source_service: Box<[u8]>,
    pub(super) destination_service: Box<[u8]>,
    pub(super) trace_context: Box<[u8]>,
    pub(super) ip_trace_id: Box<[u8]>,
    /// Summary of the application data; `None` = there is none, and the packet has a summary of its own.
    pub(super) summary: Option<Box<[u8]>>,
    pub(super) encrypted: bool,
    pub(super) source_ip_xlated: Box<str>,
}

impl WireDetail {
    /// Encodes the details.
    pub fn new(detail: &FlowDetail) -> Self {
        let mut filled = pb::Flow::default();
        detail.fill(&mut filled);
        let encoded = |message: pb::Flow| message.encode_to_vec().into_boxed_slice();
        let empty = pb::Flow::default;
        Self {
            source_names: encoded(pb::Flow { source_names: filled.source_names, ..empty() }),
            destination_names: encoded(pb::Flow { destination_names: filled.destination_names, ..empty() }),
            l7: encoded(pb::Flow { l7: filled.l7, ..empty() }),
            source_service: encoded(pb::Flow { source_service: filled.source_service, ..empty() }),
            destination_service: encoded(pb::Flow {
                destination_service: filled.destination_service,
                ..empty()
            }),
            trace_context: encoded(pb::Flow { trace_context: filled.trace_context, ..empty() }),
            ip_trace_id: encoded(pb::Flow { ip_trace_id: filled.ip_trace_id, ..empty() }),
            summary: detail.l7.is_some().then(|| encoded(pb::Flow { summary: filled.summary, ..empty() })),
            encrypted: detail.encrypted,
            source_ip_xlated: detail.source_ip_xlated.as_str().into(),
        }
    }
}
