//! The node's network devices: pod links, the host device, routes to peers.
//!
//! Everything happens in the network namespace that the agent runs in, but for a pod's own side: a thread enters the
//! pod's namespace, and ends with its work, so no other thread is ever in a foreign namespace.

mod hooks;
mod host;
mod link;
mod netns;
mod pod;
mod routes;
mod sysctl;
mod watch;

use std::net::IpAddr;
use std::path::PathBuf;

pub(crate) use hooks::{Filter, Hooks, devices_in, hooks_in, in_netns_blocking};
pub(crate) use host::HostDevice;
pub(crate) use link::Device;
pub(crate) use pod::{PodLink, PodLinkRequest};
pub(crate) use watch::AddressWatch;

use rtnetlink::Handle;

/// A MAC address.
pub(crate) type Mac = [u8; 6];

/// Why the network could not be configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetError {
    #[error("cannot {action}: {cause}")]
    Netlink { action: String, cause: rtnetlink::Error },
    #[error("cannot open a netlink socket: {0}")]
    Socket(std::io::Error),
    #[error("cannot enter network namespace {path}: {cause}; give a path below /run/netns or /proc/<pid>/ns/net, and run as root", path = path.display())]
    Enter { path: PathBuf, cause: std::io::Error },
    #[error("cannot write {path}: {cause}; run as root, with a writable /proc/sys", path = path.display())]
    Sysctl { path: PathBuf, cause: std::io::Error },
    #[error("cannot run the thread for network namespace {path}: {cause}", path = path.display())]
    Thread { path: PathBuf, cause: std::io::Error },
    #[error("the thread in network namespace {path} panicked", path = path.display())]
    Panicked { path: PathBuf },
    #[error("network device {name} does not exist{hint}")]
    NoDevice { name: String, hint: &'static str },
    #[error("route to {destination}: {message}")]
    Route { destination: ipnet::IpNet, message: String },
}

impl NetError {
    pub(crate) fn netlink(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let action = action.into();
        move |cause| Self::Netlink { action, cause }
    }
}

/// Netlink in the agent's own network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    handle: Handle,
}

impl Net {
    /// Opens a socket. Must be called in a tokio runtime; the connection lives as long as the runtime.
    pub(crate) fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetError::Socket)?;
        // Ends by itself once the last handle is gone.
        drop(tokio::spawn(connection));
        Ok(Self { handle })
    }

    /// The index of a device.
    pub(crate) async fn ifindex(&self, name: &str) -> Result<u32, NetError> {
        let hint = "; name existing devices with --device";
        match link::find(&self.handle, name).await? {
            Some(found) => Ok(found.index),
            None => Err(NetError::NoDevice { name: name.to_owned(), hint }),
        }
    }

    /// Addresses that this namespace answers to on any link, but for loopback ones.
    pub(crate) async fn local_addresses(&self) -> Result<Vec<IpAddr>, NetError> {
        link::local_addresses(&self.handle).await
    }

    /// Removes a device; fine when it does not exist.
    pub(crate) async fn remove_device(&self, name: &str) -> Result<(), NetError> {
        link::remove(&self.handle, name).await
    }

    /// All devices, with what decides whether programs can be attached to them.
    pub(crate) async fn devices(&self) -> Result<Vec<Device>, NetError> {
        link::devices(&self.handle).await
    }

    /// Names of all devices by index.
    pub(crate) async fn names(&self) -> Result<Vec<(u32, String)>, NetError> {
        link::names(&self.handle).await
    }
}
