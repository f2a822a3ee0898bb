//! File systems, settings and devices of the machine.

use std::path::{Path, PathBuf};

use specola_datapath::probe;

use super::{Check, PreflightOptions};
use crate::host::{Devices, open_connections};
use crate::net::{Hooks, hooks_in, in_netns_blocking};

pub(super) fn checks(options: &PreflightOptions) -> Vec<Check> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut checks = vec![bpffs(&mounts, &options.pin_dir)];
    if let Some(devices) = &options.host_devices {
        checks.extend(host_mode(devices));
        return checks;
    }
    checks.push(cgroup2(&mounts));
    checks.push(forwarding("ipv4/ip_forward", "IPv4 forwarding"));
    if Path::new(SYSCTL).join("ipv6").exists() {
        checks.push(forwarding("ipv6/conf/all/forwarding", "IPv6 forwarding"));
    }
    let routes = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let devices = if options.devices.is_empty() { default_devices(&routes) } else { options.devices.clone() };
    if devices.is_empty() {
        checks.push(Check::warn(
            "devices",
            "no default route, so no device was looked at",
            "name the devices that pods reach other nodes by: --device NAME",
        ));
    }
    match hooks_in(None) {
        Ok(hooks) => checks.extend(devices.iter().flat_map(|device| device_checks(device, &hooks))),
        Err(error) => checks.push(Check::fail("devices", error.to_string(), "run as root")),
    }
    checks
}

/// What an agent without pods needs.
fn host_mode(devices: &Devices) -> Vec<Check> {
    let found = in_netns_blocking(None, |net| async move { net.devices().await });
    let (all, hooks) = match (found, hooks_in(None)) {
        (Ok(all), Ok(hooks)) => (all, hooks),
        (Err(error), _) | (_, Err(error)) => {
            return vec![Check::fail("devices", error.to_string(), "run as root")];
        }
    };
    let (found, problem) = devices.choose_present(&all);
    let mut checks: Vec<Check> =
        found.iter().map(|device| foreign(&device.name, device.index, &hooks)).collect();
    let names: Vec<_> = found.iter().map(|device| device.name.as_str()).collect();
    checks.push(match problem {
        None => Check::ok("devices", names.join(", ")),
        Some(error) => {
            Check::fail("devices", error.to_string(), "name Ethernet devices with --devices NAME,NAME")
        }
    });
    checks.push(match open_connections() {
        Ok(count) => Check::ok("sock_diag", format!("{count} open TCP connections")),
        Err(error) => Check::warn(
            "sock_diag",
            format!("the kernel does not list sockets: {error}"),
            "load the kernel module tcp_diag: without it --host-firewall would end open connections, and is refused",
        ),
    });
    checks
}

/// One line of the mount table.
struct Mount<'a> {
    point: PathBuf,
    kind: &'a str,
    writable: bool,
}

fn mounts(table: &str) -> impl Iterator<Item = Mount<'_>> {
    table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let writable = options.split(',').any(|option| option == "rw");
        // The kernel writes a blank as an octal escape.
        Some(Mount { point: PathBuf::from(point.replace("\\040", " ")), kind, writable })
    })
}

fn bpffs(table: &str, pin_dir: &Path) -> Check {
    const NAME: &str = "bpffs";
    let around = mounts(table).filter(|mount| pin_dir.starts_with(&mount.point));
    // Of several mounts at one place the last one is on top.
    let holder = around.reduce(|best, mount| {
        let is_deeper = mount.point.components().count() >= best.point.components().count();
        if is_deeper { mount } else { best }
    });
    match holder {
        Some(mount) if mount.kind == "bpf" && mount.writable => {
            Check::ok(NAME, format!("{} at {}", pin_dir.display(), mount.point.display()))
        }
        Some(mount) if mount.kind == "bpf" => Check::fail(
            NAME,
            format!("{} is mounted read-only", mount.point.display()),
            format!("mount -o remount,rw {}", mount.point.display()),
        ),
        Some(mount)
            if pin_dir.starts_with(USUAL_BPFFS)
                && !mount.point.starts_with(USUAL_BPFFS)
                && Path::new(USUAL_BPFFS).is_dir() =>
        {
            Check::warn(
                NAME,
                format!("none is mounted at {USUAL_BPFFS}; the agent mounts one when it starts"),
                format!("mount -t bpf bpf {USUAL_BPFFS}, and see that it is mounted at boot"),
            )
        }
        _ => Check::fail(
            NAME,
            format!("{} is on no BPF file system", pin_dir.display()),
            "mount -t bpf bpf /sys/fs/bpf, or choose another --pin-dir",
        ),
    }
}

