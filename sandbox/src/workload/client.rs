//! The clients among the workloads: one connection after the other, at a pace, each recorded.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::journal::{Entry, Journal, Kind, Outcome};
use super::{Family, Pace, Workload};

/// Runs one client until it is told to stop or has made its count. The current connection is always finished.
pub(crate) async fn run(workload: Workload, journal: Arc<Journal>, stop: watch::Receiver<bool>) {
    match workload {
        Workload::HttpClient { target, path, pace } => {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
            let exchange = Exchange { send: request.into_bytes(), ends: Ends::AtClose };
            Client { host: target.host, ports: vec![target.port], pace, journal, exchange: Some(exchange) }
                .tcp(stop)
                .await;
        }
        Workload::TcpClient { target, bytes, pace } => {
            let exchange = Exchange { send: payload(bytes), ends: Ends::AfterEcho };
            Client { host: target.host, ports: vec![target.port], pace, journal, exchange: Some(exchange) }
                .tcp(stop)
                .await;
        }
        Workload::PortScan { host, ports, pace } => {
            Client { host, ports, pace, journal, exchange: None }.tcp(stop).await;
        }
        Workload::UdpClient { target, bytes, pace } => {
            let exchange = Exchange { send: payload(bytes), ends: Ends::AfterEcho };
            Client { host: target.host, ports: vec![target.port], pace, journal, exchange: Some(exchange) }
                .udp(stop)
                .await;
        }
        Workload::HttpServer { .. }
        | Workload::TcpEcho { .. }
        | Workload::UdpEcho { .. }
        | Workload::Idle => {}
    }
}

struct Client {
    host: String,
    ports: Vec<u16>,
    pace: Pace,
    journal: Arc<Journal>,
    /// `None` closes as soon as the connection is made.
    exchange: Option<Exchange>,
}

struct Exchange {
    send: Vec<u8>,
    ends: Ends,
}

/// When an answer is whole.
#[derive(Clone, Copy)]
enum Ends {
    AtClose,
    AfterEcho,
}

#[derive(Default)]
struct Traffic {
    sent: u64,
    received: u64,
}

impl Client {
    async fn tcp(self, mut stop: watch::Receiver<bool>) {
        let mut attempt = 0;
        let mut ticks = self.ticks();
        while self.goes_on(attempt) && next_tick(&mut ticks, &mut stop).await {
            let port = self.ports[attempt as usize % self.ports.len()];
            attempt += 1;
            if let Some(destination) = self.resolve(port).await {
                self.connect_once(destination).await;
            }
        }
    }

    async fn udp(self, mut stop: watch::Receiver<bool>) {
        let mut attempt = 0;
        let mut ticks = self.ticks();
        let mut ports = SourcePorts::default();
        while self.goes_on(attempt) && next_tick(&mut ticks, &mut stop).await {
            let port = self.ports[attempt as usize % self.ports.len()];
            attempt += 1;
            if let Some(destination) = self.resolve(port).await {
                self.ask_once(destination, &mut ports).await;
            }
        }
    }

    fn goes_on(&self, attempts: u64) -> bool {
        self.pace.count.is_none_or(|count| attempts < count)
    }

