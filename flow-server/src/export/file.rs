//! Lines into a file that is put aside when it is large.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;

use super::config::{ExporterSpec, Output};

/// With so many bytes waiting no more are taken.
const FULL_BYTES: usize = 256 << 10;

/// A file, or standard output, with a buffer in front.
#[derive(Debug)]
pub(super) struct LineFile {
    target: Target,
    buffer: Vec<u8>,
    /// Where each waiting line ends in the buffer.
    ends: std::collections::VecDeque<usize>,
    /// Bytes of the buffer's first line that are in the file already.
    partly: usize,
    written: u64,
}

#[derive(Debug)]
enum Target {
    Stdout,
    File(Rotating),
}

#[derive(Debug)]
struct Rotating {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    max_bytes: u64,
    max_backups: usize,
    compress: bool,
    compressing: Option<JoinHandle<()>>,
}

impl LineFile {
    /// The file of an exporter. It is opened with the first line.
    pub(super) fn new(spec: &ExporterSpec) -> Self {
        let target = match &spec.output {
            Output::Stdout => Target::Stdout,
            Output::File(path) => Target::File(Rotating {
                path: path.clone(),
                file: None,
                size: 0,
                max_bytes: spec.max_size_mb.saturating_mul(1_000_000),
                max_backups: spec.max_backups,
                compress: spec.compress,
                compressing: None,
            }),
        };
        Self { target, buffer: Vec::new(), ends: std::collections::VecDeque::new(), partly: 0, written: 0 }
    }

    /// Appends a line to the buffer: `write` must add the line with its end.
    pub(super) fn line(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let start = self.buffer.len();
        if let Err(error) = write(&mut self.buffer) {
            self.buffer.truncate(start);
            return Err(error);
        }
        self.ends.push_back(self.buffer.len());
        Ok(())
    }

    /// Appends a line if `write` makes one.
    pub(super) fn line_if(&mut self, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let is_written = write(&mut self.buffer);
        if is_written {
            self.ends.push_back(self.buffer.len());
        }
        is_written
    }

    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= FULL_BYTES
    }

    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    pub(super) fn waiting(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Writes what waits. What could not be written stays.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut done = 0;
        let mut outcome = Ok(());
        while done < self.buffer.len() {
            match self.write_some(done) {
                Ok(0) => outcome = Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    done += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => outcome = Err(error),
            }
            break;
        }
        self.forget(done);
        outcome
    }

    /// Writes a part of what waits: of a file, no more than belongs into it.
    fn write_some(&mut self, from: usize) -> io::Result<usize> {
        match &mut self.target {
            Target::Stdout => {
                let mut out = io::stdout().lock();
                let count = out.write(&self.buffer[from..])?;
                out.flush()?;
                Ok(count)
            }
            Target::File(rotating) => {
                let is_inside =
                    if from == 0 { self.partly > 0 } else { self.ends.binary_search(&from).is_err() };
                let first_end = self
                    .ends
                    .get(self.ends.partition_point(|end| *end <= from))
                    .copied()
                    .unwrap_or(self.buffer.len());
                if !is_inside {
                    rotating.make_room((first_end - from) as u64)?;
                }
                let room =
                    usize::try_from(rotating.max_bytes.saturating_sub(rotating.size)).unwrap_or(usize::MAX);
                let fits = self.ends.partition_point(|end| end.saturating_sub(from) <= room);
                let until = fits.checked_sub(1).and_then(|last| self.ends.get(last)).copied();
                let until = until.unwrap_or(first_end).max(first_end);
                let count = rotating.open()?.write(&self.buffer[from..until])?;
                rotating.size += count as u64;
                Ok(count)
            }
        }
    }

    /// Takes the first `done` bytes out of the buffer.
    fn forget(&mut self, done: usize) {
        let whole = self.ends.partition_point(|end| *end <= done);
        let last_end = whole.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0);
        if done > last_end {
            self.partly = if last_end == 0 { self.partly + done } else { done - last_end };
        } else if whole > 0 {
            self.partly = 0;
        }
        self.ends.drain(..whole);
        self.written += whole as u64;
        self.buffer.drain(..done);
        self.ends.iter_mut().for_each(|end| *end -= done);
    }
}

