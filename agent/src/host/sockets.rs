//! TCP connections that the machine has, from the kernel's socket diagnostics (`sock_diag(7)`).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// A TCP connection of a local socket.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Socket {
    /// Address and port of this machine.
    pub(super) local: (IpAddr, u16),
    /// Address and port of the other end.
    pub(super) remote: (IpAddr, u16),
    /// Number of the TCP state.
    pub(super) state: u8,
}

/// Connections, and the ports that somebody listens on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Sockets {
    pub(super) connections: Vec<Socket>,
    pub(super) listening: HashSet<u16>,
}

/// TCP states, `include/net/tcp_states.h`.
pub(super) mod tcp_state {
    pub(in crate::host) const ESTABLISHED: u8 = 1;
    pub(in crate::host) const SYN_SENT: u8 = 2;
    pub(in crate::host) const SYN_RECV: u8 = 3;
    pub(in crate::host) const TIME_WAIT: u8 = 6;
    pub(in crate::host) const CLOSE: u8 = 7;
    pub(in crate::host) const LISTEN: u8 = 10;
    /// A half-open connection of a listener.
    pub(in crate::host) const NEW_SYN_RECV: u8 = 12;
}

/// Lists the sockets of this thread's network namespace, both address families. Blocks.
///
/// # Errors
/// The kernel has no socket diagnostics, or refuses.
pub(super) fn list() -> io::Result<Sockets> {
    let mut sockets = Sockets::default();
    for family in [AF_INET, AF_INET6] {
        match dump(family, &mut sockets) {
            // A kernel without this family.
            Err(error) if family == AF_INET6 && error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {}
            result => result?,
        }
    }
    Ok(sockets)
}

/// How many connections the machine has. Blocks.
///
/// # Errors
/// As [`list`].
pub(crate) fn open_connections() -> io::Result<usize> {
    Ok(list()?.connections.len())
}

fn dump(family: u8, found: &mut Sockets) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))?;
    sendto(netlink.as_raw_fd(), &request(family), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if parse(&buffer[..length], found)? {
            return Ok(());
        }
    }
}

/// A dump request: `nlmsghdr`, then `inet_diag_req_v2`.
fn request(family: u8) -> [u8; REQUEST] {
    let states: u32 = !(1 << tcp_state::TIME_WAIT | 1 << tcp_state::CLOSE);
    let mut bytes = [0; REQUEST];
    bytes[0..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes[16] = family;
    bytes[17] = IPPROTO_TCP;
    bytes[20..24].copy_from_slice(&states.to_ne_bytes());
    bytes
}

/// Reads the messages of one answer. Gives whether the dump is over.
fn parse(mut bytes: &[u8], found: &mut Sockets) -> io::Result<bool> {
    while let Some(header) = bytes.get(..HEADER) {
        let length = u32_at(header, 0) as usize;
        let Some(message) = bytes.get(HEADER..length) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "socket diagnostics: message cut off"));
        };
        match u16::from_ne_bytes([header[4], header[5]]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = message.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            SOCK_DIAG_BY_FAMILY => take(message, found),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Takes one `inet_diag_msg`.
fn take(message: &[u8], found: &mut Sockets) {
    let Some(message) = message.get(..DIAG_MESSAGE) else { return };
    let (family, state) = (message[0], message[1]);
    let port = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let address = |at: usize| -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&message[at..at + 16]);
        match family {
            AF_INET => Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into(),
            // A socket of IPv6 that talks IPv4 sends IPv4 packets.
            _ => Ipv6Addr::from(octets).to_canonical(),
        }
    };
    let socket = Socket { local: (address(8), port(4)), remote: (address(24), port(6)), state };
    match state {
        tcp_state::LISTEN => drop(found.listening.insert(socket.local.1)),
        tcp_state::TIME_WAIT | tcp_state::CLOSE => {}
        _ if socket.local.0.is_loopback() || socket.remote.1 == 0 => {}
        _ => found.connections.push(socket),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Size of `nlmsghdr`.
const HEADER: usize = 16;
/// Size of a request: header and `inet_diag_req_v2`.
const REQUEST: usize = HEADER + 56;
/// Size of `inet_diag_msg`.
const DIAG_MESSAGE: usize = 72;
/// The kernel makes messages of at most 32 KiB.
const BUFFER: usize = 64 << 10;
const TIMEOUT_SECONDS: i64 = 5;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn message(family: u8, state: u8, local: (IpAddr, u16), remote: (IpAddr, u16)) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + DIAG_MESSAGE];
        let length = bytes.len() as u32;
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        let body = &mut bytes[HEADER..];
        (body[0], body[1]) = (family, state);
        body[4..6].copy_from_slice(&local.1.to_be_bytes());
        body[6..8].copy_from_slice(&remote.1.to_be_bytes());
        for (at, address) in [(8, local.0), (24, remote.0)] {
            match address {
                IpAddr::V4(address) => body[at..at + 4].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => body[at..at + 16].copy_from_slice(&address.octets()),
            }
        }
        bytes
    }

    fn end(text: &str) -> (IpAddr, u16) {
        let end: std::net::SocketAddr = text.parse().expect("address and port");
        (end.ip(), end.port())
    }

    #[test]
    fn answers_are_read() {
        let (here, there) = (end("192.0.2.1:22"), end("192.0.2.9:5000"));
        let mapped = (end("[::ffff:192.0.2.1]:22"), end("[::ffff:192.0.2.9]:5001"));
        let six = (end("[2001:db8::1]:22"), end("[2001:db8::9]:5000"));
        let answer = [
            message(AF_INET, tcp_state::ESTABLISHED, here, there),
            message(AF_INET6, tcp_state::ESTABLISHED, mapped.0, mapped.1),
            message(AF_INET6, tcp_state::SYN_SENT, six.0, six.1),
            message(AF_INET, tcp_state::LISTEN, here, end("0.0.0.0:0")),
            message(AF_INET, tcp_state::ESTABLISHED, end("127.0.0.1:1"), end("127.0.0.1:2")),
        ]
        .concat();
        let mut found = Sockets::default();
        assert!(!parse(&answer, &mut found).expect("well formed"));
        assert_eq!(found.listening, HashSet::from([22]));
        let ends: Vec<_> = found.connections.iter().map(|socket| (socket.local, socket.remote)).collect();
        assert_eq!(ends, [(here, there), (here, end("192.0.2.9:5001")), six]);
    }

    #[test]
    fn the_end_and_errors_are_seen() {
        let header = |kind: u16, length: u32| {
            let mut bytes = vec![0; HEADER];
            bytes[0..4].copy_from_slice(&length.to_ne_bytes());
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes
        };
        let mut found = Sockets::default();
        assert!(parse(&header(NLMSG_DONE, 16), &mut found).expect("the end"));
        let refused = [header(NLMSG_ERROR, 20), (-13_i32).to_ne_bytes().to_vec()].concat();
        assert_eq!(parse(&refused, &mut found).expect_err("an error").raw_os_error(), Some(13));
        for length in [0, 15, 17, u32::MAX] {
            assert!(parse(&header(NLMSG_DONE, length), &mut found).is_err(), "{length}");
        }
    }

    #[test]
    fn the_kernel_tells_of_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        let _stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
        let sockets = list().expect("socket diagnostics");
        assert!(sockets.listening.contains(&port));
        assert!(sockets.connections.iter().all(|socket| !socket.local.0.is_loopback()));
    }
}
