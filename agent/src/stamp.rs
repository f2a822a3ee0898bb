//! Whether a file was changed since it was read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What becomes other when a file does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl FileStamp {
    /// The stamp as of now.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// The stamp of a file that is about to be read; none when the file was changed so lately that another change might
    /// leave the stamp as it is.
    pub(crate) fn settled(metadata: &Metadata) -> Option<Self> {
        Self::settled_at(metadata, SystemTime::now())
    }

    fn settled_at(metadata: &Metadata, now: SystemTime) -> Option<Self> {
        let stamp = Self::of(metadata);
        let seconds = u64::try_from(stamp.changed.0).ok()?;
        let nanoseconds = u32::try_from(stamp.changed.1).ok()?;
        let changed = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        let age = now.duration_since(changed).ok()?;
        (age >= GRANULARITY).then_some(stamp)
    }
}

/// Time that two changes may be apart and have the same stamp, on file systems with coarse clocks.
const GRANULARITY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_when_the_file_is_old_enough() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "1").expect("writes");
        let metadata = || std::fs::metadata(&path).expect("is there");
        let written = metadata().modified().expect("the file system keeps it");
        let settled = |after| FileStamp::settled_at(&metadata(), written + after);
        assert_eq!(settled(Duration::from_millis(100)), None, "it was written just now");
        assert_eq!(settled(GRANULARITY + Duration::from_secs(1)), Some(FileStamp::of(&metadata())));
        assert_eq!(
            FileStamp::settled_at(&metadata(), written - Duration::from_secs(9)),
            None,
            "the clock was set back"
        );
        let before = FileStamp::of(&metadata());
        assert_eq!(FileStamp::of(&metadata()), before);
        std::fs::write(&path, "12").expect("writes");
        assert_ne!(FileStamp::of(&metadata()), before);
    }
}
