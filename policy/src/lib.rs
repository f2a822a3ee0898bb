#![forbid(unsafe_code)]
//! The policy engine, pure: objects to rules, rules and identities to the policy map of one endpoint.
//!
//! `YAML -> api -> rule -> Repository -> resolve -> MapState -> diff`. No I/O, no clock, no kernel. [`eval`] decides
//! packets straight from the rules and is the oracle that the map is tested against.

pub mod api;
pub mod cases;
pub mod compare;
mod compile;
mod condition;
pub mod document;
mod engine;
pub mod eval;
pub mod explain;
mod icmp;
mod identities;
mod map_state;
mod objects;
mod origin;
mod redirect;
mod repository;
pub mod request;
mod resolve;
pub mod rule;
mod selectors;
mod settings;
mod tier;
mod yaml;

pub use api::{
    AUDIT_ANNOTATION, DocumentError, ParseOptions, ParsedFile, parse_policies, parse_policies_with,
    parse_policy_document,
};
pub use compile::cidr_identity_labels;
pub use condition::{Cause, Condition};
pub use engine::{Engine, SubjectId, SubjectPolicy};
pub use identities::{IdentityTable, NamedPorts};
pub use map_state::{
    Diff, Entry, Key, MapState, PRECEDENCE_ALLOW, PRECEDENCE_DENY, PRECEDENCE_LOCALHOST, PRECEDENCE_REDIRECT,
};
pub use objects::{CidrGroup, ProviderGroup, Service};
pub use origin::{Origin, OriginKind, OriginSet, Section};
pub use redirect::{Grant, Redirect, RedirectPeers, redirects};
pub use repository::{Repository, StoredPolicy};
pub use resolve::{EndpointPolicy, ResolveError, Subject, resolve};
pub use rule::{PolicyKind, PolicyObject, PolicyRef};
pub use settings::{AllowLocalhost, IpFamilies, Mode, Settings};
