//! Host mode: a machine without pods, whose own traffic is looked at and, if asked for, governed.

mod devices;
mod follow;
mod look;
mod seed;
mod sockets;
mod suspension;

pub use devices::Devices;
pub(crate) use follow::DeviceFollower;
pub use look::Look;
pub(crate) use seed::Seeder;
pub(crate) use sockets::open_connections;
pub use suspension::{HostPolicy, HostPolicyState};
