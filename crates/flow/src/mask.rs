//! Field masks: which fields of a flow message a client wants.

use std::collections::BTreeMap;

use prost::{
    DecodeError, Message as _,
    bytes::{Buf, BufMut},
    encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint},
};
use prost_types::{DescriptorProto, FileDescriptorSet};
use specola_proto::{FILE_DESCRIPTOR_SET, flow as pb};

/// A compiled mask over [`pb::Flow`]. Works on the encoded form, so that it knows every field at every depth.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FlowMask {
    root: Fields,
}

/// Fields that stay, by number; `None` = the whole field.
pub(crate) type Fields = BTreeMap<u32, Option<Node>>;

/// What stays of a message field.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Node {
    fields: Fields,
    /// One of several alternatives: left out when absent, for it would displace the one that is there.
    is_alternative: bool,
}

/// Why a mask cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("invalid fieldmask: flow.Flow has no field \"{path}\"")]
pub struct InvalidMask {
    path: String,
}

/// An encoded message is not what its schema says: an error of this program.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MaskError {
    /// It cannot be decoded.
    #[error("decode a masked flow: {0}")]
    Decode(#[from] DecodeError),
    /// A field ends beyond the message, or is of a form that the API does not use.
    #[error("decode a masked flow: malformed field")]
    Malformed,
}

impl FlowMask {
    /// Compiles dot-separated paths of field names; `None` when there are none, which asks for everything.
    ///
    /// A path to a message takes all of it, whatever longer paths say.
    ///
    /// # Errors
    /// A path names no field.
    pub fn compile(paths: &[String]) -> Result<Option<Self>, InvalidMask> {
        if paths.is_empty() {
            return Ok(None);
        }
        let schema = Schema::load();
        let mut root = Fields::new();
        for path in paths {
            let names: Vec<&str> = path.split('.').collect();
            schema.add(FLOW_TYPE, &names, &mut root).ok_or_else(|| InvalidMask { path: path.clone() })?;
        }
        Ok(Some(Self { root }))
    }

    /// Wanted fields of the flow.
    pub(crate) const fn fields(&self) -> &Fields {
        &self.root
    }

    /// A message with the wanted fields of `flow` only. A message of which only parts are wanted is always there.
    ///
    /// # Errors
    /// The encoded form is not what its schema says.
    pub fn apply(&self, flow: &pb::Flow) -> Result<pb::Flow, MaskError> {
        let encoded = flow.encode_to_vec();
        let mut kept = Vec::with_capacity(encoded.len());
        keep(&self.root, &encoded, &mut kept)?;
        Ok(pb::Flow::decode(kept.as_slice())?)
    }
}

impl Node {
    /// Copies what is wanted of `field`, a message field with its key, or nothing when the message has none.
    pub(crate) fn keep_field(
        &self,
        number: u32,
        field: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), MaskError> {
        let mut input = field;
        if input.is_empty() {
            return self.keep_absent(number, output);
        }
        decode_key(&mut input)?;
        self.keep_message(number, input, output)
    }

    /// `input` is the message with its length in front.
    fn keep_message(&self, number: u32, mut input: &[u8], output: &mut Vec<u8>) -> Result<(), MaskError> {
        decode_varint(&mut input)?;
        encode_key(number, WireType::LengthDelimited, output);
        let at = output.len();
        keep(&self.fields, input, output)?;
        insert_length(output, at);
        Ok(())
    }

    fn keep_absent(&self, number: u32, output: &mut Vec<u8>) -> Result<(), MaskError> {
        if self.is_alternative {
            return Ok(());
        }
        Self::default().keep_message(number, &[0], output)
    }
}