fn cgroup2(table: &str) -> Check {
    const NAME: &str = "cgroup2";
    match mounts(table).find(|mount| mount.kind == "cgroup2") {
        Some(mount) => Check::ok(NAME, mount.point.display().to_string()),
        None => Check::warn(
            NAME,
            "not mounted; `specola sandbox` needs it to end its processes",
            "mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
    }
}

fn forwarding(setting: &str, name: &str) -> Check {
    judge_forwarding(name, setting, read_setting(setting).as_deref())
}

fn judge_forwarding(name: &str, setting: &str, value: Option<&str>) -> Check {
    let key = format!("net.{}", setting.replace('/', "."));
    match value {
        Some("0") => Check::warn(
            name,
            "off; the agent switches it on when it starts",
            format!("see that nothing switches it off again: {key}=1 in /etc/sysctl.d/99-specola.conf"),
        ),
        Some(_) => Check::ok(name, "on"),
        None => Check::warn(name, format!("{key} cannot be read"), "mount proc at /proc"),
    }
}

fn device_checks(device: &str, hooks: &Hooks) -> Vec<Check> {
    let Some((ifindex, _)) = hooks.devices.iter().find(|(_, name)| name == device) else {
        let names: Vec<_> = hooks.devices.iter().map(|(_, name)| name.as_str()).collect();
        let found = format!("does not exist; there are {}", names.join(", "));
        return vec![Check::fail(format!("device {device}"), found, "name devices with --device NAME")];
    };
    let all = read_setting("ipv4/conf/all/rp_filter");
    let own = read_setting(&format!("ipv4/conf/{device}/rp_filter"));
    vec![rp_filter(device, all.as_deref(), own.as_deref()), foreign(device, *ifindex, hooks)]
}

/// The kernel takes the larger one of the two settings.
fn rp_filter(device: &str, all: Option<&str>, own: Option<&str>) -> Check {
    let name = format!("rp_filter {device}");
    let number = |value: Option<&str>| value.and_then(|value| value.parse::<u8>().ok());
    let (Some(all), Some(own)) = (number(all), number(own)) else {
        return Check::warn(name, "cannot be read", "mount proc at /proc");
    };
    match all.max(own) {
        0 => Check::ok(name, "off"),
        2 => Check::ok(name, "loose"),
        _ => Check::warn(
            name,
            format!("strict (all {all}, {device} {own}); the agent switches it off when it starts"),
            format!(
                "see that nothing switches it on again: net.ipv4.conf.all.rp_filter=0 and \
                 net.ipv4.conf.{device}.rp_filter=0 in /etc/sysctl.d/99-specola.conf"
            ),
        ),
    }
}

/// Programs and filters of others on a device.
fn foreign(device: &str, ifindex: u32, hooks: &Hooks) -> Check {
    let name = format!("other programs on {device}");
    let mut found = Vec::new();
    match probe::tcx_programs(device) {
        Ok(programs) => {
            let programs = programs.unwrap_or_default();
            let others = programs.iter().filter(|program| !probe::is_own_name(&program.name));
            found.extend(
                others.map(|program| format!("{} (tcx {}, id {})", program.name, program.hook, program.id)),
            );
        }
        Err(error) => return Check::fail(name, error.to_string(), "run as root"),
    }
    found.extend(foreign_filters(ifindex, hooks));
    if found.is_empty() {
        return Check::ok(name, "none");
    }
    Check::warn(
        name,
        found.join(", "),
        "they may drop, change or redirect packets before or after Specola judges them: remove them if they are of a \
         network plugin that is no longer used (tc filter show, bpftool net)",
    )
}

fn foreign_filters(ifindex: u32, hooks: &Hooks) -> Vec<String> {
    let on_device = hooks.filters.iter().filter(|filter| filter.ifindex == ifindex);
    let others = on_device.filter(|filter| !filter.program.as_deref().is_some_and(probe::is_own_name));
    let mut found: Vec<String> = others
        .map(|filter| {
            let program = filter.program.as_deref().unwrap_or(&filter.kind);
            format!("{program} (clsact {}, priority {})", filter.hook, filter.priority)
        })
        .collect();
    // The kernel lists the rules of one filter apart.
    found.dedup();
    found
}

/// Devices of the default routes in `/proc/net/route`.
fn default_devices(routes: &str) -> Vec<String> {
    let mut devices: Vec<String> = routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
            is_default.then(|| fields[0].to_owned())
        })
        .collect();
    devices.sort();
    devices.dedup();
    devices
}

