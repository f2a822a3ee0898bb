//! `specola config`: what is set in the environment and in the configuration file.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::error::UsageError;
use crate::node::stdout;
use crate::settings::{KEYS, Key, Settings, Value, write_entry};

/// What to do with settings.
#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting, or one.
    #[command(after_help = "Examples:\n  specola config get\n  specola config get server")]
    Get {
        /// Name of the setting.
        #[arg(value_name = "KEY")]
        key: Option<String>,
        #[command(flatten)]
        file: FileArgs,
    },
    /// Write a setting into the configuration file.
    #[command(
        after_help = "Examples:\n  specola config set server tls://relay.example:443\n  specola config set tls-ca-cert-files ca.crt,old-ca.crt"
    )]
    Set {
        /// Name of the setting.
        #[arg(value_name = "KEY")]
        key: String,
        /// Its value; nothing for an empty one.
        #[arg(value_name = "VALUE", default_value = "")]
        value: String,
        #[command(flatten)]
        file: FileArgs,
    },
    /// Write the default of a setting, or of all, into the configuration file.
    #[command(after_help = "Examples:\n  specola config reset server\n  specola config reset")]
    Reset {
        /// Name of the setting.
        #[arg(value_name = "KEY")]
        key: Option<String>,
        #[command(flatten)]
        file: FileArgs,
    },
    /// Print all settings as they are in force, as YAML.
    #[command(after_help = "Examples:\n  specola config view\n  SPECOLA_SERVER=relay:80 specola config view")]
    View {
        #[command(flatten)]
        file: FileArgs,
    },
}

/// Which file.
#[derive(Args)]
pub(crate) struct FileArgs {
    /// Configuration file [default: config.yaml in $XDG_CONFIG_HOME/specola or ~/.config/specola].
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Print more on stderr.
    #[arg(long, short = 'D')]
    debug: bool,
}

/// Runs the command.
///
/// # Errors
/// There is no such setting, a value is not one of its kind, or the file cannot be written.
pub(crate) fn run(command: &ConfigCommand, settings: &Settings) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::View { .. } | ConfigCommand::Get { key: None, .. } => {
            let mut text = String::new();
            for key in KEYS {
                write_entry(&mut text, key.name, &settings.value(key)?)?;
            }
            write!(stdout(), "{text}")?;
        }
        ConfigCommand::Get { key: Some(name), .. } => {
            writeln!(stdout(), "{}", settings.value(find(name)?)?)?;
        }
        ConfigCommand::Set { key, value, .. } => {
            let key = find(key)?;
            let value = if value.is_empty() {
                key.default_value(settings.personality())
            } else {
                key.parse(value).map_err(|cause| UsageError::new(key.name, cause))?
            };
            write(settings, &[(key, value)])?;
        }
        ConfigCommand::Reset { key, .. } => {
            let keys: Vec<&Key> = match key {
                Some(name) => vec![find(name)?],
                None => KEYS.iter().collect(),
            };
            let defaults = keys.into_iter().map(|key| (key, key.default_value(settings.personality())));
            write(settings, &defaults.collect::<Vec<_>>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(settings: &Settings, values: &[(&Key, Value)]) -> anyhow::Result<()> {
    let file =
        values.iter().fold(settings.file().clone(), |file, (key, value)| file.with(key.name, value.clone()));
    file.write(settings.path())
}

fn find(name: &str) -> Result<&'static Key, UsageError> {
    Key::find(name).ok_or_else(|| UsageError::text(format!("unknown key: {name}")))
}