/// Copies wanted fields from `input` to `output`. Both have them in the order of their numbers, as prost writes them.
fn keep(fields: &Fields, mut input: &[u8], output: &mut Vec<u8>) -> Result<(), MaskError> {
    let mut absent = fields.iter().filter_map(|(number, node)| Some((*number, node.as_ref()?))).peekable();
    while input.has_remaining() {
        let (number, wire_type) = decode_key(&mut input)?;
        let value = take_value(wire_type, &mut input)?;
        while let Some((before, node)) = absent.next_if(|(other, _)| *other < number) {
            node.keep_absent(before, output)?;
        }
        absent.next_if(|(other, _)| *other == number);
        match fields.get(&number) {
            None => {}
            Some(None) => {
                encode_key(number, wire_type, output);
                output.put_slice(value);
            }
            Some(Some(node)) => node.keep_message(number, value, output)?,
        }
    }
    absent.try_for_each(|(number, node)| node.keep_absent(number, output))
}

/// Puts the length of all from `at` on in front of it.
fn insert_length(output: &mut Vec<u8>, at: usize) {
    let length = output.len() - at;
    let mut prefix = [0; 10];
    let mut rest = prefix.as_mut_slice();
    encode_varint(length as u64, &mut rest);
    let unused = rest.len();
    let used = prefix.len() - unused;
    output.extend_from_slice(&prefix[..used]);
    output[at..].rotate_right(used);
}

/// Splits off one value in its encoded form, with its length in front when it has one.
fn take_value<'a>(wire_type: WireType, input: &mut &'a [u8]) -> Result<&'a [u8], MaskError> {
    let start = *input;
    let length = match wire_type {
        WireType::Varint => {
            decode_varint(input)?;
            start.len() - input.len()
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => {
            let inner = decode_varint(input)?;
            let prefix = start.len() - input.len();
            usize::try_from(inner)
                .ok()
                .and_then(|inner| inner.checked_add(prefix))
                .ok_or(MaskError::Malformed)?
        }
        WireType::StartGroup | WireType::EndGroup => return Err(MaskError::Malformed),
    };
    let (value, rest) = start.split_at_checked(length).ok_or(MaskError::Malformed)?;
    *input = rest;
    Ok(value)
}

/// The message types of the API by full name.
struct Schema {
    messages: BTreeMap<String, DescriptorProto>,
}

/// Full name of the root in descriptors.
const FLOW_TYPE: &str = ".flow.Flow";

impl Schema {
    fn load() -> Self {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)
            .expect("the build script wrote the descriptor set with the same library");
        let mut messages = BTreeMap::new();
        for file in files.file {
            let prefix = format!(".{}", file.package());
            file.message_type.into_iter().for_each(|message| collect(&prefix, message, &mut messages));
        }
        Self { messages }
    }

    /// Adds the path `names` below `message`; `None` when it names no field.
    fn add(&self, message: &str, names: &[&str], fields: &mut Fields) -> Option<()> {
        let (name, rest) = names.split_first()?;
        let field = self.messages.get(message)?.field.iter().find(|field| field.name() == *name)?;
        let number = u32::try_from(field.number()).ok()?;
        if rest.is_empty() {
            fields.insert(number, None);
            return Some(());
        }
        let is_list = field.label() == prost_types::field_descriptor_proto::Label::Repeated;
        if is_list {
            return None;
        }
        let is_alternative = field.oneof_index.is_some() && !field.proto3_optional();
        let parts = || Some(Node { fields: Fields::new(), is_alternative });
        match fields.entry(number).or_insert_with(parts) {
            // All of it is wanted already; the rest of the path must be right all the same.
            None => self.add(field.type_name(), rest, &mut Fields::new()),
            Some(node) => self.add(field.type_name(), rest, &mut node.fields),
        }
    }
}

fn collect(prefix: &str, mut message: DescriptorProto, messages: &mut BTreeMap<String, DescriptorProto>) {
    let name = format!("{prefix}.{}", message.name());
    let nested = std::mem::take(&mut message.nested_type);
    nested.into_iter().for_each(|inner| collect(&name, inner, messages));
    messages.insert(name, message);
}

#[cfg(test)]
mod tests;
