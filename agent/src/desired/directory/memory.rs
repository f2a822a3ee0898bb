//! The documents in force, kept for the next start of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::file::{FileState, SavedDocument};
use crate::journal::Journal;
use crate::persist::PersistError;

/// A journal with a line for each file that changed.
#[derive(Debug)]
pub(super) struct Memory {
    journal: Journal,
}

#[derive(Debug, Deserialize, Serialize)]
struct Line {
    file: String,
    /// None: the file is gone.
    documents: Vec<SavedDocument>,
}

type Saved = BTreeMap<String, Vec<SavedDocument>>;

impl Memory {
    /// Opens the journal, and gives what it has of each file. Lines that do not decode are skipped and said.
    pub(super) fn open(path: &Path) -> Result<(Self, Saved), PersistError> {
        let mut saved = Saved::new();
        for (index, line) in Journal::read::<Line>(path)?.into_iter().enumerate() {
            match line {
                Ok(Line { file, documents }) if documents.is_empty() => drop(saved.remove(&file)),
                Ok(Line { file, documents }) => drop(saved.insert(file, documents)),
                Err(error) => {
                    tracing::warn!(file = %path.display(), line = index + 1, %error, "unreadable documents skipped");
                }
            }
        }
        let lines =
            saved.iter().map(|(file, documents)| Line { file: file.clone(), documents: documents.clone() });
        Ok((Self { journal: Journal::create(path, lines)? }, saved))
    }

    /// Notes what the named files give now.
    pub(super) fn remember(
        &mut self,
        files: &BTreeMap<String, FileState>,
        names: &BTreeSet<String>,
    ) -> Result<(), PersistError> {
        let line = |name: &String| Line {
            file: name.clone(),
            documents: files.get(name).map(FileState::save).unwrap_or_default(),
        };
        if self.journal.is_outdated(files.len()) {
            self.journal = Journal::create(self.journal.path(), files.keys().map(line))?;
            return Ok(());
        }
        for name in names {
            self.journal.push(&line(name))?;
        }
        self.journal.commit()
    }
}
