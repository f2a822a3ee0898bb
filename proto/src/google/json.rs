//! Canonical protobuf JSON of the well-known messages.

use std::fmt::Write as _;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Error as _, Serialize, Serializer};

use super::{Any, FieldMask, Timestamp};

impl Serialize for Timestamp {
    /// Writes RFC 3339 in UTC with 0, 3, 6 or 9 digits behind the second.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text =
            rfc3339(*self).map_err(|error| S::Error::custom(format!("timestamp out of range: {error}")))?;
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = InvalidTimestamp;

    /// Reads RFC 3339.
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let time: jiff::Timestamp = text
            .parse()
            .map_err(|error| InvalidTimestamp(format!("{text:?} is no RFC 3339 time: {error}")))?;
        let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
        if nanos < 0 {
            seconds -= 1;
            nanos += 1_000_000_000;
        }
        Ok(Self { seconds, nanos })
    }
}

/// The text is no time.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidTimestamp(String);

fn rfc3339(time: Timestamp) -> Result<String, jiff::Error> {
    let whole = jiff::Timestamp::from_second(time.seconds)?;
    let mut text = whole.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos
        .ok_or_else(|| jiff::Error::from_args(format_args!("{} ns is no part of a second", time.nanos)))?;
    let written = match nanos {
        0 => Ok(()),
        ms if ms % 1_000_000 == 0 => write!(text, ".{:03}", ms / 1_000_000),
        us if us % 1_000 == 0 => write!(text, ".{:06}", us / 1_000),
        ns => write!(text, ".{ns:09}"),
    };
    written.expect("a string takes every write");
    text.push('Z');
    Ok(text)
}

impl Serialize for FieldMask {
    /// Writes the paths joined by commas, with names as in the .proto files.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.paths.join(","))
    }
}

impl<'de> Deserialize<'de> for FieldMask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(text.split(',').filter(|path| !path.is_empty()).collect())
    }
}

impl Serialize for Any {
    /// Writes `@type` and the fields of a message of ours; other types keep their bytes as `value` in base64.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        crate::json::serialize_any(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = serde_json::Map::deserialize(deserializer)?;
        let Some(serde_json::Value::String(type_url)) = fields.remove("@type") else {
            return Err(D::Error::custom("a packed message needs its type as \"@type\""));
        };
        crate::json::pack(type_url, fields).map_err(D::Error::custom)
    }
}
