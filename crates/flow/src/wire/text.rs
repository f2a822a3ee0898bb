//! Texts of addresses and ids, written by hand: several of them are in every flow.

use std::net::{IpAddr, Ipv6Addr};

use crate::FlowUuid;

/// Appends an address as its `Display` prints it.
#[inline]
pub(super) fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => ipv4(out, v4.octets()),
        IpAddr::V6(v6) => ipv6(out, v6),
    }
}

#[inline]
fn ipv4(out: &mut Vec<u8>, octets: [u8; 4]) {
    // Four times three digits and a dot; the last dot is left out.
    let mut text = [0; 16];
    let mut length = 0;
    for octet in octets {
        let (digits, count) = DECIMAL[usize::from(octet)];
        text[length..length + 4].copy_from_slice(&digits);
        length += usize::from(count) + 1;
    }
    out.extend_from_slice(&text[..length - 1]);
}

/// RFC 5952: lower case, no leading zeros, the first longest run of two or more zero groups as `::`.
fn ipv6(out: &mut Vec<u8>, address: Ipv6Addr) {
    if let Some(v4) = address.to_ipv4_mapped() {
        out.extend_from_slice(b"::ffff:");
        return ipv4(out, v4.octets());
    }
    let groups = address.segments();
    let (start, length) = longest_zero_run(groups);
    if length < 2 {
        return hex_groups(out, &groups);
    }
    hex_groups(out, &groups[..start]);
    out.extend_from_slice(b"::");
    hex_groups(out, &groups[start + length..]);
}

/// Start and length.
fn longest_zero_run(groups: [u16; 8]) -> (usize, usize) {
    let (mut best, mut current) = ((0, 0), (0, 0));
    for (index, group) in groups.into_iter().enumerate() {
        current = if group == 0 { (current.0, current.1 + 1) } else { (index + 1, 0) };
        if current.1 > best.1 {
            best = current;
        }
    }
    best
}

fn hex_groups(out: &mut Vec<u8>, groups: &[u16]) {
    for (index, group) in groups.iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        let [high, low] = group.to_be_bytes().map(|byte| HEX[usize::from(byte)]);
        let digits = [high[0], high[1], low[0], low[1]];
        let zeros = group.leading_zeros() as usize / 4;
        out.extend_from_slice(&digits[zeros.min(3)..]);
    }
}

/// A link address: lower-case hex with colons.
#[inline]
pub(super) fn mac(mac: [u8; 6]) -> [u8; 17] {
    let mut text = [b':'; 17];
    for (byte, place) in mac.into_iter().zip(text.chunks_mut(3)) {
        place[..2].copy_from_slice(&HEX[usize::from(byte)]);
    }
    text
}

/// An id as its `Display` prints it.
#[inline]
pub(super) fn uuid(uuid: FlowUuid) -> [u8; 36] {
    let bytes = uuid.to_u128().to_be_bytes();
    let mut text = [b'-'; 36];
    for (byte, place) in bytes.into_iter().zip(UUID_PLACES) {
        text[place..place + 2].copy_from_slice(&HEX[usize::from(byte)]);
    }
    text
}

/// Where the digits of each byte stand: groups of 8-4-4-4-12.
const UUID_PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// Two hex digits of each byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 0xf]];
        byte += 1;
    }
    table
};

/// Decimal digits of each byte with a dot behind, and how many digits there are.
const DECIMAL: [([u8; 4], u8); 256] = {
    let mut table = [([b'.'; 4], 0); 256];
    let mut byte = 0;
    while byte < 256 {
        let (hundreds, tens, ones) =
            (b'0' + (byte / 100) as u8, b'0' + (byte / 10 % 10) as u8, b'0' + (byte % 10) as u8);
        table[byte] = match byte {
            0..10 => ([ones, b'.', 0, 0], 1),
            10..100 => ([tens, ones, b'.', 0], 2),
            _ => ([hundreds, tens, ones, b'.'], 3),
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::InstanceId;

    fn ip_text(address: IpAddr) -> String {
        let mut out = Vec::new();
        ip(&mut out, address);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn macs() {
        for (bytes, text) in [
            ([0; 6], "00:00:00:00:00:00"),
            ([0x01, 0x23, 0x45, 0x67, 0x89, 0xab], "01:23:45:67:89:ab"),
            ([0xff; 6], "ff:ff:ff:ff:ff:ff"),
        ] {
            assert_eq!(mac(bytes), text.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn addresses_are_as_the_standard_library_prints_them(
            v4: u32,
            // Few values, so that runs of zeros are common.
            groups in proptest::array::uniform8(prop_oneof![2 => Just(0_u16), 1 => 0..=0x1f_u16, 1 => any::<u16>()]),
            mapped: u32,
        ) {
            let addresses: [IpAddr; 3] = [
                IpAddr::V4(v4.into()),
                IpAddr::V6(groups.into()),
                IpAddr::V6(std::net::Ipv4Addr::from(mapped).to_ipv6_mapped()),
            ];
            for address in addresses {
                prop_assert_eq!(ip_text(address), address.to_string());
            }
        }

        #[test]
        fn ids_are_as_they_print(instance: u64, seq: u64) {
            let id = FlowUuid { instance: InstanceId::new(instance), seq };
            prop_assert_eq!(uuid(id).to_vec(), id.to_string().into_bytes());
        }
    }
}
