//! The servers among the workloads. Each binds IPv6 with IPv4 mapped into it, so one socket takes both.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::journal::{Entry, Journal, Kind, Outcome};

/// What a server does with a connection.
#[derive(Clone, Debug)]
pub(crate) enum Service {
    /// Answers with this body.
    Http(Arc<str>),
    Echo,
}

/// Opens the listening socket of a TCP server.
pub(crate) fn listen_tcp(port: u16) -> anyhow::Result<TcpListener> {
    let open = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        socket.listen(1024)?;
        TcpListener::from_std(socket.into())
    };
    open().with_context(|| format!("cannot listen on TCP port {port}"))
}

/// Opens the socket of a UDP server.
pub(crate) fn listen_udp(port: u16) -> anyhow::Result<UdpSocket> {
    let open = || -> std::io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(false)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        UdpSocket::from_std(socket.into())
    };
    open().with_context(|| format!("cannot bind UDP port {port}"))
}

/// Serves connections for ever, [`MAX_CONNECTIONS`] at a time.
pub(crate) async fn serve_tcp(listener: TcpListener, service: Service, journal: Arc<Journal>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (service, journal) = (service.clone(), Arc::clone(&journal));
                tokio::spawn(async move {
                    serve_one(stream, peer, &service, &journal).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors or a peer that left before accept: the next accept may work.
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Sends each datagram back for ever.
pub(crate) async fn serve_udp(socket: UdpSocket, journal: Arc<Journal>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An ICMP error of an earlier answer is reported here.
                eprintln!("cannot receive: {error}");
                continue;
            }
        };
        let time = jiff::Timestamp::now();
        let answer = socket.send_to(&buffer[..length], peer).await;
        let Some(local) = local_address(peer, socket.local_addr().map_or(0, |address| address.port())) else {
            continue;
        };
        journal.record(Entry {
            time,
            kind: Kind::Accept,
            source: peer,
            destination: local,
            proto: "UDP",
            result: if answer.is_ok() { Outcome::Ok } else { Outcome::Unreachable },
            sent: answer.unwrap_or(0) as u64,
            received: length as u64,
        });
    }
}

async fn serve_one(mut stream: TcpStream, peer: SocketAddr, service: &Service, journal: &Journal) {
    let time = jiff::Timestamp::now();
    let Ok(local) = stream.local_addr() else { return };
    let (mut sent, mut received) = (0, 0);
    let served = async {
        match service {
            Service::Http(body) => answer_http(&mut stream, body, &mut sent, &mut received).await,
            Service::Echo => echo(&mut stream, &mut sent, &mut received).await,
        }
    };
    let result = match timeout(CONNECTION_LIMIT, served).await {
        Ok(Ok(())) => Outcome::Ok,
        Ok(Err(_reset)) => Outcome::Reset,
        Err(_elapsed) => Outcome::Timeout,
    };
    let entry = Entry {
        time,
        kind: Kind::Accept,
        source: peer,
        destination: local,
        proto: "TCP",
        result,
        sent,
        received,
    };
    journal.record(entry);
}

async fn answer_http(
    stream: &mut TcpStream,
    body: &str,
    sent: &mut u64,
    received: &mut u64,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read_buf(&mut request).await?;
        *received += read as u64;
        if read == 0 || request.len() > MAX_REQUEST {
            break;
        }
    }
    let status = match request.split(|&byte| byte == b' ').next() {
        Some(b"GET" | b"HEAD" | b"POST" | b"PUT" | b"DELETE" | b"PATCH" | b"OPTIONS") => "200 OK",
        _ => "400 Bad Request",
    };
    let shown = if request.starts_with(b"HEAD ") { "" } else { body };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{shown}",
        body.len()
    );
    stream.write_all(response.as_bytes()).await?;
    *sent += response.len() as u64;
    finish(stream, received).await
}

async fn echo(stream: &mut TcpStream, sent: &mut u64, received: &mut u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return stream.shutdown().await;
        }
        *received += read as u64;
        stream.write_all(&buffer[..read]).await?;
        *sent += read as u64;
    }
}

/// Closes the own direction and reads the rest: closing with unread bytes would send a reset.
async fn finish(stream: &mut TcpStream, received: &mut u64) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    loop {
        match stream.read(&mut rest).await? {
            0 => return Ok(()),
            read => *received += read as u64,
        }
    }
}

/// The address from which this pod answers `peer`.
fn local_address(peer: SocketAddr, port: u16) -> Option<SocketAddr> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let unspecified = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let probe = std::net::UdpSocket::bind(unspecified).ok()?;
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    probe.connect(peer).ok()?;
    probe.local_addr().ok().map(|local| SocketAddr::new(local.ip(), port))
}

/// Below the usual limit of 1024 open files.
const MAX_CONNECTIONS: usize = 512;
const MAX_REQUEST: usize = 16 * 1024;
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
