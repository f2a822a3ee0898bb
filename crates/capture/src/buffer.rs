//! Bytes of a stream, as many at a time as the record in hand needs.

use std::fmt;
use std::io::{self, Read};

/// What was read and not yet used.
pub(crate) struct Buffer<R> {
    source: R,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes before `start` since the beginning of the stream.
    consumed: u64,
}

impl<R: Read> Buffer<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, bytes: vec![0; FIRST_SIZE], start: 0, end: 0, consumed: 0 }
    }

    /// What can be used now.
    pub(crate) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Offset of [`Self::data`] in the stream.
    pub(crate) const fn offset(&self) -> u64 {
        self.consumed
    }

    /// Uses up bytes of [`Self::data`].
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.end - self.start);
        self.start += count;
        self.consumed += count as u64;
    }

    /// Uses up `count` bytes, of which those from `start` to `end` are still looked at: gives where they are.
    pub(crate) fn hold(&mut self, count: usize, start: usize, end: usize) -> (usize, usize) {
        let place = (self.start + start, self.start + end);
        self.consume(count);
        place
    }

    /// Bytes at a place from [`Self::hold`], which are there until the next [`Self::fill`].
    pub(crate) fn held(&self, (start, end): (usize, usize)) -> &[u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// Reads once, whatever comes. `false` = the stream ended.
    ///
    /// # Errors
    /// The source cannot be read.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 && self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.bytes.len() {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        loop {
            match self.source.read(&mut self.bytes[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R> fmt::Debug for Buffer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("consumed", &self.consumed).finish_non_exhaustive()
    }
}

/// The usual size; it grows for longer records.
const FIRST_SIZE: usize = 256 << 10;
