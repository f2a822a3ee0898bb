//! The directory as a whole.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{FileState, Located, Object, SavedDocument};
use super::{Desired, Refused};
use crate::persist::{self, PersistError};

/// Files of the desired state, read again after each change.
#[derive(Debug)]
pub(crate) struct DesiredDirectory {
    root: PathBuf,
    files: BTreeMap<String, FileState>,
    /// Where the documents in force are kept for the next start.
    memory: PathBuf,
    /// Why the directory itself could not be read last time.
    problem: Option<String>,
}

impl DesiredDirectory {
    /// A directory that was not read yet. `memory` has the documents that were in force when the agent ended: a
    /// document that was broken meanwhile must not take its policy away.
    pub(crate) fn open(root: &Path, memory: &Path) -> Result<Self, PersistError> {
        let saved: BTreeMap<String, Vec<SavedDocument>> = persist::load_json(memory)?.unwrap_or_default();
        let mut files = BTreeMap::new();
        for (file, documents) in saved {
            let state = FileState::restore(&file, documents);
            files.insert(file, state);
        }
        Ok(Self { root: root.to_owned(), files, memory: memory.to_owned(), problem: None })
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Reads what changed. Returns whether anything did. Blocks on the file system.
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
        let before = self.files.len();
        self.files.retain(|name, _| names.contains(name));
        changed |= self.files.len() != before;
        for name in names {
            let contents = read_text(&self.root.join(&name));
            let state = self.files.entry(name.clone()).or_default();
            changed |= match contents {
                Ok(Some(text)) => state.update(&name, text),
                Ok(None) => false,
                Err(cause) => state.unreadable(&name, &cause),
            };
        }
        if changed && let Err(error) = self.remember() {
            self.problem = Some(error.to_string());
        }
        changed
    }

    /// The desired state that the files give together. Of several definitions of an object the first counts, in the
    /// order of file names.
    pub(crate) fn merge(&self) -> Desired {
        let mut desired = Desired { warnings: self.problem.iter().cloned().collect(), ..Desired::default() };
        let mut seen = BTreeMap::new();
        for (file, state) in &self.files {
            desired.refused.extend(state.refused.iter().cloned());
            desired.warnings.extend(state.warnings.iter().cloned());
            for (key, located) in &state.objects {
                if let Some((other, line)) = seen.get(key) {
                    let cause = format!("metadata.name: {key} is defined in {other}:{line} already");
                    let refused = Refused { file: file.clone(), line: located.line, errors: vec![cause] };
                    desired.refused.push(refused);
                    continue;
                }
                seen.insert(key, (file, located.line));
                insert(&mut desired, located);
            }
        }
        desired
    }
}

impl DesiredDirectory {
    fn remember(&self) -> Result<(), PersistError> {
        let saved: BTreeMap<&String, Vec<SavedDocument>> =
            self.files.iter().map(|(file, state)| (file, state.save())).collect();
        persist::save_json(&self.memory, &saved)
    }
}

fn insert(desired: &mut Desired, located: &Located) {
    match located.object.clone() {
        Object::Namespace(name, object) => drop(desired.namespaces.insert(name, object)),
        Object::Node(name, object) => drop(desired.nodes.insert(name, object)),
        Object::Pod(key, object) => drop(desired.pods.insert(key, object)),
        Object::Policy(reference, object) => drop(desired.policies.insert(reference, *object)),
    }
}

/// Names of the YAML files, sorted; hidden ones and directories are left out.
fn yaml_files(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let known = [".yaml", ".yml", ".json"].iter().any(|suffix| name.ends_with(suffix));
        // A pipe would be read for ever.
        if known && !name.starts_with('.') && path.is_file() {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The text of a file; nothing when it vanished since the listing.
fn read_text(path: &Path) -> Result<Option<String>, String> {
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read the file: {error}")),
    };
    if length > MAX_FILE_BYTES {
        return Err(format!("the file has {length} bytes, more than {MAX_FILE_BYTES}; split it"));
    }
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read the file: {error}")),
    }
}

const MAX_FILE_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests;
