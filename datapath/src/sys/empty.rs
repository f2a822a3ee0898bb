//! A program that does nothing: what a hook costs by itself, which benchmarks compare with.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{address_of, bpf};
use crate::Hook;

/// `return TCX_NEXT`, loaded.
#[derive(Debug)]
pub struct EmptyProgram {
    ingress: OwnedFd,
    egress: OwnedFd,
}

impl EmptyProgram {
    /// Loads it for both directions.
    ///
    /// # Errors
    /// Not root, or a kernel without tcx (before 6.6).
    pub fn load() -> io::Result<Self> {
        Ok(Self { ingress: load(BPF_TCX_INGRESS)?, egress: load(BPF_TCX_EGRESS)? })
    }

    /// Hooks it to an interface of the caller's network namespace, for as long as the result lives.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn attach(&self, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
        let (program, attach_type) = match hook {
            Hook::Ingress => (&self.ingress, BPF_TCX_INGRESS),
            Hook::Egress => (&self.egress, BPF_TCX_EGRESS),
        };
        let mut attr = LinkAttr {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target_ifindex: ifindex,
            attach_type,
            flags: 0,
            relative: 0,
            pad: 0,
            expected_revision: 0,
        };
        // SAFETY: `attr` is laid out as the kernel's `union bpf_attr.link_create` with its tcx member; it holds no address.
        let fd = unsafe { bpf(BPF_LINK_CREATE, &raw mut attr) }?;
        own(fd)
    }
}

fn load(expected_attach_type: u32) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: 2,
        insns: address_of(&RETURN_NEXT),
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"specola_empty\0\0\0",
        prog_ifindex: 0,
        expected_attach_type,
    };
    // SAFETY: `attr` is laid out as the beginning of the kernel's program-load member of `union bpf_attr` (the kernel
    // takes what is missing as zero); the instructions are as many as said, the licence ends with a zero byte, and both
    // outlive the call.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &raw mut attr) }?;
    own(fd)
}

fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `union bpf_attr` for `BPF_PROG_LOAD`, as far as it is needed.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `union bpf_attr.link_create` for tcx.
#[repr(C)]
struct LinkAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

/// `r0 = -1; exit`, as `struct bpf_insn`s of a little-endian machine.
static RETURN_NEXT: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