impl Drop for LineFile {
    fn drop(&mut self) {
        if let Target::File(rotating) = &mut self.target {
            rotating.wait_for_compression();
        }
    }
}

impl Rotating {
    fn open(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            if let Some(parent) = self.path.parent() {
                fs::create_dir_all(parent)?;
            }
            let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("it was opened above"))
    }

    /// Puts the file aside when a line of this length does not fit any more.
    fn make_room(&mut self, line: u64) -> io::Result<()> {
        self.open()?;
        if self.size == 0 || self.size + line <= self.max_bytes {
            return Ok(());
        }
        self.wait_for_compression();
        let aside = self.aside();
        fs::rename(&self.path, &aside)?;
        self.file = None;
        self.open()?;
        if self.compress {
            let thread = std::thread::Builder::new().name("compress".to_owned()).spawn(move || {
                if let Err(error) = compress(&aside) {
                    tracing::warn!(file = %aside.display(), %error, "a flow log that was put aside is not compressed");
                }
            })?;
            self.compressing = Some(thread);
        }
        self.remove_old();
        Ok(())
    }

    /// Name of the file put aside now: `name-<time>.ext`.
    fn aside(&self) -> PathBuf {
        let (stem, suffix) = name_parts(&self.path);
        let now = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%3f");
        let name = |number: u32| match number {
            0 => format!("{stem}-{now}{suffix}"),
            _ => format!("{stem}-{now}-{number}{suffix}"),
        };
        let path = |number| self.path.with_file_name(name(number));
        let is_free = |path: &PathBuf| !path.exists() && !zipped(path).exists();
        (0..=u32::MAX).map(path).find(is_free).unwrap_or_else(|| path(0))
    }

    /// Removes the oldest files put aside beyond those to keep.
    fn remove_old(&self) {
        let (stem, suffix) = name_parts(&self.path);
        let Some(entries) = self.path.parent().and_then(|parent| fs::read_dir(parent).ok()) else {
            return;
        };
        let mut names: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_aside(path, &stem, &suffix))
            .collect();
        // A file that is being compressed has two names, and is one file.
        names.sort_by_cached_key(|path| unzipped(path));
        let files: Vec<&[PathBuf]> = names.chunk_by(|a, b| unzipped(a) == unzipped(b)).collect();
        let surplus = files.len().saturating_sub(self.max_backups);
        for path in files[..surplus].iter().copied().flatten() {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(file = %path.display(), %error, "an old flow log is not removed");
            }
        }
    }

    fn wait_for_compression(&mut self) {
        if let Some(thread) = self.compressing.take()
            && thread.join().is_err()
        {
            tracing::warn!(file = %self.path.display(), "compression of a flow log panicked");
        }
    }
}

fn name_parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let suffix = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    (text(path.file_stem()), suffix.unwrap_or_default())
}

/// The path without the end that compression adds.
fn unzipped(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|extension| extension == "gz") {
        path.with_extension("")
    } else {
        path.to_owned()
    }
}

fn is_aside(path: &Path, stem: &str, suffix: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let time = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-'));
    let time = time.and_then(|rest| rest.strip_suffix(suffix));
    // `2026-01-02T03-04-05.678`, which no other file of the directory has behind this name.
    time.is_some_and(|time| time.len() >= 23 && time.as_bytes()[10] == b'T' && time.as_bytes()[4] == b'-')
}

fn zipped(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

fn compress(path: &Path) -> io::Result<()> {
    let target = zipped(path);
    let mut encoder = GzEncoder::new(File::create(&target)?, Compression::default());
    let outcome = io::copy(&mut File::open(path)?, &mut encoder).and_then(|_| encoder.finish());
    match outcome {
        Ok(file) => {
            file.sync_all()?;
            fs::remove_file(path)
        }
        Err(error) => {
            fs::remove_file(&target)?;
            Err(error)
        }
    }
}
