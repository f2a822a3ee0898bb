//! A BPF file system of the test's own.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// A mounted BPF file system that goes with its pins when this does.
#[derive(Debug)]
pub struct BpfFs(TempDir);

impl BpfFs {
    /// Mounts one on a temporary directory.
    ///
    /// # Panics
    /// Not root, or the kernel refuses.
    #[track_caller]
    pub fn mount() -> Self {
        crate::require_root();
        let dir = tempfile::Builder::new()
            .prefix("specola-bpffs-")
            .tempdir()
            .unwrap_or_else(|error| panic!("temporary directory: {error}"));
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .unwrap_or_else(|error| panic!("bpffs on {}: {error}", dir.path().display()));
        Self(dir)
    }

    /// Its root directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Lazily: a file system that is no longer in the tree frees its pins with the last handle.
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.path().display());
        }
    }
}
