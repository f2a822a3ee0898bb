//! The revision of the policies, over restarts: it never goes back, and a policy that is still the same keeps its own.
//!
//! Changes are appended to a file before the kernel enforces them; it is written anew when most of it is outdated.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use specola_policy::{PolicyObject, PolicyRef};

use crate::persist::{self, PersistError};

/// Revisions of the policies, and that of the whole.
#[derive(Debug)]
pub(crate) struct Revisions {
    path: PathBuf,
    file: File,
    /// The highest one.
    latest: u64,
    /// Policies of the earlier process that were not asked for yet.
    known: BTreeMap<PolicyRef, Stamp>,
    /// Policies of this one.
    current: BTreeMap<PolicyRef, Stamp>,
    /// Lines of the file.
    lines: usize,
    /// Lines that the file does not have yet.
    pending: Vec<u8>,
}

/// When a policy was what.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Stamp {
    revision: u64,
    /// Digest of the document.
    digest: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Line {
    revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyRef>,
    /// Of a policy that is gone: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

impl Revisions {
    /// Reads the file, if there is one, and writes it anew without what is outdated. Lines that do not decode (a torn
    /// write) are skipped and said.
    pub(crate) fn open(path: &Path) -> Result<Self, PersistError> {
        let text = persist::read(path)?.unwrap_or_default();
        let (mut latest, mut known) = (0, BTreeMap::new());
        for (index, line) in text.lines().enumerate() {
            let Line { revision, policy, digest } = match serde_json::from_str(line) {
                Ok(line) => line,
                Err(error) => {
                    tracing::warn!(file = %path.display(), line = index + 1, %error, "unreadable revision skipped");
                    continue;
                }
            };
            latest = latest.max(revision);
            match (policy, digest) {
                (Some(policy), Some(digest)) => drop(known.insert(policy, Stamp { revision, digest })),
                (Some(policy), None) => drop(known.remove(&policy)),
                (None, _) => {}
            }
        }
        let file = rewrite(path, latest, known.iter())?;
        let (lines, current) = (known.len() + 1, BTreeMap::new());
        Ok(Self { path: path.to_owned(), file, latest, known, current, lines, pending: Vec::new() })
    }

    /// The highest revision of earlier processes; 0 = there was none.
    pub(crate) const fn latest(&self) -> u64 {
        self.latest
    }

    /// The revision that an earlier process gave this policy, if it is still the same. Asked once.
    pub(crate) fn recall(&mut self, policy: &PolicyObject) -> Option<u64> {
        let stamp = self.known.remove(&policy.reference)?;
        let revision = stamp.revision;
        let is_same = stamp.digest == digest(policy);
        if is_same {
            self.current.insert(policy.reference.clone(), stamp);
        }
        is_same.then_some(revision)
    }

    /// Policies of the earlier process that nobody asked for: they are gone.
    pub(crate) fn take_forgotten(&mut self) -> Vec<PolicyRef> {
        std::mem::take(&mut self.known).into_keys().collect()
    }

    /// Notes what a policy is now.
    pub(crate) fn note(&mut self, policy: &PolicyObject, revision: u64) -> Result<(), PersistError> {
        let stamp = Stamp { revision, digest: digest(policy) };
        self.push(&line(&policy.reference, &stamp))?;
        self.current.insert(policy.reference.clone(), stamp);
        Ok(())
    }

    /// Notes that a policy is gone.
    pub(crate) fn note_gone(&mut self, policy: &PolicyRef, revision: u64) -> Result<(), PersistError> {
        self.current.remove(policy);
        self.push(&Line { revision, policy: Some(policy.clone()), digest: None })
    }

    /// Writes what was noted, and the revision of the whole. When it fails, the next call tries again.
    pub(crate) fn commit(&mut self, revision: u64) -> Result<(), PersistError> {
        if revision > self.latest {
            self.push(&Line { revision, policy: None, digest: None })?;
            self.latest = revision;
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.pending).map_err(PersistError::io("write", &self.path));
        if written.is_err() {
            // What the file has of it may end in the middle of a line.
            self.pending.insert(0, b'\n');
            return written;
        }
        self.lines += self.pending.iter().filter(|byte| **byte == b'\n').count();
        self.pending.clear();
        let needed = self.current.len() + self.known.len();
        if self.lines > 4 * needed + SPARE_LINES {
            self.file = rewrite(&self.path, self.latest, self.known.iter().chain(&self.current))?;
            self.lines = needed + 1;
        }
        Ok(())
    }

    fn push(&mut self, line: &Line) -> Result<(), PersistError> {
        self.pending.extend(encode(&self.path, line)?);
        Ok(())
    }
}

/// Writes the file anew and opens it to append.
fn rewrite<'a>(
    path: &Path,
    latest: u64,
    stamps: impl Iterator<Item = (&'a PolicyRef, &'a Stamp)>,
) -> Result<File, PersistError> {
    let mut text = encode(path, &Line { revision: latest, policy: None, digest: None })?;
    for (policy, stamp) in stamps {
        text.extend(encode(path, &line(policy, stamp))?);
    }
    persist::write_atomic(path, &text)?;
    OpenOptions::new().append(true).open(path).map_err(PersistError::io("open", path))
}

