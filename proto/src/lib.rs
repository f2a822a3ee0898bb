//! Wire types of Specola: Hubble's packages `flow`, `observer`, `peer`, `relay`, and our own `specola.v1`.
//!
//! Messages and gRPC services are generated from `proto/`; serde gives protobuf JSON with the original field names.
//! No logic lives here, and nothing of ours is used.
#![forbid(unsafe_code)]

mod generated;
pub mod google;
mod json;

pub use generated::{flow, observer, peer, relay, specola};

/// Every file of `proto/` with its imports, as an encoded `google.protobuf.FileDescriptorSet` (for gRPC reflection).
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
