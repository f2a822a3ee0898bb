//! Waits for changes of the node's addresses.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use super::NetError;

/// Says when an address of the network namespace it was opened in may have come or gone.
///
/// It is level triggered: the caller lists the addresses after each [`AddressWatch::changed`]. What a message says is
/// not read, so one that was lost for want of room is no loss. A slow poll makes up for anything else.
#[derive(Debug)]
pub(crate) struct AddressWatch {
    socket: AsyncFd<OwnedFd>,
}

impl AddressWatch {
    /// Subscribes to changes of addresses. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub(crate) fn open() -> Result<Self, NetError> {
        Self::subscribe(ADDRESS_GROUPS)
    }

    /// Subscribes to changes of devices and of addresses.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn of_devices() -> Result<Self, NetError> {
        Self::subscribe(ADDRESS_GROUPS | LINK_GROUP)
    }

    #[expect(deprecated, reason = "the replacement is unsafe; OwnedFd is one descriptor for its whole life")]
    fn subscribe(groups: u32) -> Result<Self, NetError> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let open = || -> io::Result<Self> {
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(Self { socket: AsyncFd::new(socket)? })
        };
        open().map_err(NetError::Socket)
    }

    /// Resolves after a change, or after the poll interval. Cancel safe.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        tokio::time::timeout(POLL, self.drain()).await.unwrap_or(Ok(()))
    }

    /// Waits for messages and discards all that wait.
    async fn drain(&self) -> io::Result<()> {
        loop {
            let mut guard = self.socket.readable().await?;
            let mut any = false;
            loop {
                match recv(guard.get_inner().as_raw_fd(), &mut [0; 64], MsgFlags::empty()) {
                    // Messages are cut to what fits. ENOBUFS: some were lost.
                    Ok(_) | Err(Errno::ENOBUFS) => any = true,
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            guard.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}

/// `RTMGRP_LINK`.
const LINK_GROUP: u32 = 0x1;
/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`.
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;
/// Longest time without a look.
const POLL: Duration = Duration::from_secs(60);