fn line(policy: &PolicyRef, stamp: &Stamp) -> Line {
    Line { revision: stamp.revision, policy: Some(policy.clone()), digest: Some(stamp.digest.clone()) }
}

fn encode(path: &Path, line: &Line) -> Result<Vec<u8>, PersistError> {
    let failed = |cause| PersistError::Encode { path: path.to_owned(), cause };
    let mut text = serde_json::to_vec(line).map_err(failed)?;
    text.push(b'\n');
    Ok(text)
}

fn digest(policy: &PolicyObject) -> String {
    Sha256::digest(policy.text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Outdated lines that do not matter.
const SPARE_LINES: usize = 1024;

#[cfg(test)]
mod tests {
    use specola_policy::parse_policies;

    use super::*;

    fn policy(name: &str, port: u16) -> PolicyObject {
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             endpointSelector: {{}}\n  ingress:\n  - toPorts: [{{ports: [{{port: '{port}'}}]}}]\n"
        );
        parse_policies("p", &text).objects.pop().expect("a policy")
    }

    #[test]
    fn what_is_the_same_keeps_its_revision_and_the_whole_never_goes_back() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("revisions.jsonl");
        let mut revisions = Revisions::open(&path).expect("opens");
        assert_eq!((revisions.latest(), revisions.recall(&policy("a", 1))), (0, None));
        for (name, port, revision) in [("a", 1, 2), ("b", 1, 3), ("c", 1, 4), ("b", 2, 5)] {
            revisions.note(&policy(name, port), revision).expect("notes");
        }
        revisions.note_gone(&policy("c", 1).reference, 6).expect("notes");
        revisions.commit(6).expect("writes");
        drop(revisions);
        for _ in 0..2 {
            let mut revisions = Revisions::open(&path).expect("opens");
            assert_eq!(revisions.latest(), 6);
            assert_eq!(revisions.recall(&policy("a", 1)), Some(2));
            assert_eq!(revisions.recall(&policy("a", 1)), None, "once");
            assert_eq!(revisions.take_forgotten(), [policy("b", 2).reference]);
        }
        let mut revisions = Revisions::open(&path).expect("opens");
        assert_eq!(revisions.recall(&policy("b", 1)), None, "it is another one now");
    }

    #[test]
    fn the_file_stays_short() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("revisions.jsonl");
        let mut revisions = Revisions::open(&path).expect("opens");
        for revision in 2..3000 {
            revisions.note(&policy("a", 1), revision).expect("notes");
            revisions.commit(revision).expect("writes");
        }
        let lines = persist::read(&path).expect("reads").expect("is there").lines().count();
        assert!(lines <= SPARE_LINES + 8, "{lines}");
        drop(revisions);
        let mut revisions = Revisions::open(&path).expect("opens");
        assert_eq!((revisions.latest(), revisions.recall(&policy("a", 1))), (2999, Some(2999)));
    }

    #[test]
    fn a_torn_line_is_skipped() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("revisions.jsonl");
        let mut revisions = Revisions::open(&path).expect("opens");
        revisions.note(&policy("a", 1), 2).expect("notes");
        revisions.commit(2).expect("writes");
        drop(revisions);
        let text = persist::read(&path).expect("reads").expect("is there");
        std::fs::write(&path, text + "{\"revision\":3,\"pol").expect("tears the file");
        let mut revisions = Revisions::open(&path).expect("opens the torn file");
        assert_eq!((revisions.latest(), revisions.recall(&policy("a", 1))), (2, Some(2)));
    }
}
