//! The configuration file: a flat YAML map.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::Context as _;

/// A larger file is no configuration.
const MAX_BYTES: u64 = 1 << 20;

/// The value of one key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Value {
    /// One text; numbers and durations as they are written.
    Text(String),
    /// True or false.
    Bool(bool),
    /// Several texts.
    List(Vec<String>),
}

/// What a file says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct SettingsFile {
    known: BTreeMap<String, Value>,
    /// Values of another shape, as JSON: kept as they are.
    foreign: BTreeMap<String, String>,
}

impl SettingsFile {
    /// Reads a file; one that is not there says nothing.
    ///
    /// # Errors
    /// It cannot be read, or is no YAML map.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read the configuration {}", path.display());
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(cannot),
        };
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(cannot)?;
        anyhow::ensure!(
            text.len() as u64 <= MAX_BYTES,
            "{}: it has more than {MAX_BYTES} bytes; name another file with --config",
            cannot()
        );
        Self::parse(&text).with_context(cannot)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let values: BTreeMap<String, serde_json::Value> = serde_saphyr::from_str(text)?;
        let mut file = Self::default();
        for (name, value) in values {
            match scalar_or_list(&value) {
                Some(value) => drop(file.known.insert(name, value)),
                None => drop(file.foreign.insert(name, value.to_string())),
            }
        }
        Ok(file)
    }

    /// The value of a key, if the file has one.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.known.get(name)
    }

    /// The same file with another value of a key.
    pub(crate) fn with(&self, name: &str, value: Value) -> Self {
        let mut file = self.clone();
        file.foreign.remove(name);
        file.known.insert(name.to_owned(), value);
        file
    }

    /// Writes the file, and makes its directory. A reader sees the old file or the new one.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let cannot = || format!("cannot write the configuration {}", path.display());
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o750).create(directory).with_context(cannot)?;
        }
        let new = path.with_extension("yaml.new");
        // It may hold a password.
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        let mut file = options.with_context(cannot)?;
        file.write_all(self.to_string().as_bytes()).and_then(|()| file.sync_all()).with_context(cannot)?;
        fs::rename(&new, path).with_context(cannot)
    }
}

impl fmt::Display for SettingsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.known {
            write_entry(f, name, value)?;
        }
        self.foreign.iter().try_for_each(|(name, json)| writeln!(f, "{name}: {json}"))
    }
}

/// One line of YAML, or as many as the list has items.
pub(crate) fn write_entry(out: &mut impl fmt::Write, name: &str, value: &Value) -> fmt::Result {
    match value {
        Value::Text(text) => writeln!(out, "{name}: {}", quoted(text)),
        Value::Bool(value) => writeln!(out, "{name}: {value}"),
        Value::List(list) if list.is_empty() => writeln!(out, "{name}: []"),
        Value::List(list) => {
            writeln!(out, "{name}:")?;
            list.iter().try_for_each(|item| writeln!(out, "- {}", quoted(item)))
        }
    }
}

impl fmt::Display for Value {
    /// As `config get` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Bool(value) => write!(f, "{value}"),
            Self::List(list) => write!(f, "[{}]", list.join(" ")),
        }
    }
}

/// Plain where YAML reads the text back as text, else in quotes.
fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c))
        && !text.ends_with(':')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    let is_duration = crate::observe::go_duration(text).is_some_and(|_| text.ends_with(char::is_alphabetic));
    if is_plain || (is_duration && !text.starts_with(['+', '-', '.'])) {
        text.to_owned()
    } else {
        // A JSON string is a YAML string, too.
        serde_json::Value::from(text).to_string()
    }
}

fn scalar_or_list(value: &serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    match value {
        Json::Bool(value) => Some(Value::Bool(*value)),
        Json::Null => Some(Value::Text(String::new())),
        Json::Array(items) => items.iter().map(scalar).collect::<Option<_>>().map(Value::List),
        _ => scalar(value).map(Value::Text),
    }
}

fn scalar(value: &serde_json::Value) -> Option<String> {
    use serde_json::Value as Json;
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(value) => Some(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}
