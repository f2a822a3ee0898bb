//! Answers as bytes: what the relay must know of them is read in place, the rest is passed on as it is.

use prost::bytes::{Buf, Bytes, BytesMut};

/// Bytes before each message: "not compressed", and the length.
pub(crate) const PREFIX: usize = 5;
/// Largest answer that is taken from a peer, bytes.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

/// What is in an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A flow.
    Flow,
    /// So many flows were lost.
    Lost(u64),
    /// Something else: a status of a node, or a kind that this version does not know.
    Other,
}

/// An encoded `GetFlowsResponse`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    /// What is in it.
    pub(crate) kind: Kind,
    /// Its time, ns since 1970; `None` when a field mask left it out.
    pub(crate) time_ns: Option<u64>,
    /// The message.
    pub(crate) bytes: Bytes,
}

/// Why bytes of a peer are no answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("an answer is compressed, which nobody asked for")]
    Compressed,
    #[error("an answer of {0} bytes is larger than 4 MiB")]
    TooLarge(usize),
    #[error("an answer is no protobuf message")]
    NoMessage,
    #[error("the stream ends in the middle of an answer")]
    Incomplete,
}

impl Answer {
    /// Reads the order key and the kind of an encoded answer; nothing is copied.
    ///
    /// # Errors
    /// The bytes are no message.
    pub(crate) fn read(bytes: Bytes) -> Result<Self, BadAnswer> {
        let (mut kind, mut time_ns) = (Kind::Other, None);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match field(&mut rest)? {
                (1, Value::Bytes(_)) => kind = Kind::Flow,
                (3, Value::Bytes(lost)) => kind = Kind::Lost(number_of(lost, 2)?),
                (1001, Value::Bytes(time)) => {
                    let (seconds, nanos) = (number_of(time, 1)?, number_of(time, 2)?);
                    // Times before 1970 are 1970, as everywhere.
                    let seconds = i64::from_ne_bytes(seconds.to_ne_bytes()).max(0).unsigned_abs();
                    time_ns =
                        Some(seconds.saturating_mul(SECOND_NS).saturating_add(nanos.min(SECOND_NS - 1)));
                }
                _ => {}
            }
        }
        Ok(Self { kind, time_ns, bytes })
    }
}

const SECOND_NS: u64 = 1_000_000_000;

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The next field of a message.
fn field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Value<'a>), BadAnswer> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Number(varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Fixed)?,
        2 => {
            let length = varint(rest)?;
            Value::Bytes(take(rest, usize::try_from(length).unwrap_or(usize::MAX))?)
        }
        5 => take(rest, 4).map(|_| Value::Fixed)?,
        _ => return Err(BadAnswer::NoMessage),
    };
    if key >> 3 == 0 { Err(BadAnswer::NoMessage) } else { Ok((key >> 3, value)) }
}

/// The value of a number field of a message; 0 when it is not there.
fn number_of(mut message: &[u8], wanted: u64) -> Result<u64, BadAnswer> {
    let mut found = 0;
    while !message.is_empty() {
        if let (number, Value::Number(value)) = field(&mut message)?
            && number == wanted
        {
            found = value;
        }
    }
    Ok(found)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], BadAnswer> {
    let (taken, after) = rest.split_at_checked(length).ok_or(BadAnswer::NoMessage)?;
    *rest = after;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, BadAnswer> {
    prost::encoding::decode_varint(rest).map_err(|_invalid| BadAnswer::NoMessage)
}

/// Takes the DATA of a response apart. A message that lies within one frame is not copied.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// The beginning of a message whose end has not come.
    partial: BytesMut,
}

