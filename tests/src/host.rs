//! A machine without pods: a network namespace with one device, a peer behind it, and an agent in host mode.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use specola_testkit::netns::NetNs;
use specola_testkit::{eventually, require_root};

use crate::Flow;
use crate::sandbox::{PATIENCE, check, specola};

/// Port of the machine's server.
pub const PORT: u16 = 8080;
/// The machine's addresses.
pub const MACHINE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// The peer's addresses.
pub const PEER: [&str; 2] = ["192.0.2.9", "2001:db8::9"];

/// The machine, its peer and their files. Everything is gone when it drops.
#[derive(Debug)]
pub struct Host {
    /// Network namespace of the machine; its device is `eth0`.
    pub machine: NetNs,
    /// Network namespace of the peer.
    pub peer: NetNs,
    files: tempfile::TempDir,
    pins: PathBuf,
    agent: Option<Child>,
}

impl Host {
    /// Makes them; no agent runs yet. `name` tells tests apart.
    ///
    /// # Panics
    /// Not root, or the kernel refuses.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        require_root();
        let machine = NetNs::new("machine").expect("a namespace");
        let peer = NetNs::new("peer").expect("a namespace");
        machine.veth("eth0", &peer, "eth0");
        for (netns, addresses) in [(&machine, MACHINE), (&peer, PEER)] {
            let [v4, v6] = addresses;
            netns.ip(&format!("addr add {v4}/24 dev eth0"));
            netns.ip(&format!("addr add {v6}/64 dev eth0 nodad"));
        }
        let files = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(files.path().join("policies")).expect("makes the directory");
        let pins = PathBuf::from(format!("/sys/fs/bpf/specola/test-host-{name}-{}", std::process::id()));
        Self { machine, peer, files, pins, agent: None }
    }

    /// Writes a file of the policy directory.
    ///
    /// # Panics
    /// It cannot be written.
    #[track_caller]
    pub fn policy(&self, name: &str, yaml: &str) {
        std::fs::write(self.files.path().join("policies").join(name), yaml).expect("writes");
    }

    /// Starts an agent on `devices` with further arguments, and waits until it serves.
    ///
    /// # Panics
    /// It does not come up.
    #[track_caller]
    pub fn start(&mut self, devices: &str, arguments: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let mut command = self.machine.command(&specola().display().to_string());
        command.args(["agent", "--devices", devices, "--node-name", "machine"]);
        command.args(["--observer-listen", "none", "--metrics-listen", "none"]);
        for (flag, name) in [
            ("--state-dir", "state"),
            ("--policy-dir", "policies"),
            ("--admin-socket", "admin.sock"),
            ("--observer-socket", "observer.sock"),
        ] {
            command.arg(flag).arg(self.path(name));
        }
        command.arg("--pin-dir").arg(&self.pins).args(arguments);
        command.stdout(Stdio::null()).stderr(log);
        self.agent = Some(command.spawn().expect("nsenter starts"));
        eventually("the agent serves", PATIENCE, || {
            let ended = self.agent.as_mut().and_then(|agent| agent.try_wait().expect("a child of ours"));
            assert!(ended.is_none(), "the agent ended with {ended:?}:\n{}", self.log());
            let mut status = Command::new(specola());
            let output =
                status.args(["endpoint", "list", "--admin-socket"]).arg(self.path("admin.sock")).output();
            let output = output.expect("specola starts");
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        });
    }

    /// Kills the agent with SIGKILL.
    ///
    /// # Panics
    /// None runs.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut agent = self.agent.take().expect("an agent runs");
        agent.kill().expect("a child of ours");
        agent.wait().expect("a child of ours");
    }

    /// What agents wrote to their log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs `specola host-policy` and gives what it printed.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn host_policy(&self, command: &str) -> String {
        let mut specola = Command::new(specola());
        specola.args(["host-policy", command]).arg("--pin-dir").arg(&self.pins);
        check(specola.arg("--state-dir").arg(self.path("state")))
    }

    /// All flows that the agent holds, with further `specola observe` arguments.
    ///
    /// # Panics
    /// `specola observe` fails.
    #[track_caller]
    pub fn flows(&self, arguments: &[&str]) -> Vec<Flow> {
        let mut command = Command::new(specola());
        command.args(["observe", "--all", "-o", "json", "--server"]);
        command.arg(format!("unix://{}", self.path("observer.sock").display()));
        Flow::parse_lines(&check(command.args(arguments)))
    }

    /// A command of `specola` in the machine's network namespace.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.machine.command(&specola().display().to_string());
        command.args(arguments);
        command
    }

    /// Programs at the hooks of the machine's device.
    ///
    /// # Panics
    /// They cannot be listed.
    #[track_caller]
    pub fn programs(&self, list: impl FnOnce(&str) -> Vec<String> + Send) -> Vec<String> {
        self.machine.enter(|| list("eth0"))
    }

    /// A server on the machine that sends back what it gets, on both address families.
    ///
    /// # Panics
    /// The port is taken.
    pub fn serve(&self) {
        serve(&self.machine);
    }

    /// A connection of the peer to the machine's server.
    ///
    /// # Errors
    /// It is not accepted in time.
    pub fn connect(&self, address: &str) -> std::io::Result<TcpStream> {
        connect(&self.peer, address)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- agent\n{}", self.log());
        }
        if let Some(mut agent) = self.agent.take() {
            // One that ended already needs neither.
            _ = agent.kill();
            _ = agent.wait();
        }
        let mut cleanup = self.command(&["cleanup", "--yes"]);
        cleanup.arg("--pin-dir").arg(&self.pins).arg("--state-dir").arg(self.path("state"));
        match cleanup.output() {
            Ok(output) if output.status.success() => {}
            other => eprintln!("{} was not cleaned up: {other:?}", self.pins.display()),
        }
    }
}

/// A server in a namespace that sends back what it gets, on both address families, until the test ends.
///
/// # Panics
/// The port is taken.
pub fn serve(netns: &NetNs) {
    let listener = netns.enter(|| TcpListener::bind(("::", PORT))).expect("the port is free");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || echo(stream));
        }
    });
}

/// A connection from a namespace to a server there or elsewhere.
///
/// # Errors
/// It is not accepted in time.
pub fn connect(netns: &NetNs, address: &str) -> std::io::Result<TcpStream> {
    let target = SocketAddr::new(address.parse().expect("an address"), PORT);
    let stream = netns.enter(|| TcpStream::connect_timeout(&target, REFUSED))?;
    stream.set_read_timeout(Some(REFUSED))?;
    Ok(stream)
}

/// Whether the other end answers.
pub fn talks(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// How long a dropped packet is waited for: longer than a few retransmissions.
const REFUSED: Duration = Duration::from_secs(2);
