//! Real connections: one thread for each pod, inside its network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use specola_testkit::netns;

use crate::cluster::{TCP, UDP};

/// One connection to try.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) to: IpAddr,
    /// `TCP`, `UDP`, `ICMP` or `ICMPv6`.
    pub(crate) proto: &'static str,
    pub(crate) port: u16,
    /// A server is there, and nothing refuses the connection.
    pub(crate) connects: bool,
}

/// Sockets of a pod's servers; connections are accepted by the kernel as long as they live.
#[derive(Debug)]
pub(crate) struct Servers(
    #[expect(dead_code, reason = "they only have to live")] Vec<TcpListener>,
    Vec<UdpSocket>,
);

pub(crate) fn serve(pod: &Path) -> Servers {
    netns::enter(pod, || {
        // Takes connections of both families.
        let any = Ipv6Addr::UNSPECIFIED;
        let tcp = TCP.iter().map(|port| TcpListener::bind((any, *port)).expect("a free port"));
        let udp = UDP.iter().map(|port| UdpSocket::bind((any, *port)).expect("a free port"));
        Servers(tcp.collect(), udp.collect())
    })
}

impl Servers {
    /// Number of sockets that datagrams go to.
    pub(crate) fn datagram_sockets(&self) -> usize {
        self.1.len()
    }
}

/// Tries the connections one after the other, and names those that ended otherwise than they should.
pub(crate) fn run(from: &Path, probes: &[Probe]) -> Vec<String> {
    netns::enter(from, || probes.iter().filter_map(|probe| try_one(probe).err()).collect())
}

fn try_one(probe: &Probe) -> Result<(), String> {
    let to = SocketAddr::new(probe.to, probe.port);
    match probe.proto {
        "TCP" => {
            // A refused connection gets no answer: there is no time after which that would be certain.
            let patience = Duration::from_millis(if probe.connects { 10_000 } else { 60 });
            let connected = TcpStream::connect_timeout(&to, patience);
            match connected.is_ok() == probe.connects {
                true => Ok(()),
                false => Err(format!("TCP to {to}: {connected:?}, expected to connect: {}", probe.connects)),
            }
        }
        "UDP" => {
            let socket = UdpSocket::bind((any_address(probe.to), 0)).expect("a free port");
            socket.send_to(b"probe", to).map(drop).map_err(|error| format!("UDP to {to}: {error}"))
        }
        _ => echo(probe.to).map_err(|error| format!("echo to {}: {error}", probe.to)),
    }
}

/// Sends one ICMP echo request.
fn echo(to: IpAddr) -> nix::Result<()> {
    let IpAddr::V4(to) = to else { return echo6(to) };
    let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
    // Type 8, code 0, checksum, identifier, sequence number.
    let mut packet = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from(folded).expect("eight bytes");
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    let [a, b, c, d] = to.octets();
    sendto(socket.as_raw_fd(), &packet, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()).map(drop)
}

/// The same for IPv6; the kernel fills in the checksum.
fn echo6(to: IpAddr) -> nix::Result<()> {
    let IpAddr::V6(to) = to else { return Ok(()) };
    let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
    let packet = [128, 0, 0, 0, 0x12, 0x34, 0, 1];
    let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
    sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty()).map(drop)
}

/// Address that packets to `to` leave with.
pub(crate) fn source_address(from: &Path, to: IpAddr) -> IpAddr {
    netns::enter(from, || {
        let socket = UdpSocket::bind((any_address(to), 0)).expect("a free port");
        socket.connect((to, 9)).expect("a route");
        socket.local_addr().expect("a bound socket").ip()
    })
}

fn any_address(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
