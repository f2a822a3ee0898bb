//! The well-known messages of `google.protobuf` that the packages use, with their canonical JSON.
//!
//! Wrappers (`BoolValue`, `Int32Value`, `UInt32Value`) are plain `Option<bool>`, `Option<i32>`, `Option<u32>` in messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Name;

mod json;

pub use json::InvalidTimestamp;

/// Nanoseconds of one second.
const SECOND: i64 = 1_000_000_000;

/// A point in time, UTC.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, prost::Message)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds on top, 0 to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// Makes a time from nanoseconds since 1970.
    pub fn from_unix_nanos(nanos: i64) -> Self {
        let rest = i32::try_from(nanos.rem_euclid(SECOND)).expect("less than a second fits");
        Self { seconds: nanos.div_euclid(SECOND), nanos: rest }
    }

    /// Nanoseconds since 1970; times beyond what 64 bits hold are cut to the nearest one.
    pub fn unix_nanos(&self) -> i64 {
        self.seconds.saturating_mul(SECOND).saturating_add(i64::from(self.nanos))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let (past, distance) = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => (false, after),
            Err(before) => (true, before.duration()),
        };
        let nanos = i64::try_from(distance.as_nanos()).unwrap_or(i64::MAX);
        Self::from_unix_nanos(if past { -nanos } else { nanos })
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let nanos = time.unix_nanos();
        let distance = Duration::from_nanos(nanos.unsigned_abs());
        if nanos < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
    }
}

/// Any message, packed with the name of its type.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct Any {
    /// `type.googleapis.com/` and the full name of the message.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

impl Any {
    /// Packs a message.
    pub fn pack<M: prost::Message + Name>(message: &M) -> Self {
        Self { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
    }

    /// Whether the packed message is an `M`.
    pub fn is<M: Name>(&self) -> bool {
        self.type_name() == M::full_name()
    }

    /// Unpacks the message; `None` when it is of another type.
    ///
    /// # Errors
    /// The type is right, but the bytes are no such message.
    pub fn unpack<M: prost::Message + Name + Default>(&self) -> Result<Option<M>, prost::DecodeError> {
        if self.is::<M>() { M::decode(self.value.as_slice()).map(Some) } else { Ok(None) }
    }

    /// Full name of the packed message, without the URL before it.
    pub fn type_name(&self) -> &str {
        self.type_url.rsplit('/').next().unwrap_or_default()
    }
}

/// A set of fields, each a dot-separated path of names.
#[derive(Clone, Eq, Hash, PartialEq, prost::Message)]
pub struct FieldMask {
    /// Names as in the .proto files.
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
}

impl<S: Into<String>> FromIterator<S> for FieldMask {
    fn from_iter<I: IntoIterator<Item = S>>(paths: I) -> Self {
        Self { paths: paths.into_iter().map(Into::into).collect() }
    }
}
