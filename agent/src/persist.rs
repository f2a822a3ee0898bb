//! Files that survive a crash: whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a state file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PersistError {
    #[error("cannot {action} {path}: {cause}; check that the directory exists and is writable", path = path.display())]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
    #[error("cannot encode {path}: {cause}", path = path.display())]
    Encode { path: PathBuf, cause: serde_json::Error },
    #[error("{path} is damaged: {cause}", path = path.display())]
    Decode { path: PathBuf, cause: serde_json::Error },
}

impl PersistError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { action, path, cause }
    }
}

/// Replaces a file's contents: readers see the old or the new ones, also after a power loss.
pub(crate) fn write_atomic(path: &Path, contents: &[u8]) -> Result<(), PersistError> {
    let temporary = write_temporary(path, contents)?;
    fs::rename(&temporary, path).map_err(PersistError::io("rename to", path))?;
    sync_parent(path)
}

/// Creates a file with its contents; `false` when it exists (which is then left alone).
pub(crate) fn create_exclusive(path: &Path, contents: &[u8]) -> Result<bool, PersistError> {
    let temporary = write_temporary(path, contents)?;
    // A hard link fails when the name exists, and gives the name only to complete contents.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(PersistError::io("remove", &temporary))?;
    match linked {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(PersistError::io("create", path)(error)),
    }
}

/// Removes a file; `false` when there was none.
pub(crate) fn remove(path: &Path) -> Result<bool, PersistError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(PersistError::io("remove", path)(error)),
    }
}

/// Reads a file; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, PersistError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PersistError::io("read", path)(error)),
    }
}

/// Makes a directory and its parents.
pub(crate) fn make_dir(path: &Path) -> Result<(), PersistError> {
    fs::create_dir_all(path).map_err(PersistError::io("create directory", path))
}

/// Writes a value as JSON, atomically.
pub(crate) fn save_json<T: Serialize>(path: &Path, value: &T) -> Result<(), PersistError> {
    let encode = |cause| PersistError::Encode { path: path.to_owned(), cause };
    write_atomic(path, &serde_json::to_vec_pretty(value).map_err(encode)?)
}

/// Reads a value from JSON. A file that does not decode is set aside under another name, said in the log, and
/// treated as absent.
pub(crate) fn load_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, PersistError> {
    let Some(text) = read(path)? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let aside = set_aside(path)?;
            tracing::error!(file = %path.display(), kept_as = %aside.display(), %error, "state file is corrupt, rebuilding");
            Ok(None)
        }
    }
}

/// Reads a value from JSON; the file is not touched. `None` when there is none.
pub(crate) fn peek_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, PersistError> {
    let decode = |text: String| {
        let refused = |cause| PersistError::Decode { path: path.to_owned(), cause };
        serde_json::from_str(&text).map_err(refused)
    };
    read(path)?.map(decode).transpose()
}

/// Renames a file that cannot be used, so that it is neither lost nor read again.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, PersistError> {
    let mut aside = path.with_added_extension("corrupt");
    let mut number = 1;
    while aside.exists() {
        aside = path.with_added_extension(format!("corrupt{number}"));
        number += 1;
    }
    fs::rename(path, &aside).map_err(PersistError::io("set aside", path))?;
    Ok(aside)
}

/// Whether a file name belongs to a write in progress.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY_PREFIX)
}

fn write_temporary(path: &Path, contents: &[u8]) -> Result<PathBuf, PersistError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!("{TEMPORARY_PREFIX}{name}.{}.{number}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()
    };
    write().map_err(PersistError::io("write", &temporary))?;
    Ok(temporary)
}

fn sync_parent(path: &Path) -> Result<(), PersistError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(PersistError::io("sync", parent))
}

const TEMPORARY_PREFIX: &str = ".specola-tmp-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_creation_has_one_winner_and_keeps_its_contents() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("one");
        assert!(create_exclusive(&path, b"first").expect("creates"));
        assert!(!create_exclusive(&path, b"second").expect("sees the first"));
        assert_eq!(read(&path).expect("reads").as_deref(), Some("first"));
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_absent() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("state.json");
        write_atomic(&path, b"{oops").expect("writes");
        assert_eq!(load_json::<Vec<u32>>(&path).expect("handles it"), None);
        assert!(!path.exists());
        assert_eq!(read(&dir.path().join("state.json.corrupt")).expect("kept").as_deref(), Some("{oops"));
    }

    #[test]
    fn json_round_trip_and_removal() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("numbers.json");
        save_json(&path, &[1, 2, 3]).expect("saves");
        assert_eq!(load_json::<Vec<u32>>(&path).expect("loads"), Some(vec![1, 2, 3]));
        assert!(remove(&path).expect("removes"));
        assert!(!remove(&path).expect("absent is fine"));
    }
}
