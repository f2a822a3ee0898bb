//! Hubble's flow message written straight from the record: the bytes that [`crate::flow_message`] encodes to, without
//! the message in between.
//!
//! What is the same for many flows is encoded once: names and labels of an endpoint in its [`crate::MetaTable`] entry,
//! the rules behind a cookie in [`WireOrigins`], the node in the [`FlowEncoder`].

mod detail;
mod fields;
mod origins;
mod put;
mod text;

use prost::Message as _;
use specola_proto::flow as pb;

pub use detail::WireDetail;
pub use origins::WireOrigins;

use crate::{EndpointMeta, Flow, FlowMask, FlowUuid, MaskError, NodeInfo};
use fields::{Input, write_all, write_field};

/// Writes flows as one client wants them.
#[derive(Clone, Debug)]
pub struct FlowEncoder {
    mask: Option<FlowMask>,
    constants: Constants,
    /// A message of which parts are wanted.
    scratch: Vec<u8>,
}

/// Fields that are the same in every flow, with their keys.
#[derive(Clone, Debug)]
struct Constants {
    node_name: Box<[u8]>,
    node_labels: Box<[u8]>,
    emitter: Box<[u8]>,
    extension: bool,
}

/// A flow and what its handles lead to, in encoded form.
#[derive(Clone, Copy, Debug)]
pub struct WireFlow<'a> {
    /// The record.
    pub flow: &'a Flow,
    /// Its id.
    pub uuid: FlowUuid,
    /// [`crate::Metas::wire`] of the source.
    pub source: &'a [u8],
    /// [`crate::Metas::wire`] of the destination.
    pub destination: &'a [u8],
    /// Rules behind the flow's cookie.
    pub origins: Option<&'a WireOrigins>,
    /// Name of the flow's interface.
    pub interface: Option<&'a str>,
    /// What the record has no place for.
    pub detail: Option<&'a WireDetail>,
}

impl FlowEncoder {
    /// An encoder of flows that `node` observed. `version` is `emitter.version`; `extension` adds
    /// [`specola_proto::specola::v1::FlowExtension`]; without `mask` all fields are written.
    pub fn new(version: &str, node: &NodeInfo, mask: Option<FlowMask>, extension: bool) -> Self {
        let emitter = pb::Emitter { name: crate::message::EMITTER.to_owned(), version: version.to_owned() };
        let encoded = |message: pb::Flow| message.encode_to_vec().into_boxed_slice();
        let constants = Constants {
            node_name: encoded(pb::Flow { node_name: node.absolute_name(), ..pb::Flow::default() }),
            node_labels: encoded(pb::Flow { node_labels: node.labels.clone(), ..pb::Flow::default() }),
            emitter: encoded(pb::Flow { emitter: Some(emitter), ..pb::Flow::default() }),
            extension,
        };
        Self { mask, constants, scratch: Vec::new() }
    }

    /// Whether the mask lets the top-level field with this number through, whole or in part.
    pub fn wants(&self, number: u32) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask.fields().contains_key(&number))
    }

    /// Appends the encoded message.
    ///
    /// # Errors
    /// A part of a message cannot be taken out of it: an error of this program. What was appended is then unusable.
    pub fn encode(&mut self, wire: &WireFlow<'_>, out: &mut Vec<u8>) -> Result<(), MaskError> {
        let Self { mask, constants, scratch } = self;
        let input = Input { wire, constants };
        match mask {
            None => write_all(&input, out),
            Some(mask) => {
                for (number, node) in mask.fields() {
                    match node {
                        None => write_field(*number, &input, out),
                        Some(node) => {
                            scratch.clear();
                            write_field(*number, &input, scratch);
                            node.keep_field(*number, scratch, out)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The part of an endpoint's message that its entry decides: all fields behind id and identity.
pub(crate) fn endpoint_tail(meta: &EndpointMeta, labels: &[String]) -> Box<[u8]> {
    let names = crate::message::names(meta);
    pb::Endpoint { labels: labels.to_vec(), ..names }.encode_to_vec().into_boxed_slice()
}

#[cfg(test)]
mod tests;
