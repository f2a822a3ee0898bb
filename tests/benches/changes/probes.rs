//! Datagrams at short intervals, and when those that arrived were sent.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_timerslack;
use specola_testkit::netns;

/// Ports that are probed: policy opens one of them.
pub(crate) const PORTS: [u16; 2] = [7100, 7101];
/// Time between two probes of a port.
const INTERVAL: Duration = Duration::from_micros(100);
/// A port is closed when nothing arrived for so long; some tens of probes.
const QUIET: Duration = Duration::from_millis(5);
/// Longest wait for a change.
const LIMIT: Duration = Duration::from_secs(60);

/// A thread that sends, and the sockets at which probes arrive.
pub(crate) struct Probes {
    base: Instant,
    arrivals: Vec<UdpSocket>,
    ends: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Probes {
    /// Sends from one namespace to ports of an address in another one.
    pub(crate) fn start(from: &Path, to: &Path, address: Ipv4Addr, ports: &[u16]) -> Self {
        Self::start_from((from, Ipv4Addr::UNSPECIFIED), to, address, ports)
    }

    /// The same with a source address.
    pub(crate) fn start_from(
        (from, source): (&Path, Ipv4Addr),
        to: &Path,
        address: Ipv4Addr,
        ports: &[u16],
    ) -> Self {
        let arrivals: Vec<UdpSocket> = ports
            .iter()
            .map(|port| {
                let socket = netns::enter(to, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)));
                socket.unwrap_or_else(|error| panic!("port {port} of the server: {error}"))
            })
            .collect();
        let socket = netns::enter(from, || UdpSocket::bind((source, 0)));
        let socket = socket.unwrap_or_else(|error| panic!("a socket at {source}: {error}"));
        let targets: Vec<SocketAddrV4> = ports.iter().map(|port| SocketAddrV4::new(address, *port)).collect();
        let (base, ends) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let end = Arc::clone(&ends);
        let sender = std::thread::spawn(move || send(&socket, &targets, base, &end));
        Self { base, arrivals, ends, sender: Some(sender) }
    }

    /// Waits for the first probe of a port that was closed until now; gives when it was sent, after `called`.
    pub(crate) fn first_after(&self, port: usize, called: Instant) -> Duration {
        let sent =
            self.receive(port, LIMIT).unwrap_or_else(|| panic!("port {port} was not opened in {LIMIT:?}"));
        (self.base + sent).saturating_duration_since(called)
    }

    /// Waits until probes of a port arrive.
    pub(crate) fn wait_until_open(&self, port: usize) {
        assert!(self.receive(port, LIMIT).is_some(), "port {port} is not open after {LIMIT:?}");
    }

    /// Waits until nothing arrives at a port any more.
    pub(crate) fn wait_until_closed(&self, port: usize) {
        let started = Instant::now();
        while self.receive(port, QUIET).is_some() {
            assert!(started.elapsed() < LIMIT, "port {port} is not closed after {LIMIT:?}");
        }
    }

    /// When the next probe that arrives was sent, after the start.
    fn receive(&self, port: usize, limit: Duration) -> Option<Duration> {
        let socket = &self.arrivals[port];
        socket.set_read_timeout(Some(limit)).expect("a timeout that is not zero");
        let mut bytes = [0; 8];
        match socket.recv(&mut bytes) {
            Ok(_) => Some(Duration::from_nanos(u64::from_le_bytes(bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("the server's socket: {error}"),
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take()
            && sender.join().is_err()
        {
            eprintln!("the sender panicked");
        }
    }
}

fn send(socket: &UdpSocket, targets: &[SocketAddrV4], base: Instant, ends: &AtomicBool) {
    set_timerslack(1).expect("every thread may");
    let mut next = Instant::now();
    while !ends.load(Ordering::Relaxed) {
        for target in targets {
            let sent = u64::try_from(base.elapsed().as_nanos()).expect("it runs for minutes");
            // What policy drops is no error; a full queue is none either.
            if let Err(error) = socket.send_to(&sent.to_le_bytes(), target) {
                assert!(error.kind() == std::io::ErrorKind::WouldBlock, "{target}: {error}");
            }
        }
        next += INTERVAL;
        let now = Instant::now();
        if next > now {
            std::thread::sleep(next - now);
        } else {
            next = now;
        }
    }
}
