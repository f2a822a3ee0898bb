//! Hooks programs to interfaces, and takes over what an earlier process hooked.

use std::fmt;
use std::path::PathBuf;

use aya::Ebpf;
use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramError, SchedClassifier};
use aya::util::KernelVersion;
use nix::net::if_::if_indextoname;
use specola_datapath_common::names;

use crate::config::AttachMode;
use crate::maps::chain;

mod clsact;
mod tcx;

/// Why programs could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The interface does not exist in this network namespace.
    #[error("interface {ifindex} does not exist in this network namespace")]
    NoInterface {
        /// As given.
        ifindex: u32,
    },
    /// The kernel refused.
    #[error("cannot {what} program {program} at {hook} of interface {interface}: {}", chain(source))]
    Kernel {
        /// What was being done.
        what: &'static str,
        /// Name of the program.
        program: &'static str,
        /// The hook.
        hook: Hook,
        /// Name of the interface, or its index when it is gone.
        interface: String,
        /// The cause.
        source: Box<ProgramError>,
    },
    /// A link's pin cannot be made, read or removed.
    #[error("link pin {}: {what}: {source}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
}

/// Side of an interface, as the kernel sees it: ingress = packets that it receives.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Hook {
    /// Packets that the interface receives.
    Ingress,
    /// Packets that the interface sends.
    Egress,
}

impl Hook {
    /// The hook of one of our programs.
    pub(crate) fn of_program(program: &str) -> Option<Self> {
        let mut all = ENDPOINT.into_iter().chain(NETDEV).chain(HOST);
        all.find(|(name, _)| *name == program).map(|(_, hook)| hook)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl From<Hook> for TcAttachType {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Ingress => Self::Ingress,
            Hook::Egress => Self::Egress,
        }
    }
}

/// A pinned link of this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// Name of the program.
    pub program: String,
    /// The interface.
    pub ifindex: u32,
}

/// What is hooked where, by kind of interface.
pub(crate) type Hooks = [(&'static str, Hook); 2];

/// Host side of a pod's veth pair.
pub(crate) const ENDPOINT: Hooks =
    [(names::FROM_CONTAINER, Hook::Ingress), (names::TO_CONTAINER, Hook::Egress)];
/// A device of the node.
pub(crate) const NETDEV: Hooks = [(names::FROM_NETDEV, Hook::Ingress), (names::TO_NETDEV, Hook::Egress)];
/// The device between pods and the host's stack.
pub(crate) const HOST: Hooks = [(names::TO_HOST, Hook::Ingress), (names::FROM_HOST, Hook::Egress)];

/// Attaches and detaches; remembers nothing but where pins are: the kernel knows the rest.
#[derive(Debug)]
pub(crate) struct Attacher {
    mode: AttachMode,
    links: PathBuf,
}

impl Attacher {
    pub(crate) fn new(mode: AttachMode, links: PathBuf) -> Self {
        let mode = match mode {
            AttachMode::Auto if kernel_has_tcx() => AttachMode::Tcx,
            AttachMode::Auto => AttachMode::Clsact,
            chosen => chosen,
        };
        Self { mode, links }
    }

    /// The mode in use: never [`AttachMode::Auto`].
    pub(crate) fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Hooks programs to an interface. What an earlier call or process hooked there is replaced without a gap.
    pub(crate) fn attach(&self, ebpf: &mut Ebpf, ifindex: u32, hooks: Hooks) -> Result<(), AttachError> {
        let ifname = name_of(ifindex).ok_or(AttachError::NoInterface { ifindex })?;
        for (program, hook) in hooks {
            let place = Place { program, hook, ifname: &ifname, pin: self.pin(program, ifindex) };
            let classifier = classifier(ebpf, &place)?;
            if self.mode == AttachMode::Tcx {
                tcx::attach(classifier, &place)?;
                clsact::detach(&place)?;
            } else {
                clsact::attach(classifier, &place)?;
                tcx::detach(&place)?;
            }
        }
        Ok(())
    }

    /// Unhooks everything of ours from an interface, which may be gone already.
    pub(crate) fn detach(&self, ifindex: u32) -> Result<(), AttachError> {
        let ifname = name_of(ifindex);
        for (program, hook) in ENDPOINT.into_iter().chain(NETDEV).chain(HOST) {
            let shown = ifname.clone().unwrap_or_else(|| ifindex.to_string());
            let place = Place { program, hook, ifname: &shown, pin: self.pin(program, ifindex) };
            tcx::detach(&place)?;
            if ifname.is_some() {
                clsact::detach(&place)?;
            }
        }
        Ok(())
    }

    /// All pinned links, also those whose interface is gone.
    pub(crate) fn attachments(&self) -> Result<Vec<Attachment>, AttachError> {
        let failed = |source| AttachError::Pin { path: self.links.clone(), what: "list", source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.links).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            found.extend(name.to_str().and_then(attachment_of));
        }
        found.sort_by(|a, b| (a.ifindex, &a.program).cmp(&(b.ifindex, &b.program)));
        Ok(found)
    }

    fn pin(&self, program: &str, ifindex: u32) -> PathBuf {
        self.links.join(format!("{program}-{ifindex}"))
    }
}

/// What a link's pin is for, by its file name.
pub(crate) fn attachment_of(pin: &str) -> Option<Attachment> {
    let (program, ifindex) = pin.rsplit_once('-')?;
    Some(Attachment { program: program.to_owned(), ifindex: ifindex.parse().ok()? })
}

/// Priority and handle of our clsact filters.
pub const FILTER_PLACE: (u16, u32) = (clsact::PRIORITY, clsact::MINOR as u32);

/// One program at one hook of one interface.
#[derive(Debug)]
struct Place<'a> {
    program: &'static str,
    hook: Hook,
    ifname: &'a str,
    pin: PathBuf,
}

impl Place<'_> {
    fn failed(&self, what: &'static str) -> impl FnOnce(ProgramError) -> AttachError {
        let (program, hook, interface) = (self.program, self.hook, self.ifname.to_owned());
        move |source| AttachError::Kernel { what, program, hook, interface, source: Box::new(source) }
    }

    fn pin_failed(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> AttachError {
        let path = self.pin.clone();
        move |source| AttachError::Pin { path, what, source }
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, place: &Place<'_>) -> Result<&'a mut SchedClassifier, AttachError> {
    let program = ebpf.program_mut(place.program).ok_or(ProgramError::NotLoaded);
    program.and_then(|program| program.try_into()).map_err(place.failed("find"))
}

fn name_of(ifindex: u32) -> Option<String> {
    let name = if_indextoname(ifindex).ok()?.into_string().ok()?;
    // nix gives an empty name, not an error, for an index that nobody has.
    (!name.is_empty()).then_some(name)
}

/// tcx came with Linux 6.6.
fn kernel_has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}