    fn ticks(&self) -> tokio::time::Interval {
        let mut ticks = interval(self.pace.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    async fn resolve(&self, port: u16) -> Option<SocketAddr> {
        let found = match tokio::net::lookup_host((self.host.as_str(), port)).await {
            Ok(found) => found.collect::<Vec<_>>(),
            Err(error) => {
                eprintln!("cannot resolve {}: {error}", self.host);
                return None;
            }
        };
        let first = |wanted: fn(&SocketAddr) -> bool| found.iter().copied().find(wanted);
        let address = match self.pace.family {
            Family::V4 => first(SocketAddr::is_ipv4),
            Family::V6 => first(SocketAddr::is_ipv6),
            Family::Any => first(SocketAddr::is_ipv4).or_else(|| first(SocketAddr::is_ipv6)),
        };
        if address.is_none() {
            eprintln!("{} has no address of the wanted family", self.host);
        }
        address
    }

    async fn connect_once(&self, destination: SocketAddr) {
        let time = jiff::Timestamp::now();
        let socket = match start_connecting(destination) {
            Ok(socket) => socket,
            Err(error) => {
                eprintln!("cannot connect to {destination}: {error}");
                return;
            }
        };
        // Known from here on, also when the connection is never made.
        let source = socket.local_addr().ok().and_then(|address| address.as_socket());
        let Some(source) = source else { return };
        let mut traffic = Traffic::default();
        let result = match self.talk(socket, &mut traffic).await {
            Ok(()) => Outcome::Ok,
            Err(error) => outcome_of(&error),
        };
        self.journal.record(Entry {
            time,
            kind: Kind::Connect,
            source,
            destination,
            proto: "TCP",
            result,
            sent: traffic.sent,
            received: traffic.received,
        });
    }

    async fn talk(&self, socket: Socket, traffic: &mut Traffic) -> std::io::Result<()> {
        let stream = TcpStream::from_std(socket.into())?;
        timeout(self.pace.timeout, stream.writable()).await??;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        timeout(self.pace.timeout, exchange_tcp(stream, self.exchange.as_ref(), traffic)).await?
    }

    async fn ask_once(&self, destination: SocketAddr, ports: &mut SourcePorts) {
        let Some(exchange) = &self.exchange else { return };
        let time = jiff::Timestamp::now();
        let socket = match ports.bind(destination).await {
            Ok(socket) => socket,
            Err(error) => {
                eprintln!("cannot send to {destination}: {error}");
                return;
            }
        };
        let Ok(source) = socket.local_addr() else { return };
        let mut traffic = Traffic::default();
        let asked = async {
            traffic.sent = socket.send(&exchange.send).await? as u64;
            let mut answer = vec![0; 65_536];
            traffic.received = socket.recv(&mut answer).await? as u64;
            Ok::<_, std::io::Error>(())
        };
        let result = match timeout(self.pace.timeout, asked).await {
            Ok(Ok(())) => Outcome::Ok,
            Ok(Err(error)) => outcome_of(&error),
            Err(_elapsed) => Outcome::Timeout,
        };
        self.journal.record(Entry {
            time,
            kind: Kind::Connect,
            source,
            destination,
            proto: "UDP",
            result,
            sent: traffic.sent,
            received: traffic.received,
        });
    }
}

/// Source ports in turn: the kernel picks them at random, and two exchanges with one tuple would look like one.
struct SourcePorts {
    next: u16,
}

impl Default for SourcePorts {
    fn default() -> Self {
        Self { next: FIRST_SOURCE_PORT }
    }
}

impl SourcePorts {
    async fn bind(&mut self, destination: SocketAddr) -> std::io::Result<UdpSocket> {
        let any = if destination.is_ipv4() { "0.0.0.0" } else { "::" };
        for _ in FIRST_SOURCE_PORT..=LAST_SOURCE_PORT {
            let port = self.next;
            self.next = if port == LAST_SOURCE_PORT { FIRST_SOURCE_PORT } else { port + 1 };
            match UdpSocket::bind((any, port)).await {
                Ok(socket) => {
                    socket.connect(destination).await?;
                    return Ok(socket);
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(std::io::Error::from(ErrorKind::AddrInUse))
    }
}

/// Waits for the next connection's time; false when the client is to stop.
async fn next_tick(ticks: &mut tokio::time::Interval, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        biased;
        // A dropped sender means the process ends.
        _stopped = stop.wait_for(|stop| *stop) => false,
        _at = ticks.tick() => true,
    }
}

/// Begins to connect. std and tokio hide the source port of a connection that was not made.
fn start_connecting(destination: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(destination), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&destination.into()) {
        Ok(()) => Ok(socket),
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => Ok(socket),
        Err(error) => Err(error),
    }
}

async fn exchange_tcp(
    mut stream: TcpStream,
    exchange: Option<&Exchange>,
    traffic: &mut Traffic,
) -> std::io::Result<()> {
    let Some(exchange) = exchange else {
        return stream.shutdown().await;
    };
    stream.write_all(&exchange.send).await?;
    traffic.sent = exchange.send.len() as u64;
    if matches!(exchange.ends, Ends::AfterEcho) {
        while traffic.received < traffic.sent {
            match read_some(&mut stream, traffic).await? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                _more => {}
            }
        }
        stream.shutdown().await?;
    }
    while read_some(&mut stream, traffic).await? > 0 {}
    Ok(())
}

async fn read_some(stream: &mut TcpStream, traffic: &mut Traffic) -> std::io::Result<usize> {
    let mut buffer = [0; 16 * 1024];
    let read = stream.read(&mut buffer).await?;
    traffic.received += read as u64;
    Ok(read)
}

fn outcome_of(error: &std::io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionRefused => Outcome::Refused,
        ErrorKind::TimedOut => Outcome::Timeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Outcome::Unreachable,
        _ => Outcome::Reset,
    }
}

fn payload(bytes: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(bytes).collect()
}

/// When the last connection of a client may still run after it was told to stop.
pub(crate) fn grace(workloads: &[Workload]) -> std::time::Duration {
    let pace = |workload: &Workload| match workload {
        Workload::HttpClient { pace, .. }
        | Workload::TcpClient { pace, .. }
        | Workload::UdpClient { pace, .. }
        | Workload::PortScan { pace, .. } => Some(pace.timeout * 2),
        _ => None,
    };
    workloads.iter().filter_map(pace).max().unwrap_or_default() + std::time::Duration::from_secs(1)
}

const FIRST_SOURCE_PORT: u16 = 20_000;
const LAST_SOURCE_PORT: u16 = 30_000;
