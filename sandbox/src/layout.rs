//! Where a sandbox keeps its files, mounts and control groups.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Directory under which every sandbox of this machine has its own directory.
pub(crate) const ROOT: &str = "/run/specola/sandbox";

/// The paths of one sandbox. Makes nothing, only names it.
#[derive(Clone, Debug)]
pub struct Layout {
    name: String,
    root: PathBuf,
}

impl Layout {
    /// Checks the name and derives the paths from it.
    ///
    /// # Errors
    /// When `name` is not 1 to 32 characters of `a-z`, `0-9` and inner `-`.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        if !is_label(name, 32) {
            bail!("sandbox name {name:?}: use 1 to 32 characters of a-z, 0-9 and inner \"-\" (--name)");
        }
        Ok(Self { name: name.to_owned(), root: PathBuf::from(ROOT) })
    }

    /// The layout of every sandbox that has a directory or a lock, sorted by name.
    ///
    /// # Errors
    /// When the root directory exists and cannot be read.
    pub fn all() -> anyhow::Result<Vec<Self>> {
        let entries = match std::fs::read_dir(ROOT) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {ROOT}; run as root")),
        };
        let mut layouts = Vec::new();
        for entry in entries {
            let name = entry.with_context(|| format!("cannot read {ROOT}"))?.file_name();
            let name = name.to_string_lossy();
            let name = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".lock")).unwrap_or(&name);
            if let Ok(layout) = Self::new(name) {
                layouts.push(layout);
            }
        }
        layouts.sort_by(|a, b| a.name.cmp(&b.name));
        layouts.dedup_by(|a, b| a.name == b.name);
        Ok(layouts)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn directory(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// Held by the supervisor while it lives.
    pub fn lock(&self) -> PathBuf {
        self.root.join(format!(".{}.lock", self.name))
    }

    pub fn state(&self) -> PathBuf {
        self.directory().join("state.json")
    }

    /// Unix socket on which the supervisor takes commands.
    pub fn control(&self) -> PathBuf {
        self.directory().join("control.sock")
    }

    /// Unix socket of the relay.
    pub fn relay_socket(&self) -> PathBuf {
        self.directory().join("relay.sock")
    }

    pub fn relay_log(&self) -> PathBuf {
        self.directory().join("relay.log")
    }

    pub fn supervisor_log(&self) -> PathBuf {
        self.directory().join("supervisor.log")
    }

    /// Kubernetes objects that the agents watch.
    pub fn desired(&self) -> PathBuf {
        self.directory().join("desired")
    }

    /// What the agents share: identities, endpoints, nodes.
    pub fn store(&self) -> PathBuf {
        self.directory().join("store")
    }

    pub fn netns_dir(&self) -> PathBuf {
        self.directory().join("netns")
    }

    pub fn underlay_netns(&self) -> PathBuf {
        self.netns_dir().join("underlay")
    }

    pub fn node_netns(&self, node: &str) -> PathBuf {
        self.netns_dir().join(format!("node_{node}"))
    }

    pub fn pod_netns(&self, namespace: &str, pod: &str) -> PathBuf {
        self.netns_dir().join(format!("pod_{namespace}_{pod}"))
    }

    pub fn node(&self, node: &str) -> PathBuf {
        self.directory().join("nodes").join(node)
    }

    pub fn pod(&self, namespace: &str, pod: &str) -> PathBuf {
        self.directory().join("pods").join(format!("{namespace}_{pod}"))
    }

    /// The sandbox's directory below `base`, a mounted bpffs or cgroup2.
    pub fn below(&self, base: &Path) -> PathBuf {
        base.join("specola").join(&self.name)
    }
}

/// True for a DNS label of at most `longest` characters: safe as a file name and as a host name.
pub(crate) fn is_label(text: &str, longest: usize) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=longest).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// True for DNS labels joined by dots, as pod and node names may be.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 100 && text.split('.').all(|label| is_label(label, 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_labels_are_refused() {
        for (name, ok) in [
            ("shop", true),
            ("a", true),
            ("shop-2", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("Shop", false),
            ("a/b", false),
            ("..", false),
            ("a.b", false),
            ("123456789012345678901234567890123", false),
        ] {
            assert_eq!(Layout::new(name).is_ok(), ok, "{name:?}");
        }
        assert!(is_subdomain("a.b-c"));
        assert!(!is_subdomain("a..b"));
        assert!(!is_subdomain("../x"));
    }
}
