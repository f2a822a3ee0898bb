//! From the object file to loaded programs and pinned maps.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{MapData, MapType};
use aya::programs::{Program, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::statfs::{FsType, statfs};
use specola_datapath_common::event::lane;
use specola_datapath_common::{config as globals, names};

use self::layout::{Definitions, Layout};
use self::migrate::Build;
use crate::book;
use crate::config::{Config, ConfigError};
use crate::events::{FOLDS_PIN, READER_PIN};
use crate::maps::counters::RECORD_BYTES;
use crate::maps::words::Words;
use crate::maps::{MapsError, chain};

mod layout;
pub(crate) mod migrate;

/// Why the datapath could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The pin directory is not on a BPF file system.
    #[error("{} is on no BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`) and use a directory on it", path.display())]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// The pin directory cannot be used.
    #[error("pin directory {}: {what}: {source}", path.display())]
    PinDir {
        /// The directory or file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// Another process holds the pin directory.
    #[error("pin directory {} is in use by another process: stop it, or use another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The built-in object cannot be parsed.
    #[error("the built-in kernel programs cannot be read: {source}")]
    Object {
        /// The cause.
        source: aya_obj::ParseError,
    },
    /// Maps could not be made, or the object was refused before the verifier saw a program.
    #[error("kernel programs cannot be loaded: {}; {}", chain(source), hint(source))]
    Maps {
        /// The cause.
        source: Box<EbpfError>,
    },
    /// The kernel refused a program.
    #[error("kernel refuses program {program}: {}{}", reason(source), verifier_log(source))]
    Program {
        /// Name of the program.
        program: String,
        /// The cause.
        source: Box<ProgramError>,
    },
    /// The object lacks a program or has one of another type.
    #[error("the built-in object has no traffic program {program}: build program and loader from one source")]
    NoProgram {
        /// Name of the program.
        program: String,
    },
    /// A loaded map is not what was expected.
    #[error(transparent)]
    Map(#[from] MapsError),
}

/// A pinned map that was replaced by a new one, because another layout was wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecreatedMap {
    /// Name of the map.
    pub name: String,
    /// What differs, for people.
    pub difference: String,
}

/// What loading gives.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) ebpf: Ebpf,
    pub(crate) recreated: Vec<RecreatedMap>,
    /// Definition of the outer policy map.
    pub(crate) policy: aya_obj::Map,
    pub(crate) pins: Pins,
}

/// Where things are pinned. One process at a time: two readers of one ring buffer would corrupt it.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    dir: PathBuf,
    /// Layout version of the maps that are in use.
    version: u32,
    _lock: Arc<DirLock>,
}

/// An exclusive lock on a directory.
#[derive(Debug)]
pub(crate) struct DirLock(File);

impl DirLock {
    /// Locks a directory; `None` when another process holds it.
    pub(crate) fn take(dir: &Path) -> std::io::Result<Option<Self>> {
        let file = File::open(dir)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child process between its fork and its exec.
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "pin directory stays locked until this process ends");
        }
    }
}

impl Pins {
    /// Pin of a map: `<map>@<layout version>`.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}@{}", self.version))
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Directory of the links.
    pub(crate) fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    /// Directory of the policy tries.
    pub(crate) fn policy(&self) -> PathBuf {
        self.dir.join("policy")
    }

    /// Makes the directories.
    fn create(config: &Config, version: u32) -> Result<Self, LoadError> {
        let dir = config.pin_dir.clone();
        let existing = config.pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let kind = statfs(existing).map_err(|error| LoadError::PinDir {
            path: existing.to_owned(),
            what: "find out its file system",
            source: error.into(),
        })?;
        if kind.filesystem_type() != BPFFS {
            return Err(LoadError::NotBpffs { path: dir });
        }
        let failed = |path: &Path, what| {
            let path = path.to_owned();
            move |source| LoadError::PinDir { path, what, source }
        };
        std::fs::create_dir_all(&dir).map_err(failed(&dir, "create"))?;
        let lock = DirLock::take(&dir).map_err(failed(&dir, "lock"))?;
        let Some(lock) = lock else { return Err(LoadError::InUse { path: dir }) };
        let pins = Self { dir, version, _lock: Arc::new(lock) };
        for path in [pins.links(), pins.policy()] {
            std::fs::create_dir_all(&path).map_err(failed(&path, "create"))?;
        }
        Ok(pins)
    }

