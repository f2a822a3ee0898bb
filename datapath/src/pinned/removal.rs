//! Takes a node's programs and maps out of the kernel for good.

use std::io;
use std::path::{Path, PathBuf};

use super::{PinnedError, file_names, version_of};
use crate::attach::{AttachError, Attacher, Attachment, attachment_of};
use crate::config::AttachMode;
use crate::load::DirLock;

/// The right to remove what is pinned in a directory: no agent can use it meanwhile.
#[derive(Debug)]
pub struct Removal {
    dir: PathBuf,
    attacher: Attacher,
    /// `None`: the directory does not exist.
    _lock: Option<DirLock>,
}

/// What is pinned in a directory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Leftovers {
    /// Pinned links: each keeps a program at a hook.
    pub attachments: Vec<Attachment>,
    /// File names of the maps, of all layout versions.
    pub maps: Vec<String>,
    /// Number of policy tries.
    pub tries: usize,
    /// Files that are not ours; they stay, and their directory with them.
    pub foreign: Vec<String>,
}

impl Removal {
    /// Locks a pin directory, which need not exist.
    ///
    /// # Errors
    /// An agent runs with it, or it cannot be opened.
    pub fn prepare(dir: impl Into<PathBuf>) -> Result<Self, PinnedError> {
        let dir = dir.into();
        let lock = match DirLock::take(&dir) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return Err(PinnedError::InUse { path: dir }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&dir, "lock")(error)),
        };
        let attacher = Attacher::new(AttachMode::Auto, dir.join(LINKS));
        Ok(Self { dir, attacher, _lock: lock })
    }

    /// What there is.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn leftovers(&self) -> Result<Leftovers, PinnedError> {
        let mut found = Leftovers::default();
        for name in file_names(&self.dir)? {
            match name.as_str() {
                LINKS | POLICY => {}
                _ if version_of(&name).is_some() => found.maps.push(name),
                _ => found.foreign.push(name),
            }
        }
        for name in file_names(&self.dir.join(LINKS))? {
            match attachment_of(&name) {
                Some(attachment) => found.attachments.push(attachment),
                None => found.foreign.push(format!("{LINKS}/{name}")),
            }
        }
        for name in file_names(&self.dir.join(POLICY))? {
            if is_trie(&name) {
                found.tries += 1;
            } else {
                found.foreign.push(format!("{POLICY}/{name}"));
            }
        }
        Ok(found)
    }

    /// Detaches everything of ours from an interface of this thread's network namespace.
    ///
    /// # Errors
    /// A pin cannot be removed, or the kernel refuses.
    pub fn detach(&self, ifindex: u32) -> Result<(), AttachError> {
        self.attacher.detach(ifindex)
    }

    /// Unpins all links, which detaches their programs, then all tries and maps, and removes the directories. Gives
    /// what was unpinned. Programs hooked by clsact filters stay: [`Self::detach`] removes those.
    ///
    /// # Errors
    /// A pin cannot be removed; what was removed until then is gone.
    pub fn run(self) -> Result<Leftovers, PinnedError> {
        let found = self.leftovers()?;
        for directory in [LINKS, POLICY] {
            let directory = self.dir.join(directory);
            for name in file_names(&directory)? {
                if attachment_of(&name).is_some() || is_trie(&name) {
                    remove(&directory.join(&name))?;
                }
            }
        }
        for name in &found.maps {
            remove(&self.dir.join(name))?;
        }
        if found.foreign.is_empty() {
            self.remove_directories()?;
        }
        Ok(found)
    }

    /// Removes the directories, and those above, below one called `specola`, that are empty.
    fn remove_directories(&self) -> Result<(), PinnedError> {
        for directory in [self.dir.join(LINKS), self.dir.join(POLICY), self.dir.clone()] {
            match std::fs::remove_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&directory, "remove")(error));
                }
                _ => {}
            }
        }
        let is_ours =
            |path: &&Path| path.parent().is_some_and(|above| above.iter().any(|part| part == OWN_DIRECTORY));
        for directory in self.dir.ancestors().skip(1).take_while(is_ours) {
            if std::fs::remove_dir(directory).is_err() {
                // Another node's pins are there.
                break;
            }
        }
        Ok(())
    }
}

/// `<slot>-a` or `<slot>-b`.
fn is_trie(name: &str) -> bool {
    matches!(name.split_once('-'), Some((slot, "a" | "b")) if slot.parse::<u16>().is_ok())
}

fn remove(path: &Path) -> Result<(), PinnedError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, "unpin")(error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> PinnedError {
    let path = path.to_owned();
    move |cause| PinnedError::Directory { path, what, cause }
}

const LINKS: &str = "links";
const POLICY: &str = "policy";
const OWN_DIRECTORY: &str = "specola";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_files_stay_with_their_directory() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("specola/default/local");
        std::fs::create_dir_all(dir.join(LINKS)).unwrap();
        std::fs::create_dir_all(dir.join(POLICY)).unwrap();
        for file in
            ["SP_NODE@1", "SP_NODE@0", "notes", "links/from_container-7", "links/readme", "policy/3-a"]
        {
            std::fs::write(dir.join(file), "").unwrap();
        }
        let expected = Leftovers {
            attachments: vec![Attachment { program: "from_container".to_owned(), ifindex: 7 }],
            maps: vec!["SP_NODE@0".to_owned(), "SP_NODE@1".to_owned()],
            tries: 1,
            foreign: vec!["notes".to_owned(), "links/readme".to_owned()],
        };
        let removal = Removal::prepare(&dir).unwrap();
        assert_eq!(removal.leftovers().unwrap(), expected);
        assert!(matches!(Removal::prepare(&dir), Err(PinnedError::InUse { .. })), "one at a time");
        assert_eq!(removal.run().unwrap(), expected);
        assert!(dir.join("notes").exists() && !dir.join("SP_NODE@1").exists());

        std::fs::remove_file(dir.join("notes")).unwrap();
        std::fs::remove_file(dir.join("links/readme")).unwrap();
        let removal = Removal::prepare(&dir).unwrap();
        assert_eq!(removal.run().unwrap(), Leftovers::default());
        assert!(!root.path().join("specola/default").exists(), "empty parents go");
        assert_eq!(Removal::prepare(&dir).unwrap().leftovers().unwrap(), Leftovers::default());
    }
}
