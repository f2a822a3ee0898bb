//! Files of a directory that anybody may write to.

use std::collections::BTreeSet;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::stamp::FileStamp;

/// What a look at a file gave.
pub(super) enum Reading {
    /// Nothing happened to it since.
    Same,
    /// It vanished meanwhile.
    Gone,
    /// Its text, and what tells whether it was changed since; none when that cannot be told yet.
    Text(String, Option<FileStamp>),
}

/// Names of the YAML files; hidden ones and links to nothing are left out.
pub(super) fn yaml_files(root: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if is_yaml(name) && !is_gone(&path) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// Whether a file of that name is read.
pub(super) fn is_yaml(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|suffix| name.ends_with(suffix)) && !name.starts_with('.')
}

/// Whether there is nothing at the path, or a link to nothing.
pub(super) fn is_gone(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|error| is_missing(&error))
}

/// The text of a file, unless it is as it was. Never waits for a writer.
pub(super) fn read_text(path: &Path, known: Option<FileStamp>) -> Result<Reading, String> {
    match open_regular(path, known) {
        Ok(Opened::Same) => Ok(Reading::Same),
        Ok(Opened::File(file, metadata)) => {
            let stamp = FileStamp::settled(&metadata);
            text_of(&file, &metadata).map(|text| Reading::Text(text, stamp))
        }
        Ok(Opened::Other(kind)) => Err(format!("it is a {kind}, not a regular file; rename or remove it")),
        Err(error) if is_missing(&error) => Ok(Reading::Gone),
        Err(error) => Err(unreadable(&error)),
    }
}

enum Opened {
    Same,
    File(File, Metadata),
    /// What it is instead.
    Other(&'static str),
}

fn open_regular(path: &Path, known: Option<FileStamp>) -> io::Result<Opened> {
    // Opening a device may do something already, so the name is looked at first.
    let named = std::fs::metadata(path)?;
    if !named.is_file() {
        return Ok(Opened::Other(kind_of(named.file_type())));
    }
    if known.is_some_and(|known| known == FileStamp::of(&named)) {
        return Ok(Opened::Same);
    }
    // The name may stand for a pipe by now, and opening that one would wait for its writer.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let opened = file.metadata()?;
    Ok(if opened.is_file() { Opened::File(file, opened) } else { Opened::Other(kind_of(opened.file_type())) })
}

fn kind_of(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "directory",
        kind if kind.is_fifo() => "named pipe",
        kind if kind.is_socket() => "socket",
        _ => "device",
    }
}

fn text_of(file: &File, metadata: &Metadata) -> Result<String, String> {
    let too_long = || format!("the file has more than {MAX_FILE_BYTES} bytes; split it");
    if metadata.len() > MAX_FILE_BYTES {
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

pub(super) const MAX_FILE_BYTES: u64 = 16 << 20;
