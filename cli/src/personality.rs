//! Whose client this is: Specola's own, or Hubble's.

use std::ffi::OsStr;
use std::path::Path;

/// Under which name the program was called.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Personality {
    /// `specola`: the whole program.
    #[default]
    Specola,
    /// `hubble`, or `specola hubble`: commands, defaults, output and exit codes are those of Hubble's client.
    Hubble,
}

impl Personality {
    /// Chooses by the name of the program.
    pub(crate) fn of_program(name: Option<&OsStr>) -> Self {
        let file = name.map(Path::new).and_then(Path::file_name);
        if file == Some(OsStr::new("hubble")) { Self::Hubble } else { Self::Specola }
    }

    /// Name of the program.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Specola => "specola",
            Self::Hubble => "hubble",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_file_decides() {
        for (name, personality) in [
            ("hubble", Personality::Hubble),
            ("/usr/local/bin/hubble", Personality::Hubble),
            ("./specola", Personality::Specola),
            ("hubble/specola", Personality::Specola),
            ("", Personality::Specola),
        ] {
            assert_eq!(Personality::of_program(Some(OsStr::new(name))), personality, "{name}");
        }
        assert_eq!(Personality::of_program(None), Personality::Specola);
    }
}
