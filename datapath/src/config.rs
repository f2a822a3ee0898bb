//! What the caller decides before loading.

use std::path::PathBuf;

use specola_datapath_common::config::host_mode;
use specola_datapath_common::event::lane;

/// How programs are hooked to an interface.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AttachMode {
    /// [`Self::Tcx`] where the kernel has it (Linux 6.6), else [`Self::Clsact`].
    #[default]
    Auto,
    /// Links on the tcx hooks.
    Tcx,
    /// Filters of the clsact queueing discipline.
    Clsact,
}

impl std::str::FromStr for AttachMode {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "tcx" => Ok(Self::Tcx),
            "clsact" => Ok(Self::Clsact),
            _ => Err(ConfigError::AttachMode { text: text.to_owned() }),
        }
    }
}

/// Sizes and constants of one node's datapath.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Directory on a BPF file system for maps and links; one per node, made when missing.
    pub pin_dir: PathBuf,
    /// How programs are hooked.
    pub attach: AttachMode,
    /// Bytes of the three ring buffers, indexed by [`lane`]; powers of two, at least a page.
    pub lane_bytes: [u32; lane::COUNT],
    /// Connections per address family that are TCP.
    pub ct_tcp_entries: u32,
    /// Connections per address family that are not TCP.
    pub ct_any_entries: u32,
    /// Least time between two trace records of one direction of a connection, milliseconds.
    pub trace_interval_ms: u32,
    /// Records per second of denied packets that have the same endpoint, identities, destination port, reason and policy;
    /// further ones are counted and reported together, once a second. 0 = every packet has a record.
    pub fold_per_second: u32,
    /// ifindex of the device that delivers to the host's stack; 0 = packets for the node pass to the stack as they are.
    pub host_ifindex: u32,
    /// MAC address of that device.
    pub host_mac: [u8; 6],
    /// Whether pods have both address families: the world is then two identities.
    pub dual_stack: bool,
    /// What programs on node devices do for the node itself.
    pub host_mode: HostMode,
}

/// What programs on node devices do for the node itself; its endpoint has the slot
/// [`HOST_SLOT`](specola_datapath_common::endpoint::HOST_SLOT).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HostMode {
    /// Nothing.
    #[default]
    Off,
    /// Report its traffic, and enforce its policy, beside that of pods.
    WithPods,
    /// The same on a machine without pods, where nothing is dropped unless policy is enforced.
    Only,
}

impl HostMode {
    /// The number that the programs know it by.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Off => host_mode::OFF,
            Self::WithPods => host_mode::WITH_PODS,
            Self::Only => host_mode::ONLY,
        }
    }
}

impl Config {
    /// The defaults, with pins in `pin_dir`.
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            attach: AttachMode::Auto,
            lane_bytes: [4 << 20, 4 << 20, 8 << 20],
            ct_tcp_entries: 65536,
            ct_any_entries: 65536,
            trace_interval_ms: 5000,
            fold_per_second: 100,
            host_ifindex: 0,
            host_mac: [0; 6],
            dual_stack: false,
            host_mode: HostMode::Off,
        }
    }

    /// Checks what the kernel would refuse with less to say.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let page = page_size();
        for bytes in self.lane_bytes {
            if !bytes.is_power_of_two() || u64::from(bytes) < page || bytes > MAX_LANE_BYTES {
                return Err(ConfigError::LaneBytes { bytes, page });
            }
        }
        for entries in [self.ct_tcp_entries, self.ct_any_entries] {
            if !(MIN_CT_ENTRIES..=MAX_CT_ENTRIES).contains(&entries) {
                return Err(ConfigError::CtEntries { entries });
            }
        }
        if self.host_ifindex != 0 && self.host_mac == [0; 6] {
            return Err(ConfigError::HostMac { ifindex: self.host_ifindex });
        }
        Ok(())
    }
}

/// Why a [`Config`] cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A ring buffer's size.
    #[error("ring buffer of {bytes} bytes: use a power of two from {page} (a page) to {MAX_LANE_BYTES}")]
    LaneBytes {
        /// As given.
        bytes: u32,
        /// Size of a page.
        page: u64,
    },
    /// The connection table's size.
    #[error("connection table of {entries} entries: use {MIN_CT_ENTRIES} to {MAX_CT_ENTRIES}")]
    CtEntries {
        /// As given.
        entries: u32,
    },
    /// The host device's MAC is missing.
    #[error("host device {ifindex} has no MAC address: give the address of its interface")]
    HostMac {
        /// The device.
        ifindex: u32,
    },
    /// No attach mode has this name.
    #[error("attach mode `{text}` is unknown: use auto, tcx or clsact")]
    AttachMode {
        /// As given.
        text: String,
    },
}

/// Size of a memory page in bytes.
pub(crate) fn page_size() -> u64 {
    let asked = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    asked.ok().flatten().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

const MAX_LANE_BYTES: u32 = 1 << 30;
const MIN_CT_ENTRIES: u32 = 1 << 10;
const MAX_CT_ENTRIES: u32 = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attach_modes_have_names() {
        for (text, expected) in
            [("auto", AttachMode::Auto), ("tcx", AttachMode::Tcx), ("clsact", AttachMode::Clsact)]
        {
            assert_eq!(text.parse(), Ok(expected));
        }
        assert_eq!("TCX".parse::<AttachMode>(), Err(ConfigError::AttachMode { text: "TCX".into() }));
    }

    #[test]
    fn bad_sizes_are_refused_before_the_kernel_sees_them() {
        let good = Config::new("/x");
        assert_eq!(good.check(), Ok(()));
        let lane = |bytes| Config { lane_bytes: [bytes, 4 << 20, 4 << 20], ..Config::new("/x") };
        let ct = |entries| Config { ct_tcp_entries: entries, ..Config::new("/x") };
        for (config, refused) in [
            (lane(0), true),
            (lane(1), true),
            (lane(2048), true),
            (lane(3 << 20), true),
            (lane(1 << 31), true),
            (lane(1 << 20), false),
            (ct(0), true),
            (ct(1 << 25), true),
            (ct(1 << 12), false),
            (Config { host_ifindex: 3, ..Config::new("/x") }, true),
            (Config { host_ifindex: 3, host_mac: [2, 0, 0, 0, 0, 1], ..Config::new("/x") }, false),
        ] {
            assert_eq!(config.check().is_err(), refused, "{config:?}");
        }
    }
}
