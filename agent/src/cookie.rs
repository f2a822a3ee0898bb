//! Cookies: the numbers by which the kernel names the rules that decided.
//!
//! A number stands for one set of rule origins for ever. It is in the file before the datapath can use it, so that a new
//! agent resolves events that were made while none ran. The file is not synced: what a power loss takes from it are
//! numbers of maps and flows that are gone as well.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use specola_policy::OriginSet;

use crate::persist::{self, PersistError};

/// The number of an empty set: no rule.
pub(crate) const NO_COOKIE: u32 = 0;

/// Why a cookie could not be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CookieError {
    #[error(transparent)]
    File(#[from] PersistError),
    #[error("all cookies are given away; stop the agent, detach its endpoints and remove {path}", path = path.display())]
    Exhausted { path: PathBuf },
}

/// Origin sets by number, appended to a file.
#[derive(Debug)]
pub(crate) struct CookieTable {
    path: PathBuf,
    /// None = the numbers end with the process.
    file: Option<File>,
    numbers: HashMap<OriginSet, u32>,
    origins: HashMap<u32, OriginSet>,
    next: u32,
    /// Entries that the file does not have yet.
    pending: Vec<Line>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Line {
    cookie: u32,
    origins: OriginSet,
}

impl CookieTable {
    /// Reads the file, if there is one. Lines that do not decode (a torn write) are skipped and said; their numbers
    /// are not given again as long as a later line is readable.
    pub(crate) fn open(path: &Path) -> Result<Self, CookieError> {
        let text = persist::read(path)?.unwrap_or_default();
        let (mut numbers, mut origins) = (HashMap::new(), HashMap::new());
        let mut next = NO_COOKIE + 1;
        for (index, line) in text.lines().enumerate() {
            match serde_json::from_str::<Line>(line) {
                Ok(line) => {
                    next = next.max(line.cookie.saturating_add(1));
                    origins.insert(line.cookie, line.origins.clone());
                    numbers.entry(line.origins).or_insert(line.cookie);
                }
                Err(error) => {
                    next = next.saturating_add(1);
                    tracing::warn!(file = %path.display(), line = index + 1, %error, "unreadable cookie skipped");
                }
            }
        }
        let open = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            if !text.is_empty() && !text.ends_with('\n') {
                file.write_all(b"\n")?;
            }
            Ok(file)
        };
        let file = open().map_err(PersistError::io("open", path))?;
        Ok(Self { path: path.to_owned(), file: Some(file), numbers, origins, next, pending: Vec::new() })
    }

    /// Numbers that end with the process.
    pub(crate) fn in_memory() -> Self {
        Self {
            path: PathBuf::new(),
            file: None,
            numbers: HashMap::new(),
            origins: HashMap::new(),
            next: NO_COOKIE + 1,
            pending: Vec::new(),
        }
    }

    /// What a file says about each number, for others than the agent: nothing is changed, and lines that do not decode
    /// are skipped.
    pub(crate) fn peek(path: &Path) -> Result<HashMap<u32, OriginSet>, PersistError> {
        let text = persist::read(path)?.unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        Ok(lines.map(|line| (line.cookie, line.origins)).collect())
    }

    /// The number of a set; a new one must be [`Self::commit`]ted before the datapath sees it.
    pub(crate) fn intern(&mut self, origins: &OriginSet) -> Result<u32, CookieError> {
        if origins.is_empty() {
            return Ok(NO_COOKIE);
        }
        if let Some(number) = self.numbers.get(origins) {
            return Ok(*number);
        }
        let cookie = self.next;
        self.next =
            cookie.checked_add(1).ok_or_else(|| CookieError::Exhausted { path: self.path.clone() })?;
        self.numbers.insert(origins.clone(), cookie);
        self.origins.insert(cookie, origins.clone());
        self.pending.push(Line { cookie, origins: origins.clone() });
        Ok(cookie)
    }

    /// Writes new entries to the file and returns them. When it fails, the next call tries them again.
    pub(crate) fn commit(&mut self) -> Result<Vec<(u32, OriginSet)>, CookieError> {
        if self.pending.is_empty() {
            return Ok(Vec::new());
        }
        let mut text = Vec::new();
        for line in &self.pending {
            let encode = |cause| PersistError::Encode { path: self.path.clone(), cause };
            serde_json::to_writer(&mut text, line).map_err(encode)?;
            text.push(b'\n');
        }
        if let Some(file) = &mut self.file {
            file.write_all(&text).map_err(PersistError::io("write", &self.path))?;
        }
        Ok(self.pending.drain(..).map(|line| (line.cookie, line.origins)).collect())
    }

    /// The highest number that was given; 0 = none.
    pub(crate) const fn highest(&self) -> u32 {
        self.next - 1
    }

    /// Every set that has a number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &OriginSet)> {
        self.origins.iter().map(|(cookie, origins)| (*cookie, origins))
    }

    /// The set that a number stands for.
    pub(crate) fn origins(&self, cookie: u32) -> Option<&OriginSet> {
        self.origins.get(&cookie)
    }

    /// The number of a set that has one.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn number(&self, origins: &OriginSet) -> Option<u32> {
        self.numbers.get(origins).copied()
    }
}

#[cfg(test)]
mod tests {
    use specola_policy::Origin;

    use super::*;

    fn set(names: &[&str]) -> OriginSet {
        names.iter().map(|name| Origin { name: (*name).to_owned(), ..Origin::allow_any(false) }).collect()
    }

    #[test]
    fn numbers_are_monotonic_and_survive_a_restart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("cookies.jsonl");
        let mut table = CookieTable::open(&path).expect("opens");
        let a = table.intern(&set(&["a"])).expect("interns");
        let ab = table.intern(&set(&["b", "a"])).expect("interns");
        assert_eq!((a, ab), (1, 2));
        assert_eq!(table.commit().expect("writes").len(), 2);
        assert!(table.commit().expect("nothing new").is_empty());
        drop(table);
        let mut table = CookieTable::open(&path).expect("opens again");
        assert_eq!(table.intern(&set(&["a", "b"])).expect("known"), ab);
        assert_eq!(table.intern(&set(&["c"])).expect("new"), 3);
        assert_eq!(table.iter().count(), 3);
    }

    #[test]
    fn the_empty_set_needs_no_entry() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut table = CookieTable::open(&dir.path().join("cookies.jsonl")).expect("opens");
        assert_eq!(table.intern(&OriginSet::empty()).expect("is zero"), NO_COOKIE);
        assert!(table.commit().expect("nothing to write").is_empty());
    }

    #[test]
    fn a_torn_line_is_skipped_and_does_not_swallow_the_next_one() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("cookies.jsonl");
        let mut table = CookieTable::open(&path).expect("opens");
        table.intern(&set(&["a"])).expect("interns");
        table.commit().expect("writes");
        drop(table);
        let mut text = std::fs::read_to_string(&path).expect("reads");
        text.push_str("{\"cookie\":2,\"ori");
        std::fs::write(&path, text).expect("tears the file");
        let mut table = CookieTable::open(&path).expect("opens the torn file");
        assert_eq!(table.intern(&set(&["b"])).expect("interns"), 3, "2 may have been used");
        table.commit().expect("writes");
        drop(table);
        let table = CookieTable::open(&path).expect("opens");
        assert_eq!(table.number(&set(&["b"])), Some(3));
        assert_eq!(table.number(&set(&["a"])), Some(1));
    }
}