impl Splitter {
    /// Appends the whole messages that end in this frame.
    ///
    /// # Errors
    /// The bytes are no messages.
    pub(crate) fn split(&mut self, mut data: Bytes, out: &mut Vec<Answer>) -> Result<(), BadAnswer> {
        if !self.partial.is_empty() {
            self.complete(&mut data, out)?;
        }
        while let Some(length) = message_length(&data)? {
            if data.len() < PREFIX + length {
                break;
            }
            data.advance(PREFIX);
            out.push(Answer::read(data.split_to(length))?);
        }
        if !data.is_empty() {
            self.partial.extend_from_slice(&data);
        }
        Ok(())
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Adds to the message that has begun what it lacks.
    fn complete(&mut self, data: &mut Bytes, out: &mut Vec<Answer>) -> Result<(), BadAnswer> {
        let missing = PREFIX.saturating_sub(self.partial.len()).min(data.len());
        self.partial.extend_from_slice(&data.split_to(missing));
        let Some(length) = message_length(&self.partial)? else { return Ok(()) };
        let missing = (PREFIX + length - self.partial.len()).min(data.len());
        self.partial.extend_from_slice(&data.split_to(missing));
        if self.partial.len() == PREFIX + length {
            let mut message = std::mem::take(&mut self.partial).freeze();
            message.advance(PREFIX);
            out.push(Answer::read(message)?);
        }
        Ok(())
    }
}

/// Length of the message that begins here; `None` when its prefix is not complete.
fn message_length(bytes: &[u8]) -> Result<Option<usize>, BadAnswer> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
    let [compressed, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    match compressed {
        0 if length <= MAX_MESSAGE => Ok(Some(length)),
        0 => Err(BadAnswer::TooLarge(length)),
        _ => Err(BadAnswer::Compressed),
    }
}

/// Appends a message with its prefix. `more` are further fields of it.
pub(crate) fn push_frame(message: &[u8], more: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(message.len() + more.len()).expect("answers have a few MiB at most");
    out.push(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    out.extend_from_slice(more);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use specola_proto::{
        flow::{Flow, LostEvent},
        google::Timestamp,
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
        relay::NodeStatusEvent,
    };

    use super::*;

    fn answer(kind: u8, time: Option<(i64, i32)>, size: usize) -> GetFlowsResponse {
        GetFlowsResponse {
            node_name: "n".repeat(size),
            time: time.map(|(seconds, nanos)| Timestamp { seconds, nanos }),
            response_types: Some(match kind {
                0 => ResponseTypes::Flow(Flow { uuid: "u".repeat(size), ..Flow::default() }),
                1 => ResponseTypes::LostEvents(LostEvent { num_events_lost: 7, ..LostEvent::default() }),
                _ => ResponseTypes::NodeStatus(NodeStatusEvent::default()),
            }),
        }
    }

    #[test]
    fn times_are_read_in_place() {
        for (time, expected) in [
            (None, None),
            (Some((0, 0)), Some(0)),
            (Some((7, 9)), Some(7_000_000_009)),
            (Some((-1, 5)), Some(5)),
            (Some((i64::MAX, 5)), Some(u64::MAX)),
        ] {
            let read = Answer::read(answer(0, time, 3).encode_to_vec().into()).unwrap();
            assert_eq!((read.kind, read.time_ns), (Kind::Flow, expected), "{time:?}");
        }
        assert_eq!(Answer::read(answer(1, None, 0).encode_to_vec().into()).unwrap().kind, Kind::Lost(7));
    }

    proptest! {
        #[test]
        fn messages_come_out_however_they_are_cut(
            sizes in proptest::collection::vec((0_u8..3, 0_usize..400), 1..20),
            cuts in proptest::collection::vec(0_usize..900, 1..40),
        ) {
            let mut wire = Vec::new();
            let mut expected = Vec::new();
            for (kind, size) in sizes {
                let message = answer(kind, Some((5, 1)), size).encode_to_vec();
                push_frame(&message, &[], &mut wire);
                expected.push(Bytes::from(message));
            }
            let (mut splitter, mut out, mut wire) = (Splitter::default(), Vec::new(), Bytes::from(wire));
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let piece = wire.split_to(cut.min(wire.len()));
                splitter.split(piece, &mut out).unwrap();
            }
            prop_assert!(!splitter.is_partial());
            prop_assert_eq!(out.into_iter().map(|answer| answer.bytes).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn no_bytes_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8)) {
            let (mut splitter, mut out) = (Splitter::default(), Vec::new());
            for piece in pieces {
                // Hostile bytes may be refused; that is all.
                if splitter.split(piece.clone().into(), &mut out).is_err() {
                    break;
                }
                let (Ok(_) | Err(_)) = Answer::read(piece.into());
            }
        }
    }
}
