//! Finds the file systems of this machine that a sandbox needs, and its own mounts.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where cgroup2 and bpffs are mounted.
#[derive(Clone, Debug)]
pub(crate) struct Mounts {
    pub cgroup2: PathBuf,
    pub bpffs: PathBuf,
}

impl Mounts {
    /// Finds both file systems; mounts a bpffs at /sys/fs/bpf when the machine has none.
    ///
    /// # Errors
    /// When there is no cgroup2, or no bpffs and none can be mounted.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let table = read_table("/proc/self/mounts")?;
        let Some(cgroup2) = of_type(&table, "cgroup2") else {
            bail!(
                "no cgroup2 is mounted, a sandbox needs it to end its processes; \
                 remedy: mount -t cgroup2 none /sys/fs/cgroup/unified"
            );
        };
        let bpffs = match of_type(&table, "bpf") {
            Some(path) => path,
            None => mount_bpffs()?,
        };
        Ok(Self { cgroup2, bpffs })
    }
}

/// Detaches every mount below `directory`, deepest first.
///
/// # Errors
/// When the mount table cannot be read or a mount does not go.
pub(crate) fn unmount_below(directory: &Path) -> anyhow::Result<()> {
    let mut points: Vec<PathBuf> = read_table("/proc/self/mounts")?
        .into_iter()
        .map(|entry| entry.point)
        .filter(|point| point.starts_with(directory))
        .collect();
    points.sort();
    for point in points.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

struct Entry {
    kind: String,
    point: PathBuf,
    writable: bool,
}

fn read_table(path: &str) -> anyhow::Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(parse_table(&text))
}

fn parse_table(text: &str) -> Vec<Entry> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let writable = options.split(',').any(|option| option == "rw");
            Some(Entry { kind: kind.to_owned(), point: PathBuf::from(unescape(point)), writable })
        })
        .collect()
}

/// Undoes the kernel's octal escapes of blanks in mount points.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn of_type(table: &[Entry], kind: &str) -> Option<PathBuf> {
    table.iter().find(|entry| entry.kind == kind && entry.writable).map(|entry| entry.point.clone())
}

fn mount_bpffs() -> anyhow::Result<PathBuf> {
    let path = PathBuf::from("/sys/fs/bpf");
    mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>).context(
        "no bpffs is mounted and mounting one at /sys/fs/bpf failed; run as root on a kernel with BPF",
    )?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_writable_mount_of_a_type_is_taken() {
        let table = parse_table(
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
             cgroup2 /ro cgroup2 ro,relatime 0 0\n\
             cgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw,relatime 0 0\n\
             broken line\n",
        );
        assert_eq!(of_type(&table, "cgroup2"), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        assert_eq!(of_type(&table, "bpf"), None);
    }
}
