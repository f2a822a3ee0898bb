//! Files of JSON lines: changes are appended, and the whole is written anew when most of it is outdated.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::persist::{self, PersistError};

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Lines of the file.
    lines: usize,
    /// Lines that the file does not have yet.
    pending: Vec<u8>,
    /// The file may end in the middle of a line.
    torn: bool,
}

impl Journal {
    /// The lines of a file, if there is one; an error for each that does not decode, such as one that was torn.
    pub(crate) fn read<T: DeserializeOwned>(
        path: &Path,
    ) -> Result<Vec<Result<T, serde_json::Error>>, PersistError> {
        let text = persist::read(path)?.unwrap_or_default();
        Ok(text.lines().map(serde_json::from_str).collect())
    }

    /// Writes a file with these lines, and opens it to append.
    pub(crate) fn create<T: Serialize>(
        path: &Path,
        lines: impl Iterator<Item = T>,
    ) -> Result<Self, PersistError> {
        let (mut text, mut count) = (Vec::new(), 0);
        for line in lines {
            encode(path, &line, &mut text)?;
            count += 1;
        }
        persist::write_atomic(path, &text)?;
        let file = OpenOptions::new().append(true).open(path).map_err(PersistError::io("open", path))?;
        Ok(Self { path: path.to_owned(), file, lines: count, pending: Vec::new(), torn: false })
    }

    /// Adds a line; it is in the file after the next [`Self::commit`].
    pub(crate) fn push<T: Serialize>(&mut self, line: &T) -> Result<(), PersistError> {
        encode(&self.path, line, &mut self.pending)?;
        self.lines += 1;
        Ok(())
    }

    /// Writes what was added. When it fails, the next call tries again.
    pub(crate) fn commit(&mut self) -> Result<(), PersistError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.torn) {
            self.pending.insert(0, b'\n');
        }
        let written = self.file.write_all(&self.pending);
        if let Err(error) = written {
            self.torn = true;
            return Err(PersistError::io("write", &self.path)(error));
        }
        self.pending.clear();
        Ok(())
    }

    /// Whether the file should be written anew, when it needs only so many lines.
    pub(crate) const fn is_outdated(&self, needed: usize) -> bool {
        self.lines > 4 * needed + SPARE_LINES
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn encode<T: Serialize>(path: &Path, line: &T, text: &mut Vec<u8>) -> Result<(), PersistError> {
    let start = text.len();
    if let Err(cause) = serde_json::to_writer(&mut *text, line) {
        text.truncate(start);
        return Err(PersistError::Encode { path: path.to_owned(), cause });
    }
    text.push(b'\n');
    Ok(())
}

/// Outdated lines that do not matter.
const SPARE_LINES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(path: &Path) -> Vec<u32> {
        Journal::read(path).expect("reads").into_iter().filter_map(Result::ok).collect()
    }

    #[test]
    fn what_is_committed_is_read_and_a_torn_line_is_an_error_of_its_own() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("journal");
        assert!(numbers(&path).is_empty(), "there is none");
        let mut journal = Journal::create(&path, [1, 2].into_iter()).expect("creates");
        journal.push(&3).expect("encodes");
        assert_eq!(numbers(&path), [1, 2]);
        journal.commit().expect("writes");
        assert_eq!(numbers(&path), [1, 2, 3]);
        std::fs::write(&path, "1\n{\"tor\n3\n").expect("writes");
        let lines = Journal::read::<u32>(&path).expect("reads");
        assert_eq!(lines.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn it_is_outdated_when_most_of_it_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut journal =
            Journal::create(&dir.path().join("journal"), std::iter::empty::<u32>()).expect("creates");
        for number in 0..SPARE_LINES {
            assert!(!journal.is_outdated(0), "{number}");
            journal.push(&number).expect("encodes");
        }
        journal.push(&0).expect("encodes");
        assert!(journal.is_outdated(0) && !journal.is_outdated(1));
    }
}
