//! Colours of the output.

use std::env;
use std::io::{self, IsTerminal as _};

use crate::observe::ColorChoice;

/// What is coloured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Color {
    /// A host.
    Host,
    /// A port, within a host.
    Port,
    /// An identity.
    Identity,
    /// A verdict that lets traffic pass.
    Good,
    /// A verdict that stops traffic.
    Bad,
    /// A verdict that does neither.
    Notable,
}

/// Colours text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// Makes a painter that colours or not.
    pub(crate) const fn new(on: bool) -> Self {
        Self { on }
    }

    /// Colours the text.
    pub(crate) fn color(self, color: Color, text: &str) -> String {
        if !self.on {
            return text.to_owned();
        }
        let code = match color {
            Color::Host => 36,
            Color::Port | Color::Notable => 33,
            Color::Identity => 35,
            Color::Good => 32,
            Color::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

impl ColorChoice {
    /// Whether to colour what goes to standard output.
    pub(crate) fn resolve(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
                    || env::var_os("TERM").is_some_and(|term| term == "dumb");
                !unwanted && io::stdout().is_terminal()
            }
        }
    }
}