fn read_setting(name: &str) -> Option<String> {
    Some(std::fs::read_to_string(Path::new(SYSCTL).join(name)).ok()?.trim().to_owned())
}

const SYSCTL: &str = "/proc/sys/net";
/// Where the agent mounts a BPF file system itself.
const USUAL_BPFFS: &str = "/sys/fs/bpf";

#[cfg(test)]
mod tests {
    use specola_datapath::Hook;

    use super::super::Outcome;
    use super::*;
    use crate::net::Filter;

    const TABLE: &str = "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid 0 0\n\
                         bpf /run/ro\\040bpf bpf ro 0 0\ntmpfs /sys/fs/bpf/over tmpfs rw 0 0\n";

    #[test]
    fn the_pin_directory_must_be_on_a_writable_bpffs() {
        for (dir, outcome) in [
            ("/sys/fs/bpf/specola/default/local", Outcome::Ok),
            ("/sys/fs/bpf", Outcome::Ok),
            ("/sys/fs/bpf/over/x", Outcome::Fail),
            ("/run/ro bpf/x", Outcome::Fail),
            ("/var/x", Outcome::Fail),
        ] {
            assert_eq!(bpffs(TABLE, Path::new(dir)).outcome, outcome, "{dir}");
        }
    }

    #[test]
    fn cgroup2_is_wanted() {
        assert_eq!(cgroup2(TABLE).outcome, Outcome::Warn);
        assert_eq!(
            cgroup2("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"),
            Check::ok("cgroup2", "/sys/fs/cgroup")
        );
    }

    #[test]
    fn the_stricter_reverse_path_setting_counts() {
        for (all, own, outcome) in [
            ("0", "0", Outcome::Ok),
            ("2", "1", Outcome::Ok),
            ("1", "0", Outcome::Warn),
            ("0", "1", Outcome::Warn),
            ("", "1", Outcome::Warn),
        ] {
            assert_eq!(rp_filter("eth0", Some(all), Some(own)).outcome, outcome, "{all} {own}");
        }
        assert_eq!(rp_filter("eth0", None, Some("0")).outcome, Outcome::Warn);
    }

    #[test]
    fn forwarding_that_is_off_is_said_with_its_key() {
        let off = judge_forwarding("IPv6 forwarding", "ipv6/conf/all/forwarding", Some("0"));
        assert!(off.remedy.is_some_and(|remedy| remedy.contains("net.ipv6.conf.all.forwarding=1")));
        assert_eq!(judge_forwarding("x", "ipv4/ip_forward", Some("1")).outcome, Outcome::Ok);
    }

    #[test]
    fn default_routes_name_the_devices() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     eth1\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth1\t00000000\t0200000A\t0003\t0\t0\t9\t00000000\t0\t0\t0\n\
                     eth0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n\
                     short\n";
        assert_eq!(default_devices(table), ["eth1"]);
        assert_eq!(default_devices(""), Vec::<String>::new());
    }

    #[test]
    fn own_filters_are_no_others() {
        let filter = |ifindex, program: Option<&str>, kind: &str| Filter {
            ifindex,
            hook: Hook::Ingress,
            priority: 1,
            handle: 1,
            kind: kind.to_owned(),
            program: program.map(str::to_owned),
            program_id: Some(5),
        };
        let filters = vec![
            filter(3, Some("from_netdev"), "bpf"),
            filter(3, Some("cil_from_netdev"), "bpf"),
            filter(3, None, "u32"),
            filter(3, None, "u32"),
            filter(4, Some("other"), "bpf"),
        ];
        let hooks = Hooks { devices: vec![(3, "eth0".to_owned())], filters };
        assert_eq!(
            foreign_filters(3, &hooks),
            ["cil_from_netdev (clsact ingress, priority 1)", "u32 (clsact ingress, priority 1)"]
        );
    }

    #[test]
    fn an_absent_device_fails_with_those_that_exist() {
        let hooks = Hooks { devices: vec![(3, "eth0".to_owned())], filters: Vec::new() };
        let checks = device_checks("eth9", &hooks);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].outcome, Outcome::Fail);
        assert!(checks[0].found.contains("there are eth0"), "{:?}", checks[0]);
    }
}
