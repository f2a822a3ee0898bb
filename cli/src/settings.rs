//! Settings that come from flags, the environment or a configuration file, in this order of precedence.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

use crate::error::UsageError;
use crate::personality::Personality;

mod file;
mod key;

pub(crate) use file::{SettingsFile, Value, write_entry};
pub(crate) use key::{KEYS, Key};

/// What is set below the flags: by the environment or by the file.
#[derive(Debug)]
pub(crate) struct Settings {
    personality: Personality,
    /// The file that is read and that `config set` writes.
    path: PathBuf,
    file: SettingsFile,
}

impl Settings {
    /// Reads the file that the command line, the environment or the usual places name.
    ///
    /// # Errors
    /// The file was named and is not there, or it cannot be read.
    pub(crate) fn read(personality: Personality, arguments: &[OsString]) -> anyhow::Result<Self> {
        let named = named_file(arguments).or_else(|| variable(personality, "config").map(PathBuf::from));
        let path = match &named {
            Some(path) => path.clone(),
            None => usual_file(personality),
        };
        // A named file that `config set` is to make need not be there yet.
        let file = SettingsFile::read(&path)?;
        Ok(Self { personality, path, file })
    }

    /// Where the settings of the file are.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in the file.
    pub(crate) const fn file(&self) -> &SettingsFile {
        &self.file
    }

    /// Whose settings they are.
    pub(crate) const fn personality(&self) -> Personality {
        self.personality
    }

    /// The value of a key without flags.
    ///
    /// # Errors
    /// The environment or the file has a value that the key does not take.
    pub(crate) fn value(&self, key: &Key) -> Result<Value, UsageError> {
        Ok(self.given(key)?.unwrap_or_else(|| key.default_value(self.personality)))
    }

    /// The value that the environment or the file gives.
    fn given(&self, key: &Key) -> Result<Option<Value>, UsageError> {
        for name in variable_names(self.personality, key.name) {
            if let Some(text) = env::var(&name).ok().filter(|text| !text.is_empty()) {
                return key.parse(&text).map(Some).map_err(|cause| UsageError::new(&name, cause));
            }
        }
        let Some(value) = self.file.get(key.name) else { return Ok(None) };
        let place = format!("{}: {}", self.path.display(), key.name);
        key.check(value).map(Some).map_err(|cause| UsageError::new(&place, cause))
    }

    /// Makes what is set the default of the flags of the same names, in every command that asks servers.
    ///
    /// # Errors
    /// The environment or the file has a value that its key does not take.
    pub(crate) fn apply(&self, command: Command) -> Result<Command, UsageError> {
        let mut given = BTreeMap::new();
        for key in KEYS {
            if let Some(value) = self.given(key)? {
                given.insert(key.name, value);
            }
        }
        let mut command = command;
        if self.personality == Personality::Hubble {
            given.entry("server").or_insert_with(|| Value::Text(HUBBLE_SERVER.to_owned()));
        }
        command = with_defaults(command, &given);
        Ok(command)
    }
}

/// Where Hubble's client looks for a server.
pub(crate) const HUBBLE_SERVER: &str = "localhost:4245";

/// Commands whose flags are their own: daemons, and the sandbox that starts them.
const APART: [&str; 3] = ["agent", "relay", "sandbox"];

fn with_defaults(command: Command, given: &BTreeMap<&'static str, Value>) -> Command {
    command.mut_args(|arg| with_default(arg, given)).mut_subcommands(|command| {
        if APART.contains(&command.get_name()) { command } else { with_defaults(command, given) }
    })
}

fn with_default(arg: Arg, given: &BTreeMap<&'static str, Value>) -> Arg {
    let Some(value) = arg.get_long().and_then(|name| given.get(name)) else { return arg };
    match value {
        Value::Bool(value) if matches!(arg.get_action(), ArgAction::SetTrue) => {
            arg.default_value(if *value { "true" } else { "false" })
        }
        Value::Bool(_) => arg,
        Value::Text(text) if text.is_empty() => arg,
        Value::Text(text) => arg.default_value(text.clone()),
        Value::List(list) if list.is_empty() => arg,
        Value::List(list) => arg.default_values(list.clone()),
    }
}

/// The file after `--config`.
fn named_file(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter().take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// The first of the usual files that is there, else the one that `config set` makes.
fn usual_file(personality: Personality) -> PathBuf {
    let places = usual_files(personality);
    let found = places.iter().find(|path| path.is_file()).cloned();
    // The last resort is in the working directory: without a home there is no other place.
    found.unwrap_or_else(|| own_file(personality).unwrap_or_else(|| PathBuf::from("config.yaml")))
}

fn usual_files(personality: Personality) -> Vec<PathBuf> {
    let own = own_file(personality);
    match personality {
        Personality::Specola => own.into_iter().collect(),
        Personality::Hubble => {
            let old = home().map(|home| home.join(".hubble/config.yaml"));
            [PathBuf::from("config.yaml")].into_iter().chain(own).chain(old).collect()
        }
    }
}

fn own_file(personality: Personality) -> Option<PathBuf> {
    let base = env::var_os("XDG_CONFIG_HOME").filter(|base| !base.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| home().map(|home| home.join(".config")))?;
    Some(base.join(personality.name()).join("config.yaml"))
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

fn variable(personality: Personality, name: &str) -> Option<OsString> {
    let values = variable_names(personality, name).into_iter().filter_map(env::var_os);
    values.into_iter().find(|value| !value.is_empty())
}

/// The variables of a flag, the one that counts first.
fn variable_names(personality: Personality, name: &str) -> [String; 2] {
    let name = name.replace('-', "_").to_ascii_uppercase();
    let (own, other) = match personality {
        Personality::Specola => ("SPECOLA", "HUBBLE"),
        Personality::Hubble => ("HUBBLE", "SPECOLA"),
    };
    [format!("{own}_{name}"), format!("{other}_{name}")]
}

#[cfg(test)]
mod tests;
