//! Protobuf's elements, appended to a buffer.

/// Wire type of varints.
pub(super) const VARINT: u32 = 0;
/// Wire type of strings and messages.
pub(super) const BYTES: u32 = 2;

/// Appends a varint.
#[inline]
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // The low seven bits, and that more follow.
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that a varint takes.
#[inline]
pub(super) const fn varint_len(value: u64) -> usize {
    // Seven bits a byte, one byte at least.
    (63 - (value | 1).leading_zeros() as usize) / 7 + 1
}

/// A field's key as a varint: up to three bytes, and how many count.
const fn key_bytes(number: u32, wire_type: u32) -> ([u8; 3], usize) {
    let key = number << 3 | wire_type;
    assert!(key < 1 << 21, "keys of the API take three bytes at most");
    let bytes = [key as u8, (key >> 7) as u8, (key >> 14) as u8];
    match key {
        0..0x80 => (bytes, 1),
        0x80..0x4000 => ([bytes[0] | 0x80, bytes[1] & 0x7f, 0], 2),
        _ => ([bytes[0] | 0x80, bytes[1] | 0x80, bytes[2]], 3),
    }
}

/// Appends the key of field `N`.
#[inline(always)]
pub(super) fn key<const N: u32, const WIRE_TYPE: u32>(out: &mut Vec<u8>) {
    let (bytes, length) = const { key_bytes(N, WIRE_TYPE) };
    out.extend_from_slice(&bytes[..length]);
}

/// Appends field `N` as a number, unless it is zero.
#[inline(always)]
pub(super) fn number<const N: u32>(out: &mut Vec<u8>, value: u64) {
    if value != 0 {
        key::<N, VARINT>(out);
        varint(out, value);
    }
}

/// Appends field `N` as a string, unless it is empty.
#[inline]
pub(super) fn string<const N: u32>(out: &mut Vec<u8>, value: &[u8]) {
    if !value.is_empty() {
        bytes::<N>(out, value);
    }
}

/// Appends field `N` with these bytes, none too.
#[inline]
pub(super) fn bytes<const N: u32>(out: &mut Vec<u8>, value: &[u8]) {
    key::<N, BYTES>(out);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends field `N` as a message that `write` appends. Cheapest when it has fewer than 128 bytes.
#[inline(always)]
pub(super) fn message<const N: u32>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    key::<N, BYTES>(out);
    with_length(out, write);
}

/// Appends what `write` appends, with its length in front.
#[inline(always)]
pub(crate) fn with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    write(out);
    set_length(out, at);
}

/// Puts the length of all behind `at` into the byte at `at`; makes room when it takes more than the byte.
#[inline(always)]
fn set_length(out: &mut Vec<u8>, at: usize) {
    let length = out.len() - at - 1;
    match u8::try_from(length) {
        Ok(short @ 0..0x80) => out[at] = short,
        _ => set_long_length(out, at, length),
    }
}

fn set_long_length(out: &mut Vec<u8>, at: usize, length: usize) {
    let start = out.len();
    varint(out, length as u64);
    // The prefix goes to the front, and its placeholder out.
    let prefix = out.len() - start;
    out[at + 1..].rotate_right(prefix);
    out.copy_within(at + 1.., at);
    out.truncate(start + prefix - 1);
}

#[cfg(test)]
mod tests {
    use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

    use super::*;

    #[test]
    fn varints_are_those_of_prost() {
        for value in (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, u64::MAX - (1 << bit)]) {
            let (mut own, mut theirs) = (Vec::new(), Vec::new());
            varint(&mut own, value);
            encode_varint(value, &mut theirs);
            assert_eq!(own, theirs, "{value}");
            assert_eq!(varint_len(value), encoded_len_varint(value), "{value}");
        }
    }

    #[test]
    fn keys_are_those_of_prost() {
        fn check<const N: u32>() {
            let (mut own, mut theirs) = (Vec::new(), Vec::new());
            key::<N, BYTES>(&mut own);
            encode_key(N, WireType::LengthDelimited, &mut theirs);
            assert_eq!(own, theirs, "{N}");
        }
        check::<1>();
        check::<15>();
        check::<16>();
        check::<41>();
        check::<1000>();
        check::<2047>();
        check::<2048>();
        check::<21001>();
        check::<100_000>();
        check::<150_000>();
    }

    #[test]
    fn lengths_of_any_size() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
            let content = vec![7; length];
            let (mut own, mut theirs) = (vec![1], vec![1]);
            with_length(&mut own, |out| out.extend_from_slice(&content));
            encode_varint(length as u64, &mut theirs);
            theirs.extend_from_slice(&content);
            assert_eq!(own, theirs, "{length}");
        }
    }
}
