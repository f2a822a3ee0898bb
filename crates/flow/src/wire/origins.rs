//! The rules behind a cookie, encoded once.

use prost::Message as _;
use specola_proto::{flow as pb, specola::v1 as ext};

use super::put;
use crate::PolicyOrigin;

/// What flows with one cookie say of their policies.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WireOrigins {
    /// Policies: length and message of each.
    policies: Box<[Box<[u8]>]>,
    /// `policy_log`, with keys.
    logs: Box<[u8]>,
    /// `FlowExtension.origins`, with keys.
    extension: Box<[u8]>,
}

impl WireOrigins {
    /// Encodes the rules.
    pub fn new(origins: &[PolicyOrigin]) -> Self {
        let policies = crate::message::policies(origins);
        let logs = pb::Flow { policy_log: crate::message::logs(origins), ..pb::Flow::default() };
        let extension = ext::FlowExtension {
            origins: origins.iter().map(crate::message::origin_message).collect(),
            ..ext::FlowExtension::default()
        };
        Self {
            policies: policies.iter().map(|policy| policy.encode_length_delimited_to_vec().into()).collect(),
            logs: logs.encode_to_vec().into(),
            extension: extension.encode_to_vec().into(),
        }
    }

    /// Appends the policies as the list with number `N`.
    #[inline]
    pub(super) fn write_policies<const N: u32>(&self, out: &mut Vec<u8>) {
        for policy in &self.policies {
            put::key::<N, { put::BYTES }>(out);
            out.extend_from_slice(policy);
        }
    }

    /// Fields of the log texts.
    pub(super) fn logs(&self) -> &[u8] {
        &self.logs
    }

    /// Fields of the extension's list.
    pub(super) fn extension(&self) -> &[u8] {
        &self.extension
    }
}
