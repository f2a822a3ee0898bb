//! Who is behind an address, an endpoint id, an identity, a cookie, an interface index.
//!
//! One [`DirectoryWriter`], owned by the agent, applies batches of [`Change`]s and publishes each as one immutable
//! [`Directory`]. Any number of [`DirectoryReader`]s load the current one without a lock: the flow pipeline once per
//! batch of events, the observer once per batch of answers.
//!
//! A flow refers to its pods and rules by number. What the directory does not name any more is kept until the last flow
//! that refers to it was overwritten; then [`DirectoryWriter::collect`] frees it.
//!
//! Publishing copies the maps that a batch touches (they are shared otherwise): about 15 us with 10,000 addresses, so
//! give it batches, not single changes, when there are many.
#![forbid(unsafe_code)]

mod addresses;
mod retired;
mod snapshot;
mod writer;

pub use addresses::{Addresses, IpEntry, mapped};
pub use retired::{Held, LINGER};
pub use snapshot::{Directory, DirectoryReader, Found, Snapshot};
pub use writer::{Change, ChangeError, DirectoryWriter, directory};
