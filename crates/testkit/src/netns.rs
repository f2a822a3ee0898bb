//! Network namespaces for one test.
//!
//! A namespace is a bind mount of a thread's `/proc/self/ns/net` on a file of a temporary directory; the machine's own
//! network namespace is never changed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Why a namespace could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// A system call failed.
    #[error("{what}: {source}; root is needed")]
    Sys {
        /// What was being done.
        what: &'static str,
        /// The cause.
        source: nix::Error,
    },
    /// A file could not be made or opened.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
}

/// Runs a closure on a thread of its own inside a network namespace; the mount namespace stays. Sockets that it makes
/// belong to the namespace, wherever they are used afterwards.
///
/// # Panics
/// The namespace cannot be entered, or the closure panicked.
pub fn enter<T: Send>(path: &Path, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            run()
        });
        worker.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    })
}

/// A network namespace that goes when this does.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl NetNs {
    /// Makes an empty namespace with loopback up. `name` is for messages.
    ///
    /// # Errors
    /// Not root, or no file can be made.
    pub fn new(name: &str) -> Result<Self, NetNsError> {
        let dir = tempfile::Builder::new()
            .prefix("specola-netns-")
            .tempdir()
            .map_err(|source| NetNsError::Io { what: "temporary directory", source })?;
        let path = dir.path().join(name);
        File::create(&path).map_err(|source| NetNsError::Io { what: "mount point", source })?;
        let target = path.clone();
        std::thread::spawn(move || bind_new_namespace(&target)).join().unwrap_or_else(|cause| {
            std::panic::resume_unwind(cause);
        })?;
        let ns = Self { name: name.to_owned(), path, _dir: dir };
        ns.ip("link set lo up");
        Ok(ns)
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// File that stands for the namespace, for `setns` and `ip link set .. netns`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a closure on a thread of its own inside the namespace; the mount namespace stays, so bpffs is visible.
    ///
    /// # Panics
    /// The namespace cannot be entered, or the closure panicked.
    pub fn enter<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        enter(&self.path, run)
    }

    /// A command that will run inside the namespace (through `nsenter`, which keeps the mounts).
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg(program);
        command
    }

    /// Runs `ip` with blank-separated arguments inside the namespace.
    ///
    /// # Panics
    /// `ip` is missing or fails.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        let output = self.command("ip").args(arguments.split_whitespace()).output().expect("ip is installed");
        text_of(&self.name, arguments, &output)
    }

    /// Writes a sysctl of the namespace, `net.ipv4.ip_forward` style.
    ///
    /// # Panics
    /// The kernel refuses it.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.enter(|| std::fs::write(&path, value))
            .unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
    }

    /// Joins two namespaces by a veth pair and sets both ends up.
    ///
    /// # Panics
    /// `ip` fails.
    #[track_caller]
    pub fn veth(&self, ifname: &str, peer: &Self, peer_ifname: &str) {
        let peer_path = peer.path.display();
        // The peer is moved by name of a mounted file: iproute2 takes a path here.
        self.ip(&format!("link add {ifname} type veth peer name {peer_ifname} netns {peer_path}"));
        self.ip(&format!("link set {ifname} up"));
        peer.ip(&format!("link set {peer_ifname} up"));
    }

    /// Index of an interface in the namespace.
    ///
    /// # Panics
    /// There is none of that name.
    #[track_caller]
    pub fn ifindex(&self, ifname: &str) -> u32 {
        self.enter(|| nix::net::if_::if_nametoindex(ifname))
            .unwrap_or_else(|error| panic!("{ifname}: {error}"))
    }

    /// MAC address of an interface in the namespace.
    ///
    /// # Panics
    /// There is none of that name.
    #[track_caller]
    pub fn mac(&self, ifname: &str) -> [u8; 6] {
        let text = self.ip(&format!("-o link show {ifname}"));
        let mac = text.split("link/ether ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let mac = mac.unwrap_or_else(|| panic!("{ifname} has no MAC: {text}"));
        let mut bytes = [0; 6];
        for (byte, hex) in bytes.iter_mut().zip(mac.split(':')) {
            *byte = u8::from_str_radix(hex, 16).unwrap_or_else(|error| panic!("{mac}: {error}"));
        }
        bytes
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("namespace {} stays: {error}", self.path.display());
        }
    }
}

fn bind_new_namespace(target: &Path) -> Result<(), NetNsError> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|source| NetNsError::Sys { what: "new network namespace", source })?;
    mount(Some("/proc/thread-self/ns/net"), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|source| NetNsError::Sys { what: "bind mount of the namespace", source })
}

#[track_caller]
fn text_of(name: &str, arguments: &str, output: &Output) -> String {
    assert!(
        output.status.success(),
        "ip {arguments} in {name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
