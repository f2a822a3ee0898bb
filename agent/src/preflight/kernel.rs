//! Rights, and what the kernel offers.

use std::path::Path;
use std::time::Instant;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::utsname::uname;
use specola_datapath::probe;

use super::Check;

pub(super) fn checks() -> Vec<Check> {
    let release = uname().map_or_else(
        |error| format!("unknown ({error})"),
        |name| name.release().to_string_lossy().into_owned(),
    );
    vec![
        rights(&std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default()),
        version(&release),
        btf(),
        kinds(),
        programs(),
        hooks(),
        jit(std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok().as_deref()),
        memlock(&release),
    ]
}

/// Effective capabilities as `/proc/<pid>/status` shows them.
fn rights(status: &str) -> Check {
    const NAME: &str = "rights";
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(have) = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else {
        return Check::fail(NAME, "/proc shows no capabilities", "mount proc at /proc and run as root");
    };
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| have & (1 << bit) == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Check::ok(NAME, "all capabilities that an agent needs");
    }
    Check::fail(NAME, format!("missing: {}", missing.join(", ")), "run as root, in a privileged container")
}

fn version(release: &str) -> Check {
    const NAME: &str = "kernel";
    match parse_release(release) {
        Some(version) if version >= FLOOR => Check::ok(NAME, release),
        Some(_) => Check::fail(NAME, format!("{release} is older than 5.15"), "use Linux 5.15 or later"),
        None => Check::warn(
            NAME,
            format!("{release}: no version number is known"),
            "see that it is Linux 5.15 or later; the check of the programs decides",
        ),
    }
}

fn btf() -> Check {
    const NAME: &str = "BTF";
    if Path::new(BTF).exists() {
        return Check::ok(NAME, BTF);
    }
    Check::warn(
        NAME,
        format!("{BTF} does not exist"),
        "use a kernel with CONFIG_DEBUG_INFO_BTF=y; the check of the programs decides",
    )
}

fn kinds() -> Check {
    const NAME: &str = "bpf()";
    match probe::missing_kinds() {
        Ok(missing) if missing.is_empty() => {
            Check::ok(NAME, "all kinds of maps and programs that the datapath uses")
        }
        Ok(missing) => Check::fail(
            NAME,
            format!("this kernel has no {}", missing.join(", ")),
            "use Linux 5.15 or later with CONFIG_BPF_SYSCALL=y and CONFIG_NET_CLS_BPF",
        ),
        Err(error) => Check::fail(
            NAME,
            error.to_string(),
            "run as root; in a container allow bpf() (seccomp, --privileged); see that lockdown is not confidential",
        ),
    }
}

fn programs() -> Check {
    const NAME: &str = "programs";
    let start = Instant::now();
    match probe::verify_programs() {
        Ok(()) => Check::ok(NAME, format!("the kernel accepts all of them ({:.1?})", start.elapsed())),
        Err(error) => Check::fail(
            NAME,
            error.to_string(),
            "use Linux 5.15 or later; when it is, report this with the text above",
        ),
    }
}

fn hooks() -> Check {
    const NAME: &str = "hooks";
    let tcx = probe::tcx_programs("lo");
    if let Ok(Some(_)) = tcx {
        return Check::ok(NAME, "tcx");
    }
    match probe::has_clsact() {
        Ok(true) => Check::ok(NAME, "clsact (tcx comes with Linux 6.6)"),
        Ok(false) => Check::fail(
            NAME,
            "neither tcx nor the clsact queueing discipline",
            "load the module sch_ingress, or use a kernel with CONFIG_NET_SCH_INGRESS",
        ),
        Err(error) => Check::fail(NAME, error.to_string(), "run as root"),
    }
}

fn jit(setting: Option<&str>) -> Check {
    const NAME: &str = "JIT";
    match setting.map(str::trim) {
        Some("0") => Check::warn(
            NAME,
            "programs are interpreted, which is slow",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => Check::ok(NAME, "programs become machine code"),
        // The setting is there only where the JIT is a choice; some containers hide it.
        None => Check::ok(NAME, "not shown here"),
    }
}

fn memlock(release: &str) -> Check {
    const NAME: &str = "locked memory";
    if parse_release(release).is_some_and(|version| version >= MEMCG_SINCE) {
        return Check::ok(NAME, "maps count as the control group's memory (since Linux 5.11)");
    }
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((_, hard)) if hard == RLIM_INFINITY => Check::ok(NAME, "unlimited"),
        Ok((_, hard)) => Check::warn(
            NAME,
            format!("limit of {hard} bytes"),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit of the service",
        ),
        Err(error) => Check::warn(NAME, format!("limit unknown: {error}"), "ulimit -l unlimited"),
    }
}

/// Major and minor version of `6.1.0-13-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

const FLOOR: (u32, u32) = (5, 15);
const MEMCG_SINCE: (u32, u32) = (5, 11);
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Bits of `linux/capability.h`.
const CAPABILITIES: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn old_kernels_are_refused() {
        for (release, outcome) in [
            ("6.1.0-13-amd64", Outcome::Ok),
            ("5.15.0", Outcome::Ok),
            ("10.0", Outcome::Ok),
            ("5.14.21-lp", Outcome::Fail),
            ("4.19", Outcome::Fail),
            ("unknown", Outcome::Warn),
            ("6", Outcome::Warn),
        ] {
            assert_eq!(version(release).outcome, outcome, "{release}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(rights("Name:\tx\nCapEff:\t000001ffffffffff\n").outcome, Outcome::Ok);
        let check = rights("CapEff:\t0000000000001000\n");
        assert_eq!(check.found, "missing: CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF");
        assert_eq!(rights("").outcome, Outcome::Fail);
    }

    #[test]
    fn an_interpreter_is_warned_of() {
        for (setting, outcome) in
            [(Some("0\n"), Outcome::Warn), (Some("1\n"), Outcome::Ok), (None, Outcome::Ok)]
        {
            assert_eq!(jit(setting).outcome, outcome, "{setting:?}");
        }
    }
}
