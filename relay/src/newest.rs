//! The last flows of an answer, kept until all have come.

use std::collections::VecDeque;

use prost::bytes::Bytes;
use tonic::Status;

use crate::envelope::push_frame;

/// So many of the newest flows, within a limit of memory.
#[derive(Debug)]
pub(crate) struct Newest {
    number: u64,
    limit: usize,
    bytes: usize,
    kept: VecDeque<Vec<u8>>,
    too_large: bool,
}

/// Size of the pieces in which they are handed on, bytes.
const PIECE: usize = 32 << 10;

impl Newest {
    /// The last `number` flows, in `limit` bytes.
    pub(crate) const fn new(number: u64, limit: usize) -> Self {
        Self { number, limit, bytes: 0, kept: VecDeque::new(), too_large: false }
    }

    /// Takes the next flow; an older one makes room.
    pub(crate) fn push(&mut self, message: &[u8], more: &[u8]) {
        let mut frame = Vec::with_capacity(message.len() + more.len() + 5);
        push_frame(message, more, &mut frame);
        self.bytes += frame.len();
        self.kept.push_back(frame);
        while self.kept.len() as u64 > self.number || self.bytes > self.limit {
            self.too_large |= self.kept.len() as u64 <= self.number;
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// The next piece of what was kept; a refusal at the end when not all could be.
    pub(crate) fn take(&mut self) -> Option<Result<Bytes, Status>> {
        let mut piece = Vec::new();
        while piece.len() < PIECE
            && let Some(frame) = self.kept.pop_front()
        {
            piece.extend_from_slice(&frame);
        }
        if !piece.is_empty() {
            return Some(Ok(piece.into()));
        }
        std::mem::take(&mut self.too_large).then(|| {
            Err(Status::resource_exhausted(format!(
                "the last {} flows need more memory than --request-memory of the relay: ask for fewer, or since a time",
                self.number
            )))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept() {
        for (number, limit, expected, fails) in
            [(3, 1_000, 3, false), (20, 1_000, 10, false), (5, 30, 5, false), (9, 30, 5, true)]
        {
            let mut newest = Newest::new(number, limit);
            (0..10_u8).for_each(|flow| newest.push(&[flow], &[]));
            let piece = newest.take().unwrap().unwrap();
            let flows: Vec<u8> = piece.chunks(6).map(|frame| frame[5]).collect();
            assert_eq!(flows, (10 - expected..10).collect::<Vec<_>>(), "{number} {limit}");
            assert_eq!(newest.take().is_some_and(|end| end.is_err()), fails, "{number} {limit}");
        }
    }
}