    /// Pins of maps with another layout: their file names.
    pub(crate) fn other_layouts(&self) -> std::io::Result<Vec<String>> {
        let current = format!("@{}", self.version);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            let is_map = name.starts_with("SP_") && name.contains('@');
            if is_map && !name.ends_with(&current) {
                found.push(name);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Pins of one map with another layout: file names, and versions where they are numbers.
    fn old(&self, map: &str) -> std::io::Result<Vec<(String, Option<u32>)>> {
        let version = |pin: &str| {
            let version = pin.strip_prefix(map)?.strip_prefix('@')?;
            Some(version.strip_suffix(ASIDE).unwrap_or(version).parse().ok())
        };
        let pins = self.other_layouts()?.into_iter();
        Ok(pins.filter_map(|pin| version(&pin).map(|version| (pin, version))).collect())
    }

    /// Unpins maps with another layout. Gives their file names.
    pub(crate) fn remove_other_layouts(&self) -> std::io::Result<Vec<String>> {
        let found = self.other_layouts()?;
        for name in &found {
            std::fs::remove_file(self.dir.join(name))?;
        }
        Ok(found)
    }

    /// Gives a map's pin another name, so that a new map can have its own.
    fn put_aside(&self, map: &str) -> std::io::Result<()> {
        let pin = self.map(map);
        let mut aside = pin.clone().into_os_string();
        aside.push(ASIDE);
        std::fs::rename(pin, aside)
    }
}

/// Makes maps and readies programs for the verifier. Maps that are pinned with the wanted layout are reused with their
/// content.
pub(crate) fn maps(config: &Config, object: &[u8], build: &Build) -> Result<Loaded, LoadError> {
    config.check()?;
    raise_memlock();
    let pins = Pins::create(config, build.version)?;
    let definitions = Definitions::parse(object, &sizes(config))?;
    let recreated = put_other_layouts_aside(&definitions, &pins)?;
    let ebpf = load_maps(config, object, &definitions, &pins)?;
    let policy = definitions.outer_policy().ok_or(MapsError::Missing { name: names::POLICY })?;
    Ok(Loaded { ebpf, recreated, policy, pins })
}

/// Sizes that the configuration decides.
fn sizes(config: &Config) -> HashMap<&'static str, u32> {
    let mut sizes = HashMap::from([
        (names::CT4_TCP, config.ct_tcp_entries),
        (names::CT4_ANY, config.ct_any_entries),
        (names::CT6_TCP, config.ct_tcp_entries),
        (names::CT6_ANY, config.ct_any_entries),
    ]);
    sizes.extend(LANES.into_iter().zip(config.lane_bytes));
    sizes
}

/// Makes room for maps whose layout differs from the wanted one. Maps that only make sense together go together.
fn put_other_layouts_aside(definitions: &Definitions, pins: &Pins) -> Result<Vec<RecreatedMap>, LoadError> {
    let mut differences: HashMap<&str, String> = HashMap::new();
    for (name, wanted) in definitions.pinned() {
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let found = Layout::of_pin(&path).map_err(|source| MapsError::Kernel {
            name: PINNED,
            what: "look at its pin",
            source,
        })?;
        if let Some(difference) = wanted.difference(&found) {
            differences.insert(name, difference);
        }
    }
    for group in TOGETHER {
        if group.iter().any(|name| differences.contains_key(name)) {
            for name in group.iter().filter(|name| pins.map(name).exists()) {
                differences.entry(name).or_insert_with(|| "goes with a map that changed".to_owned());
            }
        }
    }
    let mut recreated = Vec::new();
    for (name, mut difference) in differences {
        if let Some(lane) = LANES.into_iter().find(|lane| *lane == name) {
            let records = waiting_records(lane, &pins.map(lane))?;
            difference.push_str(&format!("; {records} records in it are lost, its counters begin anew"));
        }
        tracing::warn!(map = name, %difference, "pinned map has another layout and is made anew");
        pins.put_aside(name).map_err(|source| LoadError::PinDir {
            path: pins.map(name),
            what: "rename",
            source,
        })?;
        recreated.push(RecreatedMap { name: name.to_owned(), difference });
    }
    recreated.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(recreated)
}

/// Records in a pinned ring buffer. Programs that run on until they are replaced may write more.
fn waiting_records(name: &'static str, pin: &Path) -> Result<u64, MapsError> {
    let ring = MapData::from_pin(pin).map_err(MapsError::kernel(name, "open its pin"))?;
    let is_ring = ring.info().and_then(|info| info.map_type()).is_ok_and(|kind| kind == MapType::RingBuf);
    if !is_ring {
        return Ok(0);
    }
    let positions = Words::map_positions(ring.fd().as_fd());
    let positions = positions.map_err(|source| MapsError::Mmap { name, source })?;
    Ok(positions.backlog() / RECORD_BYTES)
}

fn load_maps(
    config: &Config,
    object: &[u8],
    definitions: &Definitions,
    pins: &Pins,
) -> Result<Ebpf, LoadError> {
    let host_mac = globals::mac_word(config.host_mac);
    let dual_stack = u32::from(config.dual_stack);
    let host_mode = config.host_mode.number();
    let mut loader = EbpfLoader::new();
    loader
        .override_global(globals::HOST_IFINDEX, &config.host_ifindex, true)
        .override_global(globals::HOST_MAC, &host_mac, true)
        .override_global(globals::TRACE_INTERVAL_MS, &config.trace_interval_ms, true)
        .override_global(globals::FOLD_PER_SECOND, &config.fold_per_second, true)
        .override_global(globals::DUAL_STACK, &dual_stack, true)
        .override_global(globals::HOST_MODE, &host_mode, true);
    for (name, size) in sizes(config) {
        loader.map_max_entries(name, size);
    }
    for (name, _) in definitions.pinned() {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.load(object).map_err(|source| LoadError::Maps { source: Box::new(source) })
}

/// Gives the programs to the kernel.
pub(crate) fn programs(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for (name, program) in ebpf.programs_mut() {
        let Program::SchedClassifier(classifier) = program else {
            return Err(LoadError::NoProgram { program: name.to_owned() });
        };
        load_program(classifier)
            .map_err(|source| LoadError::Program { program: name.to_owned(), source: Box::new(source) })?;
    }
    for name in PROGRAMS {
        if ebpf.program(name).is_none() {
            return Err(LoadError::NoProgram { program: name.to_owned() });
        }
    }
    Ok(())
}

/// The verifier gives up with EAGAIN when the thread gets a signal meanwhile.
fn load_program(classifier: &mut SchedClassifier) -> Result<(), ProgramError> {
    let was_interrupted = |error: &ProgramError| {
        matches!(error, ProgramError::LoadError { io_error, .. }
            if io_error.raw_os_error() == Some(libc::EAGAIN))
    };
    for _ in 1..LOAD_TRIES {
        match classifier.load() {
            Err(error) if was_interrupted(&error) => (),
            result => return result,
        }
    }
    classifier.load()
}

/// Kernels before 5.11 charge maps to this limit.
pub(crate) fn raise_memlock() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::warn!(%error, "cannot raise the locked-memory limit; maps may be refused on kernels before 5.11");
    }
}

