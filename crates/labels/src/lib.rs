#![forbid(unsafe_code)]
//! Labels, label sets, selectors and numeric identities: the words that policy, directory and flows share.
//!
//! Pure values without I/O. Sets are cheap to clone.

mod cidr;
mod filter;
mod identity;
mod k8s;
mod label;
mod selector;
mod set;

pub use cidr::{Family, parse_cidr_key};
pub use filter::{InvalidFilter, LabelFilter};
pub use identity::{InvalidIdentity, NumericIdentity, Scope};
pub use k8s::{CLUSTER_KEY, NAMESPACE_KEY, NAMESPACE_LABEL_PREFIX, PodLabels, SERVICE_ACCOUNT_KEY};
pub use label::{InvalidLabel, Label, source};
pub use selector::{InvalidSelector, Operator, Requirement, Selector, SelectorKey};
pub use set::LabelSet;
