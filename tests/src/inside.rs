//! What a test does inside a pod's network namespace itself: sockets, and counters of the kernel's packet filter.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use specola_testkit::netns;

use crate::sandbox::check;

/// A UDP socket of a pod.
///
/// # Panics
/// It cannot be made.
#[track_caller]
pub fn udp_socket(pod_netns: &Path, port: u16) -> UdpSocket {
    netns::enter(pod_netns, || UdpSocket::bind(("0.0.0.0", port))).expect("a free port")
}

/// Sends an empty datagram to each port of a host. Gives how many were sent.
///
/// # Panics
/// The kernel refuses one.
pub fn send_to_ports(socket: &UdpSocket, host: IpAddr, ports: impl Iterator<Item = u16>) -> u64 {
    let send = |port| {
        let target = SocketAddr::new(host, port);
        socket.send_to(b"", target).unwrap_or_else(|error| panic!("{target}: {error}"));
    };
    ports.map(send).count() as u64
}

/// Opens connections to these ports, one datagram each, as fast as it can until `is_over`. Gives how many datagrams; when
/// source ports are used again, several make one connection.
///
/// # Panics
/// There is no free port, or the kernel refuses a datagram.
pub fn storm(pod_netns: &Path, host: IpAddr, ports: RangeInclusive<u16>, is_over: &AtomicBool) -> u64 {
    netns::enter(pod_netns, || {
        let mut datagrams = 0;
        while !is_over.load(Ordering::Relaxed) {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
            datagrams += send_to_ports(&socket, host, ports.clone());
        }
        datagrams
    })
}

/// Counters of nftables in a network namespace, which know nothing of Specola.
#[derive(Debug)]
pub struct Witness {
    netns: PathBuf,
}

impl Witness {
    /// Counts packets: pairs of a name and an nft match, such as `tcp dport 80`; `hook` is `input` or `output`.
    ///
    /// # Panics
    /// `nft` is missing or refuses.
    #[track_caller]
    pub fn new(netns: PathBuf, hook: &str, counters: &[(&str, &str)]) -> Self {
        let names: String = counters.iter().map(|(name, _)| format!("  counter {name} {{}}\n")).collect();
        let rules: String =
            counters.iter().map(|(name, matches)| format!("    {matches} counter name {name}\n")).collect();
        let table = format!(
            "table inet witness_{hook} {{\n{names}  chain seen {{\n    type filter hook {hook} priority 0;\n{rules}  }}\n}}\n"
        );
        let witness = Self { netns };
        let mut child = witness.nft(&["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft starts");
        let mut input = child.stdin.take().expect("a piped child has an input");
        std::io::Write::write_all(&mut input, table.as_bytes()).expect("nft reads");
        drop(input);
        assert!(child.wait().expect("nft ends").success(), "{table}");
        witness
    }

    /// Packets that a counter has seen.
    ///
    /// # Panics
    /// There is no such counter.
    #[track_caller]
    pub fn packets(&self, name: &str) -> u64 {
        let text = check(&mut self.nft(&["-j", "list", "counters"]));
        let listed: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let counters = listed["nftables"].as_array().into_iter().flatten().map(|entry| &entry["counter"]);
        let found = counters.into_iter().find(|counter| counter["name"] == name);
        found.and_then(|counter| counter["packets"].as_u64()).unwrap_or_else(|| panic!("no {name}: {text}"))
    }

    fn nft(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display())).arg("nft").args(arguments);
        command
    }
}
