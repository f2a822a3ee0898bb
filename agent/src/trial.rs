//! Asks the kernel programs about single packets, with a policy that nobody else sees: nothing is attached.
//!
//! A thread of its own has a mount namespace of its own with a BPF file system, where the maps are pinned; all of it is
//! gone when the thread ends, however it ends.

mod frame;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;
use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use specola_datapath::abi::endpoint::{EndpointRecord, policy_flags};
use specola_datapath::abi::event::{flags, kind};
use specola_datapath::abi::ipcache::{IpInfo, ip_flags};
use specola_datapath::abi::names::{FROM_CONTAINER, TO_CONTAINER};
use specola_datapath::{Config, Conntrack, Datapath, EventReader};
use specola_labels::NumericIdentity;
use specola_policy::eval::Packet;
use specola_policy::{EndpointPolicy, MapState, OriginSet};

use crate::cookie::CookieTable;
use crate::node::policy_update;

/// Why the kernel cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Not root.
    #[error("the kernel's programs can only be loaded by root; run it as root, or leave out --datapath")]
    NotRoot,
    /// Anything else.
    #[error("the kernel's programs cannot be tried")]
    Failed(#[from] anyhow::Error),
    /// The thread ended early.
    #[error("the thread that asks the kernel ended early")]
    Ended,
}

/// What the kernel says of a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelAnswer {
    /// 0, or the drop reason (Hubble's number).
    pub drop_reason: u8,
    /// It passes only because of audit mode.
    pub audited: bool,
    /// Policies that the record names.
    pub origins: OriginSet,
}

/// A loaded datapath with one endpoint.
#[derive(Debug)]
pub struct KernelTrial {
    datapath: Datapath,
    conntrack: Conntrack,
    reader: EventReader,
    cookies: CookieTable,
    in_force: MapState,
    sent: u16,
}

impl KernelTrial {
    /// Runs `work` with loaded programs.
    ///
    /// # Errors
    /// Not root, or the kernel refuses something.
    pub fn run<T: Send>(work: impl FnOnce(&mut Self) -> anyhow::Result<T> + Send) -> Result<T, TrialError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(TrialError::NotRoot);
        }
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                private_mounts().context("private mount namespace")?;
                let mut trial = Self::load()?;
                work(&mut trial)
            });
            match thread.join() {
                Ok(result) => Ok(result?),
                Err(_panic) => Err(TrialError::Ended),
            }
        })
    }

    fn load() -> anyhow::Result<Self> {
        let config = Config {
            lane_bytes: [1 << 16; 3],
            ct_tcp_entries: 1024,
            ct_any_entries: 1024,
            dual_stack: true,
            // Each packet shall have its record.
            fold_per_second: 0,
            ..Config::new(Path::new(ROOT).join("bpf/trial"))
        };
        let mut datapath = Datapath::load(&config).context("load the kernel programs")?;
        let (v4, v6) = frame::POD;
        let record = EndpointRecord {
            ifindex: LOOPBACK,
            identity: OWN_IDENTITY,
            id: 1,
            mac: frame::POD_MAC,
            host_mac: frame::HOST_MAC,
            ipv4: v4.octets(),
            ipv6: v6.octets(),
            ..EndpointRecord::default()
        };
        datapath.add_endpoint(SLOT, &record)?;
        Ok(Self {
            conntrack: datapath.take_conntrack().context("conntrack is taken once")?,
            reader: datapath.take_reader().context("the reader is taken once")?,
            datapath,
            cookies: CookieTable::open(&Path::new(ROOT).join("cookies"))?,
            in_force: MapState::default(),
            sent: 0,
        })
    }

    /// Puts a policy into force.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn realize(&mut self, policy: &EndpointPolicy, audit_mode: bool) -> anyhow::Result<()> {
        let mut update = policy_update(SLOT, &self.in_force, policy, &mut self.cookies)?;
        if audit_mode {
            update.state.flags |= policy_flags::AUDIT;
        }
        self.datapath.apply_policy(SLOT, &update.upserts, &update.deletes, update.state)?;
        self.in_force = policy.map.clone();
        Ok(())
    }

    /// Sends a packet that begins a connection.
    ///
    /// # Errors
    /// The kernel refuses the run, or tells nothing of the packet.
    pub fn ask(&mut self, packet: Packet) -> anyhow::Result<KernelAnswer> {
        self.sent = self.sent.checked_add(1).unwrap_or(1);
        if self.sent.is_multiple_of(CONNECTIONS) {
            self.conntrack.sweep(u64::MAX, |_| ()).context("forget connections")?;
        }
        let peer = frame::peer(packet.proto);
        self.know(peer, packet.peer)?;
        let bytes = frame::bytes(packet, FIRST_UNIQUE + self.sent % CONNECTIONS);
        let program = if packet.egress { FROM_CONTAINER } else { TO_CONTAINER };
        self.datapath.test_run(program, &bytes)?;
        let mut seen = None;
        self.reader.read_now(|tick| {
            seen = tick
                .events
                .iter()
                .find(|event| matches!(event.kind, kind::POLICY_VERDICT | kind::DROP))
                .map(|event| (event.verdict, event.flags & flags::AUDIT != 0, event.cookie));
        });
        let (verdict, audited, cookie) = seen.context("the kernel has no record of the packet")?;
        let origins = self.cookies.iter().find_map(|(own, origins)| (own == cookie).then(|| origins.clone()));
        Ok(KernelAnswer {
            drop_reason: u8::try_from(verdict.unsigned_abs()).unwrap_or(u8::MAX),
            audited,
            origins: origins.unwrap_or_default(),
        })
    }

    /// Gives the address of the other end its identity.
    fn know(&mut self, peer: IpAddr, identity: u32) -> anyhow::Result<()> {
        let is_local_node = identity == NumericIdentity::HOST.0;
        let node = if is_local_node { ip_flags::LOCAL_NODE } else { 0 };
        let info = IpInfo { identity, flags: node, ..IpInfo::default() };
        let own = IpInfo { identity: OWN_IDENTITY, slot: SLOT, ..IpInfo::default() };
        let (v4, v6) = frame::POD;
        let pod = [IpAddr::V4(v4), IpAddr::V6(v6)].map(|address| (IpNet::from(address), own));
        let wanted: HashMap<IpNet, IpInfo> = pod.into_iter().chain([(IpNet::from(peer), info)]).collect();
        self.datapath.sync_ips(&wanted).context("addresses of the trial")?;
        Ok(())
    }
}

/// What this thread mounts from here on, nobody else sees.
fn private_mounts() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    mount(Some("tmpfs"), ROOT, Some("tmpfs"), MsFlags::empty(), none)
        .with_context(|| format!("mount a tmpfs on {ROOT}"))?;
    let bpf = Path::new(ROOT).join("bpf");
    std::fs::create_dir(&bpf).with_context(|| format!("make {}", bpf.display()))?;
    mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), none).context("mount a BPF file system")
}

/// Where the trial keeps its files, in its own mount namespace.
const ROOT: &str = "/run";
/// Test runs happen on the loopback interface.
const LOOPBACK: u32 = 1;
const SLOT: u16 = 1;
/// Number of the endpoint itself: of a range that no policy selects by.
const OWN_IDENTITY: u32 = 255;
const FIRST_UNIQUE: u16 = 20_000;
/// Connections until all are forgotten.
const CONNECTIONS: u16 = 512;
