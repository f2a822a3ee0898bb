//! Pieces of JSON.

use std::{fmt, io::Write as _};

use jiff::Timestamp;

/// Appends a string with its quotes.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(is_plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("a vector takes all that is written");
    }
}

/// Appends what prints as plain text, in quotes.
pub(super) fn print_quoted(out: &mut Vec<u8>, plain: impl fmt::Display) {
    out.push(b'"');
    write!(out, "{plain}").expect("a vector takes all that is written");
    out.push(b'"');
}

/// Appends a number.
pub(super) fn number(out: &mut Vec<u8>, number: u64) {
    let (mut digits, mut at, mut rest) = ([0; 20], 20, number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// Appends a link address: lower-case hex with colons.
pub(super) fn mac(out: &mut Vec<u8>, mac: [u8; 6]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (index, byte) in mac.into_iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
    }
}

/// Ends a list whose entries have commas behind, and puts one behind the list.
pub(super) fn end_list(out: &mut Vec<u8>) {
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.extend_from_slice(b"],");
}

/// Times as RFC 3339; flows of one second share most of the text.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    /// `2026-01-02T03:04:05`, then the fraction and `Z` of the latest time.
    text: String,
}

/// Length of a time without fraction and zone.
const WHOLE: usize = "2026-01-02T03:04:05".len();

impl Clock {
    /// The time, ns since 1970, with 0, 3, 6 or 9 digits of a second.
    pub(super) fn text(&mut self, time_ns: u64) -> &str {
        use fmt::Write as _;
        // The latest time that messages can have.
        let time_ns = time_ns.min(i64::MAX.unsigned_abs());
        let (second, nanos) = (time_ns / 1_000_000_000, time_ns % 1_000_000_000);
        if self.second != Some(second) {
            let time = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
            self.text = time.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S").to_string();
            self.second = Some(second);
        }
        self.text.truncate(WHOLE);
        let written = match nanos {
            0 => Ok(()),
            _ if nanos % 1_000_000 == 0 => write!(self.text, ".{:03}", nanos / 1_000_000),
            _ if nanos % 1_000 == 0 => write!(self.text, ".{:06}", nanos / 1_000),
            _ => write!(self.text, ".{nanos:09}"),
        };
        written.expect("a string takes all that is written");
        self.text.push('Z');
        &self.text
    }
}
