//! Ids of flows: made from the sequence number, not stored.

use std::{fmt, str::FromStr};

/// Tells the runs of an agent apart: 58 bits.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct InstanceId(u64);

impl InstanceId {
    /// Number of bits that count.
    pub const BITS: u32 = 58;

    /// Keeps the low 58 bits of `bits`. Take them from a source that differs from run to run.
    pub const fn new(bits: u64) -> Self {
        Self(bits & ((1 << Self::BITS) - 1))
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Id of a flow: a UUID of version 8 (RFC 9562) with the agent's instance id and the ring's sequence number in it.
///
/// Bits from the top: 48 of the instance, version 8, 10 of the instance and the 2 highest of the sequence number,
/// variant, the other 62 of the sequence number.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FlowUuid {
    /// The agent's run.
    pub instance: InstanceId,
    /// Sequence number in its ring.
    pub seq: u64,
}

impl FlowUuid {
    /// The id as 128 bits.
    pub const fn to_u128(self) -> u128 {
        let instance = self.instance.get() as u128;
        let seq = self.seq as u128;
        (instance >> 10) << 80
            | 8 << 76
            | (instance & 0x3ff) << 66
            | (seq >> 62) << 64
            | 0b10 << 62
            | seq & ((1 << 62) - 1)
    }

    /// Takes an id apart; `None` when it is not of version 8 and RFC 9562's variant.
    pub const fn from_u128(bits: u128) -> Option<Self> {
        if (bits >> 76) & 0xf != 8 || (bits >> 62) & 0b11 != 0b10 {
            return None;
        }
        let instance = (bits >> 80) << 10 | (bits >> 66) & 0x3ff;
        let seq = ((bits >> 64) & 0b11) << 62 | bits & ((1 << 62) - 1);
        Some(Self { instance: InstanceId::new(instance as u64), seq: seq as u64 })
    }
}

impl fmt::Display for FlowUuid {
    /// Canonical text: lower-case hex in groups of 8-4-4-4-12.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.to_u128();
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            bits >> 96,
            (bits >> 80) & 0xffff,
            (bits >> 64) & 0xffff,
            (bits >> 48) & 0xffff,
            bits & 0xffff_ffff_ffff
        )
    }
}

/// The text is not the canonical form of a flow's id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not the id of a flow of this program: expected a version 8 UUID in canonical form")]
pub struct InvalidUuid;

impl FromStr for FlowUuid {
    type Err = InvalidUuid;

    fn from_str(text: &str) -> Result<Self, InvalidUuid> {
        let hex: String = text.split('-').collect();
        if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidUuid);
        }
        let bits = u128::from_str_radix(&hex, 16).or(Err(InvalidUuid))?;
        let uuid = Self::from_u128(bits).ok_or(InvalidUuid)?;
        // Upper case and misplaced hyphens are other strings, and filters compare strings.
        if uuid.to_string() == text { Ok(uuid) } else { Err(InvalidUuid) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values() {
        for (instance, seq, text) in [
            (0, 0, "00000000-0000-8000-8000-000000000000"),
            (0, 1, "00000000-0000-8000-8000-000000000001"),
            (u64::MAX, u64::MAX, "ffffffff-ffff-8fff-bfff-ffffffffffff"),
            (1 << 10, 0, "00000000-0001-8000-8000-000000000000"),
            (1, 1 << 62, "00000000-0000-8005-8000-000000000000"),
        ] {
            assert_eq!(FlowUuid { instance: InstanceId::new(instance), seq }.to_string(), text);
        }
    }

    #[test]
    fn foreign_text_is_refused() {
        for text in [
            "",
            "x",
            "00000000-0000-4000-8000-000000000000",
            "00000000-0000-8000-c000-000000000000",
            "0000000000008000-8000-000000000000",
            "FFFFFFFF-ffff-8fff-bfff-ffffffffffff",
            "+0000000-0000-8000-8000-000000000000",
        ] {
            assert_eq!(text.parse::<FlowUuid>(), Err(InvalidUuid), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_leads_back(instance: u64, seq: u64) {
            let uuid = FlowUuid { instance: InstanceId::new(instance), seq };
            prop_assert_eq!(uuid.to_string().parse(), Ok(uuid));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            if let Ok(uuid) = text.parse::<FlowUuid>() {
                prop_assert_eq!(uuid.to_string(), text);
            }
        }
    }
}
