//! A configuration file that may change at any time.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use specola_lifecycle::Drain;

/// How often the file is looked at: as with other tools, not by inotify, so that replaced files and mounted volumes are
/// seen too.
const INTERVAL: Duration = Duration::from_secs(2);
/// A larger file is refused.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a file again and again.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    seen: Result<String, io::ErrorKind>,
}

/// Why a configuration file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there, or not readable.
    #[error("read {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// It is too large.
    #[error("read {path}: more than {MAX_BYTES} bytes; split the configuration or remove what is not needed")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

impl FileWatch {
    /// Reads a file once.
    ///
    /// # Errors
    /// It cannot be read, is no text, or is larger than 1 MiB.
    pub fn read(path: &Path) -> Result<String, FileError> {
        let read = || {
            let mut text = String::new();
            let file = File::open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|cause| FileError::Read { path: path.to_owned(), cause })?;
        if text.len() as u64 > MAX_BYTES {
            return Err(FileError::TooLarge { path: path.to_owned() });
        }
        Ok(text)
    }

    /// Watches a file that had this content.
    pub const fn new(path: PathBuf, seen: String) -> Self {
        Self { path, seen: Ok(seen) }
    }

    /// Waits until the file has other content, or cannot be read any more; `None` at the drain.
    pub async fn changed(&mut self, drain: &Drain) -> Option<Result<String, FileError>> {
        loop {
            tokio::select! {
                biased;
                () = drain.signalled() => return None,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let path = self.path.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || Self::read(&path)).await else {
                return None;
            };
            let now = match &read {
                Ok(text) => Ok(text.clone()),
                Err(FileError::Read { cause, .. }) => Err(cause.kind()),
                Err(FileError::TooLarge { .. }) => Err(io::ErrorKind::FileTooLarge),
            };
            if now != self.seen {
                self.seen = now;
                return Some(read);
            }
        }
    }
}
