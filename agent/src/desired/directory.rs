//! The directory as a whole.

use std::collections::BTreeMap;
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use specola_policy::{ParseOptions, Service};

use super::file::{FileState, Located, Object, SavedDocument};
use super::objects::FqdnName;
use super::{Desired, Refused};
use crate::persist::{self, PersistError};

/// Files of the desired state, read again after each change.
#[derive(Debug)]
pub(crate) struct DesiredDirectory {
    root: PathBuf,
    files: BTreeMap<String, FileState>,
    /// Parts of the policy language that may be used.
    options: ParseOptions,
    /// Where the documents in force are kept for the next start.
    /// None = they are not kept.
    memory: Option<PathBuf>,
    /// Why the directory itself could not be read last time.
    problem: Option<String>,
}

impl DesiredDirectory {
    /// A directory that was not read yet. `memory` has the documents that were in force when the agent ended: a
    /// document that was broken meanwhile must not take its policy away.
    pub(crate) fn open(root: &Path, memory: &Path, options: ParseOptions) -> Result<Self, PersistError> {
        let saved: BTreeMap<String, Vec<SavedDocument>> = persist::load_json(memory)?.unwrap_or_default();
        let mut files = BTreeMap::new();
        for (file, documents) in saved {
            let state = FileState::restore(&file, documents, options);
            files.insert(file, state);
        }
        Ok(Self { root: root.to_owned(), files, options, memory: Some(memory.to_owned()), problem: None })
    }

    /// A directory that is read once: nothing of it is kept.
    pub(crate) const fn once(root: PathBuf, options: ParseOptions) -> Self {
        Self { root, files: BTreeMap::new(), options, memory: None, problem: None }
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
            let options = self.options;
            let state = self.files.entry(name.clone()).or_default();
            changed |= match contents {
                Ok(Some(text)) => state.update(&name, text, options),
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
                    desired.refused.push(Refused {
                        file: file.clone(),
                        line: located.line,
                        errors: vec![cause],
                        object: key.to_string(),
                    });
                    continue;
                }
                seen.insert(key, (file, located.line));
                insert(&mut desired, located);
            }
        }
        let backends = self.files.values().flat_map(|state| state.objects.values());
        for located in backends {
            if let Object::Backends(backends) = &located.object {
                let key = (backends.namespace.clone(), backends.service.clone());
                if let Some(service) = desired.services.get_mut(&key) {
                    service.backends.extend(&backends.addresses);
                }
            }
        }
        desired
    }
}

impl DesiredDirectory {
    fn remember(&self) -> Result<(), PersistError> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let saved: BTreeMap<&String, Vec<SavedDocument>> =
            self.files.iter().map(|(file, state)| (file, state.save())).collect();
        persist::save_json(memory, &saved)
    }
}

fn insert(desired: &mut Desired, located: &Located) {
    match located.object.clone() {
        Object::Namespace(name, object) => drop(desired.namespaces.insert(name, object)),
        Object::Node(name, object) => drop(desired.nodes.insert(name, object)),
        Object::Pod(key, object) => drop(desired.pods.insert(key, object)),
        Object::Policy(reference, object) => drop(desired.policies.insert(reference, object)),
        Object::CidrGroup(group) => drop(desired.cidr_groups.insert(group.name.clone(), group)),
        Object::Service(namespace, object) => {
            let name = object.metadata.name;
            let key = (namespace.clone(), name.clone());
            let (labels, selector) = (object.metadata.labels, object.spec.selector);
            let service = Service { namespace, name, labels, selector, backends: Vec::new() };
            drop(desired.services.insert(key, service));
        }
        // Joined with their services when all are known.
        Object::Backends(_) => {}
        Object::Names(names) => {
            for FqdnName { name, addresses } in names {
                desired.fqdn.entry(name).or_default().extend(addresses);
            }
        }
    }
}

/// Names of the YAML files, sorted; hidden ones and links to nothing are left out.
fn yaml_files(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let known = [".yaml", ".yml", ".json"].iter().any(|suffix| name.ends_with(suffix));
        let is_gone = || std::fs::metadata(&path).is_err_and(|error| is_missing(&error));
        if known && !name.starts_with('.') && !is_gone() {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The text of a file; nothing when it vanished since the listing. Never waits for a writer.
fn read_text(path: &Path) -> Result<Option<String>, String> {
    match open_regular(path) {
        Ok(Ok(file)) => text_of(&file).map(Some),
        Ok(Err(kind)) => Err(format!("it is a {kind}, not a regular file; rename or remove it")),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(unreadable(&error)),
    }
}

/// The open file, or what it is instead.
fn open_regular(path: &Path) -> io::Result<Result<File, &'static str>> {
    // Opening a device may do something already, so the name is looked at first.
    let named = std::fs::metadata(path)?.file_type();
    if !named.is_file() {
        return Ok(Err(kind_of(named)));
    }
    // The name may stand for a pipe by now, and opening that one would wait for its writer.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let opened = file.metadata()?.file_type();
    Ok(if opened.is_file() { Ok(file) } else { Err(kind_of(opened)) })
}

fn kind_of(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "directory",
        kind if kind.is_fifo() => "named pipe",
        kind if kind.is_socket() => "socket",
        _ => "device",
    }
}

fn text_of(file: &File) -> Result<String, String> {
    let too_long = || format!("the file has more than {MAX_FILE_BYTES} bytes; split it");
    if file.metadata().map_err(|error| unreadable(&error))?.len() > MAX_FILE_BYTES {
        return Err(too_long());
    }
    // It may grow while it is read.
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(too_long());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("the file is not UTF-8 text (byte {at}); save it as UTF-8, or remove it")
    })
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot read the file: {error}")
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

const MAX_FILE_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests;
