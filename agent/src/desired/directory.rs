//! The directory as a whole.

mod memory;
mod merged;
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use specola_policy::ParseOptions;

use self::memory::Memory;
use self::merged::Merged;
use self::reading::{Reading, is_yaml, read_text, yaml_files};
use super::Desired;
use super::file::{FileState, ObjectKey};
use crate::persist::PersistError;

/// Files of the desired state. After a change only the files are read that it is about, and only what they define
/// becomes other.
#[derive(Debug)]
pub(crate) struct DesiredDirectory {
    root: PathBuf,
    files: BTreeMap<String, FileState>,
    merged: Merged,
    /// Parts of the policy language that may be used.
    options: ParseOptions,
    /// Where the documents in force are kept for the next start.
    /// None = they are not kept.
    memory: Option<Memory>,
    /// Files whose documents are not kept yet.
    unsaved: BTreeSet<String>,
    /// Why the directory itself could not be read last time.
    problem: Option<String>,
    /// Why the documents could not be kept.
    forgetful: Option<String>,
}

impl DesiredDirectory {
    /// A directory that was not read yet. `memory` has the documents that were in force when the agent ended: a
    /// document that was broken meanwhile must not take its policy away.
    pub(crate) fn open(root: &Path, memory: &Path, options: ParseOptions) -> Result<Self, PersistError> {
        let (memory, saved) = Memory::open(memory)?;
        let mut directory = Self { memory: Some(memory), ..Self::once(root.to_owned(), options) };
        for (name, documents) in saved {
            let state = FileState::restore(&name, documents, options);
            directory.replace(&name, |slot| {
                *slot = Some(state);
                true
            });
        }
        directory.unsaved.clear();
        Ok(directory)
    }

    /// A directory that is read once: nothing of it is kept.
    pub(crate) fn once(root: PathBuf, options: ParseOptions) -> Self {
        Self {
            root,
            files: BTreeMap::new(),
            merged: Merged::default(),
            options,
            memory: None,
            unsaved: BTreeSet::new(),
            problem: None,
            forgetful: None,
        }
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Looks at all files and reads those that may have changed. Returns whether anything did. Blocks on the file
    /// system.
    ///
    /// A directory that cannot be read changes nothing but the warnings: losing it must not open the network.
    pub(crate) fn scan(&mut self) -> bool {
        let names = match yaml_files(&self.root) {
            Ok(names) => names,
            Err(error) => {
                let path = self.root.display();
                let problem = Some(format!("cannot read {path}: {error}; the last state stays in force"));
                return std::mem::replace(&mut self.problem, problem.clone()) != problem;
            }
        };
        let mut changed = self.problem.take().is_some();
        let gone: Vec<String> = self.files.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in &gone {
            changed |= self.replace(name, |slot| slot.take().is_some());
        }
        for name in &names {
            changed |= self.look_at(name);
        }
        changed
    }

    /// Looks at some files; others of the paths do not matter. Returns whether anything changed.
    pub(crate) fn scan_paths(&mut self, paths: &BTreeSet<PathBuf>) -> bool {
        let root = self.root.clone();
        let inside = paths.iter().filter(|path| path.parent() == Some(&root));
        let names = inside.filter_map(|path| path.file_name()?.to_str()).filter(|name| is_yaml(name));
        let mut changed = false;
        for name in names {
            let path = root.join(name);
            let is_gone = reading::is_gone(&path);
            if is_gone && !root.is_dir() {
                // Not the file is gone but the directory: the next look at all of it says so.
                continue;
            }
            changed |=
                if is_gone { self.replace(name, |slot| slot.take().is_some()) } else { self.look_at(name) };
        }
        changed
    }

    /// The desired state that the files give together. Of several definitions of an object the first counts, in the
    /// order of file names.
    pub(crate) fn merge(&self) -> Desired {
        let mut desired = self.merged.desired(&self.files);
        let own = self.problem.iter().chain(&self.forgetful).cloned();
        desired.warnings.splice(0..0, own);
        desired
    }

    /// Keeps the documents in force for the next start. Returns whether something is to be said about that, or not any
    /// more. Blocks on the file system.
    pub(crate) fn remember(&mut self) -> bool {
        let Some(memory) = &mut self.memory else { return false };
        let result = memory.remember(&self.files, &self.unsaved);
        if result.is_ok() {
            self.unsaved.clear();
        }
        let problem = result.err().map(|error| error.to_string());
        std::mem::replace(&mut self.forgetful, problem.clone()) != problem
    }

    /// The state of the files put together from nothing.
    #[cfg(test)]
    fn merged_anew(&self) -> Desired {
        let mut merged = Merged::default();
        for name in self.files.keys() {
            merged.follow(&self.files, name, Vec::new());
        }
        merged.desired(&self.files)
    }

    /// Reads a file that is there. Returns whether it is another one.
    fn look_at(&mut self, name: &str) -> bool {
        let known = self.files.get(name).and_then(FileState::stamp);
        let reading = read_text(&self.root.join(name), known);
        let options = self.options;
        match reading {
            Ok(Reading::Same | Reading::Gone) => false,
            Ok(Reading::Text(text, stamp)) => {
                self.replace(name, |slot| slot.get_or_insert_default().update(name, text, stamp, options))
            }
            Err(cause) => self.replace(name, |slot| slot.get_or_insert_default().unreadable(name, &cause)),
        }
    }

    /// Changes what a file gives, by a function that says whether it did.
    fn replace(&mut self, name: &str, change: impl FnOnce(&mut Option<FileState>) -> bool) -> bool {
        let mut slot = self.files.remove(name);
        let before: Vec<ObjectKey> = slot.iter().flat_map(|state| state.objects.keys().cloned()).collect();
        let changed = change(&mut slot);
        if let Some(state) = slot {
            self.files.insert(name.to_owned(), state);
        }
        if changed {
            self.merged.follow(&self.files, name, before);
            if self.memory.is_some() {
                self.unsaved.insert(name.to_owned());
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests;