fn hint(error: &EbpfError) -> &'static str {
    if chain(error).contains("Operation not permitted") {
        "run as root (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN)"
    } else {
        "Linux 5.15 or later with BPF, BTF and clsact is needed"
    }
}

fn reason(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        other => chain(other),
    }
}

/// The end of the verifier's log, where it says what is wrong.
fn verifier_log(error: &ProgramError) -> String {
    let ProgramError::LoadError { verifier_log, .. } = error else { return String::new() };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().collect();
    let first = lines.len().saturating_sub(LOG_LINES);
    let cut = if first > 0 { format!("\n[{first} lines left out]") } else { String::new() };
    format!("; the verifier says:{cut}\n{}", lines[first..].join("\n"))
}

/// Maps whose contents are about each other: if one of a group begins anew, all do. The endpoints' state; the lanes with
/// everything that counts their records.
const TOGETHER: [&[&str]; 2] = [
    &[names::ENDPOINTS, names::IFINDEX_SLOT, names::POLICY],
    &[
        names::RING_DENY,
        names::RING_ALLOW,
        names::RING_TRACE,
        names::LANES,
        names::FOLD,
        names::FOLD_SAMPLE,
        FOLDS_PIN,
        READER_PIN,
        book::NAME,
    ],
];
/// Ring buffers in the order of [`lane`].
pub(crate) const LANES: [&str; lane::COUNT] = [names::RING_DENY, names::RING_ALLOW, names::RING_TRACE];
pub(crate) const PROGRAMS: [&str; 6] = [
    names::FROM_CONTAINER,
    names::TO_CONTAINER,
    names::FROM_NETDEV,
    names::TO_NETDEV,
    names::FROM_HOST,
    names::TO_HOST,
];
const PINNED: &str = "(pinned)";
/// End of the pin's name of a map that has this version, but not this layout. (The kernel allows no dot.)
const ASIDE: &str = "-old";
const LOAD_TRIES: u32 = 10;
const LOG_LINES: usize = 40;
/// `BPF_FS_MAGIC` of `linux/magic.h`.
pub(crate) const BPFFS: FsType = FsType(0xcafe_4a11);

#[cfg(test)]
mod tests {
    use std::io;

    use aya_obj::VerifierLog;

    use super::*;

    #[test]
    fn a_refused_program_shows_the_end_of_the_verifier_log() {
        let log: Vec<String> = (1..=100).map(|line| format!("line {line}")).collect();
        let source = ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(libc::EACCES),
            verifier_log: VerifierLog::new(log.join("\n")),
        };
        let error = LoadError::Program { program: "from_container".to_owned(), source: Box::new(source) };
        let text = error.to_string();
        assert!(text.starts_with("kernel refuses program from_container: Permission denied"), "{text}");
        assert!(text.contains("[60 lines left out]\nline 61\n"), "{text}");
        assert!(text.ends_with("line 100"), "{text}");
        assert!(!text.contains("line 60\n"), "{text}");
    }

    #[test]
    fn missing_rights_come_with_their_remedy() {
        let create = |code| {
            let io_error = io::Error::from_raw_os_error(code);
            let map = aya::maps::MapError::CreateError { name: "SP_X".to_owned(), io_error };
            LoadError::Maps { source: Box::new(EbpfError::MapError(map)) }.to_string()
        };
        assert!(create(libc::EPERM).contains("Operation not permitted (os error 1); run as root"));
        assert!(create(libc::EINVAL).contains("Linux 5.15 or later"));
    }
}
