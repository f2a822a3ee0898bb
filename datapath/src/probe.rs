//! What this kernel offers, tried out: for checks before an agent is started. Nothing is pinned or attached where
//! packets pass.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use aya::EbpfLoader;
use aya::maps::MapType;
use aya::programs::tc::{TcAttachType, TcError, qdisc_add_clsact};
use aya::programs::{ProgramError, ProgramType, SchedClassifier};
use aya::sys::{is_map_supported, is_program_supported};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::statfs;
use specola_datapath_common::config::{HOST_MODE, host_mode};
use specola_datapath_common::names;

use crate::attach::Hook;
use crate::load::{self, LANES, LoadError};
use crate::maps::chain;
use crate::{OBJECT, config};

/// Why something could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel refused for another reason than that it lacks the feature.
    #[error("cannot {what}: {}", chain(cause.as_ref()))]
    Kernel {
        /// What was being done.
        what: &'static str,
        /// The cause.
        cause: Box<dyn std::error::Error + Send + Sync + 'static>,
    },
}

/// A program at a tcx hook.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HookedProgram {
    /// The hook.
    pub hook: Hook,
    /// The kernel's number of the program.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// Kinds of maps and programs that the datapath uses and this kernel lacks.
///
/// # Errors
/// `bpf(2)` does not work here: no right, or it is switched off.
pub fn missing_kinds() -> Result<Vec<&'static str>, ProbeError> {
    let mut missing = Vec::new();
    for (kind, name) in MAP_KINDS {
        if !is_map_supported(kind).map_err(failed("make a map"))? {
            missing.push(name);
        }
    }
    if !is_program_supported(ProgramType::SchedClassifier).map_err(failed("load a program"))? {
        missing.push("traffic programs");
    }
    Ok(missing)
}

/// Lets the kernel verify every program of the datapath, with small maps that nobody else sees. Takes a moment.
///
/// # Errors
/// As for [`crate::Datapath::load`].
pub fn verify_programs() -> Result<(), LoadError> {
    load::raise_memlock();
    let page = u32::try_from(config::page_size()).unwrap_or(4096);
    let mut loader = EbpfLoader::new();
    // With what works for the node itself: it is left out of the walk otherwise.
    loader.override_global(HOST_MODE, &host_mode::WITH_PODS, true);
    let sizes: HashMap<&str, u32> = CT_MAPS.map(|name| (name, CT_ENTRIES)).into_iter().collect();
    for (name, size) in sizes.into_iter().chain(LANES.map(|name| (name, page))) {
        loader.map_max_entries(name, size);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|source| LoadError::Maps { source: Box::new(source) })?;
    load::programs(&mut ebpf)
}

/// Whether a path is on a BPF file system.
///
/// # Errors
/// It does not exist or cannot be looked at.
pub fn is_on_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == load::BPFFS)
}

/// Whether the kernel has the clsact queueing discipline. Tried in an empty network namespace that goes at once.
///
/// # Errors
/// No such namespace can be made.
pub fn has_clsact() -> Result<bool, ProbeError> {
    let attempt = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        match qdisc_add_clsact("lo") {
            Ok(()) => Ok(true),
            Err(error) if is_unknown_kind(&error) => Ok(false),
            Err(error) => Err(io::Error::other(chain(&error))),
        }
    };
    let worker = std::thread::Builder::new().name("probe-clsact".to_owned()).spawn(attempt);
    let what = "try the clsact queueing discipline";
    let joined = worker.map_err(failed(what))?.join();
    joined.unwrap_or_else(|_| Err(io::Error::other("the thread panicked"))).map_err(failed(what))
}

/// Programs at the tcx hooks of an interface of this thread's network namespace, in the order in which they run;
/// `None` when the kernel has no tcx (before Linux 6.6).
///
/// # Errors
/// No such interface, or no right to look.
pub fn tcx_programs(ifname: &str) -> Result<Option<Vec<HookedProgram>>, ProbeError> {
    let mut found = Vec::new();
    for (hook, attach_type) in [(Hook::Ingress, TcAttachType::Ingress), (Hook::Egress, TcAttachType::Egress)]
    {
        let programs = match SchedClassifier::query_tcx(ifname, attach_type) {
            Ok((_, programs)) => programs,
            Err(error) if is_invalid(&error) => return Ok(None),
            Err(error) => return Err(failed("look at the tcx hooks")(error)),
        };
        found.extend(programs.iter().map(|program| HookedProgram {
            hook,
            id: program.id(),
            name: String::from_utf8_lossy(program.name()).into_owned(),
        }));
    }
    Ok(Some(found))
}

/// Whether a program of this name is one of the datapath's; the kernel cuts names after 15 bytes.
pub fn is_own_name(name: &str) -> bool {
    load::PROGRAMS.iter().any(|own| own.get(..own.len().min(15)) == Some(name))
}

/// The kernel knows no such queueing discipline, or cannot load its module.
fn is_unknown_kind(error: &TcError) -> bool {
    let code = match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        _ => None,
    };
    matches!(code, Some(libc::ENOENT | libc::EOPNOTSUPP))
}

/// The kernel does not know the hook.
fn is_invalid(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EINVAL))
}

fn failed<E>(what: &'static str) -> impl FnOnce(E) -> ProbeError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |cause| ProbeError::Kernel { what, cause: Box::new(cause) }
}

const MAP_KINDS: [(MapType, &str); 7] = [
    (MapType::Array, "array maps"),
    (MapType::PerCpuArray, "per-CPU array maps"),
    (MapType::Hash, "hash maps"),
    (MapType::LruHash, "LRU hash maps"),
    (MapType::LpmTrie, "LPM tries"),
    (MapType::ArrayOfMaps, "arrays of maps"),
    (MapType::RingBuf, "ring buffers"),
];
const CT_MAPS: [&str; 4] = [names::CT4_TCP, names::CT4_ANY, names::CT6_TCP, names::CT6_ANY];
const CT_ENTRIES: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_programs_are_known_by_name() {
        for name in ["from_container", "to_host", "to_netdev"] {
            assert!(is_own_name(name), "{name}");
        }
        for name in ["cil_from_netdev", "", "from_contain"] {
            assert!(!is_own_name(name), "{name}");
        }
    }
}
