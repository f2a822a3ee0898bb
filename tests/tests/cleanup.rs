//! `down`, and the next command after a killed supervisor, leave nothing behind.

#[path = "common/fixtures.rs"]
mod fixtures;

use std::collections::BTreeSet;
use std::path::Path;

use fixtures::CLUSTER;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use specola_tests::Sandbox;
use specola_tests::sandbox::{PATIENCE, check};

/// What a sandbox of this name could leave behind: mounts, cgroups, pins, processes, directories.
fn traces(name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
    for line in std::fs::read_to_string("/proc/mounts").expect("mounts").lines() {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        if kind == "cgroup2" || kind == "bpf" {
            let path = Path::new(point).join("specola").join(name);
            if path.exists() {
                found.insert(format!("{kind} {}", path.display()));
            }
        }
    }
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains("specola") && command.contains(name) {
            found.insert(format!("process {command}"));
        }
    }
    let run = Path::new("/run/specola/sandbox").join(name);
    if run.exists() {
        found.insert(format!("directory {}", run.display()));
    }
    found
}

fn links() -> BTreeSet<String> {
    let names = std::fs::read_dir("/sys/class/net").expect("links").flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn down_leaves_nothing() {
    let before = links();
    let sandbox = Sandbox::up("down", CLUSTER);
    let name = sandbox.name().to_owned();
    assert!(!traces(&name).is_empty(), "the test cannot see a running sandbox");
    assert_eq!(links(), before, "the machine's own links changed");
    check(&mut sandbox.specola(&["sandbox", "down", "--name", &name]));
    assert_eq!(traces(&name), BTreeSet::new());
    assert_eq!(links(), before);
}

#[test]
fn the_next_command_cleans_up_after_a_killed_supervisor() {
    let sandbox = Sandbox::up("killed", CLUSTER);
    let name = sandbox.name().to_owned();
    let pid = sandbox.ps()["pid"].as_i64().expect("ps names the supervisor");
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    kill(pid, Signal::SIGKILL).expect("the supervisor is ours");
    specola_testkit::eventually("the supervisor is dead", PATIENCE, || match kill(pid, None) {
        Err(nix::errno::Errno::ESRCH) => Ok(()),
        other => Err(other),
    });
    check(&mut sandbox.specola(&["sandbox", "ps"]));
    assert_eq!(traces(&name), BTreeSet::new());
}
